//! Evidence before effect, as the kernel saw it: a trace of a running gate.
//!
//! For each call: its record is written to a segment, an `fdatasync` of that segment that began after the write has
//! returned, and only then does a byte with the call's id leave on a socket: to the upstream if the call was allowed, to
//! the caller if it was denied.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::{Caller, Upstream};
use crate::dev::{Dev, PATIENCE, eventually};

/// The system calls that write, sync, or send.
pub(crate) const TRACED: &str = "trace=fdatasync,pwrite64,write,writev,sendto,sendmsg,connect";
const CONNECTIONS: usize = 4;
const CALLS: usize = 15;

/// One system call: where in the trace it was entered, where it had returned, and what it said.
pub(crate) struct Traced {
    name: String,
    text: String,
    entered: usize,
    returned: usize,
    succeeded: bool,
}

impl Traced {
    /// The file or connection of its first argument, as `strace -yy` shows it.
    fn object(&self) -> &str {
        let rest = self.text.split_once('<').map_or("", |(_, rest)| rest);
        // A connection has an arrow and brackets in it.
        let end = if rest.starts_with("TCP") { rest.find("]>").map(|at| at + 1) } else { rest.find('>') };
        &rest[..end.unwrap_or(0)]
    }

    fn sends(&self) -> bool {
        self.name != "fdatasync" && self.object().starts_with("TCP")
    }

    fn writes(&self, log: &str) -> bool {
        self.name != "fdatasync" && self.object().contains(log)
    }
}

/// What the path of a segment of the gate's log contains.
const SEGMENT: &str = "/gateway/evidence/journal/";

/// Reads what `strace -f -yy` wrote. A line is where a call was entered; one that others came between has a second.
pub(crate) fn parse(trace: &str) -> Vec<Traced> {
    let mut calls: Vec<Traced> = Vec::new();
    let mut unfinished: HashMap<&str, usize> = HashMap::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        let Some((_time, rest)) = rest.split_once(' ') else { continue };
        let succeeded = || {
            let result = rest.rsplit_once(" = ").map_or("", |(_, result)| result);
            result.starts_with(|first: char| first.is_ascii_digit())
        };
        if rest.starts_with("<... ") {
            if let Some(call) = unfinished.remove(thread).and_then(|index| calls.get_mut(index)) {
                call.returned = at;
                call.succeeded = succeeded();
            }
        } else if let Some((name, _)) = rest.split_once('(') {
            let open = rest.contains("<unfinished ...>");
            if open {
                unfinished.insert(thread, calls.len());
            }
            let returned = if open { usize::MAX } else { at };
            let succeeded = !open && succeeded();
            calls.push(Traced { name: name.to_owned(), text: rest.to_owned(), entered: at, returned, succeeded });
        }
    }
    calls
}

/// What the trace says of one call: nothing if its record was on disk before the first byte that bears its id was sent
/// on a connection that `to` names; segments of the log have `log` in their path.
pub(crate) fn before_effect(trace: &[Traced], call: &str, to: &str, log: &str) -> Result<(), String> {
    let effect = trace
        .iter()
        .find(|it| it.sends() && it.text.contains(call))
        .ok_or_else(|| format!("{call}: nothing was sent"))?;
    if !effect.object().contains(to) {
        return Err(format!("{call}: first sent to {}", effect.object()));
    }
    let record = trace
        .iter()
        .find(|it| it.writes(log) && it.text.contains(call))
        .ok_or_else(|| format!("{call}: no record was written"))?;
    let synced = trace.iter().any(|it| {
        it.name == "fdatasync"
            && it.succeeded
            && it.object() == record.object()
            && it.entered > record.returned
            && it.returned < effect.entered
    });
    if synced {
        Ok(())
    } else {
        Err(format!("{call}: sent at line {} before its record was on disk", effect.entered + 1))
    }
}

