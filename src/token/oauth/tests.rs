//! Requests as clients send them, and as attackers do.
//!
//! What the standards allow to ignore and what they forbid to accept are told apart case by case.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::domain::Timestamp;
use crate::token::TokenError;
use crate::token::mint::Minted;

fn exchange(more: &str) -> Result<TokenRequest, RequestError> {
    let form = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=a.b.c\
        &subject_token_type=urn:ietf:params:oauth:token-type:jwt";
    TokenRequest::parse(format!("{form}{more}").as_bytes())
}

fn certificate(more: &str) -> Result<TokenRequest, RequestError> {
    TokenRequest::parse(format!("grant_type=client_credentials{more}").as_bytes())
}

fn invalid<T: fmt::Debug>(result: Result<T, RequestError>) {
    assert_eq!(result.unwrap_err().reason(), Reason::TokenRequestInvalid);
}

#[test]
fn an_exchange_says_who_and_what() {
    let request = exchange(
        "&resource=api/orders&scope=read+write%20read&requested_token_type=urn:ietf:params:oauth:token-type:jwt",
    )
    .unwrap();
    let Proof::SubjectToken(token) = &request.proof else { panic!("{request:?}") };
    assert_eq!(token.as_str(), "a.b.c");
    assert_eq!(
        (request.resource.as_str(), request.kind, request.client.as_deref()),
        ("api/orders", TokenKind::Jwt, None)
    );
    assert_eq!(request.actions, ["read".parse().unwrap(), "write".parse().unwrap()]);
    assert!(!format!("{request:?}").contains("a.b.c"), "tokens are never shown");

    for target in [
        "&audience=api/orders",
        "&resource=urn:portcullis:resource:api%2Forders",
        "&resource=&audience=api/orders",
        "&audience=api/orders&scope=",
    ] {
        let request = exchange(target).unwrap();
        assert_eq!((request.resource.as_str(), request.kind), ("api/orders", TokenKind::AccessToken), "{target}");
        assert!(request.actions.is_empty());
    }
}

#[test]
fn a_certificate_can_ask_too() {
    let request = certificate("&resource=api/orders&scope=read&client_id=billing").unwrap();
    assert_eq!((request.proof, request.client.as_deref()), (Proof::Certificate, Some("billing")));
    invalid(certificate("&resource=api/orders&subject_token=a.b.c"));
}

#[test]
fn what_is_not_served_is_refused_and_not_ignored() {
    for more in [
        "&actor_token=x&actor_token_type=urn:ietf:params:oauth:token-type:jwt",
        "&actor_token_type=x",
        "&client_secret=x",
        "&client_assertion=x",
        "&authorization_details=%5B%5D",
        "&requested_token_type=urn:ietf:params:oauth:token-type:refresh_token",
    ] {
        invalid(exchange(&format!("&resource=api/orders{more}")));
    }
    assert_eq!(exchange("&resource=a&actor_token=x").unwrap_err().to_string(), "actor_token is not served");
    for kind in ["refresh_token", "id_token", "saml2", "txn_token"] {
        let form = format!(
            "grant_type={TOKEN_EXCHANGE}&resource=a&subject_token=t&subject_token_type=urn:ietf:params:oauth:token-type:{kind}"
        );
        invalid(TokenRequest::parse(form.as_bytes()));
    }
    for kind in ["password", "authorization_code", "Client_Credentials", "urn:ietf:params:oauth:grant-type:jwt-bearer"]
    {
        let refused = TokenRequest::parse(format!("grant_type={kind}&resource=a").as_bytes()).unwrap_err();
        assert_eq!(refused.reason(), Reason::TokenGrantTypeUnsupported, "{kind}");
    }
    // Unknown parameters are ignored (RFC 6749 section 3.2).
    assert!(exchange("&resource=a&x=1&x=2").is_ok());
}

#[test]
fn one_target_and_only_names() {
    for more in ["&resource=a&resource=b", "&resource=a&audience=a", "&resource=a&resource=a"] {
        assert_eq!(exchange(more).unwrap_err().reason(), Reason::TokenTargetInvalid, "{more}");
    }
    for target in ["https://api.example/orders", "../x", "a%20b", "a%2F%2Fb", "urn:portcullis:resource:", "%C3%A4", "*"]
    {
        assert_eq!(
            exchange(&format!("&resource={target}")).unwrap_err().reason(),
            Reason::TokenTargetInvalid,
            "{target}"
        );
    }
    invalid(exchange(""));
    invalid(exchange("&resource="));
    for scope in ["read%2C*", "*", "re%22ad", "read%09write", &(0..65).map(|n| format!("a{n}+")).collect::<String>()] {
        assert!(exchange(&format!("&resource=a&scope={scope}")).is_err(), "{scope}");
    }
}

