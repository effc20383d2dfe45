//! The control plane's own log, kept for a time only: what is left proves itself, and everything that reads it goes on.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::dev::{START, Stream, command, eventually, run};
use crate::world::{Fleet, Upstream};

/// The store's files.
const STORE: [&str; 3] = ["control.db", "control.db-wal", "control.db-shm"];

struct House {
    fleet: Fleet,
    _witness: Stream,
    log: PathBuf,
}

impl House {
    /// A control plane with small segments, a witness, and a policy of what it keeps.
    fn start() -> Self {
        let mut fleet = Fleet::start(Upstream::ok().address);
        stop(&mut fleet);
        let home = fleet.home.path().to_owned();
        let log = home.join("control/evidence");
        let own: Value = serde_json::from_slice(&std::fs::read(log.join("log.json")).unwrap()).unwrap();
        let vkey = own["vkey"].as_str().unwrap();
        let mut witness = command(&home);
        witness.args(["-o", "json", "evidence", "witness", "--listen", "127.0.0.1:0", "--name", "witness.example/w"]);
        witness.args(["--key", "witness.key", "--state", "witness", "--log", vkey]);
        let witness = Stream::of(witness);
        let serving: Value = serde_json::from_str(&witness.line("address")).unwrap();
        let path = home.join("control.yaml");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["evidence"] = json!({ "segment_bytes": "64KiB", "retention": { "size": "64KiB" } });
        std::fs::write(&path, config.to_string()).unwrap();
        // Without somebody else's word nothing may go.
        let refused = run(&home, &["config", "validate", "control.yaml"]);
        assert!(refused.code == 2 && format!("{refused:?}").contains("needs `cosigning`"), "{refused:?}");
        config["cosigning"] = json!({
            "every": "1s",
            "witnesses": [{ "url": format!("http://{}", serving["address"].as_str().unwrap()), "vkey": serving["key"] }],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        fleet.restart_control();
        Self { fleet, _witness: witness, log }
    }

    fn verified(&self) -> Value {
        run(self.fleet.home.path(), &["-o", "json", "evidence", "verify", self.log.to_str().unwrap()]).exits(0).json()
    }

    /// Changes of many identities, each told with the identity as it is then.
    fn changes(&self, rounds: usize) {
        for round in 0..rounds {
            let long = format!("{round} {}", "x".repeat(900));
            let one = |n| {
                format!(
                    "---\nkind: Identity\nname: many-{n}\nspec: {{ kind: agent, owner: alice, purpose: \"{long}\", \
                     environment: test }}\n"
                )
            };
            self.fleet.apply(&(0..50).map(one).collect::<String>());
        }
    }
}

fn stop(fleet: &mut Fleet) {
    fleet.control.signal(Signal::TERM);
    assert_eq!(fleet.control.ended(), Some(0));
}

#[test]
fn old_records_of_the_control_plane_go_once_a_witness_has_signed_and_what_reads_its_log_goes_on() {
    let mut house = House::start();
    let home = house.fleet.home.path().to_owned();
    stop(&mut house.fleet);
    for file in STORE {
        let _ = std::fs::copy(home.join("control").join(file), home.join(file));
    }
    house.fleet.restart_control();
    let first = house.fleet.grant("");
    house.changes(16);
    let mut pruned = Value::Null;
    eventually("old records went", START, || {
        pruned = house.verified()["pruned"].clone();
        !pruned.is_null()
    });
    assert_eq!(pruned["policy"], "keep 64KiB");
    assert!(pruned["present_from"].as_u64().unwrap() > 50, "{pruned}");

    // What is told of now is told once, also over a restart; what stands there is explained, and what went is said.
    house.fleet.control.kill();
    house.fleet.restart_control();
    let later = house.fleet.grant("");
    stop(&mut house.fleet);
    let log = house.log.to_str().unwrap().to_owned();
    let ask = |arguments: &[&str]| run(&home, &[&["-o", "json", "evidence"][..], arguments].concat());
    let told = ask(&["query", &log, "--grant", &later]).exits(0).stdout;
    assert_eq!(told.matches("grant.created").count(), 1, "{told}");
    let explain = |id: &str| ask(&["explain", id, "--control-log", &log, "--gateway-log", &log]);
    let story = explain(&later).exits(0).json();
    assert_eq!(story["grants"][0]["id"], later);
    assert!(story["proofs"][0]["present_from"].as_u64().unwrap() > 50, "{story}");
    explain(&first).exits(4);
    house.verified();

    // By hand, to the last change, which stays whatever is asked.
    let key = home.join("control/evidence.key").display().to_string();
    ask(&["prune", &log, "--keep", "1ms", "--signing-key", &key, "--without-archive"]).exits(0);
    house.verified();
    let left = ask(&["query", &log, "--kind", "change"]).exits(0).stdout;
    assert!(left.lines().count() >= 1, "{left}");
    house.fleet.restart_control();
    house.fleet.grant("");
    house.verified();

    // A backup from before what is left: what was ended since is not known any more, and nobody goes on from it.
    stop(&mut house.fleet);
    for file in STORE {
        let _ = std::fs::remove_file(home.join("control").join(file));
        let _ = std::fs::copy(home.join(file), home.join("control").join(file));
    }
    let declared = run(&home, &["control", "restored", "-c", "control.yaml", "--reason", "the disk broke"]);
    assert!(declared.code == 1 && declared.stderr.contains("put a later backup back"), "{declared:?}");
}
