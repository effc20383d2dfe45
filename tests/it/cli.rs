//! The command line by itself: its help, its exit codes, what it does to hostile text. No server is needed here.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::dev::{Done, command, run};

/// The help of every command, as it is printed at 100 columns; what every command takes stands there once.
fn help() -> String {
    fn walk(command: &mut clap::Command, path: &str, out: &mut String) {
        let text = command.render_long_help().to_string();
        let own = if path.contains(' ') { text.split("\nOutput:\n").next().unwrap() } else { text.as_str() };
        writeln!(out, "$ {path} --help\n{own}").unwrap();
        let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        for name in names {
            let sub = command.find_subcommand_mut(&name).unwrap();
            walk(sub, &format!("{path} {name}"), out);
        }
    }
    let mut command = portcullis::cli::command().term_width(100);
    command.build();
    let mut out = String::new();
    walk(&mut command, "portcullis", &mut out);
    out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn help_is_the_golden_file() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/help.txt");
    let help = help();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &help).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    let differs = help.lines().zip(expected.lines()).find(|(now, then)| now != then);
    assert!(help == expected, "the help changed: UPDATE_GOLDEN=1 writes it anew; the first line: {differs:?}");
}

#[test]
fn usage_errors_exit_2_and_are_json_when_asked_for() {
    let home = tempfile::tempdir().unwrap();
    for bad in [
        &["grant", "create"][..],
        &["nonsense"],
        &["grant", "show", "not-an-id"],
        &["grant", "create", "--identity", "UPPER", "--role", "r", "--duration", "1m", "--reason", "x"],
        &["grant", "create", "--identity", "a", "--role", "r", "--duration", "soon", "--reason", "x"],
        &["grant", "create", "--identity", "a", "--role", "r", "--resource", "b", "--duration", "1m", "--reason", "x"],
        &["can-i", "read", "api/orders"],
        &["token", "inspect", "not a token"],
        &["--address", "http://127.0.0.1:1", "grant", "list"],
        &["config", "validate", "missing.yaml"],
    ] {
        let done = run(home.path(), bad).exits(2);
        assert!(done.stdout.is_empty() && done.stderr.starts_with("error: "), "{bad:?}: {done:?}");
        let json: Vec<_> = bad.iter().chain(&["-o", "json"]).copied().collect();
        let done = run(home.path(), &json).exits(2);
        assert!(done.stdout.is_empty(), "{done:?}");
        assert_eq!(done.error()["code"], "usage", "{bad:?}");
        assert!(!done.error()["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn nobody_there_exits_7_and_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let done = run(home.path(), &["grant", "list"]).exits(7);
    assert!(done.stderr.contains("portcullis dev"), "{}", done.stderr);

    let ca = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(home.path().join("ca.pem"), ca.cert.pem()).unwrap();
    let mut with_token = command(home.path());
    with_token.args(["-ojson", "--address", "https://127.0.0.1:1", "--ca-file", "ca.pem", "grant", "list"]);
    let done = Done::of(with_token.env("PORTCULLIS_TOKEN", "t").output().unwrap()).exits(7);
    assert_eq!(done.error()["code"], "unavailable");
    assert!(done.error()["message"].as_str().unwrap().contains("no control plane at https://127.0.0.1:1"), "{done:?}");
}

#[test]
fn output_is_one_document_in_each_format() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(run(home.path(), &["version", "-o", "json"]).exits(0).json()["name"], "portcullis");
    assert!(run(home.path(), &["version", "-o", "yaml"]).exits(0).stdout.starts_with("name: portcullis\n"));
    for of in ["gateway", "control", "catalog"] {
        let schema = run(home.path(), &["config", "schema", of]).exits(0).json();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{of}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(home.path(), &["completion", shell]).exits(0).stdout.contains("portcullis"));
    }
}

#[test]
fn example_files_validate_and_faults_name_their_line() {
    let home = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for name in ["gateway.yaml", "control.yaml"] {
        run(home.path(), &["config", "validate", config.join(name).to_str().unwrap()]).exits(0);
    }
    std::fs::write(home.path().join("bad.yaml"), "role: gateway\nname: edge\nlisten: no\n").unwrap();
    let done = run(home.path(), &["config", "validate", "bad.yaml"]).exits(2);
    assert!(done.stderr.contains("bad.yaml:3:9"), "{}", done.stderr);
}

fn token(claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"ES256"}"#), part(claims), part("signature"))
}

#[test]
fn hostile_text_cannot_control_the_terminal() {
    let home = tempfile::tempdir().unwrap();
    let hostile = r#"{"iss":"\u001b]0;owned\u0007\u009b2J\u202eabc","sub":"a\r\nb","aud":"x","exp":1}"#;
    for format in ["table", "json", "yaml"] {
        let done = run(home.path(), &["-o", format, "token", "inspect", &token(hostile)]).exits(0);
        let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!done.stdout.contains(raw), "{format}: {:?}", done.stdout);
    }
    let name = "\u{1b}[2J";
    let done = run(home.path(), &["config", "validate", name]).exits(2);
    assert!(!done.stderr.contains('\u{1b}'), "{:?}", done.stderr);
    let done = run(home.path(), &["grant", "show", name]).exits(2);
    assert!(!done.stderr.contains('\u{1b}'), "{:?}", done.stderr);
}

#[test]
fn an_inspected_token_is_said_to_be_unverified() {
    let home = tempfile::tempdir().unwrap();
    let expired = token(r#"{"iss":"i","sub":"s","aud":"a","exp":1}"#);
    let done = run(home.path(), &["token", "inspect", &expired]).exits(0);
    assert!(done.stdout.starts_with("NOT VERIFIED") && done.stdout.contains("credential_expired"), "{}", done.stdout);
    let value = run(home.path(), &["token", "inspect", &expired, "-o", "json"]).exits(0).json();
    assert_eq!(value["verified"], false);
    assert_eq!(value["findings"][0]["reason"], "credential_expired");
}

#[test]
fn a_broken_pipe_is_quiet() {
    let home = tempfile::tempdir().unwrap();
    let shell = format!("'{}' config schema gateway | head -c 1", crate::dev::BINARY);
    let output = std::process::Command::new("bash")
        .args(["-o", "pipefail", "-c", &shell])
        .current_dir(home.path())
        .output()
        .unwrap();
    let done = Done::of(output).exits(0);
    assert_eq!(done.stderr, "");
}
