//! A gateway whose wall clock is wrong: ahead by a year, behind by an hour, or stepped a hundred times a second.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::dev::{Answer, START, curl, eventually};
use crate::world::{Fleet, Process, Upstream, free_address};

/// Steps the wall clock of a process and leaves the others as they are.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
const CALL: &str = "/v1/orders/7";

struct House {
    fleet: Fleet,
    gateway: Process,
    url: String,
}

impl House {
    fn start(upstream: &Upstream) -> Self {
        let fleet = Fleet::start(upstream.address);
        let (address, admin) = (free_address(), free_address());
        // Writes the settings.
        drop(fleet.gateway(|config| {
            config["listen"] = json!([{ "address": address.to_string() }]);
            config["admin_address"] = admin.to_string().into();
        }));
        let clock = fleet.home.path().join("clock");
        std::fs::write(&clock, "+0").unwrap();
        let environment = [
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let gateway = Process::spawn_with(fleet.home.path(), &["gateway", "run", "-c", "gateway.yaml"], &environment);
        let ready = format!("http://{admin}/readyz");
        gateway.says("the gateway listens");
        eventually("the gateway is ready", START, || curl(&[&ready]).status == 200);
        Self { fleet, gateway, url: format!("http://{address}{CALL}") }
    }

    fn step(&self, to: &str) {
        // A reader finds the one or the other.
        let file = self.fleet.home.path().join("clock");
        std::fs::write(file.with_extension("next"), to).unwrap();
        std::fs::rename(file.with_extension("next"), file).unwrap();
    }

    fn call(&self, bearer: &str) -> Answer {
        let answer = curl(&["-H", bearer, &self.url]);
        assert!([200, 401, 403, 503].contains(&answer.status), "{answer:?}");
        answer
    }

    fn recovers(&self, bearer: &str) {
        eventually("it goes on by itself", Duration::from_secs(40), || self.call(bearer).status == 200);
    }
}

#[test]
fn a_wall_clock_that_jumps_gives_nobody_time_and_the_gateway_goes_on_by_itself() {
    if !Path::new(FAKETIME).exists() {
        eprintln!("libfaketime is not here: nothing is shown");
        return;
    }
    let upstream = Upstream::ok();
    let mut house = House::start(&upstream);
    let long = house.fleet.grant("--wait=20s");
    let bearer = house.fleet.bearer();
    house.recovers(&bearer);
    for jump in ["+400d", "+0", "-1h", "+0"] {
        house.step(jump);
        house.call(&bearer);
        house.recovers(&bearer);
    }
    let began = Instant::now();
    for step in ["+7", "-7", "+3600", "-3600", "+0"].iter().cycle() {
        if began.elapsed() > Duration::from_secs(3) {
            break;
        }
        house.step(step);
        std::thread::sleep(Duration::from_millis(10));
    }
    house.step("+0");
    house.recovers(&bearer);

    // A grant of ten seconds has ended after them, whatever the clock says.
    house.fleet.json(&["grant", "revoke", &long, "--reason", "over", "--wait=20s"]);
    let create = ["grant", "create", "--identity", "billing", "--resource", "api/orders", "--action", "read"];
    house.fleet.json(&[&create[..], &["--duration", "10s", "--reason", "short", "--wait=5s"]].concat());
    let granted = Instant::now();
    house.step("-1h");
    while granted.elapsed() < Duration::from_secs(11) {
        house.call(&bearer);
        std::thread::sleep(Duration::from_millis(200));
    }
    let seen = upstream.seen();
    for jump in ["-1h", "+0", "-400d"] {
        house.step(jump);
        for _ in 0..3 {
            assert_ne!(house.call(&bearer).status, 200, "{jump}");
        }
    }
    assert_eq!(upstream.seen(), seen);
    assert_eq!(house.gateway.ended(), None, "it lives");
    assert!(!house.gateway.log().contains("panicked"), "and nothing of it broke");
}
