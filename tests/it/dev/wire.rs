//! Both ends of a connection with bytes of the test's own: a caller, and an upstream.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};

use super::PATIENCE;

/// An upstream that answers every request with the same bytes and then closes.
pub(crate) struct Service {
    pub(crate) url: String,
    /// The head of each request, as it came.
    pub(crate) heads: Receiver<String>,
}

/// Starts one on loopback. It ends with the test's process.
pub(crate) fn service(answer: &'static str) -> Service {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, heads) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let sender = sender.clone();
            std::thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let mut reader = BufReader::new(&stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && matches!(reader.read_line(&mut head), Ok(1..)) {}
                // A probe that sends nothing is not a request.
                if !head.is_empty() && sender.send(head).is_ok() {
                    let _ = (&stream).write_all(answer.as_bytes());
                }
            });
        }
    });
    Service { url, heads }
}

/// A connection on which every byte is the test's own.
pub(crate) struct Raw {
    stream: TcpStream,
    pub(crate) seen: Vec<u8>,
}

impl Raw {
    /// Connects to `http://HOST:PORT`.
    #[track_caller]
    pub(crate) fn connect(url: &str) -> Self {
        let address = url.split_once("://").map_or(url, |(_, rest)| rest);
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, seen: Vec::new() }
    }

    /// Sends bytes; a peer that has closed already is not a failure, its answer is what counts.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// Sends bytes, or tells why not.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// The same connection, for another thread.
    pub(crate) fn again(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), seen: Vec::new() }
    }

    /// No more will be sent.
    pub(crate) fn finish(&mut self) -> &mut Self {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        self
    }

    /// Reads until `part` was seen: everything so far.
    #[track_caller]
    pub(crate) fn until(&mut self, part: &str) -> String {
        let mut chunk = [0; 4096];
        loop {
            let text = self.text();
            if text.contains(part) {
                return text;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("closed before `{part}`: {text}"),
                Ok(read) => self.seen.extend_from_slice(&chunk[..read]),
                Err(error) => panic!("{error} before `{part}`: {text}"),
            }
        }
    }

    /// Reads until the peer closes: everything.
    #[track_caller]
    #[expect(clippy::wrong_self_convention, reason = "it reads, it does not convert")]
    pub(crate) fn to_end(&mut self) -> String {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.text(),
                Ok(read) => self.seen.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return self.text(),
                Err(error) => panic!("{error}: not closed within {PATIENCE:?}: {}", self.text()),
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}
