//! Gateways whose disk does not last: a call goes on once the control plane has its record on disk, and not before.
//!
//! Real processes: what one of them does when the other is stopped, killed, full or gone.

mod order;
mod pruned;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::dev::{Answer, BINARY, PATIENCE, curl, eventually, run};
use crate::world::{Fleet, Gate, Process, Upstream};

/// How long a call may wait for the copy.
const WITHIN: &str = "500ms";

/// A control plane that keeps copies, and one gateway that waits for them.
struct House {
    fleet: Fleet,
    upstream: Upstream,
    http: String,
}

impl House {
    fn start(copies: Value) -> Self {
        let upstream = Upstream::ok();
        let fleet = Fleet::of(upstream.address, &["edge", "far"]);
        let mut house = Self { fleet, upstream, http: String::new() };
        house.end_control();
        house.control(copies, &[]);
        house
    }

    fn home(&self) -> &Path {
        self.fleet.home.path()
    }

    fn end_control(&mut self) {
        self.fleet.control.signal(Signal::TERM);
        assert_eq!(self.fleet.control.ended(), Some(0));
    }

    /// Starts the control plane again, under another program that must become it.
    fn control(&mut self, copies: Value, wrapper: &[&str]) {
        let path = self.home().join("control.yaml");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["evidence_copies"] = copies;
        config["grpc_address"] = self.fleet.address.trim_start_matches("https://").into();
        std::fs::write(&path, config.to_string()).unwrap();
        let line = [wrapper, &[BINARY, "control", "run", "-c", "control.yaml"]].concat();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).env_clear().env("HOME", self.home()).env("PATH", "/usr/bin:/bin");
        command.current_dir(self.home()).stdin(std::process::Stdio::null());
        self.fleet.control = Process::of(command);
        let ready = self.fleet.control.says("the control plane is ready");
        self.http = format!("http://{}", ready["http"].as_str().unwrap());
    }

    fn gateway(&self) -> Gate {
        let gate = self.fleet.gateway(|config| {
            config["evidence"] = json!({ "durability": "remote", "remote_within": WITHIN });
        });
        gate.ready()
    }

    fn call(&self, gate: &Gate, path: &str) -> Answer {
        gate.get(&self.fleet.bearer(), path)
    }

    /// The one copy of `edge`'s log.
    fn copy(&self) -> PathBuf {
        copies(&self.home().join("control/copies/edge")).pop().expect("a copy")
    }

    /// The ids of the calls that the upstream saw.
    fn seen(&self) -> HashSet<String> {
        let id = |head: String| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("portcullis-call-id:"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        self.upstream.heads().into_iter().filter_map(id).collect()
    }

    /// The records of one kind in a log, and that the log verifies.
    fn records(&self, log: &Path, kind: &str) -> Vec<Value> {
        let log = log.to_str().unwrap();
        run(self.home(), &["evidence", "verify", log]).exits(0);
        let done = run(self.home(), &["-o", "json", "evidence", "query", log, "--kind", kind]).exits(0);
        done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let text = curl(&[&format!("{}/metrics", self.http)]).is(200).body;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.parse().ok()
    }
}

fn copies(of_gateway: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(of_gateway) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn calls(records: &[Value]) -> HashSet<String> {
    records.iter().filter_map(|record| record["data"]["call"].as_str()).map(ToOwned::to_owned).collect()
}

#[track_caller]
fn refused(answer: &Answer, reason: &str) {
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some(reason)), "{answer:?}");
}

