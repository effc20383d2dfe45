//! Callers that send their next request before they have the answer to the last: each in its turn, and each one judged.

use std::io::Write as _;
use std::sync::{Mutex, mpsc};

use super::tap::{Tap, put, route_with};
use crate::dev::{Dev, PATIENCE, eventually};
use crate::world::{Upstream, evidence};

fn get(dev: &Dev, host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}.test\r\n{}\r\n\r\n", dev.bearer("billing"))
}

fn post(dev: &Dev, host: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let bearer = dev.bearer("billing");
    format!("POST {path} HTTP/1.1\r\nHost: {host}.test\r\n{bearer}\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[test]
fn requests_in_one_piece_are_answered_one_after_the_other() {
    let (dev, tap) = (Dev::start(), Tap::start());
    put(&dev, &[route_with("tap", tap.address, ""), route_with("whole", tap.address, "  body: inspect(1KiB)\n")]);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let chunked =
        get(&dev, "tap", "/c").replace("GET", "POST").replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut all: Vec<String> = (0..40).map(|place| get(&dev, "tap", &format!("/g{place}"))).collect();
    for place in 0..10 {
        all.push(post(&dev, "tap", &format!("/p{place}"), "hello"));
        all.push(format!("{chunked}5\r\nhello\r\n0\r\n\r\n"));
        all.push(post(&dev, "whole", &format!("/w{place}"), "hello"));
    }
    // Whole, and torn at every place that a packet may end.
    for piece in [usize::MAX, 1500, 97] {
        tap.came.forget();
        let mut raw = dev.raw();
        let text = all.concat();
        for part in text.as_bytes().chunks(piece.min(text.len())) {
            raw.send(part);
        }
        raw.send(get(&dev, "tap", "/last").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
        let seen = raw.to_end();
        assert_eq!(seen.matches("HTTP/1.1 200 OK\r\n").count(), all.len() + 1, "{piece}: {seen}");
        let came = tap.came.text();
        let order =
            |path: &str| came.find(&format!(" {path} ")).unwrap_or_else(|| panic!("{path} did not come: {came}"));
        assert!(order("/g0") < order("/g39") && order("/p0") < order("/w9") && order("/w9") < order("/last"));
        assert_eq!(tap.came.requests(), all.len() + 1);
    }
}

#[test]
fn what_comes_while_a_call_runs_waits_for_its_answer() {
    let dev = Dev::start();
    let (go, wait) = mpsc::channel::<()>();
    let (came, seen) = mpsc::channel();
    let (wait, came) = (Mutex::new(wait), Mutex::new(came));
    let upstream = Upstream::start(move |head, stream| {
        let _ = came.lock().unwrap().send(head.split(' ').nth(1).unwrap().to_owned());
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    });
    put(
        &dev,
        &[route_with("slow", upstream.address, ""), route_with("whole", upstream.address, "  body: inspect(1KiB)\n")],
    );
    dev.grant("billing", "api/orders", &["read", "write"]);
    for host in ["slow", "whole"] {
        let mut raw = dev.raw();
        raw.send(post(&dev, host, "/first", "hello"));
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), "/first");
        raw.send(get(&dev, host, "/second"));
        // The next one is there, and it is not its turn.
        raw.send("GET /../third HTTP/1.1\r\nHost: slow.test\r\n\r\n");
        go.send(()).unwrap();
        raw.until("\r\n\r\nok");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), "/second");
        go.send(()).unwrap();
        let text = raw.to_end();
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{text}");
        assert!(text.contains("HTTP/1.1 400 ") && text.contains("request_malformed"), "{text}");
        assert!(seen.try_recv().is_err(), "the third went nowhere");
    }
    eventually("four calls were recorded as completed", PATIENCE, || {
        let ended = evidence(&dev, &["--kind", "outcome"]);
        ended.iter().filter(|entry| entry["data"]["ended"] == "completed").count() == 4
    });
}

#[test]
fn a_caller_that_leaves_ends_its_call_whatever_it_sent_ahead() {
    let dev = Dev::start();
    let (sender, ended) = mpsc::channel();
    let sender = Mutex::new(sender);
    let upstream = Upstream::start(move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
        while stream.write_all(b"data: 2\n\n").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let _ = sender.lock().unwrap().send(());
    });
    put(&dev, &[route_with("events", upstream.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    for ahead in [String::new(), get(&dev, "events", "/next")] {
        let mut raw = dev.raw();
        raw.send(get(&dev, "events", "/events")).send(&ahead).until("data: 2");
        drop(raw);
        ended.recv_timeout(PATIENCE).expect("the upstream's side has ended");
    }
}

#[test]
fn bytes_behind_the_wish_for_a_websocket_are_nobodys() {
    let (dev, tap) = (Dev::start(), Tap::start());
    put(&dev, &[route_with("tap", tap.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    let wish = get(&dev, "tap", "/socket").replace("\r\n\r\n", "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    for behind in [get(&dev, "tap", "/admin"), "\u{81}\0".to_owned(), "x".to_owned()] {
        let text = dev.raw().send(format!("{wish}{behind}")).to_end();
        assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("request_malformed"), "{text}");
        assert_eq!(tap.came.connections(), 0);
    }
}
