//! Every operation for every kind of caller: what each is answered, as a golden file says.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::access::{as_identity, as_person};
use crate::dev::{Dev, Done};

/// An operation: its name, and its command line. `{request}`, `{grant}` and so on are those that are there.
const OPERATIONS: &[(&str, &str)] = &[
    ("catalog read", "identity list"),
    ("catalog apply", "apply -f catalog.yaml"),
    ("identity quarantine", "identity quarantine spare --reason x"),
    ("identity release", "identity release spare --reason x"),
    ("grant list", "grant list"),
    ("grant show", "grant show {grant}"),
    ("grant create", "grant create --identity billing --role orders-reader --duration 1m --reason x"),
    ("grant revoke", "grant revoke {grant} --reason x"),
    ("can-i", "can-i --as helper read api/orders"),
    ("policy show", "policy show"),
    ("policy publish", "policy publish --starter --reason x"),
    ("request list", "request list"),
    ("request show", "request show {request}"),
    (
        "request create, for an identity of alice",
        "request create --identity billing --role orders-reader --duration 4h --reason x",
    ),
    ("request create, for itself", "request create --identity helper --role orders-reader --duration 4h --reason x"),
    ("request approve", "request approve {request} --yes"),
    ("request deny", "request deny {request} --reason x"),
    ("request cancel", "request cancel {request} --reason x"),
    ("delegation list", "delegation list"),
    ("delegation create", "delegation create --to {another} --duration 1h --reason x"),
    ("delegation end, of others", "delegation end {delegation} --reason x"),
    ("change list", "change list"),
    ("change show", "change show {change}"),
    ("change approve", "change approve {change} --yes"),
    ("change deny", "change deny {change} --reason x"),
    ("change cancel", "change cancel {change} --reason x"),
    ("exception list", "exception list"),
    ("exception renew, one of bob's", "exception renew look --for 9d --reason {caller}"),
    ("breakglass open, without having signed in", "breakglass open --identity billing --role orders-reader --reason x"),
    ("breakglass list", "breakglass list"),
    ("breakglass show", "breakglass show {broken}"),
    ("breakglass close, of bob's", "breakglass close {bobs} --reason x"),
    ("breakglass review, of alice's", "breakglass review {broken} --verdict justified --comment x"),
    ("fleet status", "fleet status"),
    ("evidence of every gateway", "evidence query --fleet --reason grant_missing"),
    ("fleet resume", "fleet resume --all --reason x"),
    ("fleet invite", "fleet invite edge-{caller} --out {caller}.json"),
];

const CALLERS: [&str; 6] = ["administrator", "security", "owner", "developer", "identity", "stranger"];

fn run(dev: &Dev, caller: &str, arguments: &[&str]) -> Done {
    match caller {
        "administrator" => as_person(dev, "administrator", arguments),
        "security" => as_person(dev, "carol", arguments),
        "owner" => as_person(dev, "bob", arguments),
        "developer" => as_person(dev, "alice", arguments),
        "identity" => as_identity(dev, "helper", arguments),
        _ => Done::of(dev.command(arguments).env("PORTCULLIS_TOKEN", "pcp_nobody").output().unwrap()),
    }
}

/// What a cell begins with, where its line speaks of it: a request of alice's that waits, or a live grant. Nobody makes
/// more than thirty requests a minute.
fn prepared(dev: &Dev, line: &str) -> (String, String) {
    let create = |identity: &str, duration: &str, whoever: &dyn Fn(&[&str]) -> Done| {
        let create = ["request", "create", "--identity", identity, "--role", "orders-reader", "--duration", duration];
        whoever(&[&create[..], &["--reason", "x"]].concat()).exits(0).json()
    };
    let of = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
    let (mut request, mut grant) = (String::new(), String::new());
    if line.contains("{request}") {
        let alice = |arguments: &[&str]| as_person(dev, "alice", arguments);
        request = of(&create("billing", "4h", &alice), "/request/id");
    }
    if line.contains("{grant}") {
        let spare = |arguments: &[&str]| as_identity(dev, "helper", arguments);
        grant = of(&create("helper", "5m", &spare), "/request/grants/0");
    }
    (request, grant)
}

/// A delegation of the administrator's to alice.
fn handed_on(dev: &Dev) -> String {
    let made = dev.json(&["delegation", "create", "--to", "alice", "--duration", "1h", "--reason", "x"]);
    made["delegation"]["id"].as_str().unwrap().to_owned()
}

