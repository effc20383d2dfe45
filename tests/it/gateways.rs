//! Questions about evidence over the control plane: every gateway is asked, and whose part is missing is said.

use serde_json::Value;

use crate::dev::{Done, PATIENCE, Stream, eventually};
use crate::world::{Fleet, Gate, Upstream};

fn lines(done: &Done) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().expect("a summary");
    assert!(summary["gateways"].is_array() && lines.iter().all(|line| line["record"].is_object()), "{}", done.stdout);
    (lines, summary)
}

fn two(fleet: &Fleet) -> (Gate, Gate) {
    let (one, other) = (fleet.gateway(|_| {}).ready(), fleet.gateway_of("far", |_| {}).ready());
    eventually("both stand by for questions", PATIENCE, || fleet.cli(&["evidence", "query", "--fleet"]).code == 0);
    (one, other)
}

#[test]
fn every_gateway_answers_and_the_part_of_one_that_is_stopped_is_missing() {
    let fleet = Fleet::of(Upstream::ok().address, &["edge", "far"]);
    let (edge, mut far) = two(&fleet);
    let bearer = fleet.bearer();
    let call = |gate: &Gate| {
        gate.get(&bearer, "/v1/orders/7?v=known").is(403).header("portcullis-call-id").unwrap().to_owned()
    };
    let calls: Vec<String> = [&edge, &far, &edge, &far].into_iter().map(call).collect();

    let query = ["-o", "json", "evidence", "query", "--fleet", "--reason", "grant_missing"];
    let (found, summary) = lines(&fleet.cli(&query).exits(0));
    let seen: Vec<_> = found.iter().map(|line| line["record"]["data"]["call"].as_str().unwrap()).collect();
    assert_eq!(seen, calls, "in the order of their times");
    let whose: Vec<_> = found.iter().map(|line| line["gateway"].as_str().unwrap()).collect();
    assert_eq!(whose, ["edge", "far", "edge", "far"]);
    for standing in summary["gateways"].as_array().unwrap() {
        assert!(standing["missing"].is_null() && standing["reached"] == standing["size"], "{standing}");
        assert_eq!(standing["log"], format!("portcullis/gateway/{}", standing["gateway"].as_str().unwrap()));
    }
    // One gateway, one call, a hashed value, another kind; and the files of a gateway are asked without anybody.
    let only = [&query[..], &["--gateway", "far"]].concat();
    assert_eq!(lines(&fleet.cli(&only).exits(0)).0.len(), 2);
    let one = ["-o", "json", "evidence", "query", "--fleet", "--call", &calls[1]];
    assert_eq!(lines(&fleet.cli(&one).exits(0)).0[0]["gateway"], "far");
    let key = fleet.home.path().join("far/evidence-hash.key").display().to_string();
    let value = ["-o", "json", "evidence", "query", "--fleet", "--value", "known", "--hash-key", &key];
    assert_eq!(lines(&fleet.cli(&value).exits(0)).0.len(), 2, "those of the gateway whose key it is");
    fleet.cli(&["evidence", "query", "--gateway", "nobody"]).exits(4);
    fleet.cli(&["evidence", "query", "--fleet", "--control"]).exits(2);
    let own = fleet.home.path().join("far/evidence").display().to_string();
    let table = fleet.cli(&["evidence", "query", "--fleet", "--reason", "grant_missing"]).exits(0).stdout;
    assert!(table.lines().count() == 6 && table.contains("-- edge: all of its "), "{table}");

    // It ends: what it has is missing, and said to be; the rest is there.
    far.process.signal(rustix::process::Signal::TERM);
    assert_eq!(far.process.ended(), Some(0));
    eventually("it is known to be away", PATIENCE, || fleet.cli(&query).code == 7);
    let (found, summary) = lines(&fleet.cli(&query).exits(7));
    assert!(found.iter().all(|line| line["gateway"] == "edge") && found.len() == 2);
    let away = summary["gateways"].as_array().unwrap().iter().find(|it| it["gateway"] == "far").unwrap();
    assert!(away["missing"].as_str().unwrap().contains("not connected") && away["heard"].is_string(), "{away}");
    assert!(away["reached"].is_null());
    let table = fleet.cli(&["evidence", "query", "--fleet"]).exits(7).stdout;
    assert!(table.contains("-- far: MISSING: it is not connected; last heard "), "{table}");
    let files = fleet.cli(&["-o", "json", "evidence", "query", &own, "--reason", "grant_missing"]).exits(0).stdout;
    assert_eq!(files.lines().count(), 2);
}

