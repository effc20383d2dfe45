//! What is minted verifies where it should and nowhere else, and never outlives what it stands for.
//!
//! Verification is the real one, so these tests hold both halves against each other.

use super::*;
use crate::token::TokenError;
use crate::token::claims::GateClaims;
use crate::token::keys::{KeyAlgorithm, KeySet};
use crate::token::verify::{IssuerProfile, TokenTypes, verify};

const NOW: Timestamp = Timestamp::from_unix_micros(1_800_000_000_400_000);

struct Fixture {
    key: SigningKey,
    keys: KeySet,
    issuer: GatewayIssuer,
    identity: IdentityName,
    resource: ResourceName,
    actions: Vec<ActionName>,
}

impl Fixture {
    fn new(algorithm: KeyAlgorithm) -> Self {
        let key = SigningKey::generate(algorithm).unwrap();
        Self {
            keys: KeySet::of([key.public().clone()]).unwrap(),
            key,
            issuer: GatewayIssuer::new("https://gate.example/"),
            identity: "billing".parse().unwrap(),
            resource: "api/orders".parse().unwrap(),
            actions: vec!["read".parse().unwrap(), "write".parse().unwrap()],
        }
    }

    fn access(&self) -> AccessToken<'_> {
        AccessToken {
            issuer: &self.issuer,
            audience: "gate",
            identity: &self.identity,
            grant: GrantId::from_bits(7),
            resource: &self.resource,
            actions: &self.actions,
            thumbprint: Some(CertificateThumbprint::from_bytes([9; 32])),
            root: &crate::domain::root::Root::Unknown,
            not_after: Timestamp::MAX,
            random: [1; 16],
        }
    }

    fn upstream(&self) -> UpstreamToken<'_> {
        UpstreamToken {
            issuer: &self.issuer,
            audience: "api/orders",
            identity: &self.identity,
            grant: GrantId::from_bits(7),
            resource: &self.resource,
            actions: &self.actions,
            life: Duration::from_secs(60),
            not_after: Timestamp::MAX,
            random: [2; 16],
        }
    }

    fn gate(&self) -> IssuerProfile {
        IssuerProfile::gate(self.issuer.access().clone(), "gate".into())
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn access_token_verifies_as_the_gates_own_and_says_what_it_was_given() {
    for algorithm in [KeyAlgorithm::Es256, KeyAlgorithm::Ed25519] {
        let gate = Fixture::new(algorithm);
        let minted = access_token(&gate.key, &gate.access(), NOW).unwrap();
        assert_eq!(minted.expires, Timestamp::from_unix_seconds(1_800_000_300));
        let verified = verify(&minted.token, &gate.gate(), &gate.keys, NOW).unwrap();
        assert_eq!(&*verified.subject, "billing");
        assert_eq!(verified.client.as_deref(), Some("billing"));
        assert_eq!(verified.token_id, Some(minted.token_id));
        assert_eq!(verified.scopes().collect::<Vec<_>>(), ["read", "write"]);
        assert_eq!(verified.thumbprint, Some(CertificateThumbprint::from_bytes([9; 32])));
        assert_eq!(
            verified.gate,
            Some(GateClaims {
                grant: GrantId::from_bits(7),
                resource: gate.resource.clone(),
                root: crate::domain::root::Root::Unknown,
            })
        );
        assert_eq!(verified.check_time(minted.expires), Err(TokenError::Expired));
        assert!(!format!("{:?}", access_token(&gate.key, &gate.access(), NOW).unwrap()).contains(&minted.token[..40]));
    }
}

#[test]
fn no_token_outlives_what_it_stands_for() {
    let gate = Fixture::new(KeyAlgorithm::Ed25519);
    let ends = NOW.saturating_add(Duration::from_millis(10_500));
    let access = access_token(&gate.key, &AccessToken { not_after: ends, ..gate.access() }, NOW).unwrap();
    let upstream = upstream_token(&gate.key, &UpstreamToken { not_after: ends, ..gate.upstream() }, NOW).unwrap();
    assert!(
        access.expires <= ends
            && upstream.expires <= ends
            && upstream.expires == Timestamp::from_unix_seconds(1_800_000_010)
    );
    for gone in [NOW, NOW.saturating_add(Duration::from_millis(500)), Timestamp::from_unix_seconds(0)] {
        let ended = access_token(&gate.key, &AccessToken { not_after: gone, ..gate.access() }, NOW);
        assert_eq!(ended.unwrap_err(), MintError::Ended);
        let ended = upstream_token(&gate.key, &UpstreamToken { not_after: gone, ..gate.upstream() }, NOW);
        assert_eq!(ended.unwrap_err(), MintError::Ended);
    }
    let long = upstream_token(&gate.key, &UpstreamToken { life: seconds(86_400), ..gate.upstream() }, NOW).unwrap();
    assert_eq!(long.expires, Timestamp::from_unix_seconds(1_800_000_300));
    let none = upstream_token(&gate.key, &UpstreamToken { life: seconds(0), ..gate.upstream() }, NOW);
    assert_eq!(none.unwrap_err(), MintError::Ended);
}

#[test]
fn upstream_token_is_never_a_callers_credential() {
    let gate = Fixture::new(KeyAlgorithm::Es256);
    let token = upstream_token(&gate.key, &gate.upstream(), NOW).unwrap().token;
    assert_eq!(verify(&token, &gate.gate(), &gate.keys, NOW).unwrap_err(), TokenError::Upstream);
    // Not even where somebody configures the upstream issuer, its audience and its key as trusted.
    let trusting = |audience| {
        let issuer = gate.issuer.upstream();
        IssuerProfile::trusted(issuer, &[audience], TokenTypes::default(), Duration::ZERO, None).unwrap()
    };
    assert_eq!(verify(&token, &trusting("api/orders"), &gate.keys, NOW).unwrap_err(), TokenError::Upstream);
}

#[test]
fn access_token_is_no_upstream_token() {
    // A resource server that checks what RFC 9068 section 4 says refuses it three times over: issuer, audience, key.
    let gate = Fixture::new(KeyAlgorithm::Es256);
    let access = access_token(&gate.key, &gate.access(), NOW).unwrap().token;
    let with_issuer = |issuer: &str| {
        IssuerProfile::trusted(issuer, &["api/orders"], TokenTypes::AccessToken, Duration::ZERO, None).unwrap()
    };
    assert_eq!(
        verify(&access, &with_issuer(gate.issuer.upstream()), &gate.keys, NOW).unwrap_err(),
        TokenError::IssuerUnknown
    );
    assert_eq!(verify(&access, &with_issuer(gate.issuer.access()), &gate.keys, NOW).unwrap_err(), TokenError::Audience);
}

#[test]
fn plain_token_is_a_foreign_issuers() {
    let key = SigningKey::generate(KeyAlgorithm::Es256).unwrap();
    let keys = KeySet::of([key.public().clone()]).unwrap();
    let plain = PlainToken {
        issuer: "https://token.example",
        subject: "billing",
        audience: "gate",
        expires: NOW.saturating_add(seconds(9)),
        random: [0; 16],
    };
    let token = plain_token(&key, &plain, NOW).unwrap().token;
    let profile =
        IssuerProfile::trusted("https://token.example", &["gate"], TokenTypes::Jwt, Duration::ZERO, None).unwrap();
    let verified = verify(&token, &profile, &keys, NOW).unwrap();
    assert_eq!((&*verified.subject, &verified.gate), ("billing", &None));
    assert_eq!(plain_token(&key, &PlainToken { expires: NOW, ..plain }, NOW).unwrap_err(), MintError::Ended);
}