#[test]
fn a_gateway_that_lost_its_disk_leaves_every_call_that_it_let_through_in_the_copy() {
    let house = House::start(json!({}));
    let mut gate = house.gateway();
    house.call(&gate, "/v1/orders/1").is(403);
    house.fleet.grant("");
    eventually("the gateway has the grant", PATIENCE, || house.call(&gate, "/v1/orders/2").status == 200);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (bearer, url) = (house.fleet.bearer(), gate.url.clone());
            let one = move |m| drop(curl(&["-H", &bearer, &format!("{url}/v1/orders/{n}-{m}")]).is(200));
            scope.spawn(move || (0..10).for_each(one));
        }
    });
    // In the middle of calls, and with everything that it had.
    let load = {
        let (bearer, url) = (house.fleet.bearer(), gate.url.clone());
        std::thread::spawn(move || {
            let urls = format!("{url}/v1/orders/[1-2000]");
            let mut curl = Command::new("curl");
            curl.args(["-s", "-o", "/dev/null", "--max-time", "60", "-H", &bearer, &urls]).status().unwrap()
        })
    };
    eventually("the load is on", PATIENCE, || house.upstream.seen() > 60);
    gate.process.kill();
    std::fs::remove_dir_all(house.home().join("edge")).unwrap();
    load.join().unwrap();

    let seen = house.seen();
    assert!(seen.len() > 60, "{}", seen.len());
    eventually("what was sent is written", PATIENCE, || {
        let kept = calls(&house.records(&house.copy(), "intent"));
        seen.is_subset(&kept)
    });
    assert!(!house.records(&house.copy(), "denial").is_empty());
    assert!(house.metric("portcullis_control_copy_bytes{gateway=\"edge\"}").unwrap() > 1000.0);
    assert!(house.metric("portcullis_control_copy_limit_bytes").unwrap() > 1e9);

    // Asked over HTTP, the copy answers for it, and says that it does; whose part is missing is said.
    let ask = |path: &str, question: &Value| {
        let token = std::fs::read_to_string(house.home().join("control/people/administrator")).unwrap();
        let bearer = format!("Authorization: Bearer {}", token.trim());
        let (url, body) = (format!("{}/v1/evidence/{path}", house.http), question.to_string());
        curl(&["-H", &bearer, "-H", "Content-Type: application/json", "-d", &body, &url]).is(200).json()
    };
    let asked = ask("query", &json!({ "filter": { "kind": "intent" }, "gateways": ["edge"] }));
    assert!(asked["gateways"][0]["copy"] == true && asked["gateways"][0]["missing"].is_null(), "{asked}");
    let told: Vec<Value> = asked["records"].as_array().unwrap().iter().map(|it| it["record"].clone()).collect();
    assert!(seen.is_subset(&calls(&told)), "{asked}");
    let (some, all) = (ask("query", &json!({ "limit": 3 })), ask("tail", &json!({ "last": 3 })));
    for (answer, whole) in [(&some, false), (&all, true)] {
        let [edge, far] = &answer["gateways"].as_array().unwrap()[..] else { panic!("{answer}") };
        assert_eq!((answer["records"].as_array().unwrap().len(), edge["reached"] == edge["size"]), (3, whole));
        assert!(far["missing"].as_str().unwrap().contains("not connected") && answer["whole"] == false, "{answer}");
    }
    // Nothing comes any more: what is waited for is waited for.
    let reached = all["gateways"][0]["reached"].clone();
    let begun = Instant::now();
    let none = ask("tail", &json!({ "after": { "edge": reached }, "wait": "2s" }));
    assert!(none["records"].as_array().unwrap().is_empty() && begun.elapsed() >= Duration::from_secs(1), "{none}");
}

#[test]
fn while_the_control_plane_stands_still_calls_are_refused_and_none_goes_on_unrecorded() {
    let house = House::start(json!({}));
    house.fleet.grant("");
    let gate = house.gateway();
    house.call(&gate, "/v1/orders/1").is(200);
    eventually("all is there", PATIENCE, || gate.metric("portcullis_evidence_remote_lag_records") == 0.0);
    house.fleet.control.signal(Signal::STOP);
    let begun = Instant::now();
    refused(&house.call(&gate, "/v1/orders/2"), "evidence_unavailable");
    assert!(begun.elapsed() >= Duration::from_millis(400), "it was waited for: {:?}", begun.elapsed());
    let begun = Instant::now();
    for n in 3..8 {
        refused(&house.call(&gate, &format!("/v1/orders/{n}")), "evidence_unavailable");
    }
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(house.upstream.seen(), 1, "refused, and sent all the same");
    assert_eq!(gate.metric("portcullis_evidence_writable"), 0.0);
    assert_eq!(gate.metric("portcullis_evidence_remote_failures_total"), 1.0);
    assert!(curl(&[&format!("{}/readyz", gate.admin)]).status == 503);
    house.fleet.control.signal(Signal::CONT);
    eventually("calls are allowed again", PATIENCE, || house.call(&gate, "/v1/orders/9").status == 200);
    // What was refused for it is told, with its reason, there too.
    eventually("it is there", PATIENCE, || {
        let outcomes = house.records(&house.copy(), "outcome");
        outcomes.iter().any(|outcome| outcome["data"]["reason"] == "evidence_unavailable")
    });
}

