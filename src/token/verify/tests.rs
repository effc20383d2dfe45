//! Every way to be refused, and the few ways to be accepted.
//!
//! The tokens are made by hand and signed with the issuer's real key wherever the attack allows it, so that nothing but the
//! rule under test can be what refuses them.

use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::token::keys::SigningKey;

const NOW: Timestamp = Timestamp::from_unix_micros(1_800_000_000_000_000);
const ISSUER: &str = "https://token.example";

struct Issuer {
    key: SigningKey,
    keys: KeySet,
}

impl Issuer {
    fn new(algorithm: KeyAlgorithm) -> Self {
        let key = SigningKey::generate(algorithm).unwrap();
        Self { keys: KeySet::of([key.public().clone()]).unwrap(), key }
    }

    fn header(&self) -> Value {
        json!({"alg": self.key.public().algorithm().as_str(), "kid": self.key.kid(), "typ": "JWT"})
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        self.key.any_token(&header.to_string(), &claims.to_string())
    }

    fn good(&self) -> String {
        self.token(&self.header(), &claims())
    }

    fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        verify(token, &profile(), &self.keys, NOW)
    }

    /// What becomes of the good token with one header member set, or taken out by `null`.
    fn with_header(&self, name: &str, value: Value) -> Result<Verified, TokenError> {
        self.verify(&self.token(&with(self.header(), name, value), &claims()))
    }

    fn with_claim(&self, name: &str, value: Value) -> Result<Verified, TokenError> {
        self.verify(&self.token(&self.header(), &with(claims(), name, value)))
    }
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    let members = object.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
    object
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "billing", "aud": "gate", "exp": 1_800_000_060, "iat": 1_799_999_990, "jti": "one"})
}

fn profile() -> IssuerProfile {
    IssuerProfile::trusted(ISSUER, &["gate", "other"], TokenTypes::default(), Duration::ZERO, None).unwrap()
}

#[track_caller]
fn refused(result: Result<Verified, TokenError>, error: TokenError) {
    assert_eq!(result.map(|v| v.subject.to_string()), Err(error));
}

#[test]
fn a_good_token_says_who_it_is() {
    for algorithm in [KeyAlgorithm::Es256, KeyAlgorithm::Ed25519] {
        let issuer = Issuer::new(algorithm);
        let verified = issuer.verify(&issuer.good()).unwrap();
        assert_eq!(verified.principal().to_string(), "billing@https://token.example");
        assert_eq!(
            (verified.token_id.as_deref(), verified.expires),
            (Some("one"), Timestamp::from_unix_seconds(1_800_000_060))
        );
        assert_eq!(verified.key().kid(), Some(issuer.key.kid()));
        assert_eq!(verified.gate, None);
    }
}

#[test]
fn rs256_verifies_and_its_public_key_is_no_secret_to_sign_with() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = pair.public_key();
    let (n, e) = (
        public.modulus().big_endian_without_leading_zero().to_vec(),
        public.exponent().big_endian_without_leading_zero().to_vec(),
    );
    let jwk = json!({"kty":"RSA","kid":"r","n":URL_SAFE_NO_PAD.encode(&n),"e":URL_SAFE_NO_PAD.encode(&e)});
    let document = json!({ "keys": [jwk] }).to_string();
    let keys = KeySet::parse(document.as_bytes()).unwrap();
    let message = |alg: &str| {
        let header = json!({"alg": alg, "kid": "r"}).to_string();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims().to_string()))
    };
    let signed = |alg: &str, signature: &[u8]| format!("{}.{}", message(alg), URL_SAFE_NO_PAD.encode(signature));

    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message("RS256").as_bytes(), &mut signature).unwrap();
    assert!(verify(&signed("RS256", &signature), &profile(), &keys, NOW).is_ok());
    for other in ["PS256", "RS384", "RS512", "rs256"] {
        refused(verify(&signed(other, &signature), &profile(), &keys, NOW), TokenError::Algorithm);
    }

    let spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(public).unwrap();
    for secret in [public.as_ref(), spki.as_ref(), n.as_slice(), document.as_bytes()] {
        for alg in ["HS256", "RS256"] {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message(alg).as_bytes());
            let error = if alg == "HS256" { TokenError::Algorithm } else { TokenError::Signature };
            refused(verify(&signed(alg, tag.as_ref()), &profile(), &keys, NOW), error);
        }
    }
}

