//! What a grant opens: its limits, its window, roles that are frozen into it, routes that change under it.

use serde_json::{Value, json};

use crate::dev::{Dev, Done, PATIENCE, curl, eventually};
use crate::world::{Upstream, apply, evidence, record, route};

/// RFC 3339 of now and these seconds.
fn at(seconds: i64) -> String {
    let moment = portcullis::domain::Timestamp::from_unix_seconds(crate::world::now() + seconds);
    moment.to_string()
}

fn side(dev: &Dev, identity: &str, host: &str, path: &str) -> crate::dev::Answer {
    let url = format!("{}{path}", dev.addresses.gateway);
    curl(&["-H", &format!("Host: {host}"), "-H", &dev.bearer(identity), &url])
}

#[test]
fn a_grant_is_limited_to_its_parameters() {
    let dev = Dev::start();
    let limits = ["--duration", "15m", "--parameter", "order=42", "--parameter", "order=43"];
    dev.grant_with("billing", "api/orders", &["read"], &limits);
    dev.call("billing", "GET", "/v1/orders/42").is(200);
    dev.call("billing", "GET", "/v1/orders/43").is(200);
    dev.call("billing", "GET", "/v1/orders/44").refuses(403, "parameter_not_granted");
    dev.call("billing", "GET", "/v1/orders/4").refuses(403, "parameter_not_granted");
    // A call without the parameter is not within a limit on it.
    dev.call("billing", "GET", "/v1/orders").refuses(403, "parameter_not_granted");
    dev.call("billing", "GET", "/v1/orders/42?order=44").is(200);
}

#[test]
fn a_grant_is_limited_to_its_networks() {
    let dev = Dev::start();
    dev.grant_with("billing", "api/orders", &["read"], &["--duration", "15m", "--network", "10.0.0.0/8"]);
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "network_not_granted");
    let spoofed = format!("{}/v1/orders/42", dev.addresses.gateway);
    let claims = ["-H", "X-Forwarded-For: 10.1.1.1", "-H", "Forwarded: for=10.1.1.1", "-H", "X-Real-IP: 10.1.1.1"];
    let bearer = dev.bearer("billing");
    curl(&[&claims[..], &["-H", bearer.as_str(), spoofed.as_str()]].concat()).refuses(403, "network_not_granted");
    dev.grant_with("billing", "api/orders", &["read"], &["--duration", "15m", "--network", "127.0.0.0/8"]);
    dev.call("billing", "GET", "/v1/orders/42").is(200);
}

#[test]
fn a_grant_is_bound_to_its_credential() {
    let dev = Dev::start();
    let bind = "spiffe://dev.portcullis.local/workload/billing";
    dev.grant_with("billing", "api/orders", &["read"], &["--duration", "15m", "--bind", bind]);
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "binding_not_granted");
    dev.call_tls("billing", "GET", "/v1/orders/42").is(200);
    let issuer = format!("issuer:{}", crate::world::DEV_ISSUER);
    dev.grant_with("helper", "api/orders", &["read"], &["--duration", "15m", "--bind", &issuer]);
    dev.call("helper", "GET", "/v1/orders/42").is(200);
    dev.call_tls("helper", "GET", "/v1/orders/42").refuses(403, "binding_not_granted");
}

#[test]
fn a_grant_begins_and_ends_by_itself() {
    let dev = Dev::start();
    let later = at(5);
    dev.grant_with("billing", "api/orders", &["read"], &["--duration", "4s", "--starts", &later]);
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_not_yet_valid");
    eventually("the window has opened", PATIENCE, || dev.call("billing", "GET", "/v1/orders/42").status == 200);
    let mut last = Value::Null;
    eventually("the window has closed", PATIENCE, || {
        let answer = dev.call("billing", "GET", "/v1/orders/42");
        last = if answer.status == 200 { Value::Null } else { answer.json() };
        answer.status != 200
    });
    // Until the control plane has taken it away its end is known; afterwards there is nothing any more.
    assert!(["grant_expired", "grant_missing"].contains(&last["reason"].as_str().unwrap()), "{last}");
}