#[test]
fn a_control_plane_that_is_killed_is_waited_for_and_gone_on_with() {
    let mut house = House::start(json!({}));
    house.fleet.grant("");
    let mut gate = house.gateway();
    house.call(&gate, "/v1/orders/1").is(200);
    house.fleet.control.kill();
    eventually("calls are refused", PATIENCE, || house.call(&gate, "/v1/orders/2").status == 503);
    let before = house.upstream.seen();
    refused(&house.call(&gate, "/v1/orders/3"), "evidence_unavailable");
    assert_eq!(house.upstream.seen(), before);
    house.control(json!({}), &[]);
    eventually("calls are allowed again", PATIENCE, || house.call(&gate, "/v1/orders/4").status == 200);
    // Ended in order, it leaves the last record in the copy: nothing of the log is only here.
    gate.process.signal(Signal::TERM);
    assert_eq!(gate.process.ended(), Some(0));
    let size = |log: &Path| {
        let log = log.to_str().unwrap();
        run(house.home(), &["-o", "json", "evidence", "verify", log]).exits(0).json()["records"].as_u64().unwrap()
    };
    assert_eq!(size(&house.copy()), size(&house.home().join("edge/evidence")));
    let seen = house.seen();
    assert!(seen.is_subset(&calls(&house.records(&house.copy(), "intent"))));
}

#[test]
fn a_gateway_has_its_room_and_is_refused_beyond_it_until_it_has_more() {
    let mut house = House::start(json!({ "max_size_per_gateway": "64KiB" }));
    house.fleet.grant("");
    let gate = house.gateway();
    let mut allowed = 0;
    let long = "x".repeat(2000);
    let full = (0..200).map(|n| house.call(&gate, &format!("/v1/orders/{n}/{long}"))).find(|answer| {
        allowed += usize::from(answer.status == 200);
        answer.status != 200
    });
    refused(&full.expect("it never was full"), "evidence_full");
    assert!(allowed > 5, "{allowed}");
    assert_eq!(house.upstream.seen(), allowed);
    refused(&house.call(&gate, "/v1/orders/more"), "evidence_full");
    assert!(house.metric("portcullis_control_copy_refused_total{reason=\"limit\"}").unwrap() >= 1.0);
    let ready = curl(&[&format!("{}/readyz", gate.admin)]);
    assert!(ready.status == 503 && ready.body.contains("and may have 65536"), "{ready:?}");
    house.end_control();
    house.control(json!({ "max_size_per_gateway": "8MiB" }), &[]);
    eventually("calls are allowed again", PATIENCE, || house.call(&gate, "/v1/orders/again").status == 200);
    assert!(house.seen().is_subset(&calls(&house.records(&house.copy(), "intent"))));
}

