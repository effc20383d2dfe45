//! The framing of a chunked request body (RFC 9112 section 7.1), checked byte by byte beside the library's own reading.
//!
//! It cannot disagree with the library, or with anybody, about where a chunk or the message ends: it passes only what every
//! reading agrees on. A size is hexadecimal digits and nothing else, a line ends in CRLF, the last chunk is followed by an
//! empty line; extensions, which nobody uses, and trailers, which the library would drop unseen, are faults. Of such
//! bytes there is one reading, and past their end nothing is looked at. A test reads mutated bodies both ways.

/// Digits of a size. A petabyte is enough; more of them overflow somewhere.
const MAX_DIGITS: u8 = 13;

/// Why a body is not framed in the one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunked body is not framed in the one way that all agree on")]
pub(super) struct Misframed;

/// Follows one body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkReader(State);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Begin,
    Size {
        digits: u8,
        size: u64,
    },
    /// Between the CR and the LF of a size's line.
    SizeEnd(u64),
    Data(u64),
    /// Behind the data: a CR, and then its LF.
    DataEnd,
    DataEnded,
    /// Behind the last chunk: the empty line.
    Last,
    LastEnd,
    Done,
}

impl ChunkReader {
    pub(super) const fn new() -> Self {
        Self(State::Begin)
    }

    /// Takes the next bytes of the connection; says how many of them are the body's.
    ///
    /// # Errors
    /// [`Misframed`], at the first byte that has no place.
    pub(super) fn read(&mut self, all: &[u8]) -> Result<usize, Misframed> {
        let mut bytes = all;
        while let Some((byte, rest)) = bytes.split_first() {
            self.0 = match (self.0, *byte) {
                (State::Done, _) => break,
                (State::Data(left), _) => {
                    let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    bytes = bytes.get(taken..).unwrap_or_default();
                    let left = left.saturating_sub(taken as u64);
                    self.0 = if left == 0 { State::DataEnd } else { State::Data(left) };
                    continue;
                }
                (State::Begin, byte) => State::Size { digits: 1, size: digit(byte)? },
                (State::Size { size, .. }, b'\r') => State::SizeEnd(size),
                (State::Size { digits, size }, byte) if digits < MAX_DIGITS => {
                    State::Size { digits: digits + 1, size: size << 4 | digit(byte)? }
                }
                (State::SizeEnd(0), b'\n') => State::Last,
                (State::SizeEnd(size), b'\n') => State::Data(size),
                (State::DataEnd, b'\r') => State::DataEnded,
                (State::DataEnded, b'\n') => State::Begin,
                (State::Last, b'\r') => State::LastEnd,
                (State::LastEnd, b'\n') => State::Done,
                _ => return Err(Misframed),
            };
            bytes = rest;
        }
        Ok(all.len() - bytes.len())
    }

    pub(super) fn is_done(&self) -> bool {
        self.0 == State::Done
    }
}

