//! Disks that fill up, fail and vanish: the gate refuses, says why, and goes on by itself once it can.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Caller, Upstream, calls, records, verified};
use crate::dev::{Dev, PATIENCE, Stream, command, eventually};

/// The first segment and the room that is reserved ahead fit, and little else.
const DISK: &str = "8m";
/// Makes records large: a few thousand of them fill the disk.
const LONG: usize = 3000;
/// More than fill it.
const MOST_CALLS: usize = 10_000;
/// How soon the gate must go on once the disk is well.
const RECOVERY: Duration = Duration::from_secs(5);

/// A state directory that `dev` takes for its own, with a place for the evidence.
fn prepared() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().canonicalize().unwrap().join("state");
    let log = state.join("gateway/evidence");
    std::fs::create_dir_all(&log).unwrap();
    std::fs::write(state.join(".portcullis-dev"), "made by a test\n").unwrap();
    (home, log)
}

/// A gate whose evidence lies on a small disk of its own, in a mount namespace of its own; and the evidence, seen from
/// here. Both go with the process.
fn on_small_disk(upstream: &Upstream) -> (Dev, PathBuf) {
    let able = Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
    assert!(able, "this test mounts a small disk in a mount namespace of its own: it must run as root");
    let (home, log) = prepared();
    let script = format!("mount -t tmpfs -o size={DISK},mode=0700 evidence '{}' && exec \"$0\" \"$@\"", log.display());
    let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script.as_str()];
    let dev = Dev::start_under(home, &wrapper, &["--upstream", &upstream.url]);
    let process = format!("/proc/{}/root", dev.pid().as_raw_nonzero());
    let seen = Path::new(&process).join(log.strip_prefix("/").unwrap());
    (dev, seen)
}

/// Takes all space that is left.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filler");
    let mut file = File::create(&path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    path
}

fn long_path(n: usize) -> String {
    format!("/call/{n}/{}", "x".repeat(LONG))
}

#[test]
fn a_full_disk_refuses_calls_and_still_takes_the_outcomes_of_running_ones() {
    let upstream = Upstream::start(Duration::ZERO);
    let (dev, log) = on_small_disk(&upstream);
    let shown = log.display().to_string();
    dev.grant("billing", "api/upstream", &["read"]);
    let running: Vec<_> = (0..3)
        .map(|n| {
            let mut caller = Caller::of(&dev, "billing");
            std::thread::spawn(move || caller.get(&format!("/held/{n}")).unwrap())
        })
        .collect();
    eventually("the upstream has the held calls", PATIENCE, || upstream.seen().len() == 3);
    let held: Vec<String> = upstream.seen().into_keys().collect();

    let filler = fill(&log);
    let mut caller = Caller::of(&dev, "billing");
    let mut refused = Vec::new();
    for n in 0..MOST_CALLS {
        let path = long_path(n);
        let got = caller.get(&path).unwrap();
        if got.status != 200 {
            assert_eq!((got.status, got.reason().as_str()), (503, "evidence_full"), "{got:?}");
            refused.push(path);
        }
        if refused.len() == 20 {
            break;
        }
    }
    assert_eq!(refused.len(), 20, "the disk never filled up");

    upstream.release();
    for call in running {
        assert_eq!(call.join().unwrap().status, 200, "a running call goes on");
    }
    eventually("outcomes are written where their room was reserved", PATIENCE, || {
        let outcomes = calls(&records(&dev, &shown, "outcome"));
        held.iter().all(|call| outcomes.contains(call))
    });
    let still = caller.get("/still").unwrap();
    assert_eq!((still.status, still.reason().as_str()), (503, "evidence_full"), "{still:?}");
    refused.push("/still".to_owned());

    std::fs::remove_file(filler).unwrap();
    eventually("calls are allowed again", RECOVERY, || caller.get("/again").is_some_and(|got| got.status == 200));
    let seen: Vec<_> = refused.iter().filter(|path| upstream.saw_path(path)).collect();
    assert!(seen.is_empty(), "refused, and sent all the same: {seen:?}");
    verified(&dev, &shown);
}

