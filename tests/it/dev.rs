//! The harness of the black-box tests: the real binary, the system's curl, raw sockets.
//!
//! [`Dev`] is a running `portcullis dev` in a directory of its own, on ports that were free; it ends with the value.
//! Nothing here sleeps to wait: readiness is the process's first line, everything else is waited for with a bound.

#![allow(dead_code, unused_imports, reason = "tests of several subjects use different parts of it")]

mod curl;
mod stream;
mod wire;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use portcullis::client::target::DevFile;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use curl::{Answer, curl, try_curl};
pub(crate) use stream::{Stream, lines_of};
pub(crate) use wire::{Raw, Service, service};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// Longest wait for `dev` to be ready, on a machine that does much else.
pub(crate) const START: Duration = Duration::from_secs(60);
/// Longest wait for anything else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The command with an environment that nothing of the tester's leaks into.
pub(crate) fn command(home: &Path) -> Command {
    isolated(BINARY, home)
}

fn isolated(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").current_dir(home).stdin(Stdio::null());
    command
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test unless the command ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Standard output as exactly one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}\nstderr: {}", self.stdout, self.stderr))
    }

    /// Standard error as exactly one JSON document: its `error`.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|e| panic!("{e}: stderr: {}", self.stderr));
        value["error"].clone()
    }
}

/// Runs the binary to its end.
#[track_caller]
pub(crate) fn run(home: &Path, arguments: &[&str]) -> Done {
    Done::of(command(home).args(arguments).output().unwrap())
}

