//! Every kind, hostile texts, and that what is written is what is read.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::domain::name::{AllotmentId, CallId, GrantId, ParameterName};
use crate::domain::{Reason, Timestamp};
use crate::evidence::keyed::HashKey;

fn key() -> HashKey {
    HashKey::generate().unwrap()
}

pub(crate) fn call(n: u128) -> CallId {
    CallId::from_bits(n)
}

fn intent<'a>(path: &'a str, principal: &'a str, values: &[(&'a str, &'a str)]) -> Intent<'a> {
    let parameters = values.iter().map(|(name, value)| (Cow::Owned(name.parse::<ParameterName>().unwrap()), *value));
    Intent {
        call: call(7 << 80),
        decision: Decision::Allow,
        basis: Basis::Grant(GrantId::from_bits(9)),
        allotment: Some(AllotmentId::from_bits(11)),
        body: Some(Hashed::Keyed { bytes: u64::MAX, hmac: "0a".repeat(32), key: "0b".repeat(8) }),
        would_refuse: Some(Reason::GrantMissing),
        identity: Cow::Owned("billing".parse().unwrap()),
        principal: principal.into(),
        credential: CredentialKind::GateToken,
        route: Cow::Owned("orders".parse().unwrap()),
        resource: Cow::Owned("api/orders".parse().unwrap()),
        action: Cow::Owned("read".parse().unwrap()),
        parameters: Parameters::new(parameters, &key()),
        method: "GET".into(),
        host: "orders.internal".into(),
        path: path.into(),
        query: QueryHashes::of("a=1&b", &key()),
        peer: "10.1.2.3:4567".parse().unwrap(),
        epoch: 1,
        revision: 42,
        authority_age_ms: 1234,
        upstream: "http://127.0.0.1:9000".into(),
        credential_out: CredentialOut::Mint,
    }
}

fn ending() -> Ending {
    Ending {
        ended: Ended::UpstreamFailed,
        status: Some(502),
        reason: Some(Reason::TokenGrantTypeUnsupported),
        request_bytes: u64::MAX,
        response_bytes: u64::MAX,
        duration_us: u64::MAX,
        upstream_started: false,
    }
}

fn every_kind() -> Vec<Event<'static>> {
    let text = |text: &'static str| Cow::Borrowed(text);
    let at = Timestamp::from_unix_micros(1_795_324_140_250_000);
    let after = serde_json::json!({ "z": [1, -2, "\u{20ac}\n"], "a": { "c": true, "b": null } });
    vec![
        Event::LogOpened(LogOpened { incarnation: 1, program: text("p 1"), boot_id: text("b"), resumed_from: 0 }),
        Event::Intent(Box::new(intent("/v1/orders/7", "spiffe://a/b", &[("order", "7"), ("a", "x\"y")]))),
        Event::Outcome(Outcome { call: call(1), intent_seq: 1, ending: ending() }),
        Event::Denial(Box::new(Denial {
            call: call(2),
            reason: Reason::GrantExpired,
            identity: Some(Cow::Owned("helper".parse().unwrap())),
            principal: None,
            credential: Some(CredentialKind::Token),
            route: None,
            resource: None,
            action: None,
            method: text("DELETE"),
            host: text("h"),
            path: text("/"),
            query: QueryHashes::of("a=1", &key()),
            peer: "[::1]:80".parse().unwrap(),
            epoch: 0,
            revision: 0,
        })),
        Event::Denials(Denials {
            from: at,
            identity: Some(Cow::Owned("helper".parse().unwrap())),
            reason: Reason::GrantMissing,
            samples: vec![DenialSample {
                call: call(2),
                peer: "1.2.3.4:5".parse().unwrap(),
                method: text("G"),
                path: text("/x"),
            }],
            counted: Some(Counted { count: 12, opened_seq: 3, to: at }),
        }),
        Event::Refusals(Refusals {
            from: at,
            to: at,
            counts: vec![RefusalCount { reason: Reason::CredentialMissing, count: 12 }],
            samples: vec![RefusalSample { peer: "1.2.3.4:5".parse().unwrap(), method: text("G"), path: text("/x") }],
        }),
        Event::TokenIssued(TokenIssued {
            call: call(3),
            jti: text("j"),
            grant: GrantId::from_bits(5),
            identity: Cow::Owned("billing".parse().unwrap()),
            audience: text("api/orders"),
            expires: at,
            kind: IssueKind::Certificate,
            parent_jti: Some(text("p")),
        }),
        Event::TokenRevoked(TokenRevoked { call: call(4), jti: text("j"), by: text("me") }),
        Event::Enforced(Enforced {
            epoch: 1,
            revision: 2,
            grants_revoked: vec![GrantId::from_bits(5), GrantId::from_bits(6)],
            cut: vec![CutCall { call: call(1), intent_seq: 1, reason: Reason::GrantRevoked }],
            took_us: 90,
        }),
        Event::Change(Box::new(Change {
            revision: 3,
            actor: text("attested/spiffe://example.org/ns/prod/sa/edge"),
            operation: text("create"),
            object_kind: text("grant"),
            object: text("g"),
            before_digest: None,
            after: Some(Cow::Owned(after)),
            reason: Some(text("because")),
        })),
        Event::Recovered(Recovered { lost_from: 1, discarded_frames: 2, note: text("n") }),
        Event::Pruned(Pruned { before: 512, from: 3, cosigned: 600, archived: Some(601), policy: text("keep 90d") }),
    ]
}

