//! Operating a gateway: health, drain, restarts, lost control planes, limits that hold.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::dev::{Dev, PATIENCE, Raw, curl, eventually, run, try_curl};
use crate::world::{Fleet, Gate, Upstream, catalog, evidence, holds};

const CALL_ID: &str = "portcullis-call-id";

/// An upstream that answers a head at once, and `done` when it is told to.
fn patient() -> (Upstream, mpsc::Sender<()>) {
    let (finish, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let upstream = Upstream::start(move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n");
        if told.lock().unwrap().recv().is_ok() {
            let _ = stream.write_all(b"4\r\ndone\r\n0\r\n\r\n");
        }
    });
    (upstream, finish)
}

/// Opens a call by hand: the head of its answer has come.
fn open(gate: &Gate, fleet: &Fleet) -> (Raw, String) {
    let mut raw = Raw::connect(&gate.url);
    raw.send(format!("GET /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", fleet.bearer()));
    let head = raw.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let call = head.lines().find_map(|line| line.strip_prefix("portcullis-call-id: ")).unwrap().to_owned();
    (raw, call)
}

/// Records of the log of a fleet's gateway.
fn log_of(fleet: &Fleet, arguments: &[&str]) -> Vec<Value> {
    let query = ["-o", "json", "evidence", "query", "edge/evidence"];
    let done = run(fleet.home.path(), &[&query[..], arguments].concat()).exits(0);
    done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn outcome_of(fleet: &Fleet, call: &str) -> Value {
    let mut found = Value::Null;
    eventually("the outcome is recorded", PATIENCE, || {
        found = log_of(fleet, &["--call", call, "--kind", "outcome"]).pop().unwrap_or_default();
        !found.is_null()
    });
    found["data"].clone()
}

#[test]
fn the_admin_endpoints_tell_how_it_fares_and_no_secret() {
    let dev = Dev::start();
    let grant = dev.grant("billing", "api/orders", &["read"]);
    assert_eq!(dev.admin("/healthz").is(200).body, "ok\n");
    assert_eq!(dev.admin("/readyz").is(200).json()["ready"], true);
    let count = |series: &str| {
        let text = dev.admin("/metrics").is(200).body;
        let line = text.lines().find(|line| line.starts_with(series) && line.contains(' ')).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next().unwrap().parse::<f64>().ok()).unwrap_or(0.0)
    };
    let denied = "portcullis_calls_total{decision=\"deny\",reason=\"action_not_granted\"}";
    let before = count(denied);
    dev.call("billing", "POST", "/v1/orders/7").refuses(403, "action_not_granted");
    assert!((count(denied) - before - 1.0).abs() < 0.1, "{}", dev.admin("/metrics").body);
    dev.call("billing", "GET", "/v1/orders/7").is(200);
    assert!(count("portcullis_grants") > 0.5);

    let summary = dev.admin("/snapshot").is(200);
    assert_eq!(summary.json()["grants"], 1, "{summary:?}");
    let picture = dev.admin("/snapshot?identity=billing").is(200);
    assert!(picture.body.contains(&grant), "{picture:?}");
    dev.admin("/snapshot?identity=nobody").is(404);
    let said = format!("{}{}{}", dev.admin("/metrics").body, summary.body, picture.body);
    assert!(!said.contains("eyJ") && !said.contains("PRIVATE"), "{said}");
    // A page in a browser on the same machine can do nothing here.
    let drain = format!("{}/drain", dev.addresses.admin);
    curl(&["-X", "POST", "-H", "Origin: http://evil.test", &drain]).is(403);
    curl(&["-X", "POST", "-H", "Host: evil.test", &drain]).is(421);
    curl(&[&drain]).is(405);
    dev.call("billing", "GET", "/v1/orders/7").is(200);
}

#[test]
fn a_terminated_gateway_lets_running_calls_end_and_takes_no_new_ones() {
    let (upstream, finish) = patient();
    let fleet = Fleet::start(upstream.address);
    let mut gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait=20s");
    let (mut running, call) = open(&gate, &fleet);
    let mut idle = Raw::connect(&gate.url);
    gate.process.signal(Signal::TERM);
    let address = gate.url.trim_start_matches("http://").to_owned();
    eventually("nobody is let in any more", PATIENCE, || TcpStream::connect(&address).is_err());
    idle.to_end();
    finish.send(()).unwrap();
    assert!(running.to_end().contains("done"), "{}", running.text());
    assert_eq!(gate.process.ended(), Some(0));
    assert_eq!(outcome_of(&fleet, &call)["ended"], "completed");
    run(fleet.home.path(), &["evidence", "verify", "edge/evidence"]).exits(0);
}

