//! Heads: the same verdict in one piece and in all pieces, and never another reading than the library's.

use super::*;

const LIMIT: usize = 32 * 1024;

fn read(head: &[u8]) -> Verdict {
    HeadReader::new(LIMIT).read(head)
}

#[test]
fn good_heads_are_whole_at_their_last_byte_and_not_before() {
    for head in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"POST /a/b?x=%2f//.. HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\nX: a\tb \r\n\r\n",
        b"POST /a/ HTTP/1.1\r\nhost: [::1]:8080\r\nTransfer-Encoding: Chunked\r\n\r\n",
        b"GET /a HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        assert_eq!(read(head), Verdict::Whole, "{}", head.escape_ascii());
        let mut reader = HeadReader::new(LIMIT);
        for end in 0..head.len() {
            assert_eq!(reader.read(&head[..end]), Verdict::Partial, "{end}");
        }
        assert_eq!(reader.read(head), Verdict::Whole);
        let mut more = head.to_vec();
        more.extend_from_slice(b"\0 junk\n");
        assert_eq!(read(&more), Verdict::Whole, "what follows a head is not looked at");
    }
}

#[test]
fn heads_with_two_readings_are_refused_at_once_and_byte_by_byte() {
    let h = "Host: a\r\n";
    let heads = [
        "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\n\n".into(),
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 3\r\nContent-Length: 3\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 3, 3\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: +3\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 0x10\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length:\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked, chunked\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: \x0bchunked\r\n\r\n"),
        format!("POST / HTTP/1.0\r\n{h}Transfer-Encoding: chunked\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}X: a\r\n b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}X : a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}X: a\rb\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}X: a\0b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}: a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n X: a\r\n{h}\r\n"),
        format!("GET /a b HTTP/1.1\r\n{h}\r\n"),
        format!("GET  /a HTTP/1.1\r\n{h}\r\n"),
        format!("GET /a  HTTP/1.1\r\n{h}\r\n"),
        format!("GET\t/a HTTP/1.1\r\n{h}\r\n"),
        format!("GET /a/../b HTTP/1.1\r\n{h}\r\n"),
        format!("GET http://a/ HTTP/1.1\r\n{h}\r\n"),
        format!("OPTIONS * HTTP/1.1\r\n{h}\r\n"),
        "GET / HTTP/1.1\r\n\r\n".into(),
        "GET / HTTP/1.0\r\n\r\n".into(),
        format!("GET / HTTP/1.1\r\n{h}{h}\r\n"),
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a/admin?\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".into(),
        format!("GET / HTTP/1.1\r\n{h}Authorization: a\r\nauthorization: b\r\n\r\n"),
        format!("GET / HTTP/2.0\r\n{h}\r\n"),
        format!("GET / HTTP/1.1 \r\n{h}\r\n"),
        format!("get / HTTP/1.1\r\n{h}\r\n"),
        format!("CONNECT / HTTP/1.1\r\n{h}\r\n"),
        format!("TRACE / HTTP/1.1\r\n{h}\r\n"),
        format!("GET / HTTP/1.1\r\n{h}Upgrade: h2c\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Upgrade: websocket\r\nContent-Length: 3\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}X: {}\r\n\r\n", "a".repeat(LIMIT)),
        format!("GET / HTTP/1.1\r\n{h}{}\r\n", "X: a\r\n".repeat(MAX_HEADERS)),
    ];
    for head in heads {
        assert!(matches!(read(head.as_bytes()), Verdict::Refused(_)), "{head:?}");
        let mut reader = HeadReader::new(LIMIT);
        let refused = (0..=head.len()).any(|end| matches!(reader.read(&head.as_bytes()[..end]), Verdict::Refused(_)));
        assert!(refused, "byte by byte: {head:?}");
    }
}
