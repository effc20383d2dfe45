//! What the evidence promises: order, `kill -9`, failing disks, tampering.
//!
//! Here stand the upstream that remembers every call, and the caller that keeps its connection; the promises are in the
//! modules below.

mod denied;
mod disk;
mod killed;
pub(crate) mod order;
mod spelling;
mod steps;
mod strangers;
mod tamper;
mod trials;

use std::collections::HashMap;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::dev::{Dev, PATIENCE};

const CALL_ID: &str = "portcullis-call-id";

/// An upstream on keep-alive connections that remembers the id and path of each call before it answers.
///
/// Paths that begin with `/held` are answered when [`release`](Self::release) says so.
struct Upstream {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Path by call id.
    seen: Mutex<HashMap<String, String>>,
    released: (Mutex<bool>, Condvar),
}

impl Upstream {
    /// Starts one that takes `delay` for each answer. It ends with the test's process.
    fn start(delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::<Shared>::default();
        let state = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = state.clone();
                std::thread::spawn(move || stream.and_then(|stream| state.serve(&stream, delay)));
            }
        });
        Self { url, shared }
    }

    fn seen(&self) -> HashMap<String, String> {
        self.shared.seen.lock().unwrap().clone()
    }

    fn saw_path(&self, path: &str) -> bool {
        self.shared.seen.lock().unwrap().values().any(|seen| seen == path)
    }

    /// Answers what was held.
    fn release(&self) {
        *self.shared.released.0.lock().unwrap() = true;
        self.shared.released.1.notify_all();
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream, delay: Duration) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some(head) = head(&mut reader)? {
            let path = head.first.split(' ').nth(1).unwrap_or_default().to_owned();
            let held = path.starts_with("/held");
            let call = head.headers.get(CALL_ID).cloned().unwrap_or_default();
            self.seen.lock().unwrap().insert(call, path);
            if held {
                let released = self.released.0.lock().unwrap();
                drop(self.released.1.wait_while(released, |released| !*released).unwrap());
            }
            if !delay.is_zero() {
                std::thread::sleep(delay);
            }
            { stream }.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
        }
        Ok(())
    }
}

/// The first line of a message and its headers, names in lower case.
struct Head {
    first: String,
    headers: HashMap<String, String>,
}

fn head(reader: &mut impl std::io::BufRead) -> std::io::Result<Option<Head>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok(Some(Head { first: lines.first().cloned().unwrap_or_default(), headers }))
}

/// What a caller got.
#[derive(Debug)]
struct Got {
    status: u16,
    call: String,
    body: String,
}

impl Got {
    fn reason(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// A caller on one keep-alive connection, made anew when the gate closed it.
struct Caller {
    address: String,
    bearer: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Caller {
    fn of(dev: &Dev, identity: &str) -> Self {
        let address = dev.addresses.gateway.trim_start_matches("http://").to_owned();
        Self { address, bearer: dev.bearer(identity), stream: None }
    }

    /// GET; `None` when the connection broke.
    fn get(&mut self, path: &str) -> Option<Got> {
        let got = self.try_get(path);
        if got.is_err() {
            self.stream = None;
        }
        got.ok()
    }

    fn try_get(&mut self, path: &str) -> std::io::Result<Got> {
        let mut reader = match self.stream.take() {
            Some(reader) => reader,
            None => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: test.internal\r\n{}\r\n\r\n", self.bearer);
        reader.get_mut().write_all(request.as_bytes())?;
        let head = head(&mut reader)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let header = |name: &str| head.headers.get(name).cloned().unwrap_or_default();
        let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
        reader.read_exact(&mut body)?;
        if header("connection") != "close" {
            self.stream = Some(reader);
        }
        let status = head.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok(Got { status, call: header(CALL_ID), body: String::from_utf8_lossy(&body).into_owned() })
    }
}

/// Records of one kind, as `evidence query -o json` prints them.
#[track_caller]
fn records(dev: &Dev, log: &str, kind: &str) -> Vec<Value> {
    let done = dev.cli(&["-o", "json", "evidence", "query", log, "--kind", kind]).exits(0);
    done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The call ids of records.
fn calls(records: &[Value]) -> std::collections::HashSet<String> {
    records.iter().filter_map(|record| record["data"]["call"].as_str()).map(ToOwned::to_owned).collect()
}

/// `evidence verify -o json`; it must be green.
#[track_caller]
fn verified(dev: &Dev, log: &str) -> Value {
    dev.cli(&["-o", "json", "evidence", "verify", log]).exits(0).json()
}