#[test]
fn a_role_is_expanded_when_it_is_granted_and_frozen() {
    let dev = Dev::start();
    let create = |identity: &str| {
        let what = ["grant", "create", "--identity", identity, "--role", "clerk", "--duration", "15m", "--reason", "x"];
        dev.json(&[&what[..], &["--wait=20s"]].concat())
    };
    let role = |actions: &str| {
        let text = format!(
            "kind: Role\nname: clerk\nspec: {{ permissions: [ {{ resource: api/orders, actions: [{actions}] }} ] }}\n"
        );
        apply(&dev, &text).exits(0)
    };
    role("read");
    create("billing");
    role("read, write");
    dev.call("billing", "POST", "/v1/orders/42").refuses(403, "action_not_granted");
    dev.call("billing", "GET", "/v1/orders/42").is(200);
    create("helper");
    dev.call("helper", "POST", "/v1/orders/42").is(201);
    role("read");
    dev.call("helper", "POST", "/v1/orders/42").is(201);
}

#[test]
fn observing_lets_through_without_a_credential_says_so_and_ends() {
    let dev = Dev::start();
    let (sender, ended) = std::sync::mpsc::channel();
    let upstream = Upstream::start(move |head, stream| {
        use std::io::Write as _;
        if head.starts_with("GET /open") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            let _ = sender.send(crate::world::ends(stream));
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    });
    let exception = format!(
        "---\nkind: Exception\nname: trial\nspec: {{ rule: observe, route: side, owner: bob, reason: who would break, \
         expires: {} }}\n",
        at(8)
    );
    apply(&dev, &(route("side", "side.test", &format!("http://{}", upstream.address)) + &exception)).exits(0);
    eventually("the exception is live", PATIENCE, || side(&dev, "billing", "side.test", "/x").status == 200);
    let answer = side(&dev, "billing", "side.test", "/x").is(200);
    let intent = record(&dev, answer.header("portcullis-call-id").unwrap(), "intent");
    assert_eq!(intent["data"]["basis"], json!({ "exception": "trial" }));
    assert_eq!(intent["data"]["would_refuse"], "grant_missing");
    assert_eq!(intent["data"]["credential_out"], "none");
    let head = upstream.heads().pop().unwrap().to_ascii_lowercase();
    assert!(!head.contains("authorization"), "observing never mints, and never passes: {head}");
    // Only the one route, only known callers.
    dev.call("billing", "GET", "/v1/orders/7").refuses(403, "grant_missing");
    let url = dev.addresses.gateway.clone();
    curl(&["-H", "Host: side.test", &url]).refuses(401, "credential_missing");
    // It ends by itself, and what runs under it too.
    let mut open = dev.raw();
    open.send(format!("GET /open HTTP/1.1\r\nHost: side.test\r\n{}\r\n\r\n", dev.bearer("billing")));
    let call = open.until("\r\n\r\n");
    let call = call.lines().find_map(|line| line.strip_prefix("portcullis-call-id: ")).unwrap().to_owned();
    open.to_end();
    assert!(ended.recv_timeout(PATIENCE).unwrap());
    assert_eq!(record(&dev, &call, "outcome")["data"]["reason"], "exception_ended");
    side(&dev, "billing", "side.test", "/x").refuses(403, "grant_missing");
}

#[test]
fn a_changed_route_is_live_at_once() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let (first, second) = (Upstream::ok(), Upstream::ok());
    let put = |upstream: &Upstream| {
        apply(&dev, &route("side", "side.test", &format!("http://{}", upstream.address))).exits(0);
    };
    side(&dev, "billing", "side.test", "/x").refuses(404, "route_unknown");
    put(&first);
    eventually("the route is live", PATIENCE, || side(&dev, "billing", "side.test", "/x").status == 200);
    assert!(first.seen() > 0 && second.seen() == 0);
    put(&second);
    eventually("the change is live", PATIENCE, || {
        side(&dev, "billing", "side.test", "/x").is(200);
        second.seen() > 0
    });
    let before = first.seen();
    side(&dev, "billing", "side.test", "/x").is(200);
    assert_eq!(first.seen(), before);
}

