//! Gateways of different scopes: each forwards its own, knows its own, and follows when its scope changes.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::dev::{PATIENCE, Raw, curl, eventually, run};
use crate::world::{AUDIENCE, Fleet, Gate, ISSUER, Upstream, ends, plain_claims};

const ORDERS: &str = "/v1/orders/7";
const LEDGER: &str = "/v1/ledger/7";

/// Orders, and a ledger with an identity of its own.
fn fleet(upstream: &Upstream, gateways: &[&str]) -> Fleet {
    let fleet = Fleet::of(upstream.address, gateways);
    fleet.apply(&format!(
        "kind: Identity\nname: books\nspec: {{ kind: service, owner: books, purpose: closes months, environment: test,\n  \
         authenticate: [ {{ issuer: \"{ISSUER}\", subject: books }} ] }}\n\
         ---\nkind: Resource\nname: db/ledger\nspec: {{ owner: books, sensitivity: high, authority: 10s }}\n\
         ---\nkind: Route\nname: ledger\nspec:\n  upstream: http://{}\n  resource: db/ledger\n  actions:\n    \
         - {{ name: read, methods: [GET], path: \"/v1/ledger/**\" }}\n",
        upstream.address
    ));
    fleet
}

fn upstream() -> Upstream {
    Upstream::start(|head, stream| {
        if head.contains("/events") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n");
            let _ = ends(stream);
        } else {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    })
}

fn books(fleet: &Fleet) -> String {
    format!("Authorization: Bearer {}", fleet.key.sign(&plain_claims(ISSUER, AUDIENCE, "books")))
}

fn ledger_grant(fleet: &Fleet, wait: &str) -> String {
    let create = ["grant", "create", "--identity", "books", "--resource", "db/ledger", "--action", "read"];
    let more = ["--duration", "15m", "--reason", "month-end"];
    let mut arguments = [&create[..], &more].concat();
    arguments.extend((!wait.is_empty()).then_some(wait));
    fleet.json(&arguments)["grants"][0]["id"].as_str().unwrap().to_owned()
}

/// What a gateway says of its picture.
fn picture(gate: &Gate) -> (usize, usize, Vec<String>) {
    let told = curl(&[&format!("{}/snapshot", gate.admin)]).is(200).json();
    let routes = told["routes"].as_array().unwrap().iter().map(|route| route["name"].as_str().unwrap().to_owned());
    let count = |name: &str| usize::try_from(told[name].as_u64().unwrap()).unwrap();
    (count("identities"), count("grants"), routes.collect())
}

/// Whether anything below `dir` holds `text`.
fn on_disk(dir: &Path, text: &str) -> bool {
    let done = std::process::Command::new("grep").args(["-rqaF", text]).arg(dir).status().unwrap();
    match done.code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!("grep: {other:?}"),
    }
}

fn receipt<'r>(receipts: &'r Value, gateway: &str) -> &'r Value {
    let all = receipts["gateways"].as_array().unwrap();
    all.iter().find(|receipt| receipt["gateway"] == gateway).unwrap()
}