/// A gate under strace with calls of one who may and one who may not: the trace, and both kinds' call ids.
fn traced() -> (String, String, Vec<String>, Vec<String>) {
    let upstream = Upstream::start(Duration::ZERO);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("trace");
    let output = file.display().to_string();
    // -D: strace is beside the gate, not above it. -s: whole batches, so that each call's id is seen.
    let wrapper = ["strace", "-D", "-f", "-yy", "-ttt", "-s", "262144", "-e", TRACED, "-o", output.as_str()];
    let mut dev = Dev::start_under(home, &wrapper, &["--upstream", &upstream.url]);
    dev.grant("billing", "api/upstream", &["read"]);
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let mut callers = [Caller::of(&dev, "billing"), Caller::of(&dev, "helper")];
            std::thread::spawn(move || {
                let mut ids = Vec::new();
                for n in 0..CALLS {
                    let [allowed, denied] = &mut callers;
                    assert_eq!(allowed.get(&format!("/allowed/{connection}/{n}")).unwrap().status, 200);
                    let got = denied.get(&format!("/denied/{connection}/{n}")).unwrap();
                    assert_eq!(got.status, 403, "{got:?}");
                    ids.push(got.call);
                }
                ids
            })
        })
        .collect();
    let denied = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert!(dev.stop().success());
    let trace = wait_for_end(&file);
    let (allowed, paths): (Vec<_>, Vec<_>) = upstream.seen().into_iter().unzip();
    assert!(paths.iter().all(|path| path.starts_with("/allowed/")), "{paths:?}");
    let address = upstream.url.trim_start_matches("http://").to_owned();
    (trace, address, allowed, denied)
}

/// strace writes on for a moment after the process has ended.
fn wait_for_end(file: &Path) -> String {
    let mut trace = String::new();
    eventually("strace has seen the end", PATIENCE, || {
        trace = String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned();
        trace.lines().last().is_some_and(|line| line.contains("+++ exited"))
    });
    trace
}

#[test]
fn the_record_is_on_disk_before_the_first_byte_leaves() {
    let (trace, upstream, allowed, denied) = traced();
    assert_eq!((allowed.len(), denied.len()), (CONNECTIONS * CALLS, CONNECTIONS * CALLS));
    let calls = parse(&trace);
    let to_upstream = format!("->{upstream}]");
    let check = |calls: &[Traced]| {
        let allowed = allowed.iter().map(|call| before_effect(calls, call, &to_upstream, SEGMENT));
        let denied = denied.iter().map(|call| before_effect(calls, call, "TCP:", SEGMENT));
        allowed.chain(denied).filter_map(Result::err).collect::<Vec<_>>()
    };
    let wrong = check(&calls);
    assert!(wrong.is_empty(), "{wrong:#?}");

    // The same trace without its syncs of the evidence must not pass: neither dropped, nor failed, nor late.
    let all = CONNECTIONS * CALLS * 2;
    let is_sync = |line: &str| line.contains("fdatasync(") && line.contains(SEGMENT);
    let without: String = trace.lines().filter(|line| !is_sync(line)).map(|line| format!("{line}\n")).collect();
    assert_eq!(check(&parse(&without)).len(), all, "a trace without any sync passes");
    let mut late = calls;
    late.iter_mut().filter(|it| it.name == "fdatasync").for_each(|it| it.returned = usize::MAX);
    assert_eq!(check(&late).len(), all, "syncs that never return pass");
}

const GOOD: &str = r#"7 1.0 pwrite64(9</s/gateway/evidence/journal/0.log>, "\"call\":\"A\"", 9, 0) = 9
7 1.1 fdatasync(9</s/gateway/evidence/journal/0.log> <unfinished ...>
8 1.2 sendto(4<TCP:[127.0.0.1:1->127.0.0.1:5]>, "something else", 9, 0, NULL, 0) = 9
7 1.3 <... fdatasync resumed>) = 0
8 1.4 sendto(4<TCP:[127.0.0.1:1->127.0.0.1:9]>, "id: A", 9, 0, NULL, 0) = 9
"#;

/// The lines of [`GOOD`] in another order, or with others in their place.
fn told(lines: &[&str]) -> Result<(), String> {
    before_effect(&parse(&lines.join("\n")), "A", "->127.0.0.1:9]", SEGMENT)
}

#[test]
fn a_trace_in_any_wrong_order_does_not_pass() {
    let lines: Vec<&str> = GOOD.lines().collect();
    let [write, sync, other, synced, send] = lines[..] else { panic!("five lines") };
    assert_eq!(told(&[write, sync, other, synced, send]), Ok(()));
    told(&[write, sync, other, send, synced]).unwrap_err();
    told(&[sync, write, other, synced, send]).unwrap_err();
    told(&[sync, synced, write, other, send]).unwrap_err();
    told(&[write, other, send]).unwrap_err();
    told(&[sync, synced, send]).unwrap_err();
    let failed = synced.replace("= 0", "= -1 EIO (Input/output error)");
    told(&[write, sync, other, &failed, send]).unwrap_err();
    let elsewhere = sync.replace("0.log", "1.log");
    told(&[write, &elsewhere, other, synced, send]).unwrap_err();
    let to_another = send.replace(":9]", ":5]");
    told(&[write, sync, other, synced, &to_another]).unwrap_err();
}