fn encode(event: &impl Encode, seq: u64, time: i64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_body(event, "gate.example/log", &mut out);
    encode_suffix(seq, time, &mut out);
    out
}

/// Canonical: written again by a writer that knows nothing but JSON, with sorted keys, it is the same bytes.
fn assert_canonical(bytes: &[u8]) {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let mut again = Vec::new();
    json::canonical_json(&value, &mut again);
    assert_eq!(String::from_utf8_lossy(bytes), String::from_utf8_lossy(&again));
}

#[test]
fn every_kind_is_canonical_and_comes_back() {
    for (seq, event) in every_kind().into_iter().enumerate() {
        let bytes = encode(&event, seq as u64, -5);
        assert_canonical(&bytes);
        let entry = Entry::parse(&bytes).unwrap();
        assert_eq!(entry.event, event);
        assert_eq!(
            (entry.seq, entry.time, entry.log.as_str()),
            (seq as u64, Timestamp::from_unix_micros(-5), "gate.example/log")
        );
        assert_eq!(Entry::place(&bytes), Some((seq as u64, Timestamp::from_unix_micros(-5))));
    }
}

#[test]
fn keys_sort_by_utf16_and_escapes_are_those_of_rfc_8785() {
    let value = serde_json::json!({ "\u{fb33}": 1, "\u{1f600}": 2, "\r": 3, "1": 4, "\u{80}": 5 });
    let mut out = Vec::new();
    json::canonical_json(&value, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "{\"\\r\":3,\"1\":4,\"\u{80}\":5,\"\u{1f600}\":2,\"\u{fb33}\":1}");
    let mut out = Vec::new();
    json::canonical_json(&serde_json::json!("\u{20ac}$\u{f}\nA'B\"\\\\\"/\u{7f}\u{8}\u{c}\t"), &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\u{7f}\\b\\f\\t\"");
}

#[test]
fn an_outcome_fits_the_room_that_its_intent_reserves() {
    let longest = Reason::ALL.iter().max_by_key(|reason| reason.code().len()).copied();
    let outcome = Outcome {
        call: call(u128::MAX),
        intent_seq: u64::MAX,
        ending: Ending { reason: longest, status: Some(65535), ..ending() },
    };
    let mut out = Vec::new();
    encode_body(&outcome, &"o".repeat(crate::evidence::checkpoint::MAX_ORIGIN_BYTES), &mut out);
    encode_suffix(u64::MAX, i64::MIN, &mut out);
    let frame = out.len()
        + crate::evidence::journal::segment::FRAME_HEADER_BYTES
        + crate::evidence::journal::segment::MARK_BYTES;
    assert!(frame as u64 <= crate::evidence::journal::OUTCOME_ROOM_BYTES, "{frame}");
}

#[test]
fn long_values_are_kept_as_their_digest_and_long_texts_cut() {
    let value = "v".repeat(MAX_VALUE_BYTES + 1);
    let path = format!("/{}", "\u{1}\u{20ac}".repeat(9000));
    let bytes = encode(&intent(&path, "p", &[("b", &value), ("a", "1"), ("a", "2")]), 0, 0);
    assert_canonical(&bytes);
    let Event::Intent(read) = Entry::parse(&bytes).unwrap().event else { panic!() };
    let parameters: Vec<_> = read.parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    assert_eq!(parameters[0], ("a", ParameterValue::Text("1".into())));
    let ("b", ParameterValue::Hashed(Hashed::Keyed { bytes: 257, hmac, .. })) = &parameters[1] else { panic!() };
    assert_eq!(hmac.len(), 64);
    assert!(read.path.starts_with("/\u{1}\u{20ac}") && read.path.contains("[36001 bytes, sha256 "));
    let encoded = serde_json::to_string(&read.path).unwrap();
    assert!(encoded.len() <= MAX_PATH_BYTES + 2, "{}", encoded.len());
}

