//! What the claims must say, of which type, and for how long.

use super::*;

#[test]
fn claims_are_required_and_typed() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    for name in ["iss", "sub", "aud", "exp"] {
        refused(issuer.with_claim(name, Value::Null), TokenError::ClaimMissing(name));
    }
    let long = "s".repeat(1025);
    let malformed: &[(&str, &[Value])] = &[
        ("iss", &[json!(1), json!([ISSUER]), json!("")]),
        ("sub", &[json!(1), json!(""), json!("a\nb"), json!("a\u{0}"), json!("a\u{85}"), json!({"a":1}), json!(long)]),
        (
            "aud",
            &[
                json!(1),
                json!({"gate":true}),
                json!(["gate", 1]),
                json!([["gate"]]),
                json!(""),
                json!(true),
                json!(vec!["gate"; 65]),
            ],
        ),
        (
            "exp",
            &[
                json!("1800000060"),
                json!(1_800_000_060.0),
                json!(1.8e9),
                json!(-1),
                json!(u64::MAX),
                json!(i64::MAX),
                json!(253_402_300_800i64),
                json!([1]),
                json!(true),
            ],
        ),
        ("nbf", &[json!("99999999999"), json!("1"), json!(1.5), json!(false), json!(-1)]),
        ("iat", &[json!("1"), json!(1.5), json!({}), json!(u64::MAX)]),
        ("jti", &[json!(1), json!(""), json!("a\u{7f}")]),
        ("client_id", &[json!(1), json!([])]),
        ("scope", &[json!(["read"]), json!("a\tb"), json!("a\"b"), json!(1)]),
        ("cnf", &[json!("x"), json!({"x5t#S256": 1}), json!({"x5t#S256": "AA"})]),
        (
            "act",
            &[
                json!("x"),
                json!({}),
                json!({"sub": 1}),
                json!({"sub": "a", "act": {"iss": "x"}}),
                json!({"sub": "a", "act": []}),
            ],
        ),
    ];
    for (name, values) in malformed {
        for value in *values {
            refused(issuer.with_claim(name, value.clone()), TokenError::ClaimMalformed(name));
        }
    }
    // `null` is a value of the wrong type and not an absent claim.
    for name in ["nbf", "iat", "jti", "cnf", "act", "exp", "aud"] {
        let mut object = claims();
        object.as_object_mut().unwrap().insert(name.to_owned(), Value::Null);
        refused(issuer.verify(&issuer.token(&issuer.header(), &object)), TokenError::ClaimMalformed(name));
    }
}

#[test]
fn issuer_and_audience_match_exactly() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    for iss in [
        "https://token.example/",
        "HTTPS://token.example",
        "https://token.example.evil",
        "https://token.exampl",
        "https://token.example\u{200b}",
    ] {
        refused(issuer.with_claim("iss", json!(iss)), TokenError::IssuerUnknown);
    }
    for aud in [json!("Gate"), json!("gate2"), json!("gat"), json!("gate other"), json!([]), json!(["x", "gate/"])] {
        refused(issuer.with_claim("aud", aud), TokenError::Audience);
    }
    for aud in [json!("other"), json!(["x", "gate"]), json!(["gate"])] {
        assert!(issuer.with_claim("aud", aud).is_ok());
    }
}

#[test]
fn times_hold_to_the_second_and_leeway_is_only_the_profiles() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let at = 1_800_000_000i64;
    refused(issuer.with_claim("exp", json!(at - 1)), TokenError::Expired);
    refused(issuer.with_claim("exp", json!(at)), TokenError::Expired);
    refused(issuer.with_claim("exp", json!(0)), TokenError::Expired);
    assert!(issuer.with_claim("exp", json!(at + 1)).is_ok());
    refused(issuer.with_claim("nbf", json!(at + 1)), TokenError::NotYetValid);
    refused(issuer.with_claim("iat", json!(at + 1)), TokenError::NotYetValid);
    assert!(issuer.with_claim("nbf", json!(at)).is_ok() && issuer.with_claim("iat", json!(at)).is_ok());

    let lenient =
        IssuerProfile::trusted(ISSUER, &["gate"], TokenTypes::default(), Duration::from_secs(30), None).unwrap();
    let lenient = |name, value: i64| {
        verify(&issuer.token(&issuer.header(), &with(claims(), name, json!(value))), &lenient, &issuer.keys, NOW)
    };
    assert!(lenient("exp", at - 29).is_ok() && lenient("nbf", at + 30).is_ok() && lenient("iat", at + 30).is_ok());
    refused(lenient("exp", at - 30), TokenError::Expired);
    refused(lenient("nbf", at + 31), TokenError::NotYetValid);
    refused(lenient("iat", at + 31), TokenError::NotYetValid);

    let held = issuer.with_claim("exp", json!(at + 5)).unwrap();
    assert_eq!(held.check_time(Timestamp::from_unix_seconds(at + 5)), Err(TokenError::Expired));
    assert_eq!(held.check_time(Timestamp::from_unix_micros((at + 5) * 1_000_000 - 1)), Ok(()));
}