#[test]
fn the_algorithm_is_the_keys_and_never_none() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    for alg in ["none", "nOnE", "None", "", "HS256", "es256", "ES384", "ES256K", "ES256 "] {
        assert!(issuer.with_header("alg", json!(alg)).is_err(), "{alg}");
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
        let payload = URL_SAFE_NO_PAD.encode(claims().to_string());
        for signature in ["", "AA"] {
            assert!(issuer.verify(&format!("{header}.{payload}.{signature}")).is_err(), "{alg}");
        }
    }
    for alg in [Value::Null, json!(1), json!(["ES256"]), json!({"alg":"ES256"})] {
        assert!(issuer.with_header("alg", alg).is_err());
    }
    for other in ["RS256", "EdDSA"] {
        refused(issuer.with_header("alg", json!(other)), TokenError::Algorithm);
    }
    // RFC 9864's name is the same algorithm.
    assert!(Issuer::new(KeyAlgorithm::Ed25519).with_header("alg", json!("Ed25519")).is_ok());
}

#[test]
fn kid_is_only_a_name() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    for kid in ["../../dev/null", "' OR 1=1", "", "a\u{0}", &"k".repeat(257), "https://evil.example/jwks"] {
        assert!(issuer.with_header("kid", json!(kid)).is_err(), "{kid}");
    }
    assert!(
        issuer.with_header("kid", json!(7)).is_err() && issuer.with_header("kid", json!([issuer.key.kid()])).is_err()
    );
    assert!(issuer.with_header("kid", Value::Null).is_ok(), "one key of that algorithm: no name needed");

    let (second, third) = (Issuer::new(KeyAlgorithm::Es256), Issuer::new(KeyAlgorithm::Ed25519));
    let two =
        KeySet::of([issuer.key.public().clone(), second.key.public().clone(), third.key.public().clone()]).unwrap();
    let nameless = |issuer: &Issuer| issuer.token(&with(issuer.header(), "kid", Value::Null), &claims());
    refused(verify(&nameless(&issuer), &profile(), &two, NOW), TokenError::KeyUnknown);
    assert!(verify(&nameless(&third), &profile(), &two, NOW).is_ok());
    assert!(verify(&issuer.good(), &profile(), &two, NOW).is_ok());
    let named_second = issuer.token(&with(issuer.header(), "kid", json!(second.key.kid())), &claims());
    refused(verify(&named_second, &profile(), &two, NOW), TokenError::Signature);
    let named_third = issuer.token(&with(issuer.header(), "kid", json!(third.key.kid())), &claims());
    refused(verify(&named_third, &profile(), &two, NOW), TokenError::Algorithm);
}

#[test]
fn a_token_cannot_bring_its_key_or_change_what_is_signed() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let stranger = Issuer::new(KeyAlgorithm::Es256);
    let members = [
        ("jwk", stranger.key.public_jwk()),
        ("jku", json!("http://evil.example/jwks")),
        ("x5u", json!("http://evil.example/cert")),
        ("x5c", json!(["AA"])),
        ("crit", json!(["b64"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
    ];
    for (name, value) in members {
        refused(issuer.with_header(name, value.clone()), TokenError::Header(name));
        assert!(issuer.verify(&stranger.token(&with(stranger.header(), name, value), &claims())).is_err());
    }
    refused(issuer.verify(&stranger.good()), TokenError::KeyUnknown);
    let posing = stranger.token(&issuer.header(), &claims());
    refused(issuer.verify(&posing), TokenError::Signature);
}

#[test]
fn other_kinds_of_token_are_not_credentials() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let other = [
        "dpop+jwt",
        "logout+jwt",
        "wit+jwt",
        "wpt+jwt",
        "txntoken+jwt",
        "secevent+jwt",
        "JOSE",
        "application/jwt",
        " JWT",
        "at+jwt ",
    ];
    for typ in other {
        refused(issuer.with_header("typ", json!(typ)), TokenError::Type);
    }
    refused(issuer.with_header("typ", json!(1)), TokenError::Header("typ"));
    for typ in [Value::Null, json!("jwt"), json!("at+jwt"), json!("at+JWT"), json!("application/at+jwt")] {
        assert!(issuer.with_header("typ", typ).is_ok());
    }
    let under = |types, typ: Value| {
        let profile = IssuerProfile::trusted(ISSUER, &["gate"], types, Duration::ZERO, None).unwrap();
        verify(&issuer.token(&with(issuer.header(), "typ", typ), &claims()), &profile, &issuer.keys, NOW)
    };
    assert!(under(TokenTypes::AccessToken, json!("at+jwt")).is_ok() && under(TokenTypes::Jwt, Value::Null).is_ok());
    refused(under(TokenTypes::AccessToken, json!("JWT")), TokenError::Type);
    refused(under(TokenTypes::AccessToken, Value::Null), TokenError::Type);
    refused(under(TokenTypes::Jwt, json!("at+jwt")), TokenError::Type);
    refused(
        issuer.with_claim("events", json!({"http://schemas.openid.net/event/backchannel-logout": {}})),
        TokenError::Type,
    );
}

#[test]
fn tokens_have_one_spelling() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let good = issuer.good();
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let last = |text: &str, c: char| format!("{}{c}", &text[..text.len() - 1]);
    // 64 bytes leave four unused bits in the last character.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(&signature[signature.len() - 1..]).unwrap();
    let trailing = last(signature, char::from(alphabet.as_bytes()[place | 1]));
    let padded = |text: &str| URL_SAFE.encode(URL_SAFE_NO_PAD.decode(text).unwrap());
    let json_form = json!({"payload": payload, "protected": header, "signature": signature}).to_string();
    let general =
        json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}).to_string();
    let mut spellings = vec![
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        header.into(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{header}.{payload}.{trailing}"),
        format!("{header}.{payload}.{}", padded(signature)),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}=="),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        good.replace('.', " ."),
        format!("{}.{payload}.{signature}", padded(header)),
        format!("{header}.{payload}.é"),
        format!("{header}.{payload}.{}\0", signature),
        json_form,
        general,
        good.clone() + &"A".repeat(MAX_TOKEN_BYTES),
    ];
    let standard = STANDARD_NO_PAD.encode(URL_SAFE_NO_PAD.decode(signature).unwrap());
    if standard != signature {
        spellings.push(format!("{header}.{payload}.{standard}"));
    }
    for spelling in spellings {
        let error = issuer.verify(&spelling).unwrap_err();
        assert_eq!(error.reason().code(), "credential_malformed", "{spelling:?}");
    }
    for short in [&signature[..84], &signature[..43], "AAAA", &format!("{signature}A")] {
        assert!(issuer.verify(&format!("{header}.{payload}.{short}")).is_err());
    }
    // DER in place of the fixed form, and the all-zero signature (CVE-2022-21449).
    for bytes in [vec![0u8; 64], [&[0x30, 0x44, 2, 32], &[1; 32][..], &[2, 32], &[1; 32]].concat()] {
        refused(issuer.verify(&format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(bytes))), TokenError::Signature);
    }
}