/// What a line speaks of as `{broken}` or `{bobs}`: a break-glass of alice's or bob's that lives and waits for its review.
fn broken(dev: &Dev, line: &str) -> String {
    let (opener, identity) = if line.contains("{broken}") {
        ("alice", "helper")
    } else if line.contains("{bobs}") {
        ("bob", "bobs")
    } else {
        return String::new();
    };
    let listed = dev.json(&["breakglass", "list"]);
    for it in listed["all"].as_array().unwrap().iter().filter(|it| it["opener"] == opener) {
        let id = it["id"].as_str().unwrap();
        if it["state"] == "open" {
            return id.to_owned();
        }
        // Of one person's three reviews may be open.
        as_person(dev, "carol", &["breakglass", "review", id, "--verdict", "justified", "--comment", "x"]).exits(0);
    }
    let open = ["--identity", identity, "--role", "orders-reader", "--reason", "x"];
    let opened = crate::breakglass::opens(dev, opener, &open).exits(0).json();
    opened.pointer("/break_glass/id").and_then(Value::as_str).unwrap().to_owned()
}

/// A change of the administrator's that waits.
fn proposed(dev: &Dev) -> String {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let role = format!(
        "kind: Role\nname: role-{count}\nspec: {{ permissions: [ {{ resource: api/orders, actions: [read] }} ] }}\n"
    );
    std::fs::write(dev.home.path().join("role.yaml"), role).unwrap();
    crate::access::change(dev, &["apply", "-f", "role.yaml"])
}

#[test]
fn every_operation_answers_every_kind_of_caller_as_the_golden_file_says() {
    let mut dev = Dev::start();
    let identity = |name: &str, owner: &str| {
        format!(
            "kind: Identity\nname: {name}\nspec: {{ kind: agent, owner: {owner}, purpose: x, environment: test }}\n"
        )
    };
    let look = format!(
        "---\nkind: Exception\nname: look\nspec: {{ rule: observe, route: orders, owner: bob, reason: x, expires: {} }}\n",
        super::time::at(5 * 86_400)
    );
    std::fs::write(dev.home.path().join("bobs.yaml"), identity("bobs", "bob") + &look).unwrap();
    dev.json(&["apply", "-f", "bobs.yaml"]);
    std::fs::write(dev.home.path().join("catalog.yaml"), identity("spare", "alice")).unwrap();
    dev.json(&["apply", "-f", "catalog.yaml"]);
    dev.json(&["policy", "publish", "--starter", "--reason", "to begin with"]);
    let mut table = format!("{:<42}", "");
    table.extend(CALLERS.iter().map(|caller| format!(" {caller:<15}")));
    for (place, (name, line)) in OPERATIONS.iter().enumerate() {
        // What each may ask for in a minute begins anew with the process.
        if place > 0 && place.is_multiple_of(8) {
            dev = dev.restart(&[]);
        }
        write!(table, "\n{name:<42}").unwrap();
        for caller in CALLERS {
            let (request, grant) = prepared(&dev, line);
            let change = if line.contains("{change}") { proposed(&dev) } else { String::new() };
            let delegation = if line.contains("{delegation}") { handed_on(&dev) } else { String::new() };
            let another = if caller == "security" { "bob" } else { "carol" };
            let broken = broken(&dev, line);
            let words: Vec<String> = line
                .split(' ')
                .map(|word| word.replace("{broken}", &broken).replace("{bobs}", &broken))
                .map(|word| word.replace("{request}", &request).replace("{grant}", &grant))
                .map(|word| word.replace("{change}", &change).replace("{caller}", caller))
                .map(|word| word.replace("{delegation}", &delegation).replace("{another}", another))
                .collect();
            let done = run(&dev, caller, &words.iter().map(String::as_str).collect::<Vec<_>>());
            let answer = match done.code {
                0 => "done",
                3 => "denied",
                4 => "not found",
                5 => "conflict",
                6 => "unauthenticated",
                other => panic!("{name} as {caller}: {other}: {done:?}"),
            };
            write!(table, " {answer:<15}").unwrap();
            if !change.is_empty() && dev.json(&["change", "show", &change])["change"]["state"] == "pending" {
                dev.cli(&["change", "cancel", &change, "--reason", "over"]).exits(0);
            }
            for left in dev.json(&["delegation", "list"])["delegations"].as_array().unwrap() {
                dev.cli(&["delegation", "end", left["id"].as_str().unwrap(), "--reason", "over"]).exits(0);
            }
            // What is open is taken back: nobody may have a hundred.
            for left in dev.json(&["request", "list"])["requests"].as_array().unwrap() {
                dev.cli(&["request", "cancel", left["id"].as_str().unwrap(), "--reason", "over"]).exits(0);
            }
        }
    }
    let table = table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/access.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &table).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(table, expected, "who may do what changed: UPDATE_GOLDEN=1 writes it anew");
}