#[test]
fn what_still_runs_at_the_end_of_the_drain_is_cut_and_recorded_so() {
    let (upstream, _finish) = patient();
    let fleet = Fleet::start(upstream.address);
    let mut gate = fleet.gateway(|config| config["drain"] = json!("1s")).ready();
    fleet.grant("--wait=20s");
    let (mut running, call) = open(&gate, &fleet);
    let began = Instant::now();
    // As an operator without signals: the admin endpoint.
    curl(&["-X", "POST", &format!("{}/drain", gate.admin)]).is(202);
    assert!(!running.to_end().contains("done"));
    assert_eq!(gate.process.ended(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let outcome = outcome_of(&fleet, &call);
    assert_eq!((&outcome["ended"], &outcome["reason"]), (&json!("cut"), &json!("draining")), "{outcome}");
    run(fleet.home.path(), &["evidence", "verify", "edge/evidence"]).exits(0);
}

#[test]
fn a_killed_dev_comes_back_with_its_grants_and_its_evidence() {
    let mut dev = Dev::start();
    let grant = dev.grant("billing", "api/orders", &["read"]);
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(dev.call("billing", "GET", "/v1/orders/7").is(200).header(CALL_ID).unwrap().to_owned());
    }
    let mut open = dev.raw();
    open.send(format!("GET /v1/orders/events HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", dev.bearer("billing")));
    let head = open.until("\r\n\r\n");
    calls.push(head.lines().find_map(|line| line.strip_prefix("portcullis-call-id: ")).unwrap().to_owned());
    dev.kill();
    let dev = dev.restart(&[]);
    assert_eq!(dev.json(&["grant", "list"])["grants"][0]["id"], grant.as_str());
    dev.call("billing", "GET", "/v1/orders/7").is(200);
    dev.cli(&["evidence", "verify"]).exits(0);
    dev.cli(&["evidence", "verify", "--control"]).exits(0);
    let known: Vec<_> = evidence(&dev, &["--kind", "intent"]);
    for call in &calls {
        assert!(known.iter().any(|intent| intent["data"]["call"] == call.as_str()), "{call} is lost");
    }
    dev.revoke(&grant);
    dev.call("billing", "GET", "/v1/orders/7").refuses(403, "grant_missing");
    let mut dev = dev;
    dev.kill();
    let dev = dev.restart(&[]);
    dev.call("billing", "GET", "/v1/orders/7").refuses(403, "grant_missing");
}

#[test]
fn without_a_control_plane_a_new_gateway_allows_nothing() {
    let upstream = Upstream::ok();
    let mut fleet = Fleet::start(upstream.address);
    fleet.grant("");
    fleet.control.kill();
    let gate = fleet.gateway(|_| ());
    assert_eq!(curl(&[&format!("{}/healthz", gate.admin)]).status, 200, "it lives");
    let ready = curl(&[&format!("{}/readyz", gate.admin)]).is(503).json();
    assert!(ready["checks"]["authority"]["failing"].is_string(), "{ready}");
    let answer = gate.get(&fleet.bearer(), "/v1/orders/7").refuses(503, "authority_missing");
    assert!(answer.header("retry-after").is_some());
    let form = ["-d", "grant_type=urn:ietf:params:oauth:grant-type:token-exchange", "-d", "resource=api/orders"];
    let kind = "subject_token_type=urn:ietf:params:oauth:token-type:jwt";
    let subject = format!("subject_token={}", fleet.bearer().rsplit(' ').next().unwrap());
    let url = format!("{}/.portcullis/token", gate.url);
    curl(&[&form[..], &["-d", kind, "-d", subject.as_str(), url.as_str()]].concat()).is(503);
    assert_eq!(upstream.seen(), 0);
    fleet.restart_control();
    eventually("it allows when the control plane is there", PATIENCE, || {
        gate.get(&fleet.bearer(), "/v1/orders/7").status == 200
    });
}

/// Stops the control plane, and waits for what must then happen at a gateway with a resource of 10 s.
fn loses_authority(gate: &Gate, fleet: &Fleet, stop: impl FnOnce()) {
    let (mut running, call) = open(gate, fleet);
    let began = Instant::now();
    stop();
    running.to_end();
    let took = began.elapsed();
    // At most as old as the resource says, counted from a renewal that was sent before.
    assert!(took < Duration::from_secs(12), "the stream outlived its authority: {took:?}");
    gate.get(&fleet.bearer(), "/v1/orders/7").refuses(503, "authority_stale");
    assert_eq!(outcome_of(fleet, &call)["reason"], "authority_stale");
}

#[test]
fn a_control_plane_that_stands_still_stops_sensitive_calls_in_time_and_they_recover() {
    let (upstream, _finish) = patient();
    let fleet = Fleet::start(upstream.address);
    // A resource that may rely on older authority is not touched by it.
    let tolerant = Upstream::ok();
    fleet.apply(&format!(
        "kind: Resource\nname: api/tolerant\nspec: {{ owner: orders }}\n---\nkind: Route\nname: tolerant\nspec:\n  \
         host: tolerant.test\n  upstream: http://{}\n  resource: api/tolerant\n  actions:\n    \
         - {{ name: read, methods: [GET], path: \"/**\" }}\n",
        tolerant.address
    ));
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait=20s");
    let more = ["--action", "read", "--duration", "15m", "--reason", "test", "--wait=20s"];
    fleet.json(&[&["grant", "create", "--identity", "billing", "--resource", "api/tolerant"][..], &more].concat());
    loses_authority(&gate, &fleet, || fleet.control.signal(Signal::STOP));
    let calm = || curl(&["-H", "Host: tolerant.test", "-H", &fleet.bearer(), &format!("{}/x", gate.url)]);
    calm().is(200);
    fleet.control.signal(Signal::CONT);
    eventually("authority is back", Duration::from_secs(30), || {
        let answer = try_curl(&["--max-time", "1", "-H", &fleet.bearer(), &format!("{}/v1/orders/7", gate.url)]);
        answer.stdout.starts_with("HTTP/1.1 200")
    });
}

#[test]
fn a_killed_control_plane_stops_sensitive_calls_and_a_new_one_is_followed() {
    let (upstream, _finish) = patient();
    let mut fleet = Fleet::start(upstream.address);
    fleet.apply(&catalog(upstream.address).replace("authority: 10s", "authority: 5s"));
    let gate = fleet.gateway(|_| ()).ready();
    let grant = fleet.grant("--wait=20s");
    let mut control =
        std::mem::replace(&mut fleet.control, crate::world::Process::spawn(fleet.home.path(), &["version"]));
    loses_authority(&gate, &fleet, || control.kill());
    fleet.restart_control();
    let allowed = || {
        let answer = try_curl(&["--max-time", "1", "-H", &fleet.bearer(), &format!("{}/v1/orders/7", gate.url)]);
        answer.stdout.starts_with("HTTP/1.1 200")
    };
    eventually("authority is back", Duration::from_secs(30), allowed);
    // What it acknowledged before it was killed is still there, and revocations reach the gateway again.
    let receipt = fleet.json(&["grant", "revoke", &grant, "--reason", "test", "--wait=20s"]);
    assert_eq!(receipt["enforced"], true, "{receipt}");
    gate.get(&fleet.bearer(), "/v1/orders/7").refuses(403, "grant_missing");
}

#[test]
fn a_gateway_that_stood_still_asks_before_it_allows() {
    let upstream = Upstream::ok();
    let mut fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|config| config["limits"] = json!({ "hold": "1s" })).ready();
    fleet.grant("--wait=20s");
    gate.get(&fleet.bearer(), "/v1/orders/7").is(200);
    let seen = upstream.seen();
    // Frozen, with a call waiting for it; meanwhile the control plane goes away for good.
    gate.process.signal(Signal::STOP);
    let mut waiting = Raw::connect(&gate.url);
    waiting.send(format!("GET /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", fleet.bearer()));
    let began = Instant::now();
    fleet.control.kill();
    eventually("it stood still for longer than a busy machine does", PATIENCE, || {
        began.elapsed() > Duration::from_secs(3)
    });
    gate.process.signal(Signal::CONT);
    let answer = waiting.until("\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(upstream.seen(), seen);
}

#[test]
fn limits_that_are_named_hold() {
    let (upstream, _finish) = patient();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet
        .gateway(|config| {
            config["limits"] = json!({
                "max_connections": 4, "max_head_bytes": "4KiB", "idle_timeout": "1s", "upstream_read_timeout": "1s",
            });
        })
        .ready();
    fleet.grant("--wait=20s");
    let large = format!("X-Large: {}", "a".repeat(5 << 10));
    curl(&["-H", &large, &gate.url]).refuses(431, "head_too_large");
    // Kept connections that are idle are closed.
    let mut kept = Raw::connect(&gate.url);
    kept.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").until("credential_missing");
    kept.to_end();
    // An upstream that stops half-way is waited for as long as is said.
    let (mut running, call) = open(&gate, &fleet);
    running.to_end();
    assert_eq!(outcome_of(&fleet, &call)["reason"], "upstream_timeout");
    // One connection too many is closed, and the others serve on.
    let mut many: Vec<_> = (0..4).map(|_| Raw::connect(&gate.url)).collect();
    eventually("the fifth is turned away", PATIENCE, || try_curl(&["--max-time", "2", &gate.url]).code != 0);
    many[0].send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").until("credential_missing");
}

#[test]
fn an_upstream_that_never_answers_is_not_waited_for() {
    let upstream = Upstream::start(|_, stream| {
        crate::world::ends(stream);
    });
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|config| config["limits"] = json!({ "upstream_read_timeout": "1s" })).ready();
    fleet.grant("--wait=20s");
    gate.get(&fleet.bearer(), "/v1/orders/7").refuses(504, "upstream_timeout");
}

