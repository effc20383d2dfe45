//! The steps by which evidence becomes durable, failed by the kernel under a running gateway; its directory held by another,
//! not writable, or just made.
//!
//! What each step must hold to is in the table of `src/evidence/tests/faults.rs`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Caller, Upstream};
use crate::dev::{PATIENCE, Stream, command, eventually, run};
use crate::world::{Fleet, Gate};

/// How soon the gate must go on once the disk is well.
const RECOVERY: Duration = Duration::from_secs(10);

struct Row {
    name: &'static str,
    /// What strace is told to inject.
    inject: &'static [&'static str],
    /// In the gateway's state directory: nothing else is touched.
    only: Option<&'static str>,
    /// Whether calls must have been refused: otherwise the step is off their way.
    refuses: bool,
}

const ROWS: &[Row] = &[
    Row { name: "append, EIO", inject: &["pwrite64:error=EIO:when=2"], only: None, refuses: true },
    Row { name: "append, ENOSPC", inject: &["pwrite64:error=ENOSPC:when=2..4"], only: None, refuses: true },
    Row { name: "fdatasync", inject: &["fdatasync:error=EIO:when=2"], only: None, refuses: true },
    Row {
        name: "fdatasync, then no name for the new segment",
        inject: &["fdatasync:error=EIO:when=2", "rename:error=EIO:when=1..12"],
        only: None,
        refuses: true,
    },
    Row {
        name: "fdatasync, then no sync of the new segment and of its directory",
        inject: &["fdatasync:error=EIO:when=2", "fsync:error=EIO:when=1..12"],
        only: None,
        refuses: true,
    },
    Row {
        name: "fdatasync, then no room for the new segment",
        inject: &["fdatasync:error=EIO:when=2", "fallocate:error=ENOSPC:when=1..6"],
        only: None,
        refuses: true,
    },
    Row {
        name: "tiles, signed, checkpoint, cosigned: no name",
        inject: &["rename:error=EIO:when=1..25"],
        only: None,
        refuses: false,
    },
    Row { name: "the same: not synced", inject: &["fsync:error=EIO:when=1..25"], only: None, refuses: false },
    Row {
        name: "memory of authority: not written",
        inject: &["pwrite64:error=EIO:when=1..3"],
        only: Some("highest.json"),
        refuses: false,
    },
    Row {
        name: "memory of authority: not synced",
        inject: &["fdatasync:error=EIO:when=1..3"],
        only: Some("highest.json"),
        refuses: false,
    },
];

/// `strace` on a running process, until it is dropped.
struct Injected {
    strace: Child,
    trace: PathBuf,
}

impl Injected {
    fn into(pid: u32, row: &Row, state: &Path, trace: PathBuf) -> Self {
        let names: Vec<&str> = row.inject.iter().filter_map(|inject| inject.split(':').next()).collect();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-p", &pid.to_string(), "-e", &format!("trace={}", names.join(","))]);
        strace.args(row.inject.iter().flat_map(|inject| ["-e".to_owned(), format!("inject={inject}")]));
        strace.args(row.only.iter().flat_map(|only| [OsString::from("-P"), state.join(only).into()]));
        strace.arg("-o").arg(&trace).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { strace: strace.spawn().expect("strace"), trace }
    }

    fn done(&self, row: &Row) -> bool {
        let told = std::fs::read_to_string(&self.trace).unwrap_or_default();
        let of = |inject: &&str| {
            told.lines().any(|line| line.contains("(INJECTED)") && line.contains(inject.split(':').next().unwrap()))
        };
        row.inject.iter().all(of)
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        // It lets go of the process by this, and not by SIGKILL.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.strace), Signal::TERM);
        drop(self.strace.wait());
    }
}

fn caller(gate: &Gate, fleet: &Fleet) -> Caller {
    Caller { address: gate.url.trim_start_matches("http://").to_owned(), bearer: fleet.bearer(), stream: None }
}