#[test]
fn a_tail_over_the_control_plane_follows_every_gateway_and_tells_who_left_and_who_is_back() {
    let fleet = Fleet::of(Upstream::ok().address, &["edge", "far"]);
    let (edge, mut far) = two(&fleet);
    let bearer = fleet.bearer();
    let tail = Stream::of(fleet.command(&["-o", "json", "evidence", "tail", "--fleet", "-f", "-n", "1"]));
    let call = |gate: &Gate| gate.get(&bearer, "/v1/orders/7").is(403).header("portcullis-call-id").unwrap().to_owned();
    for gate in [&edge, &far] {
        let id = call(gate);
        tail.line(&id);
    }
    far.process.kill();
    let said: Value = serde_json::from_str(&tail.line("missing")).unwrap();
    assert_eq!(said["gateways"][0]["gateway"], "far");
    let id = call(&edge);
    tail.line(&id);
    let far = fleet.gateway_of("far", |_| {}).ready();
    let id = call(&far);
    // What it opened its log with comes before.
    tail.line("log_opened");
    tail.line(&id);
}

#[test]
fn who_follows_a_gateway_is_told_its_new_log_from_the_beginning_and_who_had_access_by_both() {
    let fleet = Fleet::start(Upstream::ok().address);
    let mut edge = fleet.gateway(|_| {}).ready();
    fleet.grant("--wait");
    let bearer = fleet.bearer();
    let call = |gate: &Gate| gate.get(&bearer, "/v1/orders/7").is(200).header("portcullis-call-id").unwrap().to_owned();
    eventually("it stands by", PATIENCE, || fleet.cli(&["evidence", "query", "--fleet"]).code == 0);
    let tail = Stream::of(fleet.command(&["-o", "json", "evidence", "tail", "--fleet", "-f", "-n", "1"]));
    (0..20).for_each(|_| drop(call(&edge)));
    let id = call(&edge);
    tail.line(&id);
    edge.process.signal(rustix::process::Signal::TERM);
    assert_eq!(edge.process.ended(), Some(0));
    tail.line("missing");
    let home = fleet.home.path();
    crate::dev::run(home, &["gateway", "seal", "-c", "gateway.yaml"]).exits(0);
    // Fewer records than were told of the old one.
    let edge = fleet.gateway(|_| {}).ready();
    let id = call(&edge);
    let opened: Value = serde_json::from_str(&tail.line("log_opened")).unwrap();
    let place = (&opened["record"]["seq"], &opened["record"]["log"]);
    assert_eq!(place, (&0.into(), &"portcullis/gateway/edge/2".into()), "{opened}");
    tail.line(&id);

    let text = |path: &str| home.join(path).display().to_string();
    let (control, old, new) = (text("control/evidence"), text("edge/evidence.sealed-1"), text("edge/evidence"));
    let access = |logs: &[&str]| {
        let mut line = vec!["-o", "json", "evidence", "access", "api/orders", "--control-log", &control];
        logs.iter().for_each(|log| line.extend(["--gateway-log", *log]));
        let told = fleet.cli(&line).exits(0).json();
        let missing: Vec<Value> = told["gaps"].as_array().unwrap().iter().map(|gap| gap["missing"].clone()).collect();
        (missing, told["grants"][0]["used"]["calls"].as_u64().unwrap())
    };
    eventually("the new log is noted", PATIENCE, || access(&[&old, &new]).0.is_empty());
    assert_eq!(access(&[&new, &old, &new]), (vec![], 22));
    assert_eq!(access(&[&new]), (vec!["earlier".into()], 1));
    assert_eq!(access(&[&old]), (vec!["next".into()], 21));
}