#[test]
fn each_gateway_forwards_its_own_and_never_has_anything_of_the_others() {
    let upstream = upstream();
    let fleet = fleet(&upstream, &["edge", "west"]);
    fleet.json(&["fleet", "scope", "edge", "--route", "orders", "--reason", "stands before orders"]);
    fleet.json(&["fleet", "scope", "west", "--resource", "db/ledger", "--reason", "stands before the ledger"]);
    let (orders, ledger) = (fleet.grant(""), ledger_grant(&fleet, ""));
    let (edge, west) = (fleet.gateway(|_| {}), fleet.gateway_of("west", |_| {}));
    let (edge, west) = (edge.ready(), west.ready());
    let (billing, books) = (fleet.bearer(), books(&fleet));
    edge.get(&billing, ORDERS).is(200);
    west.get(&books, LEDGER).is(200);
    let seen = upstream.seen();
    // Neither the route nor whose it is, nor that there is anything.
    edge.get(&books, LEDGER).refuses(403, "identity_unknown");
    west.get(&billing, ORDERS).refuses(403, "identity_unknown");
    edge.get(&billing, LEDGER).refuses(404, "route_unknown");
    assert_eq!(upstream.seen(), seen);
    assert_eq!(picture(&edge), (1, 1, vec!["orders".to_owned()]));
    assert_eq!(picture(&west), (1, 1, vec!["ledger".to_owned()]));
    // What comes later goes the same way, and leaves no trace at the other.
    let later = ledger_grant(&fleet, "--wait=20s");
    assert_eq!((picture(&edge).1, picture(&west).1), (1, 2));
    let disk = |name: &str, text: &str| on_disk(&fleet.home.path().join(name), text);
    assert!(disk("edge", &orders), "its own is in its evidence");
    assert!(!disk("edge", &ledger) && !disk("edge", &later) && !disk("edge", "db/ledger"));
    assert!(!disk("west", &orders) && !disk("west", "api/orders"));

    // Who is not concerned is named so, and no revocation waits for it.
    let revoked = fleet.json(&["grant", "revoke", &later, "--reason", "over", "--wait=20s"]);
    assert_eq!(receipt(&revoked, "edge")["state"], "not_concerned", "{revoked}");
    assert_eq!(receipt(&revoked, "west")["state"], "enforced", "{revoked}");
    let table = fleet.cli(&["fleet", "status"]).exits(0).stdout;
    assert!(table.contains("route/orders") && table.contains("resource/db/ledger"), "{table}");
}

#[test]
fn what_a_more_specific_route_elsewhere_takes_falls_through_to_no_wider_one() {
    let upstream = upstream();
    let fleet = fleet(&upstream, &["edge", "west"]);
    let wide = |name: &str, resource: &str, host: &str, path: &str| {
        format!(
            "kind: Route\nname: {name}\nspec:\n  upstream: http://{}\n  resource: {resource}\n{host}  actions:\n    \
             - {{ name: read, methods: [GET], path: \"{path}\" }}\n",
            upstream.address
        )
    };
    fleet.apply(&wide("all", "api/orders", "", "/v1/**"));
    fleet.json(&["fleet", "scope", "edge", "--resource", "api/orders", "--reason", "stands before orders"]);
    fleet.grant("");
    let (edge, west) = (fleet.gateway(|_| {}).ready(), fleet.gateway_of("west", |_| {}).ready());
    let billing = fleet.bearer();
    edge.get(&billing, ORDERS).is(200);
    edge.get(&billing, "/v1/anything").is(200);
    let seen = upstream.seen();
    // At a gateway that stands before everything it is the ledger's, and refused.
    west.get(&billing, LEDGER).refuses(403, "grant_missing");
    edge.get(&billing, LEDGER).refuses(404, "route_unknown");
    // One that comes later, and one of a host of its own.
    fleet.apply(&wide("wages", "db/ledger", "", "/v1/wages/**"));
    fleet.apply(&wide("payroll", "db/ledger", "  host: payroll.example\n", "/v1/pay/**"));
    ledger_grant(&fleet, "--wait=20s");
    edge.get(&billing, "/v1/wages/7").refuses(404, "route_unknown");
    let of_host = |gate: &Gate| {
        curl(&["-H", &billing, "-H", "Host: payroll.example", &format!("{}/v1/pay/7", gate.url)]).is(404).json()
    };
    assert_eq!(of_host(&edge)["reason"], "route_unknown");
    assert_eq!(upstream.seen(), seen);
    edge.get(&billing, "/v1/pay/7").is(200);
    // When the scope has it, it is a route as any.
    fleet.json(&["fleet", "scope", "edge", "--everything", "--reason", "stands before all"]);
    eventually("the scope is wide again", PATIENCE, || edge.get(&billing, LEDGER).json()["reason"] == "grant_missing");
}

