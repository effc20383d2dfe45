//! A gateway's parts for tests that need several of them, and a catalog with one identity.

use std::sync::Arc;
use std::time::Duration;

use crate::decision::snapshot::SnapshotBuilder;
use crate::domain::clock::ManualClock;
use crate::domain::grant::{Grant, Limits, Lineage, Window};
use crate::domain::identity::{Authenticator, Identity, IdentityKind, IdentitySpec, IdentityState};
use crate::domain::name::GrantId;
use crate::domain::resource::{Resource, ResourceSpec, Sensitivity, Span};
use crate::domain::route::{Route, RouteSpec};
use crate::domain::{Clock, Timestamp};
use crate::evidence::journal::{Journal, JournalOptions, Writer};
use crate::evidence::storage::FakeStorage;
use crate::gateway::authority::{Answer, AuthorityClock, Memory};
use crate::gateway::live::Registry;
use crate::gateway::metrics::Metrics;
use crate::gateway::published::Published;
use crate::issuers::{Issuers, KeySource, RevokedTokens, TokenVerifier, TrustedIssuer};
use crate::token::keys::{KeyAlgorithm, KeySet, SigningKey};
use crate::token::mint::{GatewayIssuer, PlainToken, plain_token};
use crate::token::verify::{IssuerProfile, TokenTypes};

pub(super) const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
pub(super) const GATE: &str = "https://gate.example";
pub(super) const ISSUER: &str = "https://issuer.example";
pub(super) const SPIFFE: &str = "spiffe://example.org/ns/prod/sa/billing";

pub(super) struct Fixture {
    pub(super) manual: Arc<ManualClock>,
    pub(super) authority: Arc<AuthorityClock>,
    pub(super) published: Arc<Published>,
    pub(super) registry: Arc<Registry>,
    pub(super) verifier: Arc<TokenVerifier>,
    pub(super) storage: FakeStorage,
    pub(super) journal: Journal,
    pub(super) metrics: Arc<Metrics>,
    pub(super) access_key: Arc<SigningKey>,
    pub(super) upstream_key: Arc<SigningKey>,
    issuer_key: SigningKey,
    _dir: tempfile::TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.journal.close();
    }
}

pub(super) fn grant(id: u128) -> Grant {
    Grant {
        id: GrantId::from_bits(id),
        identity: "billing".parse().unwrap(),
        resource: "api/orders".parse().unwrap(),
        actions: vec!["read".parse().unwrap(), "write".parse().unwrap()],
        window: Window { starts: Timestamp::default(), ends: NOW.saturating_add(Duration::from_secs(3600)) },
        limits: Limits::default(),
        lineage: Lineage {
            created: NOW,
            created_by: "alice".parse().unwrap(),
            reason: "test".into(),
            ticket: None,
            until: Vec::new(),
            origin: None,
            exception: None,
            break_glass: None,
        },
        revoked: None,
    }
}

impl Fixture {
    /// Authority just renewed, `billing` known by token and certificate, and these grants.
    pub(super) async fn new(grants: &[Grant]) -> Self {
        let manual = Arc::new(ManualClock::at(NOW));
        let clock: Arc<dyn Clock> = manual.clone();
        let dir = tempfile::tempdir().unwrap();
        let issuer_key = SigningKey::generate(KeyAlgorithm::Es256).unwrap();
        let jwks = dir.path().join("jwks.json");
        crate::files::write(&jwks, issuer_key.jwks().as_bytes(), crate::files::PUBLIC).unwrap();
        let profile = IssuerProfile::trusted(ISSUER, &[GATE], TokenTypes::default(), Duration::ZERO, None).unwrap();
        let trusted = TrustedIssuer::new(profile, KeySource::File(jwks), None, None).unwrap();
        let access_key = Arc::new(SigningKey::generate(KeyAlgorithm::Es256).unwrap());
        let upstream_key = Arc::new(SigningKey::generate(KeyAlgorithm::Es256).unwrap());
        let own = KeySet::parse(access_key.jwks().as_bytes()).unwrap();
        let issuers = Issuers::new(&GatewayIssuer::new(GATE), GATE, own, vec![trusted], clock.clone()).unwrap();
        issuers.refresh_all().await;
        let verifier = Arc::new(TokenVerifier::new(issuers, Arc::new(RevokedTokens::default()), 1 << 20));
        let storage = FakeStorage::new();
        let writer = Writer { program: "test".into(), boot_id: "boot".into() };
        let origin = "test.example/evidence".parse().unwrap();
        let options = JournalOptions::default();
        let (journal, _) = Journal::open(Arc::new(storage.clone()), origin, &writer, options, clock.clone()).unwrap();
        let authority = AuthorityClock::new(clock, Memory::volatile());
        let published = Published::new();
        published.publish(catalog(grants).build(1, 7).unwrap());
        let fixture = Self {
            manual,
            authority,
            published,
            registry: Registry::new(1),
            verifier,
            storage,
            journal,
            metrics: Metrics::new(1),
            access_key,
            upstream_key,
            issuer_key,
            _dir: dir,
        };
        fixture.renew();
        fixture
    }

    /// The control plane answers a renewal now.
    pub(super) fn renew(&self) {
        self.authority.tick();
        self.authority.sent([7; 16]);
        self.authority.answered(&[7; 16], &Answer { epoch: 1, revision: 7, time: self.manual.now() }).unwrap();
    }

    /// A token of the trusted issuer.
    pub(super) fn token(&self, subject: &str, life: Duration) -> String {
        let expires = self.manual.now().saturating_add(life);
        let token = PlainToken { issuer: ISSUER, subject, audience: GATE, expires, random: [9; 16] };
        plain_token(&self.issuer_key, &token, self.manual.now()).unwrap().token
    }

    /// Everything that is in the evidence, as text.
    pub(super) fn evidence(&self) -> String {
        self.journal.flush().unwrap();
        self.storage.files().iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

fn catalog(grants: &[Grant]) -> SnapshotBuilder {
    let mut builder = SnapshotBuilder::new();
    builder.put_identity(&Identity {
        name: "billing".parse().unwrap(),
        spec: IdentitySpec {
            kind: IdentityKind::Service,
            owner: "payments".parse().unwrap(),
            purpose: "charges".into(),
            environment: "production".into(),
            capabilities: Vec::new(),
            authenticate: vec![
                Authenticator::Token { issuer: ISSUER.into(), subject: "billing".into() },
                Authenticator::Spiffe { spiffe: SPIFFE.parse().unwrap() },
            ],
        },
        state: IdentityState::Active,
    });
    builder.put_resource(&Resource {
        name: "api/orders".parse().unwrap(),
        spec: ResourceSpec {
            owner: "orders".parse().unwrap(),
            sensitivity: Sensitivity::High,
            authority: Span::new(Duration::from_secs(10)),
        },
    });
    let spec: RouteSpec = serde_json::from_value(serde_json::json!({
        "upstream": "http://127.0.0.1:9000", "resource": "api/orders",
        "actions": [
            {"name": "read", "methods": ["GET"], "path": "/v1/orders/**"},
            {"name": "write", "methods": ["POST"], "path": "/v1/orders/{order}"},
        ],
    }))
    .unwrap();
    builder.put_route(Route { name: "orders".parse().unwrap(), spec });
    grants.iter().for_each(|grant| builder.put_grant(grant));
    builder
}