fn intents(fleet: &Fleet, log: &str) -> HashSet<String> {
    let done = run(fleet.home.path(), &["-o", "json", "evidence", "query", log, "--kind", "intent"]).exits(0);
    let calls = done.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    calls.map(|record| record["data"]["call"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_step_that_the_kernel_fails_refuses_what_it_must_and_the_gate_goes_on() {
    let upstream = Upstream::start(Duration::ZERO);
    let fleet = Fleet::start(upstream.url.trim_start_matches("http://").parse().unwrap());
    let mut gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait=20s");
    let log = fleet.home.path().join("edge/evidence").display().to_string();
    for (place, row) in ROWS.iter().enumerate() {
        let injected = Injected::into(
            gate.process.child.as_ref().unwrap().id(),
            row,
            &fleet.home.path().canonicalize().unwrap().join("edge"),
            fleet.home.path().join(format!("trace-{place}")),
        );
        let mut asking = caller(&gate, &fleet);
        let (mut refused, mut n) = (Vec::new(), 0);
        eventually(row.name, PATIENCE, || {
            n += 1;
            let path = format!("/v1/orders/{place}-{n}");
            match asking.get(&path) {
                Some(got) if got.status == 200 => {}
                Some(got) => {
                    assert!(
                        ["evidence_unavailable", "evidence_full"].contains(&got.reason().as_str()),
                        "{}: {got:?}",
                        row.name
                    );
                    refused.push(path);
                }
                None => panic!("{}: the connection broke", row.name),
            }
            // Other writes than those on the way of a call may be among the failed ones.
            injected.done(row) && (!row.refuses || !refused.is_empty())
        });
        assert_eq!(!refused.is_empty(), row.refuses, "{}: {} refused", row.name, refused.len());
        drop(injected);
        let mut again = caller(&gate, &fleet);
        eventually(&format!("{}: calls are allowed again", row.name), RECOVERY, || {
            again.get("/v1/orders/again").is_some_and(|got| got.status == 200)
        });
        let seen: Vec<_> = refused.iter().filter(|path| upstream.saw_path(path)).collect();
        assert!(seen.is_empty(), "{}: refused, and sent all the same: {seen:?}", row.name);
        let recorded = intents(&fleet, &log);
        assert!(upstream.seen().keys().all(|call| recorded.contains(call)), "{}: a call without a record", row.name);
        if place % 2 == 1 {
            gate.process.kill();
            gate = fleet.gateway(|_| ()).ready();
        }
        run(fleet.home.path(), &["evidence", "verify", &log]).exits(0);
    }
    // What was not remembered is not acknowledged: once it can be, it is.
    fleet.grant("--wait=20s");
    gate.process.signal(Signal::TERM);
    assert_eq!(gate.process.ended(), Some(0));
    let report = run(fleet.home.path(), &["-o", "json", "evidence", "verify", &log]).exits(0).json();
    assert_eq!(report["size"], report["records"], "the last checkpoint covers all of it: {report}");
}

#[test]
fn a_second_writer_is_refused_with_the_way_out_and_a_killed_one_leaves_no_lock() {
    let upstream = Upstream::start(Duration::ZERO);
    let fleet = Fleet::start(upstream.url.trim_start_matches("http://").parse().unwrap());
    let mut gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait=20s");
    assert_eq!(caller(&gate, &fleet).get("/v1/orders/1").unwrap().status, 200);
    let second = || {
        let mut second = command(fleet.home.path());
        second.args(["gateway", "run", "-c", "gateway.yaml"]);
        Stream::of(second).ended()
    };
    for _ in 0..2 {
        let (code, said) = second();
        assert!(code == 1 && said.contains("another process writes the evidence in"), "{code}: {said}");
        assert!(said.contains("edge/evidence") && said.contains("end it first"), "{said}");
    }
    assert_eq!(caller(&gate, &fleet).get("/v1/orders/2").unwrap().status, 200, "the first one knows nothing of it");
    gate.process.kill();
    let gate = fleet.gateway(|_| ()).ready();
    eventually("it serves", PATIENCE, || {
        caller(&gate, &fleet).get("/v1/orders/3").is_some_and(|got| got.status == 200)
    });
    let log = fleet.home.path().join("edge/evidence").display().to_string();
    let report = run(fleet.home.path(), &["-o", "json", "evidence", "verify", &log]).exits(0).json();
    assert_eq!(report["incarnations"], 2, "those that were refused wrote nothing: {report}");
}

#[test]
fn a_gate_whose_evidence_cannot_be_written_does_not_start_and_says_where() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().canonicalize().unwrap().join("state/gateway/evidence");
    std::fs::create_dir_all(&log).unwrap();
    std::fs::write(home.path().join("state/.portcullis-dev"), "made by a test\n").unwrap();
    let able = Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
    assert!(able, "this test makes a directory read-only in a mount namespace of its own: it must run as root");
    let shown = log.display();
    let script =
        format!("mount --bind '{shown}' '{shown}' && mount -o remount,bind,ro '{shown}' && exec \"$0\" \"$@\"");
    let ours = command(home.path());
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(ours.get_program());
    let ports =
        ["--gateway-address", "--gateway-tls-address", "--admin-address", "--control-address", "--http-address"];
    wrapped.args(["dev", "--dir", "state"]).args(ports.iter().flat_map(|flag| [*flag, "127.0.0.1:0"]));
    wrapped.current_dir(home.path()).env_clear().env("HOME", home.path()).env("PATH", "/usr/bin:/bin");
    let (code, said) = Stream::of(wrapped).ended();
    assert!(code == 1 && said.contains("gateway/evidence") && said.contains("Read-only file system"), "{code}: {said}");
}

/// The directories of a trace, in order: made, and synced.
fn directories(trace: &str) -> Vec<(bool, String)> {
    let quoted = |line: &str, from: char, to: char| Some(line.split_once(from)?.1.split_once(to)?.0.to_owned());
    let of = |line: &str| {
        // Others may come between a call and its return.
        let done = line.trim_end().ends_with("= 0") || line.contains("<unfinished");
        if line.contains("mkdir") && done {
            quoted(line, '"', '"').map(|path| (true, path))
        } else if line.contains("fsync(") && done {
            quoted(line, '<', '>').map(|path| (false, path))
        } else {
            None
        }
    };
    trace.lines().filter_map(of).collect()
}

#[test]
fn the_name_of_each_new_directory_of_a_log_is_on_disk_before_the_first_call() {
    let upstream = Upstream::start(Duration::ZERO);
    let fleet = Fleet::start(upstream.url.trim_start_matches("http://").parse().unwrap());
    let root = fleet.home.path().canonicalize().unwrap();
    let log = root.join("deep/er/evidence");
    drop(fleet.gateway(|config| {
        config["evidence"] = json!({ "dir": log });
    }));
    let _ = std::fs::remove_dir_all(root.join("deep"));
    let _ = std::fs::remove_dir_all(root.join("edge"));
    let trace = root.join("trace");
    let mut traced = Command::new("strace");
    // With -D it is the gateway that is our child: its tracer ends with it.
    traced.args(["-D", "-f", "-y", "-qq", "-e", "trace=mkdir,mkdirat,fsync", "-o"]).arg(&trace).arg(crate::dev::BINARY);
    traced.args(["gateway", "run", "-c", "gateway.yaml"]).current_dir(&root).stdin(Stdio::null());
    let mut running = traced.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let checkpoint = log.join("checkpoint");
    eventually("the log is open", PATIENCE, || checkpoint.exists() || running.try_wait().unwrap().is_some());
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(checkpoint.exists(), "the gateway did not start");
    let read = || std::fs::read_to_string(&trace).unwrap_or_default();
    eventually("the tracer has written the end of the process", PATIENCE, || read().contains("killed by SIGKILL"));
    let seen = directories(&read());
    let absolute = |path: &str| root.join(path);
    let made: Vec<PathBuf> = seen.iter().filter(|(made, _)| *made).map(|(_, path)| absolute(path)).collect();
    for directory in
        ["edge", "deep", "deep/er", "deep/er/evidence", "deep/er/evidence/journal"].map(|path| root.join(path))
    {
        assert!(made.contains(&directory), "{} was not made: {seen:?}", directory.display());
        let at = seen.iter().position(|(made, path)| *made && absolute(path) == directory).unwrap();
        let above = |(made, path): &(bool, String)| !*made && Some(Path::new(path)) == directory.parent();
        assert!(seen[at..].iter().any(above), "the name of {} is not synced: {seen:?}", directory.display());
    }
}
