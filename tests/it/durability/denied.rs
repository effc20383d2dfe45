//! A known caller who is denied cannot fill the log either: beyond its budget its denials are counted.

use std::path::Path;

use super::{Caller, calls, records, verified};
use crate::dev::{Dev, curl};

const CONNECTIONS: usize = 4;
const CALLS: usize = 2_000;
/// Recorded one by one at once, and a minute after that: the settings' defaults.
const BURST: usize = 1_000;
const PER_MINUTE: usize = 20;
/// Of a denial's record, frame included, with the paths that are asked for here.
const RECORD: u64 = 1_200;
/// Minutes that this may take on a slow machine.
const MINUTES: usize = 5;

fn journal(dev: &Dev) -> u64 {
    let files = std::fs::read_dir(Path::new(&dev.addresses.evidence).join("journal")).unwrap();
    // What is allocated ahead is not written yet.
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).map(|bytes| written(&bytes)).sum()
}

fn written(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

#[test]
fn a_flood_by_a_known_identity_is_counted_exactly_and_costs_a_bounded_log() {
    let mut dev = Dev::start();
    let before = journal(&dev);
    let floods: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let mut caller = Caller::of(&dev, "helper");
            std::thread::spawn(move || {
                let mut refused = Vec::new();
                for n in 0..CALLS {
                    let long = "x".repeat(300);
                    let got = caller.get(&format!("/v1/orders/{connection}-{n}-{long}?q={n}")).unwrap();
                    assert_eq!((got.status, got.reason().as_str()), (403, "grant_missing"), "{got:?}");
                    refused.push(got.call);
                }
                refused
            })
        })
        .collect();
    let refused: Vec<String> = floods.into_iter().flat_map(|flood| flood.join().unwrap()).collect();
    // Another one's budget is its own.
    let other = dev.call("deployer", "GET", "/v1/orders/1").is(403).header("portcullis-call-id").unwrap().to_owned();
    let metrics = curl(&[&format!("{}/metrics", dev.addresses.admin)]).is(200).body;
    assert!(dev.stop().success());
    let grown = journal(&dev) - before;
    let budget = (BURST + MINUTES * PER_MINUTE + 4 * MINUTES) as u64 * RECORD;
    assert!(grown < budget, "{} denials took {grown} bytes of the log, and {budget} is what they may", refused.len());

    let log = dev.addresses.evidence.clone();
    verified(&dev, &log);
    let alone = calls(&records(&dev, &log, "denial"));
    assert!(alone.contains(&other) && alone.len() > BURST && alone.len() <= BURST + 1 + MINUTES * PER_MINUTE);
    let aggregates = records(&dev, &log, "denials");
    assert!(aggregates.iter().all(|it| it["data"]["identity"] == "helper" && it["data"]["reason"] == "grant_missing"));
    let closed: Vec<_> = aggregates.iter().filter(|it| it["data"]["counted"].is_object()).collect();
    assert_eq!(closed.len() * 2, aggregates.len(), "each is opened and closed");
    for it in &closed {
        let opened = &it["data"]["counted"]["opened_seq"];
        assert!(aggregates.iter().any(|open| open["seq"] == *opened && open["data"]["counted"].is_null()));
        let samples: Vec<_> = it["data"]["samples"].as_array().unwrap().iter().collect();
        assert!(samples.iter().all(|sample| refused.iter().any(|call| sample["call"] == call.as_str())));
    }
    let counted: u64 = closed.iter().map(|it| it["data"]["counted"]["count"].as_u64().unwrap()).sum();
    assert_eq!(alone.len() - 1 + usize::try_from(counted).unwrap(), refused.len(), "every one is recorded or counted");
    assert!(metrics.contains(&format!("\nportcullis_denials_counted_total {counted}\n")), "{counted}");

    // A sample is found by its call, and so is the whole by its identity.
    let call = closed[0]["data"]["samples"][0]["call"].as_str().unwrap();
    let found = dev.cli(&["evidence", "query", &log, "--call", call]).exits(0).stdout;
    assert!(found.contains("helper: over its budget of records"), "{found}");
    println!("{} denials took {grown} bytes: {} records, {counted} counted", refused.len(), alone.len());
}
