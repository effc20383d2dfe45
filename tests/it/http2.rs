//! Hostile HTTP/2 callers: what they send is bounded or ends their connection, and nobody else notices.

use std::time::Instant;

use crate::dev::{PATIENCE, Raw, curl, eventually};
use crate::world::{Fleet, Gate, Upstream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// RFC 9113 section 7.
const ENHANCE_YOUR_CALM: u32 = 11;
/// `GET http://a/` in HPACK (RFC 7541): three indexed fields and a literal.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
/// What a gate of a debug build may grow by under an attack.
const MAX_GROWTH_KIB: u64 = 48 * 1024;

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The error code of the first GOAWAY that says more than goodbye.
fn goaway(mut seen: &[u8]) -> Option<u32> {
    while seen.len() >= 9 {
        let length = u32::from_be_bytes([0, seen[0], seen[1], seen[2]]) as usize;
        let payload = seen.get(9..9 + length)?;
        if seen[3] == GOAWAY {
            let code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
            if code != 0 {
                return Some(code);
            }
        }
        seen = &seen[9 + length..];
    }
    None
}

/// The code that ends a connection which sends `attack` after its hello. While it does, somebody else is served.
#[track_caller]
fn ends_with(gate: &Gate, fleet: &Fleet, attack: impl FnOnce(&mut Raw) + Send) -> Option<u32> {
    let before = gate.process.peak_kib();
    let began = Instant::now();
    let url = gate.url.clone();
    let code = std::thread::scope(|scope| {
        let attacker = scope.spawn(move || {
            let mut raw = Raw::connect(&url);
            raw.send(hello());
            attack(&mut raw);
            raw.to_end();
            goaway(&raw.seen)
        });
        let mut served = 0;
        while !attacker.is_finished() || served == 0 {
            assert_eq!(gate.get(&fleet.bearer(), "/v1/orders/7").status, 200, "an honest caller");
            served += 1;
        }
        attacker.join().unwrap()
    });
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let grown = gate.process.peak_kib() - before;
    assert!(grown < MAX_GROWTH_KIB, "{grown} KiB");
    code
}

fn start() -> (Fleet, Gate) {
    let fleet = Fleet::start(Upstream::ok().address);
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    (fleet, gate)
}

/// Streams of a client are odd and grow.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|place| 2 * place + 1)
}

#[test]
fn rapid_resets_end_the_connection() {
    let (fleet, gate) = start();
    let code = ends_with(&gate, &fleet, |raw| {
        let mut burst = Vec::new();
        for stream in streams(20_000) {
            burst.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET));
            burst.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        }
        raw.send(burst);
    });
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
}

#[test]
fn streams_that_the_gate_is_made_to_reset_end_the_connection() {
    let (fleet, gate) = start();
    let code = ends_with(&gate, &fleet, |raw| {
        for chunk in streams(20_000).collect::<Vec<_>>().chunks(100) {
            let mut burst = Vec::new();
            for stream in chunk {
                burst.extend(frame(HEADERS, END_HEADERS, *stream, GET));
                // More than a window can be: an error of the stream, which the gate has to reset.
                burst.extend(frame(WINDOW_UPDATE, 0, *stream, &0x7fff_ffff_u32.to_be_bytes()));
            }
            raw.send(burst);
        }
    });
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
}

#[test]
fn an_endless_head_ends_the_connection() {
    let (fleet, gate) = start();
    let code = ends_with(&gate, &fleet, |raw| {
        raw.send(frame(HEADERS, END_STREAM, 1, GET));
        // Literals without indexing: `x: aaa…`.
        let mut literal = vec![0, 1, b'x', 126];
        literal.extend([b'a'; 126]);
        let part = frame(CONTINUATION, 0, 1, &literal.repeat(100));
        for _ in 0..5_000 {
            raw.send(&part);
        }
    });
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
}

#[test]
fn heads_without_an_end_that_say_nothing_end_the_connection() {
    let (fleet, gate) = start();
    let code = ends_with(&gate, &fleet, |raw| {
        raw.send(frame(HEADERS, END_STREAM, 1, GET));
        let parts = frame(CONTINUATION, 0, 1, &[]).repeat(10_000);
        for _ in 0..20 {
            raw.send(&parts);
        }
    });
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
}

#[test]
fn data_that_holds_nothing_ends_the_connection() {
    let (fleet, gate) = start();
    let code = ends_with(&gate, &fleet, |raw| {
        // POST, so that a body may come.
        raw.send(frame(HEADERS, END_HEADERS, 1, &[&[0x83], &GET[1..]].concat()));
        let parts = frame(DATA, 0, 1, &[]).repeat(10_000);
        for _ in 0..200 {
            raw.send(&parts);
        }
        raw.finish();
    });
    assert!(matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{code:?}");
}

/// A field as HPACK spells it in full, without remembering it (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match text.len() {
            length @ 0..127 => bytes.push(u8::try_from(length).unwrap()),
            length => {
                let mut rest = length - 127;
                bytes.push(127);
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

#[test]
fn data_that_holds_nothing_costs_nothing_on_a_call_that_runs() {
    let upstream = Upstream::start(|head, stream| {
        use std::io::Write as _;
        if head.starts_with("GET /v1/orders/silent ") {
            crate::world::ends(stream);
        } else {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    });
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    let bearer = fleet.bearer();
    let (_, token) = bearer.split_once(": ").unwrap();
    let head = [&[0x82, 0x86], &field(":path", "/v1/orders/silent")[..], &GET[3..], &field("authorization", token)];
    let head = head.concat();
    let forwarded = || upstream.heads().iter().any(|head| head.contains("/v1/orders/silent"));
    let code = ends_with(&gate, &fleet, |raw| {
        raw.send(frame(HEADERS, END_HEADERS, 1, &head));
        eventually("the call is forwarded", PATIENCE, forwarded);
        let parts = frame(DATA, 0, 1, &[]).repeat(10_000);
        for _ in 0..200 {
            raw.send(&parts);
        }
        raw.finish();
    });
    assert!(matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{code:?}");
}

#[test]
fn a_small_head_that_unpacks_to_a_large_one_is_not_kept() {
    let fleet = Fleet::start(Upstream::ok().address);
    let gate = fleet.gateway(|config| config["limits"] = serde_json::json!({ "max_head_bytes": "16KiB" })).ready();
    fleet.grant("--wait");
    ends_with(&gate, &fleet, |raw| {
        // One field of 4,000 bytes into the table, then each byte is that field again: 60 MiB a head.
        let mut entry = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
        entry.extend([b'a'; 4_000]);
        raw.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &[GET, &entry].concat()));
        let bomb = [GET, &[0xbe; 15_000]].concat();
        for stream in streams(50).skip(1) {
            raw.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &bomb));
        }
        raw.finish();
    });
    // And a head that is too large without any trick is told so.
    let large = format!("X-Large: {}", "a".repeat(20 << 10));
    let url = format!("{}/v1/orders/7", gate.url);
    assert_eq!(curl(&["--http2-prior-knowledge", "-H", &fleet.bearer(), "-H", &large, &url]).status, 431);
}