#[test]
fn what_leaves_a_scope_is_cut_and_what_comes_in_works() {
    let upstream = upstream();
    let fleet = fleet(&upstream, &["edge"]);
    let gate = fleet.gateway(|_| {}).ready();
    let (orders, _) = (fleet.grant("--wait=20s"), ledger_grant(&fleet, "--wait=20s"));
    let (billing, books) = (fleet.bearer(), books(&fleet));
    gate.get(&books, LEDGER).is(200);
    let mut open = Raw::connect(&gate.url);
    open.send(format!("GET /v1/orders/events HTTP/1.1\r\nHost: a\r\n{billing}\r\n\r\n")).until("data: 1");
    let scope = |more: &[&str]| {
        let command = [&["fleet", "scope", "edge", "--reason", "another place", "--wait=20s"][..], more].concat();
        fleet.json(&command)
    };
    let scoped = scope(&["--resource", "db/ledger"]);
    assert_eq!((&scoped["enforced"], &scoped["scope"]["resources"][0]), (&true.into(), &"db/ledger".into()));
    assert_eq!(receipt(&scoped, "edge")["cut"].as_array().unwrap().len(), 1, "{scoped}");
    assert!(open.to_end().contains("data: 1"));
    let seen = upstream.seen();
    gate.get(&billing, ORDERS).refuses(403, "identity_unknown");
    assert_eq!((upstream.seen(), picture(&gate).1), (seen, 1));
    gate.get(&books, LEDGER).is(200);
    // A grant that ends while it is out of scope does not come back with it.
    fleet.json(&["grant", "revoke", &orders, "--reason", "over", "--wait=20s"]);
    let whole = scope(&["--everything"]);
    assert!(whole["scope"].is_null() && whole["enforced"] == true, "{whole}");
    gate.get(&billing, ORDERS).refuses(403, "grant_missing");
    fleet.grant("--wait=20s");
    gate.get(&billing, ORDERS).is(200);

    // What a route leads to is part of what its gateway stands before.
    scope(&["--route", "orders"]);
    gate.get(&billing, ORDERS).is(200);
    fleet.cli(&["fleet", "scope", "edge", "--reason", "x"]).exits(2);
    fleet.cli(&["fleet", "scope", "edge", "--route", "typo", "--reason", "x"]).exits(4);
    fleet.cli(&["fleet", "scope", "nobody", "--route", "orders", "--reason", "x"]).exits(4);
    let log = fleet.home.path().join("control/evidence");
    let query = || run(fleet.home.path(), &["-o", "json", "evidence", "query", log.to_str().unwrap()]).exits(0).stdout;
    eventually("each change is told", PATIENCE, || query().matches("gateway.scoped").count() == 3);
}

#[test]
fn a_gateway_whose_scope_changed_while_it_was_away_comes_back_to_the_new_one() {
    let upstream = upstream();
    let fleet = fleet(&upstream, &["edge"]);
    let gate = fleet.gateway(|_| {}).ready();
    fleet.grant("--wait=20s");
    let billing = fleet.bearer();
    gate.get(&billing, ORDERS).is(200);
    // It stands still, with all that it knows, while its scope becomes another one.
    gate.process.signal(rustix::process::Signal::STOP);
    let scoped =
        fleet.cli(&["-o", "json", "fleet", "scope", "edge", "--resource", "db/ledger", "--reason", "x", "--wait=1s"]);
    assert_eq!(scoped.exits(7).json()["enforced"], false);
    gate.process.signal(rustix::process::Signal::CONT);
    eventually("it goes by its new scope", Duration::from_secs(40), || {
        gate.get(&billing, ORDERS).json()["reason"] == "identity_unknown"
    });
    assert_eq!(picture(&gate).2, ["ledger"]);
}
