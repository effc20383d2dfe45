//! The upstream, which notes what comes when; and the caller of a stream, who notes what comes back.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How often a stream says something.
const BEAT: Duration = Duration::from_millis(20);

/// When requests came, by the trial in their path.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<HashMap<String, Vec<SystemTime>>>>,
}

impl Ledger {
    /// Paths are `/GATEWAY/TRIAL/…`; those that end in `/events` go on until somebody ends them.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ledger = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let kept = ledger.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                std::thread::spawn(move || kept.serve(stream));
            }
        });
        ledger
    }

    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let came = SystemTime::now();
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let trial = path.split('/').nth(2).unwrap_or_default().to_owned();
        self.seen.lock().unwrap().entry(trial).or_default().push(came);
        if path.ends_with("/events") {
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
            while stream.write_all(b"data: x\n\n").is_ok() {
                std::thread::sleep(BEAT);
            }
        } else {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    }

    /// When the requests of a trial came. They are forgotten.
    pub(crate) fn take(&self, trial: &str) -> Vec<SystemTime> {
        self.seen.lock().unwrap().remove(trial).unwrap_or_default()
    }
}

/// One request, to its end: the status, 0 when there is none.
pub(crate) fn get(gateway: SocketAddr, bearer: &str, path: &str, patience: Duration) -> u16 {
    let answer = || {
        let mut stream = TcpStream::connect_timeout(&gateway, patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        stream.write_all(request(bearer, path).as_bytes()).ok()?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => answer.extend_from_slice(buffer.get(..read)?),
                Err(_) => break,
            }
        }
        std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
    };
    answer().unwrap_or(0)
}

fn request(bearer: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: gate\r\n{bearer}\r\nConnection: close\r\n\r\n")
}

/// A stream that is read for as long as it lasts: when its last byte came, and whether it is over.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    last: Arc<Mutex<Option<SystemTime>>>,
    is_over: Arc<AtomicBool>,
}

impl Watched {
    pub(crate) fn open(gateway: SocketAddr, bearer: &str, path: &str) -> Self {
        let watched = Self { last: Arc::default(), is_over: Arc::default() };
        let (kept, request) = (watched.clone(), request(bearer, path));
        std::thread::spawn(move || {
            let _ = kept.read(gateway, &request);
            kept.is_over.store(true, SeqCst);
        });
        watched
    }

    fn read(&self, gateway: SocketAddr, request: &str) -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&gateway, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(request.as_bytes())?;
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer)? > 0 {
            *self.last.lock().unwrap() = Some(SystemTime::now());
        }
        Ok(())
    }

    pub(crate) fn last(&self) -> Option<SystemTime> {
        *self.last.lock().unwrap()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }
}
