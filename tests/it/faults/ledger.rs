//! The upstream, which notes what comes when and counts its bytes; and the caller of a stream, who notes what comes back.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How often a stream says something.
const BEAT: Duration = Duration::from_millis(20);

/// What the upstream saw of a trial.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// When its requests came.
    pub(crate) came: Vec<SystemTime>,
    /// Bytes that came and went.
    pub(crate) bytes: u64,
    /// Streams that nobody has ended.
    pub(crate) open: usize,
}

/// What came, by the trial in the path.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<HashMap<String, Seen>>>,
}

impl Ledger {
    /// Paths are `/GATEWAY/TRIAL/…`; those that end in `/events` go on until somebody ends them.
    pub(crate) fn start(address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
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
        let note = |note: &dyn Fn(&mut Seen)| note(self.seen.lock().unwrap().entry(trial.clone()).or_default());
        note(&|seen| {
            seen.came.push(came);
            seen.bytes += head.len() as u64;
        });
        let write = |stream: &mut TcpStream, bytes: &[u8]| {
            let is_written = stream.write_all(bytes).is_ok();
            note(&|seen| seen.bytes += bytes.len() as u64);
            is_written
        };
        if path.ends_with("/events") {
            note(&|seen| seen.open += 1);
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            let mut goes_on = write(&mut stream, head);
            while goes_on {
                std::thread::sleep(BEAT);
                goes_on = write(&mut stream, b"data: x\n\n");
            }
            note(&|seen| seen.open -= 1);
        } else {
            write(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    }

    /// What came of a trial. It is forgotten.
    pub(crate) fn take(&self, trial: &str) -> Seen {
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
        let mut is_first = true;
        loop {
            let read = stream.read(&mut buffer)?;
            // A refusal is no stream.
            if read == 0 || (std::mem::take(&mut is_first) && !buffer.starts_with(b"HTTP/1.1 200")) {
                return Ok(());
            }
            *self.last.lock().unwrap() = Some(SystemTime::now());
        }
    }

    pub(crate) fn told(&self) -> (Option<SystemTime>, bool) {
        (*self.last.lock().unwrap(), self.is_over.load(SeqCst))
    }
}