/// Asks until it holds; fails the test when it does not in time.
#[track_caller]
pub(crate) fn eventually(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A running `portcullis dev`.
pub(crate) struct Dev {
    child: Option<Child>,
    lines: Receiver<String>,
    /// Everything that it may write to; `state` in it is its directory.
    pub(crate) home: TempDir,
    pub(crate) addresses: DevFile,
}

impl Dev {
    /// Starts one in a directory of its own.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more arguments, for example `--upstream URL`.
    #[track_caller]
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    #[track_caller]
    fn start_in(home: TempDir, arguments: &[&str]) -> Self {
        Self::start_under(home, &[], arguments)
    }

    /// Starts one in a directory of its own, run by another program that must become it (`strace -D`, `unshare`).
    #[track_caller]
    pub(crate) fn start_under(home: TempDir, wrapper: &[&str], arguments: &[&str]) -> Self {
        let (mut child, lines) = spawn(home.path(), wrapper, arguments);
        let first = lines.recv_timeout(START);
        if first.is_err() {
            let _ = child.kill();
            let _ = child.wait();
            panic!("dev was not ready within {START:?}:\n{}", log(home.path()));
        }
        let text = std::fs::read(home.path().join("state/dev.json")).expect("dev.json is there when dev is ready");
        let addresses = serde_json::from_slice(&text).unwrap();
        Self { child: Some(child), lines, home, addresses }
    }

    /// The state directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// The process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// SIGTERM, and how it ended.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let mut status = None;
        eventually("dev has ended", Duration::from_secs(30), || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// SIGKILL: no drain, no last words.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it (by SIGTERM if it runs) and starts it again in the same directory.
    #[track_caller]
    pub(crate) fn restart(mut self, arguments: &[&str]) -> Self {
        if self.child.is_some() {
            self.stop();
        }
        let home = std::mem::replace(&mut self.home, tempfile::tempdir().unwrap());
        Self::start_in(home, arguments)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        log(self.home.path())
    }

    /// Lines that it has printed since it was ready.
    pub(crate) fn printed(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Runs the command line beside it.
    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    /// The command line beside it, to be run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.home.path());
        command.env("PORTCULLIS_DIR", self.dir()).args(arguments);
        command
    }

    /// Runs the command line with `-o json`; it must end with 0.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = ["-o", "json"].iter().chain(arguments).copied().collect();
        self.cli(&arguments).exits(0).json()
    }

    /// Starts the command line and reads it line by line, for `watch` and `tail`.
    pub(crate) fn stream(&self, arguments: &[&str]) -> Stream {
        Stream::of(self.command(arguments))
    }

    /// Grants actions on a resource for 15 minutes, and waits until the gateway has it. Answers the grant's id.
    #[track_caller]
    pub(crate) fn grant(&self, identity: &str, resource: &str, actions: &[&str]) -> String {
        self.grant_with(identity, resource, actions, &["--duration", "15m"])
    }

    /// As [`Dev::grant`], with `--duration` and more arguments.
    #[track_caller]
    pub(crate) fn grant_with(&self, identity: &str, resource: &str, actions: &[&str], more: &[&str]) -> String {
        let mut arguments = vec!["grant", "create", "--identity", identity, "--resource", resource, "--reason", "test"];
        arguments.extend(actions.iter().flat_map(|action| ["--action", action]));
        arguments.push("--wait=20s");
        arguments.extend(more);
        let created = self.json(&arguments);
        created["grants"][0]["id"].as_str().unwrap_or_else(|| panic!("no grant: {created}")).to_owned()
    }

    /// Revokes a grant, waits until it is enforced, and answers the receipt.
    #[track_caller]
    pub(crate) fn revoke(&self, grant: &str) -> Value {
        self.json(&["grant", "revoke", grant, "--reason", "test", "--wait=20s"])
    }

    /// A file of a sample identity: `token`, `cert.pem`, `key.pem`.
    pub(crate) fn identity(&self, name: &str, file: &str) -> PathBuf {
        self.dir().join("identities").join(name).join(file)
    }

    /// The token of a sample identity.
    #[track_caller]
    pub(crate) fn token(&self, name: &str) -> String {
        std::fs::read_to_string(self.identity(name, "token")).unwrap().trim().to_owned()
    }

    /// `Authorization: Bearer …` of a sample identity.
    #[track_caller]
    pub(crate) fn bearer(&self, name: &str) -> String {
        format!("Authorization: Bearer {}", self.token(name))
    }

    /// Calls the plain listener as a sample identity, by curl.
    #[track_caller]
    pub(crate) fn call(&self, identity: &str, method: &str, path: &str) -> Answer {
        let url = format!("{}{path}", self.addresses.gateway);
        curl(&["-X", method, "-H", &self.bearer(identity), &url])
    }

    /// Calls the TLS listener with the client certificate of a sample identity, by curl.
    #[track_caller]
    pub(crate) fn call_tls(&self, identity: &str, method: &str, path: &str) -> Answer {
        let url = format!("{}{path}", self.addresses.gateway_tls);
        let text = |path: PathBuf| path.display().to_string();
        let (ca, cert, key) = (
            text(self.dir().join("ca.pem")),
            text(self.identity(identity, "cert.pem")),
            text(self.identity(identity, "key.pem")),
        );
        curl(&["-X", method, "--cacert", &ca, "--cert", &cert, "--key", &key, &url])
    }

    /// Opens a stream as a sample identity, by curl, and reads its body line by line.
    pub(crate) fn open(&self, identity: &str, path: &str) -> Stream {
        let mut command = Command::new("curl");
        command.args(["-sSN", "--max-time", "120", "-H", &self.bearer(identity)]);
        command.arg(format!("{}{path}", self.addresses.gateway));
        Stream::of(command)
    }

    /// A raw connection to the gateway's plain listener.
    #[track_caller]
    pub(crate) fn raw(&self) -> Raw {
        Raw::connect(&self.addresses.gateway)
    }

    /// GET of the admin listener, by curl.
    #[track_caller]
    pub(crate) fn admin(&self, path: &str) -> Answer {
        curl(&[&format!("{}{path}", self.addresses.admin)])
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of dev ---\n{}", self.log());
        }
        self.kill();
    }
}

fn spawn(home: &Path, wrapper: &[&str], arguments: &[&str]) -> (Child, Receiver<String>) {
    let log = std::fs::File::options().create(true).append(true).open(home.join("dev.log")).unwrap();
    let mut command = match wrapper.split_first() {
        Some((program, before)) => {
            let mut command = isolated(program, home);
            command.args(before).arg(BINARY);
            command
        }
        None => command(home),
    };
    command.args(["dev", "--dir"]).arg(home.join("state"));
    for flag in ["--gateway-address", "--gateway-tls-address", "--admin-address", "--control-address", "--http-address"]
    {
        if !arguments.contains(&flag) {
            command.args([flag, "127.0.0.1:0"]);
        }
    }
    command.args(arguments).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    (child, lines)
}

fn log(home: &Path) -> String {
    std::fs::read_to_string(home.join("dev.log")).unwrap_or_default()
}
