//! Counted grants: no more calls than were granted, over several gateways, crashes and lost messages.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::dev::{PATIENCE, eventually, run};
use crate::world::{Fleet, Gate, Upstream};

const CALL: &str = "/v1/orders/7";
const NAMES: [&str; 3] = ["edge", "west", "north"];

fn gateways(fleet: &Fleet) -> Vec<Gate> {
    let started: Vec<Gate> = NAMES.iter().map(|name| fleet.gateway_of(name, |_| {})).collect();
    started.into_iter().map(Gate::ready).collect()
}

fn urls(gates: &[Gate]) -> Vec<String> {
    gates.iter().map(|gate| format!("{}{CALL}", gate.url)).collect()
}

/// 0 when nobody answers.
fn status(url: &str, bearer: &str) -> u16 {
    let mut curl = std::process::Command::new("curl");
    let done =
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60", "-H", bearer, url]).output();
    String::from_utf8(done.unwrap().stdout).unwrap().parse().unwrap()
}

/// A grant with these limits, which every connected gateway has.
fn grant(fleet: &Fleet, limits: &[&str]) -> String {
    let create = ["grant", "create", "--identity", "billing", "--resource", "api/orders", "--action", "read"];
    let more = ["--duration", "15m", "--reason", "test", "--wait"];
    let arguments = [&create[..], limits, &more].concat();
    fleet.json(&arguments)["grants"][0]["id"].as_str().unwrap().to_owned()
}

/// Intents with an allotment in a gateway's log.
fn spent(fleet: &Fleet, name: &str) -> Vec<Value> {
    let log = fleet.home.path().join(name).join("evidence");
    let query = ["-o", "json", "evidence", "query", log.to_str().unwrap(), "--kind", "intent"];
    let done = run(fleet.home.path(), &query).exits(0);
    let records = done.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record["data"]["allotment"].is_string()).collect()
}

#[test]
fn a_single_use_works_once_over_all_gateways() {
    let upstream = Upstream::ok();
    let fleet = Fleet::of(upstream.address, &NAMES);
    let gates = gateways(&fleet);
    let id = grant(&fleet, &["--uses", "1"]);
    assert_eq!(fleet.json(&["grant", "show", &id])["uses_given"], 0);
    let bearer = fleet.bearer();
    gates[1].get(&bearer, CALL).is(200);
    // Whoever holds the last one says first that it is spent.
    eventually("it is spent for good", Duration::from_secs(40), || {
        let answers = gates.iter().map(|gate| gate.get(&bearer, CALL));
        let reasons: Vec<_> = answers.map(|answer| (answer.status, answer.json()["reason"].clone())).collect();
        assert!(reasons.iter().all(|(status, _)| [403, 429].contains(status)), "{reasons:?}");
        std::thread::sleep(Duration::from_millis(300));
        reasons.iter().all(|(status, reason)| *status == 403 && reason == "uses_spent")
    });
    assert_eq!(upstream.seen(), 1);
    let shown = fleet.json(&["grant", "show", &id]);
    assert_eq!((&shown["uses_given"], &shown["limits"]["uses"]), (&1.into(), &1.into()));
    let question = ["can-i", "--as", "billing", "read", "api/orders"];
    let said = fleet.cli(&[&["-o", "json"][..], &question].concat());
    assert_eq!((said.json()["allowed"].clone(), said.json()["reason"].clone()), (false.into(), "uses_spent".into()));
    // Another grant that counts nothing is taken before one that counts.
    let counted = grant(&fleet, &["--uses", "5"]);
    fleet.grant("--wait");
    gates[0].get(&bearer, CALL).is(200);
    assert_eq!(fleet.json(&["grant", "show", &counted])["uses_given"], 0);
}

#[test]
fn counted_uses_are_spent_to_the_last_by_many_callers_over_three_gateways() {
    const USES: usize = 40;
    let upstream = Upstream::ok();
    let fleet = Fleet::of(upstream.address, &NAMES);
    let gates = gateways(&fleet);
    let id = grant(&fleet, &["--uses", &USES.to_string()]);
    let bearer = fleet.bearer();
    let allowed = AtomicUsize::new(0);
    let urls = urls(&gates);
    std::thread::scope(|scope| {
        for caller in 0..6 {
            let (urls, bearer, allowed) = (&urls, &bearer, &allowed);
            scope.spawn(move || {
                for call in 0..20 {
                    match status(&urls[(caller + call) % urls.len()], bearer) {
                        200 => allowed.fetch_add(1, SeqCst),
                        403 | 429 => continue,
                        other => panic!("{other}"),
                    };
                }
            });
        }
    });
    assert_eq!((allowed.load(SeqCst), upstream.seen()), (USES, USES));
    let records: Vec<Value> = NAMES.iter().flat_map(|name| spent(&fleet, name)).collect();
    assert_eq!(records.len(), USES);
    assert!(records.iter().all(|record| record["data"]["basis"]["grant"] == id.as_str()));
}

