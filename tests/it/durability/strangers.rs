//! Whoever is nobody cannot fill the log: refusals before identification are counted, not written one by one.

use std::fs::DirEntry;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use super::{head, records, verified};
use crate::dev::{Dev, PATIENCE};

const CONNECTIONS: u64 = 8;
const REQUESTS: u64 = 2_500;
/// Of a log, for a million requests; for as many as there are here, in proportion, and room for one record.
const BUDGET: u64 = (1 << 20) * CONNECTIONS * REQUESTS / 1_000_000 + 2_400;

/// Bytes of the journal, without the zeros that its writer fills ahead.
fn journal(dev: &Dev) -> u64 {
    let files = std::fs::read_dir(Path::new(&dev.addresses.evidence).join("journal")).unwrap();
    let written = |file: std::io::Result<DirEntry>| {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
    };
    files.map(written).sum()
}

/// One connection's requests, each with another path, as long as paths go, and a token that is none.
fn flood(address: &str, connection: u64) -> u64 {
    let mut refused = 0;
    let mut stream = None;
    for n in 0..REQUESTS {
        let mut reader = stream.take().unwrap_or_else(|| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            BufReader::new(stream)
        });
        let path = format!("/{connection}/{n}/{}", "%F0%9F%92%A3".repeat(100));
        let request = format!("GET {path} HTTP/1.1\r\nHost: h{n}\r\nAuthorization: Bearer no.such.token{n}\r\n\r\n");
        reader.get_mut().write_all(request.as_bytes()).unwrap();
        let head = head(&mut reader).unwrap().unwrap();
        assert!(head.first.contains(" 401 "), "{}", head.first);
        let length = head.headers["content-length"].parse().unwrap();
        reader.read_exact(&mut vec![0; length]).unwrap();
        refused += 1;
        if head.headers.get("connection").is_none_or(|connection| connection != "close") {
            stream = Some(reader);
        }
    }
    refused
}

#[test]
fn a_flood_of_strangers_costs_a_few_records_that_count_it() {
    let mut dev = Dev::start();
    let address = dev.addresses.gateway.trim_start_matches("http://").to_owned();
    let before = journal(&dev);
    let floods: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let address = address.clone();
            std::thread::spawn(move || flood(&address, connection))
        })
        .collect();
    let sent: u64 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    assert!(dev.stop().success());
    let grown = journal(&dev) - before;
    assert!(grown < BUDGET, "{sent} refusals took {grown} bytes of the log, and {BUDGET} is what they may");

    let log = dev.addresses.evidence.clone();
    verified(&dev, &log);
    let aggregates = records(&dev, &log, "refusals");
    let counts = aggregates.iter().flat_map(|record| record["data"]["counts"].as_array().unwrap().clone());
    assert_eq!(counts.map(|count| count["count"].as_u64().unwrap()).sum::<u64>(), sent, "every one is counted");
    for record in &aggregates {
        let data = &record["data"];
        let samples = data["samples"].as_array().unwrap().len();
        assert!((1..=4).contains(&samples) && data["from"].as_i64() <= data["to"].as_i64());
    }
    assert!(records(&dev, &log, "denial").is_empty());
    println!("{sent} refusals took {grown} bytes in {} records", aggregates.len());
}