#[test]
fn a_log_that_is_taken_away_stops_the_gate() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    dev.call("billing", "GET", "/v1/orders/7").is(200);
    let mut open = dev.raw();
    open.send(format!("GET /v1/orders/events HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", dev.bearer("billing")));
    open.until("event: order");
    std::fs::remove_dir_all(dev.dir().join("gateway/evidence/journal")).unwrap();
    eventually("nothing goes on without evidence", PATIENCE, || {
        dev.call("billing", "GET", "/v1/orders/7").status == 503
    });
    dev.call("billing", "GET", "/v1/orders/7").refuses(503, "evidence_unavailable");
    dev.call("helper", "GET", "/v1/orders/7").refuses(503, "evidence_unavailable");
    assert_eq!(dev.admin("/readyz").is(503).json()["ready"], false);
}

#[test]
fn nothing_that_is_written_holds_a_credential() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let issued = dev.json(&["token", "exchange", "--identity", "billing", "--resource", "api/orders"]);
    let token = issued["access_token"].as_str().unwrap();
    let bearer = format!("Authorization: Bearer {token}");
    let answer = curl(&["-H", &bearer, &format!("{}/v1/orders/7", dev.addresses.gateway)]).is(200);
    let minted = answer.json()["headers"]["authorization"].as_str().unwrap().to_owned();
    dev.cli(&["token", "revoke", token]).exits(0);
    dev.call_tls("billing", "GET", "/v1/orders/7").is(200);
    let written = crate::world::everything_written(&dev);
    for secret in [token, &dev.token("billing"), &minted] {
        assert!(!holds(&written, secret.rsplit('.').next().unwrap()), "a credential was written");
    }
    let administrator = std::fs::read_to_string(dev.dir().join("people/administrator")).unwrap();
    assert!(!holds(&written, administrator.trim()), "the administrator's token was written");
}

