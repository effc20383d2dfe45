//! Every way to be refused, and the few ways to be accepted.
//!
//! The tokens are made by hand and signed with the issuer's real key wherever the attack allows it, so that nothing but the
//! rule under test can be what refuses them.

mod claim_rules;
mod spelling;

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
fn errors_never_show_the_token() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let canary = "canary-5f1c";
    for (name, value) in [("sub", json!(format!("{canary}\n"))), ("aud", json!(canary)), ("iss", json!(canary))] {
        let error = issuer.with_claim(name, value).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(canary));
    }
}
