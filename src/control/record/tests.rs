//! Records from key and value and back.

use super::super::sample::NOW;
use super::*;

#[test]
fn a_token_of_any_name_has_a_key_of_its_own() {
    let digest: String = Digest::of("a/b").into();
    let names = ["a", "a/b", "/a", "a/", &digest];
    let keys: std::collections::BTreeSet<String> = names.iter().map(|jti| token_key("https://i", jti)).collect();
    assert_eq!(keys.len(), names.len());
    for jti in names {
        let token = RevokedToken { issuer: "https://i".into(), jti: jti.to_owned(), expires: NOW, by: None };
        let record = Record::Token(token);
        let value = serde_json::to_vec(&record.json().unwrap()).unwrap();
        assert_eq!(Record::decode(&record.key(), &value).unwrap(), record);
    }
}

#[test]
fn a_ledger_comes_back_with_its_open_allotments() {
    let open = ledger::OpenAllotment {
        id: crate::domain::name::AllotmentId::from_bits(3),
        gateway: "edge".parse().unwrap(),
        process: "00".into(),
        stream: 1,
        uses: 4,
        span: 5,
        until: NOW,
    };
    let grant = crate::domain::name::GrantId::from_bits(7);
    for ledger in [Ledger::new(grant), Ledger { given: 9, span: 5, given_in_span: 4, open: vec![open], grant }] {
        let record = Record::Ledger(ledger);
        let value = serde_json::to_vec(&record.json().unwrap()).unwrap();
        assert_eq!(Record::decode(&record.key(), &value).unwrap(), record);
    }
}

#[test]
fn records_come_back_from_key_and_value() {
    let record = Record::Person(Person {
        name: "alice".parse().unwrap(),
        roles: vec![PersonRole::Developer],
        speaks_for: vec!["orders".parse().unwrap()],
        token: Digest::of("secret"),
        signed_in: None,
    });
    let value = serde_json::to_vec(&record.json().unwrap()).unwrap();
    assert!(!String::from_utf8_lossy(&value).contains("secret"));
    assert_eq!(Record::decode("/v1/person/alice", &value).unwrap(), record);
    assert!(matches!(Record::decode("/v1/person/bob", &value), Err(RecordError::Misplaced(_))));
    assert!(matches!(Record::decode("/v1/what/alice", &value), Err(RecordError::UnknownKind(_))));
    assert!(matches!(Record::decode("/v1/gateway/alice", b"{"), Err(RecordError::Unreadable { .. })));
}