#[test]
fn a_websocket_may_be_silent_for_longer_than_a_body() {
    use std::io::{Read as _, Write as _};
    let upstream = Upstream::start(|_, stream| {
        let _ =
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
        let mut bytes = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            let _ = stream.write_all(&bytes[..count]);
        }
    });
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|config| config["limits"] = json!({ "idle_timeout": "1s" })).ready();
    fleet.grant("--wait=20s");
    let mut socket = Raw::connect(&gate.url);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    socket.send(format!("GET /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{}\r\n{upgrade}\r\n\r\n", fleet.bearer()));
    let head = socket.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let began = Instant::now();
    eventually("the limit for bodies is long over", PATIENCE, || began.elapsed() > Duration::from_millis(2_500));
    socket.send("still here").until("still here");
}

#[test]
fn silence_after_a_handshake_is_not_waited_for() {
    let fleet = Fleet::start(Upstream::ok().address);
    let gate = fleet.gateway(|config| config["limits"] = json!({ "head_deadline": "1s" })).ready();
    let authority = fleet.home.path().join("control/ca/ca.pem").display().to_string();
    let address = gate.tls.trim_start_matches("https://");
    for protocol in ["h2", "http/1.1"] {
        let mut client = std::process::Command::new("openssl");
        client.args(["s_client", "-connect", address, "-CAfile", &authority, "-alpn", protocol, "-quiet"]);
        // Its own end of the conversation stays open, and says nothing.
        client.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut client = client.stderr(std::process::Stdio::null()).spawn().unwrap();
        let silent = client.stdin.take().unwrap();
        eventually("the gate hangs up", PATIENCE, || client.try_wait().unwrap().is_some());
        drop(silent);
    }
}

#[test]
fn no_process_that_holds_keys_leaves_a_core_file() {
    let dev = Dev::start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", dev.pid().as_raw_nonzero())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // What is not dumpable belongs to root in /proc, whoever runs it: other processes of the same user cannot read it.
    let owner = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(format!("/proc/{}/mem", dev.pid().as_raw_nonzero())).unwrap(),
    );
    assert_eq!(owner, 0);
}