#[test]
fn records_of_earlier_versions_are_read() {
    let mut event = intent("/", "p", &[]);
    event.query = None;
    event.body = Some(Hashed::Plain { bytes: 5, sha256: "0a".repeat(32) });
    let bytes = encode(&event, 0, 0);
    assert!(String::from_utf8_lossy(&bytes).contains(r#""body":{"bytes":5,"sha256":""#));
    assert_eq!(Entry::parse(&bytes).unwrap().event, Event::Intent(event.into()));
}

#[test]
fn unknown_versions_kinds_and_members_are_refused() {
    let good = String::from_utf8(encode(&every_kind()[7], 0, 0)).unwrap();
    for (from, to) in
        [("\"v\":1", "\"v\":2"), ("token_revoked", "token_removed"), ("\"log\"", "\"lag\""), ("{\"by\"", "{\"bye\"")]
    {
        assert!(Entry::parse(good.replace(from, to).as_bytes()).is_err(), "{to}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_texts_stay_one_record(
        path in any::<String>(), principal in ".{0,4000}", host in "[\u{0}-\u{7f}]{0,600}", value in any::<String>(),
    ) {
        let mut event = intent(&path, &principal, &[("v", &value)]);
        event.host = host.as_str().into();
        event.method = principal.as_str().into();
        let bytes = encode(&event, 1, 2);
        prop_assert!(bytes.len() <= MAX_ENTRY_BYTES);
        prop_assert!(bytes.iter().all(|byte| *byte >= 0x20));
        assert_canonical(&bytes);
        let Event::Intent(read) = Entry::parse(&bytes).unwrap().event else { panic!() };
        if serde_json::to_string(&path).unwrap().len() <= MAX_PATH_BYTES {
            prop_assert_eq!(&read.path, &path);
        }
        prop_assert_eq!(&*read.identity, &*event.identity);
    }
}

#[test]
fn the_longest_intent_fits() {
    let hostile = "\u{1}".repeat(20_000);
    let values: Vec<(String, String)> =
        (0..64).map(|n| (format!("{}{n}", "p".repeat(126)), "\u{1}".repeat(256))).collect();
    let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut event = intent(&hostile, &hostile, &values);
    event.query = QueryHashes::of(&format!("{}=v&", "n".repeat(MAX_QUERY_NAME_BYTES)).repeat(99), &key());
    (event.host, event.method, event.upstream) =
        (hostile.as_str().into(), hostile.as_str().into(), hostile.as_str().into());
    let bytes = encode(&event, u64::MAX, i64::MIN);
    assert_canonical(&bytes);
    assert!(bytes.len() <= MAX_ENTRY_BYTES, "{}", bytes.len());
}

#[test]
fn the_schema_takes_every_kind_and_nothing_besides() {
    let schema = schema();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    for (seq, event) in every_kind().iter().enumerate() {
        let bytes = encode(event, seq as u64, -1);
        assert!(bytes.len() <= MAX_ENTRY_BYTES);
        let entry: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let kind = event.kind().as_str();
        if let Err(error) = validator.validate(&entry) {
            panic!("{kind}: {error} at {}", error.instance_path());
        }
        let refused = |what: &str, change: &dyn Fn(&mut serde_json::Value)| {
            let mut other = entry.clone();
            change(&mut other);
            assert!(!validator.is_valid(&other), "{kind}: {what}");
        };
        refused("another member", &|entry| entry["data"]["secret"] = "hunter2".into());
        refused("another member beside", &|entry| entry["note"] = "n".into());
        refused("another kind", &|entry| entry["kind"] = "other".into());
        refused("another version", &|entry| entry["v"] = 2.into());
        refused("a position below 0", &|entry| entry["seq"] = (-1).into());
        refused("no data", &|entry| entry["data"] = serde_json::json!({}));
        for member in entry["data"].as_object().unwrap().keys().filter(|member| *member != "after") {
            refused(member, &|entry| entry["data"][member] = serde_json::json!([[]]));
        }
    }
}
