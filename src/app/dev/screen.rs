//! The first screen: where everything is, and what to try.

use std::fmt::Write as _;
use std::io::Write as _;

use super::Options;
use crate::client::target::{DEFAULT_DIR, DevFile};

/// Prints it. Everything is ready when its first line appears.
pub(super) fn print(file: &DevFile, options: &Options) {
    let text = screen(file, options, &program());
    let mut out = std::io::stdout().lock();
    // Nobody has to read it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The program as the user called it, so that what is printed can be copied and pasted.
fn program() -> String {
    std::env::args_os().next().map_or_else(|| "portcullis".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn screen(file: &DevFile, options: &Options, program: &str) -> String {
    let dir = options.dir.display().to_string();
    let beside = if dir == DEFAULT_DIR { String::new() } else { format!(" --dir {}", quoted(&dir)) };
    let (resource, what, path) = match options.upstream {
        None => ("api/orders", "--role orders-reader".to_owned(), "/v1/orders/42"),
        Some(_) => ("api/upstream", "--resource api/upstream --action read".to_owned(), "/"),
    };
    let program = quoted(program);
    let call = format!(
        "curl -i -H \"Authorization: Bearer $(cat {})\" {}{path}",
        quoted(&format!("{dir}/identities/billing/token")),
        file.gateway
    );
    let mut out = String::new();
    let rows = [
        ("gateway", &file.gateway),
        ("gateway, mutual TLS", &file.gateway_tls),
        ("gateway's admin", &file.admin),
        ("control plane", &file.control),
        ("control plane's HTTP", &file.http),
        ("evidence", &file.evidence),
    ];
    out.push_str("Portcullis is ready.\n\n");
    for (name, value) in rows {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "  {name:<22}{value}");
    }
    let _ = write!(
        out,
        "\nTry it, in another terminal:\n\n  \
         # billing has no grant for {resource}: denied\n  {call}\n\n  \
         # give it one for a quarter of an hour\n  \
         {program} grant create{beside} --identity billing {what} --duration 15m --reason 'first look' --wait\n\n  \
         # allowed\n  {call}\n\n\
         Ctrl-C ends it; what is in {dir} stays.\n",
    );
    out
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b':'));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_one_word() {
        assert_eq!(quoted("/tmp/a b'c"), "'/tmp/a b'\\''c'");
        assert_eq!(quoted(".portcullis"), ".portcullis");
    }
}