#[test]
fn forms_have_one_reading() {
    for twice in [
        "grant_type=client_credentials",
        "subject_token=x",
        "subject_token_type=x",
        "client_id=a&client_id=b",
        "scope=a&scope=a",
        "scope=a&scope=",
    ] {
        invalid(exchange(&format!("&resource=a&{twice}")));
    }
    // The same name in another spelling is the same name.
    invalid(exchange("&resource=a&subject%5Ftoken=evil"));
    for bad in [
        "&resource=a%",
        "&resource=a%2",
        "&resource=a%zz",
        "&resource=a%ff",
        "&resource=a%00",
        "&resource=a%0d%0a",
        "&resource",
        "&resource=a\n",
        "&resource=a%C2%85",
    ] {
        assert!(exchange(bad).is_err(), "{bad:?}");
    }
    invalid(TokenRequest::parse(b""));
    invalid(TokenRequest::parse(br#"{"grant_type":"client_credentials"}"#));
    invalid(TokenRequest::parse(b"grant_type=client_credentials&resource=\xff"));
    invalid(TokenRequest::parse(&vec![b'a'; MAX_FORM_BYTES + 1]));
    invalid(TokenRequest::parse("a=b&".repeat(33).as_bytes()));
}

#[test]
fn revocations_name_a_token() {
    let request = RevocationRequest::parse(b"token=a.b.c&token_type_hint=access_token").unwrap();
    assert_eq!((request.token.as_str(), request.client), ("a.b.c", None));
    invalid(RevocationRequest::parse(b"token_type_hint=access_token"));
    invalid(RevocationRequest::parse(b"token=a&token=b"));
    invalid(RevocationRequest::parse(b"token="));
}

#[test]
fn every_reason_has_an_oauth_error_and_no_description_breaks_its_grammar() {
    for reason in Reason::ALL {
        let error = OAuthError::of(*reason);
        assert!((400..=503).contains(&error.status) && !error.error.is_empty());
        // RFC 6749 section 5.2: printable ASCII without quote and backslash.
        assert!(error.description.bytes().all(|b| matches!(b, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~')), "{reason}");
        let document: Value = serde_json::from_slice(&error.to_json()).unwrap();
        assert_eq!((document["error"].as_str(), document["reason"].as_str()), (Some(error.error), Some(reason.code())));
    }
    let said = |reason| (OAuthError::of(reason).status, OAuthError::of(reason).error);
    assert_eq!(said(subject_token_reason(TokenError::Expired)), (400, "invalid_request"), "RFC 8693 section 2.2.2");
    assert_eq!(said(subject_token_reason(TokenError::IssuerUnavailable)), (503, "temporarily_unavailable"));
    assert_eq!(said(Reason::GrantMissing), (400, "invalid_target"));
    assert_eq!(said(Reason::ActionNotGranted), (400, "invalid_scope"));
    assert_eq!(said(Reason::CredentialMissing), (401, "invalid_client"));
    assert_eq!(said(RequestError::GrantType.reason()), (400, "unsupported_grant_type"));
}

#[test]
fn an_answer_says_how_long_and_for_what() {
    let minted = Minted { token: "a.b.c".into(), expires: Timestamp::from_unix_seconds(300), token_id: Arc::from("j") };
    let actions = ["read".parse().unwrap(), "write".parse().unwrap()];
    let answer = TokenAnswer::new(&minted, TokenKind::Jwt, &actions, Timestamp::from_unix_micros(900_000));
    let document: Value = serde_json::from_slice(&answer.to_json()).unwrap();
    assert_eq!(
        document,
        serde_json::json!({
            "access_token": "a.b.c", "issued_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_type": "Bearer",
            "expires_in": 300, "scope": "read write",
        })
    );
}

proptest! {
    #[test]
    fn any_body_is_read_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..200), form in "[a-z_]{0,20}=[%+&=a-f0-9]{0,60}") {
        let _ = TokenRequest::parse(&body);
        let _ = TokenRequest::parse(format!("grant_type=client_credentials&{form}").as_bytes());
        let _ = RevocationRequest::parse(form.as_bytes());
    }
}
