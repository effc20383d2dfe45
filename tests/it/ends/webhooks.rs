//! Webhooks that are nobody's word, old, too large or nonsense: refused, bounded, counted. And tickets that are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::world::Upstream;

fn metric(dev: &Dev, result: &str) -> u64 {
    let page = curl(&[&format!("{}/metrics", dev.addresses.http)]).is(200).body;
    let name = format!("portcullis_control_webhooks_total{{result=\"{result}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_webhook_that_is_not_its_sources_word_or_not_new_ends_nothing() {
    let dev = governed();
    sources(&dev);
    let alice = |arguments: &[&str]| as_person(&dev, "alice", arguments);
    let grant = approved(&dev, alice, &["--identity", "billing", "--ticket", "change:CHG-7"]);
    let (closed, time) = (change("closed", 0).to_string(), now().to_string());
    let good = standard("msg_1", &time, &closed);

    post(&dev, "nobody", &good, &closed).is(404);
    post(&dev, "NOBODY", &good, &closed).is(404);
    post(&dev, "change", &[], &closed).is(401);
    post(&dev, "change", &standard("msg_1", &time, "another body"), &closed).is(401);
    post(&dev, "change", &[good.clone(), vec![good[2].clone()]].concat(), &closed).is(401);
    post(&dev, "jira", &good, &closed).is(401);
    let old = (now() - 301).to_string();
    post(&dev, "change", &standard("msg_1", &old, &closed), &closed).is(409);
    let large = format!("{}{}", closed, " ".repeat(1024 * 1024));
    post(&dev, "change", &standard("msg_1", &time, &large), &large).is(413);
    let again = change("closed", 0).to_string();
    let twice = again.replacen("\"state\":\"closed\"", "\"state\":\"open\",\"state\":\"closed\"", 1);
    for bad in ["{", "[]", r#"{"type":"x"}"#, &twice, &"[".repeat(5_000)] {
        post(&dev, "change", &standard("msg_1", &time, bad), bad).is(400);
    }
    let ahead = change("closed", 900).to_string();
    post(&dev, "change", &standard("msg_1", &time, &ahead), &ahead).is(400);
    assert_eq!(dev.json(&["grant", "show", &grant])["state"], "active");
    dev.call("billing", "GET", "/v1/orders/42").is(200);

    // What happened in between is not undone by what was said before it.
    let first = change("closed", -30).to_string();
    let headers = standard("msg_2", &time, &first);
    let replayed = [&first, &change("open", -20).to_string(), &change("closed", -10).to_string()];
    for (place, body) in replayed.iter().enumerate() {
        let result = ["closed", "reopened", "closed"][place];
        assert_eq!(post(&dev, "change", &standard("msg", &time, body), body).is(200).json()["result"], result);
    }
    post(&dev, "change", &headers, &first).is(409);
    let open = change("open", -20).to_string();
    post(&dev, "change", &standard("msg_3", &time, &open), &open).is(409);
    let last = replayed[2];
    assert_eq!(post(&dev, "change", &standard("msg", &time, last), last).is(200).json()["result"], "known");
    let asks = ["request", "create", "--identity", "billing", "--role", "orders-reader", "--reason", "x"];
    let asks = [&asks[..], &["--duration", "30m", "--ticket", "change:CHG-7"]].concat();
    alice(&asks).exits(5);
    for (result, least) in
        [("unknown", 2), ("unsigned", 4), ("stale", 3), ("oversized", 1), ("malformed", 6), ("known", 1)]
    {
        assert!(metric(&dev, result) >= least, "{result}: {}", metric(&dev, result));
    }
    // And over a start: what is known is kept.
    let mut dev = dev;
    dev.kill();
    let dev = dev.restart(&[]);
    post(&dev, "change", &standard("msg_4", &time, &open), &open).is(409);
    as_person(&dev, "alice", &asks).exits(5);
}

#[test]
fn a_ticket_without_a_signature_is_read_and_only_where_somebody_waits_for_it() {
    let dev = governed();
    let (closed, broken, reads) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_closed, is_broken, count) = (closed.clone(), broken.clone(), reads.clone());
    let desk = Upstream::start(move |head, stream| {
        count.fetch_add(1, Ordering::SeqCst);
        let good = head.starts_with("GET /t/CHG-7 ")
            && head.to_ascii_lowercase().contains("authorization: bearer a token of ours");
        let state = if is_closed.load(Ordering::SeqCst) { "closed" } else { "open" };
        let status = if good && !is_broken.load(Ordering::SeqCst) { "200 OK" } else { "500 x" };
        let body = format!("{{\"state\":\"{state}\"}}");
        let length = body.len();
        drop(write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"));
    });
    let secrets = dev.dir().join("control/secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    std::fs::write(secrets.join("reader"), "a token of ours\n").unwrap();
    let read = format!("{{ url: \"http://{}/t/{{key}}\", token_file: reader }}", desk.address);
    agreed(&dev, &format!("kind: TicketSource\nname: own\nspec: {{ shape: generic, owner: orders, read: {read} }}\n"));
    let alice = |arguments: &[&str]| as_person(&dev, "alice", arguments);

    // Nobody waits for it: a stranger makes us read nothing.
    let hint = change("closed", 0).to_string();
    assert_eq!(post(&dev, "own", &[], &hint).is(200).json()["result"], "ignored");
    assert_eq!(reads.load(Ordering::SeqCst), 0);
    let grant = approved(&dev, alice, &["--identity", "billing", "--ticket", "own:CHG-7"]);
    assert!(reads.load(Ordering::SeqCst) >= 2, "it was read when it was asked, and when it was approved");
    // What a stranger says is not believed; and however often it is said, the ticket is not read as often.
    assert_eq!(post(&dev, "own", &[], &hint).is(200).json()["result"], "ignored");
    dev.call("billing", "GET", "/v1/orders/42").is(200);
    broken.store(true, Ordering::SeqCst);
    let before = reads.load(Ordering::SeqCst);
    let said: Vec<Value> = (0..30).map(|_| post(&dev, "own", &[], &hint).is(200).json()["result"].clone()).collect();
    assert!(said.iter().all(|result| result == "later"), "{said:?}");
    assert!(reads.load(Ordering::SeqCst) - before < 15, "it is read once in a while");
    let asks = ["request", "create", "--identity", "billing", "--role", "orders-reader", "--reason", "x"];
    let asks = [&asks[..], &["--duration", "30m", "--ticket", "own:CHG-7"]].concat();
    let refused = alice(&asks);
    assert!(refused.code != 0 && refused.stderr.contains("own does not tell what became of CHG-7"), "{refused:?}");
    broken.store(false, Ordering::SeqCst);
    closed.store(true, Ordering::SeqCst);
    // It closed after it was read, and is read once more: nobody has to say so again, nor to ask.
    eventually("what was said in between is not lost", PATIENCE, || {
        dev.json(&["grant", "show", &grant])["state"] == "revoked"
    });
    alice(&asks).exits(5);
    assert!(metric(&dev, "later") >= 30 && metric(&dev, "closed") >= 1);
}
