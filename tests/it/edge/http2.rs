//! HTTP/2 frames written by hand: fields that HTTP/1.1 would read as something else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::tap::{Tap, put, route_with};
use crate::dev::{Dev, PATIENCE, curl};

/// A header field, literal, never indexed, without Huffman coding (RFC 7541 section 6.2.3).
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let text = |bytes: &[u8]| {
        let mut out = if bytes.len() < 127 {
            vec![u8::try_from(bytes.len()).unwrap()]
        } else {
            let (mut out, mut rest) = (vec![127], bytes.len() - 127);
            while rest >= 128 {
                out.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            out.push(u8::try_from(rest).unwrap());
            out
        };
        out.extend_from_slice(bytes);
        out
    };
    [vec![0x10], text(name), text(value)].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What the gate makes of one request: what came back.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// An answer with headers, whatever they say.
    Answered,
    /// The stream or the connection was ended without one.
    Ended,
}

fn send(dev: &Dev, fields: &[Vec<u8>], data: Option<&[u8]>) -> Fate {
    let address = dev.addresses.gateway.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(4, 0, 0, &[]));
    out.extend(frame(1, if data.is_some() { 4 } else { 5 }, 1, &fields.concat()));
    if let Some(data) = data {
        out.extend(frame(0, 1, 1, data));
    }
    let _ = stream.write_all(&out);
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if stream.read_exact(&mut payload).is_err() {
            break;
        }
        match (head[3], head[8]) {
            (1, 1) => return Fate::Answered,
            (3, 1) | (7, _) => return Fate::Ended,
            _ => {}
        }
    }
    Fate::Ended
}

#[test]
fn http2_fields_that_http1_would_read_otherwise_go_nowhere() {
    let (dev, tap) = (Dev::start(), Tap::start());
    put(&dev, &[route_with("tap", tap.address, "")]);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let bearer = dev.bearer("billing").replace("Authorization: ", "");
    let request = |method: &str, path: &str, more: &[(&[u8], &[u8])]| {
        let mut fields = vec![
            literal(b":method", method.as_bytes()),
            literal(b":scheme", b"http"),
            literal(b":authority", b"tap.test"),
            literal(b":path", path.as_bytes()),
            literal(b"authorization", bearer.as_bytes()),
        ];
        fields.extend(more.iter().map(|(name, value)| literal(name, value)));
        fields
    };
    let junk: &[(&[u8], &[u8])] = &[
        (b"x", b"a\r\nx-injected: yes"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"", b"a"),
        (b"x y", b"a"),
        (b"x\r\ny", b"a"),
        (b"x:y", b"a"),
        (b"X-Upper", b"a"),
        (b"x", b" a"),
        (b"x", b"a "),
        (b"x", b"\ta"),
        (b"x", b"a\t"),
        (b":other", b"a"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"keep-alive", b"5"),
        (b"te", b"gzip"),
        (b"host", b"other.test"),
        (b"authorization", b"Bearer x"),
        (b"content-length", b"5"),
    ];
    for (name, value) in junk {
        // Some are refused by an answer, some by the end of the stream; none is forwarded.
        send(&dev, &request("GET", "/good", &[(name, value)]), None);
        assert_eq!(tap.came.connections(), 0, "{}: {}", name.escape_ascii(), tap.came.text());
    }
    for (method, path) in [
        ("GET", "/public/../admin"),
        ("GET", "/a%2Fb"),
        ("GET", "/a;b"),
        ("GET", "/a b"),
        ("GET", "/a\r\nx: y"),
        ("GET", ""),
        ("GET", "*"),
        ("GET", "http://b/"),
        ("get", "/good"),
        ("TRACE", "/good"),
        ("CONNECT", "/good"),
        ("G ET", "/good"),
        ("GET /admin HTTP/1.1\r\n", "/good"),
    ] {
        send(&dev, &request(method, path, &[]), None);
        assert_eq!(tap.came.connections(), 0, "{method:?} {path:?}: {}", tap.came.text());
    }
    // A length that the data does not have: the upstream gets no whole request.
    for (length, data) in [(&b"5"[..], &b"hello world"[..]), (b"50", b"hello"), (b"+5", b"hello"), (b"5, 5", b"hello")]
    {
        let fate = send(&dev, &request("POST", "/good", &[(b"content-length", length)]), Some(data));
        assert_eq!(tap.came.requests(), 0, "{fate:?} {}: {}", length.escape_ascii(), tap.came.text());
    }
    assert_eq!(send(&dev, &request("POST", "/good", &[(b"content-length", b"5")]), Some(b"hello")), Fate::Answered);
    // Nothing of it harmed anybody else.
    let url = format!("{}/good", dev.addresses.gateway);
    let authorization = format!("authorization: {bearer}");
    curl(&["--http2-prior-knowledge", "-H", "Host: tap.test", "-H", &authorization, &url]).is(200);
    assert!(!tap.came.text().contains("x-injected"), "{}", tap.came.text());
}
