//! What must hold for every input from outside: entry points of the fuzzers in `tests/fuzz/`, and of a smoke run among the tests.
//!
//! Each function takes any bytes, says whether they were accepted, and panics when a property does not hold. Properties
//! are stated with other means than the code under test. Compiled for tests and fuzzers alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a property that does not hold must stop the fuzzer"
)]

use http::header::{HeaderMap, HeaderName, HeaderValue};
use pingora_core::protocols::http::ServerSession;
use pingora_http::RequestHeader;

use super::head::{HeadReader, MAX_HEADERS, Verdict};
use super::strip;
use crate::gateway::accept::check_target;
use crate::gateway::connection::ClientCertificate;

const LIMIT: usize = 32 * 1024;

/// The raw head of a request, in one piece and in two; the first byte says where it is cut. An accepted one is read alike
/// by the library.
pub fn head(data: &[u8]) -> bool {
    let Some((cut, bytes)) = data.split_first() else { return false };
    let whole = HeadReader::new(LIMIT).read(bytes);
    let mut reader = HeadReader::new(LIMIT);
    let at = bytes.len() * usize::from(*cut) / 256;
    let in_two = match reader.read(&bytes[..at]) {
        Verdict::Partial => reader.read(bytes),
        early => early,
    };
    let same = match (&whole, &in_two) {
        (Verdict::Refused(a), Verdict::Refused(b)) => a.reason == b.reason,
        _ => whole == in_two,
    };
    assert!(same, "{whole:?} in one piece, {in_two:?} in two");
    if whole != Verdict::Whole {
        return false;
    }
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head ends") + 4;
    read_alike(&bytes[..end]);
    true
}

fn read_alike(head: &[u8]) {
    let shown = head.escape_ascii();
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut ours = httparse::Request::new(&mut headers);
    assert!(ours.parse(head).unwrap().is_complete());
    let lines = head.split(|byte| *byte == b'\n').count() - 3;
    assert_eq!(ours.headers.len(), lines, "a line is a header: {shown}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut session = ServerSession::new_http1(Box::new(std::io::Cursor::new(Vec::<u8>::new())));
    session.set_pipelined_prefix(head.into());
    assert!(runtime.block_on(session.read_request()).expect("the library accepts it"), "{shown}");
    let theirs = session.req_header();
    assert_eq!(theirs.method.as_str(), ours.method.unwrap(), "{shown}");
    assert_eq!(theirs.raw_path(), ours.path.unwrap().as_bytes(), "{shown}");
    assert_eq!(theirs.headers.len(), ours.headers.len(), "{shown}");
    for header in ours.headers.iter() {
        assert!(theirs.headers.get_all(header.name).iter().any(|v| v.as_bytes() == header.value), "{shown}");
    }
    assert_eq!(session.to_h1_raw(), head, "{shown}");
}

/// A request target. An accepted one is what every reading of it leads to: decoding, dropping dot segments and encoding
/// again give the same path.
pub fn target(data: &[u8]) -> bool {
    if check_target(data).is_err() {
        return false;
    }
    let text = std::str::from_utf8(data).expect("a target is ASCII");
    let uri: http::Uri = text.parse().expect("a target is a URI reference");
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    assert_eq!((uri.path(), uri.query(), uri.authority()), (path, query, None));
    let decoded = decode(path.as_bytes());
    assert!(!decoded.iter().any(|byte| *byte < b' ' || matches!(byte, b'\\' | b';' | b'#' | b'?' | b'%' | 0x7f)));
    let segments: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').collect();
    assert_eq!(segments.len(), path.split('/').count(), "an escape made a separator");
    assert!(segments[0].is_empty() && !segments.iter().any(|segment| matches!(*segment, b"." | b"..")));
    assert!(!segments[1..segments.len() - 1].iter().any(|segment| segment.is_empty()));
    // Decoded once more, it is the same: nothing was escaped twice.
    assert_eq!(decode(&decoded), decoded);
    true
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut bytes = path.iter().copied();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().expect("two digits"), bytes.next().expect("two digits")];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).expect("hexadecimal"));
        } else {
            out.push(byte);
        }
    }
    out
}