#[test]
fn a_profile_bounds_a_tokens_life() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let bounded = |life| {
        IssuerProfile::trusted(
            ISSUER,
            &["gate"],
            TokenTypes::default(),
            Duration::ZERO,
            Some(Duration::from_secs(life)),
        )
        .unwrap()
    };
    assert!(verify(&issuer.good(), &bounded(70), &issuer.keys, NOW).is_ok());
    refused(verify(&issuer.good(), &bounded(69), &issuer.keys, NOW), TokenError::Lifetime);
    // Without `iat` it lives from `nbf`, or from now: 60 s are left.
    let undated = with(claims(), "iat", Value::Null);
    let tried =
        |claims: &Value, life| verify(&issuer.token(&issuer.header(), claims), &bounded(life), &issuer.keys, NOW);
    assert!(tried(&undated, 60).is_ok());
    refused(tried(&undated, 59), TokenError::Lifetime);
    refused(tried(&with(undated, "nbf", json!(1_799_999_999)), 60), TokenError::Lifetime);
    let faults = IssuerProfile::trusted("", &[], TokenTypes::default(), Duration::from_secs(61), Some(Duration::ZERO))
        .unwrap_err();
    assert_eq!(faults, [ProfileError::Issuer, ProfileError::Audiences, ProfileError::Leeway, ProfileError::Lifetime]);
}

#[test]
fn bindings_that_cannot_be_checked_are_refused() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let print = "A".repeat(43);
    assert!(issuer.with_claim("cnf", json!({"x5t#S256": print})).unwrap().thumbprint.is_some());
    let others = [
        json!({}),
        json!({"jkt": print}),
        json!({"jwk": issuer.key.public_jwk()}),
        json!({"x5t#S256": print, "jkt": print}),
    ];
    for cnf in others {
        refused(issuer.with_claim("cnf", cnf), TokenError::Confirmation);
    }
}

#[test]
fn no_other_issuer_gives_itself_a_grant() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let claims = with(with(claims(), "grant", json!("00000000000000000000000007")), "resource", json!("api/orders"));
    assert_eq!(issuer.verify(&issuer.token(&issuer.header(), &claims)).unwrap().gate, None);
    refused(issuer.with_claim("token_use", json!("upstream")), TokenError::Upstream);
    assert!(issuer.with_claim("token_use", json!("access")).is_ok());
}

#[test]
fn the_gates_own_tokens_need_all_their_claims() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let gate = IssuerProfile::gate(ISSUER.into(), "gate".into());
    let header = with(issuer.header(), "typ", json!("at+jwt"));
    let whole = [
        ("grant", json!("00000000000000000000000007")),
        ("resource", json!("api/orders")),
        ("client_id", json!("billing")),
    ]
    .into_iter()
    .fold(claims(), |object, (name, value)| with(object, name, value));
    let tried = |claims: &Value| verify(&issuer.token(&header, claims), &gate, &issuer.keys, NOW);
    assert!(tried(&whole).unwrap().gate.is_some());
    for name in ["grant", "resource", "client_id", "jti", "iat"] {
        refused(tried(&with(whole.clone(), name, Value::Null)), TokenError::ClaimMissing(name));
    }
    refused(tried(&with(whole.clone(), "grant", json!("7"))), TokenError::ClaimMalformed("grant"));
    refused(tried(&with(whole.clone(), "exp", json!(1_800_000_291))), TokenError::Lifetime);
    refused(verify(&issuer.token(&issuer.header(), &whole), &gate, &issuer.keys, NOW), TokenError::Type);
}

#[test]
fn actors_are_read_outermost_first() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let act = json!({"sub": "agent", "iss": "https://a.example", "act": {"sub": "before"}});
    let actor = issuer.with_claim("act", act).unwrap().actor.clone().unwrap();
    assert_eq!((&*actor.subject, actor.issuer.as_deref()), ("agent", Some("https://a.example")));
    assert_eq!(&*actor.inner.unwrap().subject, "before");
}

#[test]
fn every_token_has_a_name_to_be_revoked_by() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    assert_eq!(&**issuer.verify(&issuer.good()).unwrap().handle(), "one");
    let nameless = with(claims(), "jti", Value::Null);
    let name = |claims: &Value| issuer.verify(&issuer.token(&issuer.header(), claims)).unwrap().handle().clone();
    // ECDSA signs with fresh randomness: two signatures, one name.
    assert_eq!(name(&nameless), name(&nameless));
    assert_ne!(name(&nameless), name(&with(nameless.clone(), "sub", json!("another"))));
}
