//! Webhooks that nobody signed, with a source that is really read: what they cost, and that none is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::super::authorize::Caller;
use super::super::super::grant::GrantRequest;
use super::super::super::sample::{NOW, document, furnished, request};
use super::super::pace::EVERY;
use super::*;
use crate::domain::clock::ManualClock;

/// What tickets are kept in: counts how often it is read.
#[derive(Debug, Default)]
struct Kept {
    reads: AtomicUsize,
    closed: AtomicBool,
    broken: AtomicBool,
}

async fn serve(listener: TcpListener, kept: Arc<Kept>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.unwrap();
        assert!(String::from_utf8_lossy(&head[..read]).starts_with("GET /tickets/INC-1 "), "no other is asked after");
        kept.reads.fetch_add(1, Ordering::SeqCst);
        let state = if kept.closed.load(Ordering::SeqCst) { "closed" } else { "open" };
        let body = format!(r#"{{"state":"{state}"}}"#);
        let status = if kept.broken.load(Ordering::SeqCst) { "500 Internal Server Error" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

async fn hint(desk: &Desk, key: &str) -> Result<Taken, Fault> {
    let body = format!(r#"{{"type":"x","timestamp":"{NOW}","data":{{"ticket":"{key}","state":"closed"}}}}"#);
    desk.take(&"own".parse().unwrap(), &|_| None, body.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_makes_us_read_a_ticket_once_in_a_while_and_its_end_is_not_missed() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::at(NOW)));
    let (_core, handle) = furnished(dir.path(), &clock).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let kept = Arc::new(Kept::default());
    let serving = tokio::spawn(serve(listener, kept.clone()));
    let url = format!(r#"{{"url":"http://127.0.0.1:{port}/tickets/{{key}}"}}"#);
    let source = document("TicketSource", "own", &format!(r#"{{"shape":"generic","owner":"orders","read":{url}}}"#));
    handle.apply(&Caller::System, vec![source], false).await.unwrap();
    let asked = GrantRequest { ticket: Some("own:INC-1".to_owned()), ..request() };
    let grant = handle.create_grants(&Caller::System, asked).await.unwrap().answer.remove(0);
    let desk = Desk::new(handle.clone(), dir.path().to_owned());
    let reads = || kept.reads.load(Ordering::SeqCst);

    assert_eq!(hint(&desk, "INC-2").await.unwrap().result, "ignored");
    assert_eq!(reads(), 0, "nobody waits to hear of it");
    assert_eq!(hint(&desk, "INC-1").await.unwrap().result, "ignored");
    kept.closed.store(true, Ordering::SeqCst);
    // It closed a moment after it was read. However often that is said, it is read once more.
    for n in 0..200 {
        let taken = hint(&desk, "INC-1").await.unwrap();
        assert_eq!((taken.result, taken.waits), ("later", n == 0));
    }
    assert_eq!(reads(), 1);
    let ticket: Ticket = "own:INC-1".parse().unwrap();
    assert_eq!(desk.read_waiting(&ticket).await.unwrap_err(), EVERY);
    // One that cannot be read then waits for its next time.
    clock.advance(EVERY);
    kept.broken.store(true, Ordering::SeqCst);
    assert!(matches!(desk.read_waiting(&ticket).await, Ok(Some(Err(Fault::Unreadable(_))))));
    assert!(desk.wait_again(&ticket) && !desk.wait_again(&ticket));
    kept.broken.store(false, Ordering::SeqCst);
    clock.advance(EVERY);
    let taken = desk.read_waiting(&ticket).await.unwrap().unwrap().unwrap();
    assert_eq!((taken.result, taken.ended, reads()), ("closed", 1, 3));
    assert!(!handle.model().grants.contains_key(&grant.id));
    // Nobody waits any more: nothing is read for it.
    assert_eq!(hint(&desk, "INC-1").await.unwrap().result, "ignored");
    assert!(desk.wait_again(&ticket));
    clock.advance(EVERY);
    assert!(matches!(desk.read_waiting(&ticket).await, Ok(None)));
    assert_eq!(reads(), 3);
    serving.abort();
}