#[test]
fn neither_killed_gateways_nor_a_killed_control_plane_give_a_use_twice() {
    const USES: usize = 60;
    let upstream = Upstream::ok();
    let mut fleet = Fleet::of(upstream.address, &NAMES);
    let mut gates = gateways(&fleet);
    let id = grant(&fleet, &["--uses", &USES.to_string()]);
    let bearer = fleet.bearer();
    let calls = |urls: &[String]| {
        std::thread::scope(|scope| {
            for url in urls {
                let bearer = &bearer;
                scope.spawn(move || (0..4).for_each(|_| assert!(status(url, bearer) < 600)));
            }
        });
    };
    for round in 0..3 {
        let running = urls(&gates);
        let running = std::thread::scope(|scope| {
            let running = scope.spawn(|| calls(&running));
            std::thread::sleep(Duration::from_millis(40 * (round + 1)));
            // While it is asked, and while it answers.
            gates[2].process.signal(Signal::KILL);
            if round == 1 {
                fleet.control.signal(Signal::KILL);
            }
            running.join()
        });
        running.unwrap();
        if round == 1 {
            fleet.control.kill();
            fleet.restart_control();
        }
        gates[2].process.kill();
        gates[2] = fleet.gateway_of(NAMES[2], |_| {}).ready();
        calls(&urls(&gates[2..]));
        gates[..2].iter().for_each(|gate| {
            eventually("it has authority", PATIENCE, || {
                crate::dev::curl(&[&format!("{}/readyz", gate.admin)]).status == 200
            })
        });
    }
    // To the end: what is left is spent, and what was lost with a process is not.
    eventually("nothing is left", Duration::from_secs(60), || {
        calls(&urls(&gates));
        gates.iter().all(|gate| gate.get(&bearer, CALL).status == 403)
    });
    let seen = upstream.seen();
    assert!(seen <= USES && seen > USES / 2, "{seen} of {USES}");
    let recorded: usize = NAMES.iter().map(|name| spent(&fleet, name).len()).sum();
    assert!((seen..=USES).contains(&recorded), "{seen} seen, {recorded} recorded");
    assert_eq!(fleet.json(&["grant", "show", &id])["uses_given"], USES);
}

#[test]
fn uses_are_counted_in_spans_of_time() {
    let upstream = Upstream::ok();
    let fleet = Fleet::of(upstream.address, &NAMES);
    let gates = gateways(&fleet);
    grant(&fleet, &["--uses-per", "3/10m"]);
    let bearer = fleet.bearer();
    let allowed = gates.iter().cycle().take(9).filter(|gate| gate.get(&bearer, CALL).status == 200).count();
    assert_eq!((allowed, upstream.seen()), (3, 3));
    gates[0].get(&bearer, CALL).refuses(429, "uses_spent_for_now");
    let bad = ["--uses-per", "0/10m"];
    let create = ["grant", "create", "--identity", "billing", "--resource", "api/orders", "--action", "read"];
    fleet.cli(&[&create[..], &bad, &["--duration", "1h", "--reason", "x"]].concat()).exits(2);
    // Spans of a second, one after the other.
    let other = Fleet::start(upstream.address);
    let gate = other.gateway(|_| {}).ready();
    grant(&other, &["--uses-per", "2/1s"]);
    let bearer = other.bearer();
    let from = std::time::Instant::now();
    let mut allowed = 0;
    while from.elapsed() < Duration::from_secs(4) {
        allowed += usize::from(gate.get(&bearer, CALL).status == 200);
    }
    assert!((4..=10).contains(&allowed), "{allowed} in four seconds, and five spans at most");
}

#[test]
fn without_the_control_plane_no_use_is_spent_beyond_what_was_given() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|config| config["limits"] = serde_json::json!({ "hold": "1s" })).ready();
    let id = grant(&fleet, &["--uses", "100"]);
    let bearer = fleet.bearer();
    gate.get(&bearer, CALL).is(200);
    fleet.control.signal(Signal::STOP);
    let mut answers = Vec::new();
    eventually("it has to ask", PATIENCE, || {
        answers.push(gate.get(&bearer, CALL));
        answers.last().unwrap().status != 200
    });
    answers.pop().unwrap().refuses(503, "uses_unavailable");
    let seen = upstream.seen();
    fleet.control.signal(Signal::CONT);
    eventually("it can ask again", PATIENCE, || gate.get(&bearer, CALL).status == 200);
    assert!(upstream.seen() > seen);
    assert!(fleet.json(&["grant", "show", &id])["uses_given"].as_u64().unwrap() >= upstream.seen() as u64);
}

#[test]
fn a_gateway_that_is_stopped_gives_back_what_it_did_not_spend() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let mut gate = fleet.gateway(|_| {}).ready();
    let id = grant(&fleet, &["--uses", "100"]);
    let bearer = fleet.bearer();
    let given = || fleet.json(&["grant", "show", &id])["uses_given"].as_u64().unwrap();
    // It is given some ahead of need, once it has used some.
    eventually("it has more than it spent", PATIENCE, || {
        gate.get(&bearer, CALL).is(200);
        given() > upstream.seen() as u64
    });
    gate.process.signal(Signal::TERM);
    assert_eq!(gate.process.ended(), Some(0));
    assert_eq!(given(), upstream.seen() as u64);
}