#[test]
fn a_disk_that_is_full_where_the_copies_lie_refuses_calls_and_is_gone_on_with_once_it_is_not() {
    let mut house = House::start(json!({}));
    house.fleet.grant("");
    house.end_control();
    let dir = house.home().canonicalize().unwrap().join("control/copies");
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::create_dir(&dir).unwrap();
    let script = format!("mount -t tmpfs -o size=1m,mode=0700 copies '{}' && exec \"$0\" \"$@\"", dir.display());
    house.control(json!({}), &["/usr/bin/unshare", "--mount", "--propagation", "private", "sh", "-c", &script]);
    let pid = house.fleet.control.child.as_ref().unwrap().id();
    let seen_from_here = PathBuf::from(format!("/proc/{pid}/root")).join(dir.strip_prefix("/").unwrap());
    let gate = house.gateway();
    house.call(&gate, "/v1/orders/1").is(200);
    let filler = seen_from_here.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    let long = "x".repeat(3000);
    let full = (0..600).map(|n| house.call(&gate, &format!("/v1/orders/{n}/{long}"))).find(|it| it.status != 200);
    refused(&full.expect("it never was full"), "evidence_full");
    let before = house.upstream.seen();
    refused(&house.call(&gate, "/v1/orders/more"), "evidence_full");
    assert_eq!(house.upstream.seen(), before);
    assert!(house.metric("portcullis_control_copy_refused_total{reason=\"disk_full\"}").unwrap() >= 1.0);
    drop(file);
    std::fs::remove_file(filler).unwrap();
    eventually("calls are allowed again", PATIENCE, || house.call(&gate, "/v1/orders/again").status == 200);
    let copy = copies(&seen_from_here.join("edge")).pop().unwrap();
    assert!(house.seen().is_subset(&calls(&house.records(&copy, "intent"))));
}

#[test]
fn a_control_plane_that_keeps_no_copies_says_so_and_nothing_goes_on() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    fleet.grant("");
    let gate = fleet.gateway(|config| config["evidence"] = json!({ "durability": "remote" }));
    let readyz = || curl(&[&format!("{}/readyz", gate.admin)]);
    eventually("it says why it is not ready", PATIENCE, || readyz().body.contains("give it `evidence_copies`"));
    eventually("it has its picture", PATIENCE, || {
        gate.get(&fleet.bearer(), "/v1/orders/1").json()["reason"] != "authority_missing"
    });
    refused(&gate.get(&fleet.bearer(), "/v1/orders/1"), "evidence_unavailable");
    assert_eq!(upstream.seen(), 0);
}

#[test]
fn a_log_that_was_put_back_or_is_another_does_not_go_on_with_the_copy() {
    let house = House::start(json!({}));
    house.fleet.grant("");
    let mut gate = house.gateway();
    let stop = |gate: &mut Gate| {
        gate.process.signal(Signal::TERM);
        assert_eq!(gate.process.ended(), Some(0));
    };
    house.call(&gate, "/v1/orders/1").is(200);
    stop(&mut gate);
    let (log, older) = (house.home().join("edge/evidence"), house.home().join("older"));
    let copied = Command::new("cp").arg("-a").args([&log, &older]).status().unwrap();
    assert!(copied.success());
    let mut gate = house.gateway();
    house.call(&gate, "/v1/orders/2").is(200);
    stop(&mut gate);
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(&older, &log).unwrap();
    let gate = house.fleet.gateway(|config| {
        config["evidence"] = json!({ "durability": "remote", "remote_within": WITHIN });
    });
    eventually("it is refused by name", PATIENCE, || gate.process.log().contains("cut: the log has"));
    assert_ne!(house.call(&gate, "/v1/orders/3").status, 200);
    run(house.home(), &["evidence", "verify", house.copy().to_str().unwrap()]).exits(0);
    assert_eq!(house.upstream.seen(), 2);
    let own = house.home().join("control/evidence").display().to_string();
    let noted = run(house.home(), &["-o", "json", "evidence", "query", &own, "--kind", "change"]).exits(0).stdout;
    assert!(noted.contains("log.refused"), "{noted}");
    // Sealed, it begins another one, whose copy lies beside.
    drop(gate);
    run(house.home(), &["gateway", "seal", "-c", "gateway.yaml"]).exits(0);
    let gate = house.gateway();
    house.call(&gate, "/v1/orders/4").is(200);
    assert_eq!(copies(&house.home().join("control/copies/edge")).len(), 2);
}
