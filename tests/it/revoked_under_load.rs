//! A revocation under load: once it is acknowledged no call is allowed, and the receipt says what cannot be recalled.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::dev::{Dev, PATIENCE};

/// A call on a kept connection, from its first byte: its status; none when it is cut.
fn call(stream: &mut BufReader<TcpStream>, authorization: &str) -> Option<u16> {
    let request = format!("GET /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{authorization}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).ok()?;
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(code) = line.strip_prefix("http/1.1 ") {
            status = code[..3].parse().unwrap();
        } else if let Some(bytes) = line.strip_prefix("content-length: ") {
            length = bytes.parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some(status)
}

/// Calls as fast as they are answered until `stop`: when each began, and how it was answered.
fn calls(address: &str, authorization: &str, stop: &AtomicBool) -> Vec<(Instant, u16)> {
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(stream)
    };
    let (mut stream, mut made) = (connect(), Vec::new());
    while !stop.load(SeqCst) {
        let began = Instant::now();
        match call(&mut stream, authorization) {
            Some(status) => made.push((began, status)),
            // What ran when it was revoked is cut, and its connection with it.
            None => stream = connect(),
        }
    }
    made
}

#[test]
fn no_call_that_begins_after_the_acknowledgement_is_allowed() {
    let dev = Dev::start();
    let grant = dev.grant("billing", "api/orders", &["read"]);
    let authorization = format!("Authorization: Bearer {}", dev.token("billing"));
    let address = dev.addresses.gateway.trim_start_matches("http://").to_owned();
    let stop = AtomicBool::new(false);
    let (made, acknowledged, receipt) = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(|| calls(&address, &authorization, &stop))).collect();
        // Long enough that calls are under way on all of them, and for two seconds after.
        std::thread::sleep(Duration::from_secs(1));
        let receipt = dev.revoke(&grant);
        let acknowledged = Instant::now();
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, SeqCst);
        let made: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        (made, acknowledged, receipt)
    });
    let (before, after): (Vec<_>, Vec<_>) = made.into_iter().partition(|(began, _)| *began < acknowledged);
    println!("{} calls before the acknowledgement, {} after", before.len(), after.len());
    assert!(before.iter().filter(|(_, status)| *status == 200).count() > 50, "there was a load");
    assert!(after.len() > 50 && after.iter().all(|(_, status)| *status == 403), "none is allowed any more");

    // What the upstream was handed under the grant is told, with its end.
    let residual = receipt["gateways"][0]["residual"].as_array().unwrap();
    assert_eq!(residual.len(), 1, "{receipt}");
    assert_eq!(residual[0]["grant"], grant, "{receipt}");
    assert!(residual[0]["tokens"].as_u64().unwrap() >= 1 && residual[0]["until"].is_string(), "{receipt}");
    let shown = dev.cli(&["grant", "revoke", &grant, "--reason", "again", "--wait=20s"]).exits(0).stdout;
    assert!(shown.contains("UPSTREAMS HOLD"), "{shown}");
}