#[test]
fn a_failed_sync_refuses_what_it_was_for_and_the_gate_goes_on_in_a_new_segment() {
    let upstream = Upstream::start(Duration::ZERO);
    let (home, log) = prepared();
    let segment = log.join("journal/00000000000000000000.log").display().to_string();
    let trace = home.path().join("trace").display().to_string();
    // Of this segment alone: what the control plane writes is another test's.
    let wrapper = ["strace", "-D", "-f", "-q", "-P", &segment, "-e", "trace=fdatasync"];
    let inject = ["-e", "inject=fdatasync:error=EIO:when=30", "-o", &trace];
    let wrapper = [&wrapper[..], &inject[..]].concat();
    let dev = Dev::start_under(home, &wrapper, &["--upstream", &upstream.url]);
    dev.grant("billing", "api/upstream", &["read"]);
    let mut caller = Caller::of(&dev, "billing");
    let mut refused = Vec::new();
    let mut allowed = 0;
    for n in 0..500 {
        let path = format!("/call/{n}");
        let got = caller.get(&path).unwrap();
        if got.status == 200 {
            allowed += 1;
        } else {
            assert_eq!((got.status, got.reason().as_str()), (503, "evidence_unavailable"), "{got:?}");
            refused.push(path);
        }
    }
    let told = std::fs::read_to_string(&trace).unwrap();
    assert!(told.contains("(INJECTED)"), "no sync failed: {told}");
    assert!(!refused.is_empty() && allowed > 0, "{} refused, {allowed} allowed", refused.len());
    eventually("calls are allowed again", RECOVERY, || caller.get("/again").is_some_and(|got| got.status == 200));
    let seen: Vec<_> = refused.iter().filter(|path| upstream.saw_path(path)).collect();
    assert!(seen.is_empty(), "refused, and sent all the same: {seen:?}");

    let log = dev.addresses.evidence.clone();
    let intents = calls(&records(&dev, &log, "intent"));
    assert!(upstream.seen().keys().all(|call| intents.contains(call)), "a call went on without a record");
    assert_eq!(records(&dev, &log, "recovered").len(), 1, "the log says itself that writing failed");
    assert_eq!(std::fs::read_dir(Path::new(&log).join("journal")).unwrap().count(), 2);
    verified(&dev, &log);
}

#[test]
fn what_a_sync_failed_to_write_is_written_again_before_it_is_signed() {
    let (home, log) = prepared();
    let segment = log.join("journal/00000000000000000000.log").display().to_string();
    let trace = home.path().join("trace").display().to_string();
    let wrapper = ["strace", "-D", "-f", "-q", "-P", &segment, "-e", "trace=fdatasync,pwrite64", "-s", "0"];
    let inject = ["-e", "inject=fdatasync:error=EIO:when=2", "-o", &trace];
    let wrapper = [&wrapper[..], &inject[..]].concat();
    // Nothing is synced before an answer, so that what syncs is the checkpoint's.
    let mut dev = Dev::start_under(home, &wrapper, &["--durability", "process"]);
    dev.grant("billing", "api/orders", &["read"]);
    let told = || std::fs::read_to_string(&trace).unwrap();
    eventually("a sync failed, and the next did not", PATIENCE, || {
        dev.call("billing", "GET", "/v1/orders/1").is(200);
        told().split_once("(INJECTED)").is_some_and(|(_, after)| after.lines().any(|line| line.ends_with("= 0")))
    });
    // The system took it for written. All of it is written once more, and only then synced.
    let told = told();
    let (_, after) = told.split_once("(INJECTED)").unwrap();
    let synced = after.lines().position(|line| line.contains("fdatasync") && line.ends_with("= 0")).unwrap();
    let again = after.lines().take(synced).any(|line| line.contains("pwrite64") && line.contains(", 0)"));
    assert!(again, "synced again without having been written again:\n{after}");
    let log = dev.addresses.evidence.clone();
    dev.stop();
    verified(&dev, &log);
}

#[test]
fn a_segment_that_vanished_stops_the_gate_and_no_restart_covers_it_up() {
    let upstream = Upstream::start(Duration::ZERO);
    let mut dev = Dev::start_with(&["--upstream", &upstream.url]);
    dev.grant("billing", "api/upstream", &["read"]);
    let mut caller = Caller::of(&dev, "billing");
    assert_eq!(caller.get("/before").unwrap().status, 200);
    let log = dev.addresses.evidence.clone();
    eventually("the call is under a checkpoint", PATIENCE, || {
        verified(&dev, &log)["size"].as_u64().is_some_and(|size| size >= 3)
    });
    std::fs::remove_file(Path::new(&log).join("journal/00000000000000000000.log")).unwrap();
    for path in ["/after/1", "/after/2", "/after/3"] {
        let got = caller.get(path).unwrap();
        assert_eq!((got.status, got.reason().as_str()), (503, "evidence_unavailable"), "{got:?}");
        assert!(!upstream.saw_path(path), "{path} was sent without a record");
    }
    dev.cli(&["evidence", "verify", &log]).exits(8);
    dev.stop();
    let ports =
        ["--gateway-address", "--gateway-tls-address", "--admin-address", "--control-address", "--http-address"];
    let ports = ports.iter().flat_map(|flag| [*flag, "127.0.0.1:0"]);
    let arguments: Vec<_> = ["dev", "--dir", "state"].into_iter().chain(ports).collect();
    // More often than records are missing: what each start writes must not make up for them.
    for start in 0..4 {
        let mut command = command(dev.home.path());
        command.args(&arguments);
        let (code, said) = Stream::of(command).ended();
        assert!(code == 1 && said.contains("were signed"), "start {start}: {code}: {said}");
    }
    dev.cli(&["evidence", "verify", &log]).exits(8);
}