/// The headers of a request, one per line. What passes is neither a credential, nor a claim, nor of this hop, nor
/// nominated; everything else passes.
pub fn headers(data: &[u8]) -> bool {
    let mut request = RequestHeader::build("GET", b"/", None).unwrap();
    for line in data.split(|byte| *byte == b'\n').take(MAX_HEADERS) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            request.append_header(name, value).unwrap();
        }
    }
    let before: HeaderMap = request.headers.clone();
    for name in strip::strip(&before) {
        request.remove_header(&name);
    }
    strip::join_cookies(&mut request).unwrap();
    let nominated: Vec<String> = before
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect::<Vec<_>>())
        .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
        .collect();
    for name in before.keys() {
        let plain = name.as_str().replace(['_', '.'], "-");
        let claim = ["x-forwarded-", "x-original-", "x-envoy-", "portcullis-", "x-auth-request-", "x-amzn-oidc-"]
            .iter()
            .any(|family| plain.starts_with(family))
            || ["authorization", "proxy-authorization", "te", "trailer", "keep-alive", "forwarded", "x-real-ip"]
                .contains(&plain.as_str());
        // What a nomination cannot take away: how a message is framed, and for whom it is.
        let stays = ["content-length", "content-encoding", "transfer-encoding", "host", "connection"];
        let is_nominated = nominated.iter().any(|one| one == name.as_str())
            && !["upgrade", "close", "keep-alive"].contains(&name.as_str())
            && !stays.contains(&name.as_str());
        let passes = request.headers.contains_key(name);
        assert!(!(passes && (claim || is_nominated)), "{name} passes");
        let harmless = ["accept", "cookie", "user-agent", "content-type", "x-mine", "upgrade", "content-length"];
        assert!(passes || is_nominated || !harmless.contains(&name.as_str()), "{name} does not pass");
    }
    assert!(request.headers.get_all("cookie").iter().count() <= 1);
    !before.is_empty()
}

/// A certificate. An accepted one names exactly one workload, and is no authority.
pub fn svid(data: &[u8]) -> bool {
    let Ok(certificate) = ClientCertificate::of_leaf(data) else { return false };
    let id = certificate.spiffe.as_str();
    let (domain, path) = id.strip_prefix("spiffe://").expect("a SPIFFE ID").split_once('/').expect("a path");
    let plain =
        |text: &str, more: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b));
    assert!(
        !domain.is_empty() && plain(domain, ".-_") && !domain.bytes().any(|byte| byte.is_ascii_uppercase()),
        "{id}"
    );
    assert!(path.split('/').all(|s| !s.is_empty() && s != "." && s != ".." && plain(s, ".-_")), "{id}");
    let (rest, parsed) = x509_parser::parse_x509_certificate(data).unwrap();
    assert!(rest.is_empty() && !parsed.is_ca());
    assert_eq!(data.windows(id.len()).filter(|window| *window == id.as_bytes()).count().min(1), 1, "{id}");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: usize = 20_000;

    /// Changes seeds a little, from a fixed start: the same inputs in every run. Gives how many were accepted.
    fn smoke(seeds: &[&[u8]], alphabet: &[u8], property: fn(&[u8]) -> bool) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below.max(1) as u64) as usize
        };
        let mut accepted = seeds.iter().filter(|seed| property(seed)).count();
        for _ in 0..ROUNDS {
            let mut input = seeds[draw(seeds.len())].to_vec();
            for _ in 0..=draw(3) {
                let (at, byte) = (draw(input.len()), alphabet[draw(alphabet.len())]);
                match draw(4) {
                    0 => input[at] = byte,
                    1 => input.insert(at, byte),
                    2 if input.len() > 1 => drop(input.remove(at)),
                    _ => {
                        let part = input[at..at + draw(input.len() - at)].to_vec();
                        let to = draw(input.len());
                        drop(input.splice(to..to, part));
                    }
                }
            }
            accepted += usize::from(property(&input));
        }
        accepted
    }

    const SIGNS: &[u8] = b"\r\n \t:/.%\\?#aZ0_-,;=\0\x0b\x7f\xc3\"<>{}@[]";

    #[test]
    fn heads() {
        let seeds: [&[u8]; 5] = [
            include_bytes!("../../../tests/fuzz/seeds/head/get"),
            include_bytes!("../../../tests/fuzz/seeds/head/length"),
            include_bytes!("../../../tests/fuzz/seeds/head/chunked"),
            include_bytes!("../../../tests/fuzz/seeds/head/old"),
            include_bytes!("../../../tests/fuzz/seeds/head/upgrade"),
        ];
        // The first byte is where the head is cut.
        let seeds = seeds.map(|seed| [b"\x80", seed].concat());
        assert!(smoke(&seeds.each_ref().map(Vec::as_slice), SIGNS, head) > 1_000);
    }

    #[test]
    fn targets() {
        let seeds: [&[u8]; 3] = [
            include_bytes!("../../../tests/fuzz/seeds/target/query"),
            include_bytes!("../../../tests/fuzz/seeds/target/escapes"),
            include_bytes!("../../../tests/fuzz/seeds/target/bad"),
        ];
        assert!(smoke(&seeds, b"/.%25Ee0Cc;?#\\&=~a", target) > 1_000);
    }

    #[test]
    fn headers_of_a_caller() {
        let seeds: [&[u8]; 2] = [
            include_bytes!("../../../tests/fuzz/seeds/headers/nominated"),
            include_bytes!("../../../tests/fuzz/seeds/headers/plain"),
        ];
        assert!(smoke(&seeds, b"\n:,_-. xXaA\"", headers) > 1_000);
    }

    #[test]
    fn certificates() {
        use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose, SanType};
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://td.example/ns/a/sa/b".try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert!(smoke(&[leaf.der()], b"\0\x01\x02\x06\x30\x82\x86\xff./:%aA", svid) > 100);
    }
}
