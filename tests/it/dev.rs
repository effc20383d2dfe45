//! The harness of the black-box tests: the real binary, the system's curl, raw sockets.
//!
//! [`Dev`] is a running `portcullis dev` in a directory of its own, on ports that were free; it ends with the value.
//! Nothing here sleeps to wait: readiness is the process's first line, everything else is waited for with a bound.

#![allow(dead_code, reason = "tests of several subjects use different parts of it")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use portcullis::client::target::DevFile;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

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

pub(crate) fn lines_of(reader: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A command whose output is read while it runs.
pub(crate) struct Stream {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Stream {
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        Self { child, lines, errors }
    }

    /// The next line that holds `part`.
    #[track_caller]
    pub(crate) fn line(&self, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("no line with `{part}` within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let errors: Vec<_> = self.errors.iter().collect();
                    panic!("ended before a line with `{part}`: {errors:?}")
                }
            }
        }
    }

    /// Waits until it has ended by itself: its exit code, and what it wrote to standard error.
    #[track_caller]
    pub(crate) fn ended(mut self) -> (i32, String) {
        let mut status = None;
        eventually("the command has ended", PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let errors: Vec<_> = self.errors.iter().collect();
        (status.and_then(|status| status.code()).unwrap_or(-1), errors.join("\n"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What curl got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The first header of this name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Fails the test unless it has this status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Fails the test unless it is a refusal of the gate with this status and reason, and a call id.
    #[track_caller]
    pub(crate) fn refuses(self, status: u16, reason: &str) -> Self {
        let answer = self.is(status);
        assert_eq!(answer.json()["reason"], reason, "{answer:?}");
        answer
    }
}

/// Runs curl to its end; it must get an answer.
#[track_caller]
pub(crate) fn curl(arguments: &[&str]) -> Answer {
    let done = try_curl(arguments);
    assert_eq!(done.code, 0, "curl {arguments:?}: {}", done.stderr);
    let mut rest = done.stdout.as_str();
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {}", done.stdout));
        let mut lines = head.lines();
        let mut status_line = lines.next().unwrap_or_default().splitn(3, ' ');
        let version = status_line.next().unwrap_or_default().to_owned();
        let status: u16 = status_line.next().and_then(|code| code.parse().ok()).unwrap_or_default();
        if (100..200).contains(&status) {
            rest = body;
            continue;
        }
        let header = |line: &str| {
            line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        return Answer { status, version, headers: lines.filter_map(header).collect(), body: body.to_owned() };
    }
}

/// Runs curl with `-i` to its end, whatever becomes of it.
#[track_caller]
pub(crate) fn try_curl(arguments: &[&str]) -> Done {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--max-time", "20"]).args(arguments).stdin(Stdio::null());
    Done::of(command.output().expect("curl is installed"))
}

/// An upstream that answers every request with the same bytes and then closes.
pub(crate) struct Service {
    pub(crate) url: String,
    /// The head of each request, as it came.
    pub(crate) heads: Receiver<String>,
}

/// Starts one on loopback. It ends with the test's process.
pub(crate) fn service(answer: &'static str) -> Service {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, heads) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let sender = sender.clone();
            std::thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let mut reader = BufReader::new(&stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && matches!(reader.read_line(&mut head), Ok(1..)) {}
                // A probe that sends nothing is not a request.
                if !head.is_empty() && sender.send(head).is_ok() {
                    let _ = (&stream).write_all(answer.as_bytes());
                }
            });
        }
    });
    Service { url, heads }
}

/// A connection on which every byte is the test's own.
pub(crate) struct Raw {
    stream: TcpStream,
    pub(crate) seen: Vec<u8>,
}

impl Raw {
    /// Connects to `http://HOST:PORT`.
    #[track_caller]
    pub(crate) fn connect(url: &str) -> Self {
        let address = url.split_once("://").map_or(url, |(_, rest)| rest);
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, seen: Vec::new() }
    }

    /// Sends bytes; a peer that has closed already is not a failure, its answer is what counts.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// No more will be sent.
    pub(crate) fn finish(&mut self) -> &mut Self {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        self
    }

    /// Reads until `part` was seen: everything so far.
    #[track_caller]
    pub(crate) fn until(&mut self, part: &str) -> String {
        let mut chunk = [0; 4096];
        loop {
            let text = self.text();
            if text.contains(part) {
                return text;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("closed before `{part}`: {text}"),
                Ok(read) => self.seen.extend_from_slice(&chunk[..read]),
                Err(error) => panic!("{error} before `{part}`: {text}"),
            }
        }
    }

    /// Reads until the peer closes: everything.
    #[track_caller]
    pub(crate) fn to_end(&mut self) -> String {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.text(),
                Ok(read) => self.seen.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return self.text(),
                Err(error) => panic!("{error}: not closed within {PATIENCE:?}: {}", self.text()),
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}