#[test]
fn header_and_claims_have_one_reading() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let (header, claims) = (issuer.header().to_string(), claims().to_string());
    let more = |object: &str, members: &str| format!("{},{members}}}", &object[..object.len() - 1]);
    let headers = [
        more(&header, r#""alg":"ES256""#),
        more(&header, r#""\u0061lg":"ES256""#),
        more(&header, r#""x":{"a":1,"a":2}"#),
        "[]".into(),
        "\"x\"".into(),
        format!("{header}{header}"),
        format!("\u{feff}{header}"),
        "{}x".into(),
        more(&header, r#""x":"\ud800""#),
        format!("{}1{}", "[".repeat(99), "]".repeat(99)),
    ];
    for bad in headers {
        let error = issuer.verify(&issuer.key.any_token(&bad, &claims)).unwrap_err();
        assert!(matches!(error, TokenError::Malformed(_)), "{bad}: {error}");
    }
    let bodies = [
        more(&claims, r#""sub":"admin""#),
        more(&claims, r#""s\u0075b":"admin""#),
        more(&claims, r#""x":[{"a":1,"a":2}]"#),
        more(&claims, r#""x":1e400"#),
        format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40)),
        "null".into(),
        String::from("{"),
        format!("{claims}\0"),
    ];
    for bad in bodies {
        let error = issuer.verify(&issuer.key.any_token(&header, &bad)).unwrap_err();
        assert!(matches!(error, TokenError::Malformed(_)), "{bad}: {error}");
    }
}

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

#[test]
fn errors_never_show_the_token() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let canary = "canary-5f1c";
    for (name, value) in [("sub", json!(format!("{canary}\n"))), ("aud", json!(canary)), ("iss", json!(canary))] {
        let error = issuer.with_claim(name, value).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(canary));
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,300}", dots in "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,90}") {
        let issuer = Issuer::new(KeyAlgorithm::Ed25519);
        prop_assert!(issuer.verify(&text).is_err());
        prop_assert!(issuer.verify(&dots).is_err());
    }

    #[test]
    fn no_single_changed_byte_verifies(place in any::<prop::sample::Index>(), byte in 33u8..127) {
        let issuer = Issuer::new(KeyAlgorithm::Ed25519);
        let mut bytes = issuer.good().into_bytes();
        let place = place.index(bytes.len());
        prop_assume!(bytes[place] != byte);
        bytes[place] = byte;
        prop_assert!(issuer.verify(std::str::from_utf8(&bytes).unwrap()).is_err());
    }
}
