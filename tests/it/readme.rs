//! The README's first screen, run as it stands there: copied, with this run's addresses and binary put in.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::dev::{BINARY, Dev, Done};

/// Runs the console block of the README in bash; each command's output is followed by its exit code.
fn run(dev: &Dev, readme: &str) -> Done {
    let block = readme.split("```console\n").nth(2).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = Path::new(BINARY).parent().unwrap().to_str().unwrap();
    let mut script = String::from("set -u\n");
    for command in block.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let command =
            command.replace("$PWD/target/release", folder).replace("http://127.0.0.1:8080", &dev.addresses.gateway);
        let ours = if command.ends_with('&') { "" } else { "; echo \"== exit $?\"" };
        script.push_str(&format!("echo '== command'; {command}{ours}\n"));
    }
    script.push_str("wait; echo '== end'\n");
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(dev.home.path())
        .env_clear()
        .env("HOME", dev.home.path())
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Done::of(output)
}

#[test]
fn the_first_screen_does_what_it_says() {
    let dev = Dev::start();
    std::os::unix::fs::symlink(dev.dir(), dev.home.path().join(".portcullis")).unwrap();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let done = run(&dev, &readme).exits(0);
    let parts: Vec<&str> = done.stdout.split("== command\n").skip(1).collect();
    let said = |at: usize, what: &str| assert!(parts[at].contains(what), "{at}: {what}\n{}", done.stdout);
    // Denied, with reason, call id and what to do.
    said(2, "403 Forbidden");
    said(2, "\"reason\":\"grant_missing\"");
    said(2, "\"call_id\"");
    said(2, "portcullis grant create --identity billing --resource api/orders --action read");
    // Granted, and enforced.
    said(3, "enforced");
    said(3, "== exit 0");
    // Allowed, without the caller's token.
    said(4, "200 OK");
    assert!(!parts[4].contains(&dev.token("billing")), "the caller's token reached the upstream");
    // The stream had begun, and was cut.
    said(6, "data:");
    said(7, "grant_revoked");
    // Proven.
    said(8, "== exit 0");
    said(9, "cut");
    // Found.
    said(12, "== exit 8");
    let told = format!("{}{}", done.stdout, done.stderr);
    assert!(told.contains("record 1") || told.contains("seq 1"), "the record is named: {told}");
}