fn digit(byte: u8) -> Result<u64, Misframed> {
    char::from(byte).to_digit(16).map(u64::from).ok_or(Misframed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Result<ChunkReader, Misframed> {
        let mut reader = ChunkReader::default();
        reader.read(bytes)?;
        Ok(reader)
    }

    #[test]
    fn a_body_is_followed_to_its_end_in_one_piece_and_in_all_pieces() {
        let body = b"5\r\nhello\r\n00A\r\n0\r\n\r\n12345\r\nf\r\n0123456789abcde\r\n0\r\n\r\n";
        assert_eq!(whole(body), Ok(ChunkReader(State::Done)));
        for split in 0..body.len() {
            let mut reader = whole(&body[..split]).unwrap();
            assert_ne!(reader, ChunkReader(State::Done), "{split}");
            reader.read(&body[split..]).unwrap();
            assert_eq!(reader, ChunkReader(State::Done));
        }
        let mut reader = ChunkReader::default();
        assert!(body.iter().all(|byte| reader.read(&[*byte]) == Ok(1)) && reader.is_done());
        assert_eq!(reader.read(b"what follows is not looked at"), Ok(0));
        assert_eq!(ChunkReader::default().read(&[body, &b"GET / HTTP/1.1"[..]].concat()), Ok(body.len()));
    }

    #[test]
    fn what_two_could_read_differently_is_no_framing() {
        for bad in [
            "0_2e\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 \r\n",
            "\t5\r\n",
            "5\r;\n",
            "5;a=b\r\n",
            "5;\r\n",
            "5\n",
            "+5\r\n",
            "-5\r\n",
            "\r\n",
            "g\r\n",
            "5\r\r\n",
            "5\r\nhello",
            "5\r\nhello\n",
            "5\r\nhello5\r\n",
            "5\r\nhello\r5",
            "0\r\nX: y\r\n",
            "0\n\r\n",
            "0\r\n\n",
            "0\r\n \r\n",
            "0\r\n\rX",
            "10000000000000\r\n",
            "5\u{b}\r\n",
            "5\r\nhello!\r\n",
            "5\r\nhell\r\n",
        ] {
            // A beginning that is still open needs one more byte to be told.
            let told = whole(bad.as_bytes()).and_then(|mut reader| reader.read(b"?"));
            assert_eq!(told, Err(Misframed), "{bad:?}");
        }
    }

    /// The data of a body that was followed to its end: what stood where data is awaited.
    fn data_of(body: &[u8]) -> Option<Vec<u8>> {
        let (mut reader, mut data) = (ChunkReader::default(), Vec::new());
        for byte in body {
            if matches!(reader.0, State::Data(_)) {
                data.push(*byte);
            }
            reader.read(&[*byte]).ok()?;
        }
        (reader.0 == State::Done).then_some(data)
    }

    #[test]
    fn accepted_bodies_are_read_alike_by_the_library() {
        use pingora_core::protocols::http::ServerSession;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let seeds: [&[u8]; 4] = [
            b"5\r\nhello\r\n0\r\n\r\n",
            b"0\r\n\r\n",
            b"1\r\na\r\n0b\r\n0\r\n\r\n0\r\n\r\n!\r\n002\r\nzz\r\n00\r\n\r\n",
            b"A\r\n0123456789\r\n3\r\n\r\n\r\r\n0\r\n\r\n",
        ];
        let alphabet = b"\r\n 0123456789abcdefABCDEFx;=_+-\t\0";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut accepted = 0;
        for _ in 0..50_000 {
            let mut body = seeds[draw(4)].to_vec();
            for _ in 0..draw(4) {
                let (at, byte) = (draw(body.len()), alphabet[draw(alphabet.len())]);
                match draw(4) {
                    0 => body[at] = byte,
                    1 => body.insert(at, byte),
                    2 if body.len() > 1 => drop(body.remove(at)),
                    _ => {
                        let part = body[at..at + draw(body.len() - at)].to_vec();
                        let to = draw(body.len());
                        drop(body.splice(to..to, part));
                    }
                }
            }
            let Some(ours) = data_of(&body) else { continue };
            accepted += 1;
            let shown = body.escape_ascii().to_string();
            // In any two pieces: with the head, and from the connection.
            let (ahead, later) = body.split_at(draw(body.len() + 1));
            let mut session = ServerSession::new_http1(Box::new(std::io::Cursor::new(later.to_vec())));
            let head = &b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"[..];
            session.set_pipelined_prefix([head, ahead].concat().as_slice().into());
            let theirs = runtime.block_on(async {
                assert!(session.read_request().await.expect(&shown), "{shown}");
                let mut data = Vec::new();
                while let Some(part) = session.read_request_body().await.expect(&shown) {
                    data.extend_from_slice(&part);
                }
                data
            });
            assert_eq!(theirs.escape_ascii().to_string(), ours.escape_ascii().to_string(), "{shown}");
        }
        assert!(accepted > 2_000, "{accepted}");
    }
}