#[test]
fn overlapping_routes_are_refused_with_both_names() {
    let dev = Dev::start();
    let one = "kind: Route\nname: first-one\nspec:\n  host: o.test\n  upstream: http://127.0.0.1:9\n  resource: api/orders\n  \
               actions: [ { name: read, methods: [GET], path: \"/a/{order}/c\" } ]\n";
    let other = one.replace("first-one", "other-one").replace("/a/{order}/c", "/a/b/{order}");
    let done = apply(&dev, &format!("{one}---\n{other}")).exits(2);
    assert!(done.stderr.contains("first-one") && done.stderr.contains("other-one"), "{}", done.stderr);
    apply(&dev, one).exits(0);
    let done = apply(&dev, &other).exits(2);
    assert!(done.stderr.contains("first-one") && done.stderr.contains("other-one"), "{}", done.stderr);
    // What was in force stays so.
    dev.grant("billing", "api/orders", &["read"]);
    let answer = side(&dev, "billing", "o.test", "/a/x/c");
    assert_eq!(answer.status, 502, "the first one is still there: {answer:?}");
}

#[test]
fn can_i_says_what_the_gateway_does() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    dev.grant_with("deployer", "api/orders", &["read", "write"], &["--duration", "15m", "--parameter", "order=42"]);
    dev.grant_with("helper", "api/orders", &["write"], &["--duration", "15m", "--starts", &at(600)]);
    let cases = [
        ("billing", "read", "42"),
        ("billing", "write", "42"),
        ("deployer", "read", "42"),
        ("deployer", "write", "42"),
        ("deployer", "read", "43"),
        ("deployer", "write", "43"),
        ("helper", "read", "42"),
        ("helper", "write", "42"),
    ];
    let agree = |identity: &str, action: &str, order: &str| {
        let method = if action == "read" { "GET" } else { "POST" };
        let done = dev.call(identity, method, &format!("/v1/orders/{order}"));
        let parameter = format!("order={order}");
        let asked =
            dev.cli(&["-o", "json", "can-i", "--as", identity, action, "api/orders", "--parameter", &parameter]);
        let said = asked.json();
        if done.status < 300 {
            assert_eq!((asked.code, &said["allowed"]), (0, &json!(true)), "{identity} {action} {order}: {said}");
        } else {
            assert_eq!((asked.code, &said["allowed"]), (3, &json!(false)), "{identity} {action} {order}: {said}");
            assert_eq!(said["reason"], done.json()["reason"], "{identity} {action} {order}");
        }
        done.status
    };
    let statuses: Vec<_> = cases.iter().map(|(identity, action, order)| agree(identity, action, order)).collect();
    assert_eq!(statuses, [200, 403, 200, 201, 403, 403, 403, 403]);
    dev.cli(&["identity", "quarantine", "billing", "--reason", "x"]).exits(0);
    eventually("quarantine is enforced", PATIENCE, || dev.call("billing", "GET", "/v1/orders/42").status == 403);
    assert_eq!(agree("billing", "read", "42"), 403);
}

#[test]
fn nobody_makes_grants_but_administrators() {
    let dev = Dev::start();
    let create = ["grant", "create", "--identity", "billing", "--resource", "api/orders", "--action", "read"];
    let create = [&create[..], &["--duration", "15m", "--reason", "mine"]].concat();
    for person in ["alice", "bob", "carol"] {
        let done = dev.cli(&[&["-o", "json", "--as-person", person][..], &create].concat()).exits(3);
        assert_eq!(done.error()["code"], "denied");
    }
    let wrong = |token: &str| Done::of(dev.command(&create).env("PORTCULLIS_TOKEN", token).output().unwrap());
    wrong("nonsense").exits(6);
    // A caller's token is no person's.
    wrong(&dev.token("billing")).exits(6);
    let nobody = ["--address", "https://127.0.0.1:1", "--ca-file"];
    let ca = dev.dir().join("ca.pem").display().to_string();
    let mut command = dev.command(&[&nobody[..], &[ca.as_str()], &create].concat());
    Done::of(command.env("PORTCULLIS_TOKEN", "t").output().unwrap()).exits(7);
    assert_eq!(dev.json(&["grant", "list", "--all"])["grants"], json!([]));
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_missing");
    assert!(evidence(&dev, &["--kind", "intent"]).is_empty());
}
