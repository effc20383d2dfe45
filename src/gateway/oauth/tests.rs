//! What is given, to whom, for how long, and what is written down first.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::decision::snapshot::IdentityIndex;
use crate::domain::Timestamp;
use crate::domain::grant::{Binding, Grant};
use crate::domain::name::GrantId;
use crate::domain::principal::CertificateThumbprint;
use crate::evidence::storage::Fault;
use crate::gateway::fixture::{Fixture, GATE, NOW, SPIFFE, grant};
use crate::gateway::live::{Cut, Running, TokenKey};
use crate::token::oauth::TOKEN_EXCHANGE;

const MINUTE: Duration = Duration::from_secs(60);

struct Gate {
    fixture: Fixture,
    oauth: Arc<Oauth>,
}

async fn gate(grants: &[Grant]) -> Gate {
    let fixture = Fixture::new(grants).await;
    let nowhere = "/nonexistent/portcullis".into();
    let oauth = Oauth::new(OauthParts {
        authority: fixture.authority.clone(),
        published: fixture.published.clone(),
        registry: fixture.registry.clone(),
        verifier: fixture.verifier.clone(),
        journal: fixture.journal.clone(),
        denials: Arc::new(crate::gateway::denials::DenialBudget::new(1000, 20)),
        metrics: fixture.metrics.worker(0),
        issuer: GatewayIssuer::new(GATE),
        audience: GATE.to_owned(),
        access_key: fixture.access_key.clone(),
        upstream_key: fixture.upstream_key.clone(),
        control: ControlEndpoint {
            address: "https://localhost:1".parse().unwrap(),
            ca_file: std::path::PathBuf::clone(&nowhere),
            keys_file: nowhere.clone(),
            certificate_file: nowhere.clone(),
            key_file: nowhere,
        },
        hold: Duration::from_millis(20),
        runtime: Runtime::current(),
    });
    Gate { fixture, oauth }
}

fn certificate() -> ClientCertificate {
    ClientCertificate {
        spiffe: SPIFFE.parse().unwrap(),
        thumbprint: CertificateThumbprint::from_bytes([3; 32]),
        root: std::sync::Arc::new(crate::domain::root::Root::PublicKey([4; 32])),
        valid_until: NOW.saturating_add(2 * MINUTE),
    }
}

fn post(path: &str, body: &str) -> Endpoint {
    Endpoint {
        call: CallId::from_bits(77),
        method: "POST".into(),
        path: path.into(),
        content_type: Some("application/x-www-form-urlencoded; charset=utf-8".into()),
        authorization: None,
        body: body.to_owned().into(),
        peer: "192.0.2.1:4000".parse().unwrap(),
        certificate: None,
    }
}

fn exchange(token: &str, more: &str) -> Endpoint {
    let form = format!(
        "grant_type={TOKEN_EXCHANGE}&subject_token={token}\
        &subject_token_type=urn:ietf:params:oauth:token-type:jwt&resource=api/orders{more}"
    );
    post(TOKEN_PATH, &form)
}

fn by_certificate(more: &str) -> Endpoint {
    let form = format!("grant_type=client_credentials&resource=api/orders{more}");
    Endpoint { certificate: Some(certificate()), ..post(TOKEN_PATH, &form) }
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{:?}", answer.body))
}

impl Gate {
    async fn given(&self, request: Endpoint) -> (String, Value) {
        let answer = self.oauth.handle(request).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        assert!(answer.headers.contains(&("cache-control", "no-store".to_owned())));
        let body = json(&answer);
        (body["access_token"].as_str().unwrap().to_owned(), body)
    }

    async fn refused(&self, request: Endpoint) -> (u16, String, Option<Reason>) {
        let answer = self.oauth.handle(request).await;
        (answer.status, json(&answer)["reason"].as_str().unwrap().to_owned(), answer.refused)
    }

    fn token(&self) -> String {
        self.fixture.token("billing", 10 * MINUTE)
    }
}

#[tokio::test]
async fn a_subject_token_becomes_a_token_of_the_gate_under_one_grant() {
    let gate = gate(&[grant(1)]).await;
    let (token, body) = gate.given(exchange(&gate.token(), "")).await;
    assert_eq!((&body["expires_in"], &body["scope"]), (&300.into(), &"read write".into()));
    let verified = gate.fixture.verifier.verify(&token, NOW).unwrap();
    let claims = verified.gate.as_ref().unwrap();
    assert_eq!((claims.grant, claims.resource.as_str()), (GrantId::from_bits(1), "api/orders"));
    assert_eq!((&*verified.subject, verified.thumbprint), ("billing", None));
    let evidence = gate.fixture.evidence();
    assert!(evidence.contains("token_issued") && evidence.contains(&**verified.handle()));
    assert!(!evidence.contains(&token), "tokens are never recorded");
}

#[tokio::test]
async fn a_token_by_certificate_is_bound_to_it_and_ends_with_it() {
    let gate = gate(&[grant(1)]).await;
    let (token, body) = gate.given(by_certificate("&scope=read")).await;
    assert_eq!((&body["expires_in"], &body["scope"]), (&120.into(), &"read".into()));
    let verified = gate.fixture.verifier.verify(&token, NOW).unwrap();
    assert_eq!(verified.thumbprint, Some(certificate().thumbprint));
    gate.fixture.manual.advance(2 * MINUTE);
    gate.fixture.renew();
    assert_eq!(gate.refused(by_certificate("")).await.1, "credential_expired");
    let nobody = Endpoint { certificate: None, ..by_certificate("") };
    assert_eq!(gate.refused(nobody).await, (401, "credential_missing".into(), Some(Reason::CredentialMissing)));
}

#[tokio::test]
async fn a_token_outlives_neither_its_grant_nor_what_it_was_exchanged_for() {
    let mut short = grant(1);
    short.window.ends = NOW.saturating_add(MINUTE);
    let gate = gate(&[short]).await;
    assert_eq!(gate.given(exchange(&gate.token(), "")).await.1["expires_in"], 60);
    let dying = gate.fixture.token("billing", Duration::from_secs(30));
    assert_eq!(gate.given(exchange(&dying, "")).await.1["expires_in"], 30);
}

#[tokio::test]
async fn nothing_is_given_beyond_the_grant() {
    let mut read = grant(1);
    read.actions = vec!["read".parse().unwrap()];
    let gate = gate(&[read]).await;
    let token = gate.token();
    assert_eq!(gate.refused(exchange(&token, "&scope=read+write")).await, (400, "action_not_granted".into(), None));
    assert_eq!(gate.refused(exchange(&token, "&scope=destroy")).await.1, "token_scope_invalid");
    let other = exchange(&token, "").body;
    let other = String::from_utf8(other.to_vec()).unwrap().replace("api/orders", "api/other");
    assert_eq!(gate.refused(post(TOKEN_PATH, &other)).await.1, "token_target_invalid");
    assert_eq!(gate.given(exchange(&token, "")).await.1["scope"], "read");
    let evidence = gate.fixture.evidence();
    for reason in ["action_not_granted", "token_scope_invalid", "token_target_invalid"] {
        assert!(evidence.contains(reason), "{reason} is recorded");
    }
}

#[tokio::test]
async fn limits_of_the_grant_hold_for_tokens_too() {
    let mut elsewhere = grant(1);
    elsewhere.limits.networks = vec!["10.0.0.0/8".parse().unwrap()];
    let gate = gate(&[elsewhere]).await;
    assert_eq!(gate.refused(exchange(&gate.token(), "")).await.1, "network_not_granted");
    let mut bound = grant(1);
    bound.limits.binding = Some(Binding::Certificate(certificate().thumbprint));
    let gate = self::gate(&[bound]).await;
    let token = gate.token();
    assert_eq!(gate.refused(exchange(&token, "")).await.1, "binding_not_granted");
    let with = Endpoint { certificate: Some(certificate()), ..exchange(&token, "") };
    let (token, _) = gate.given(with).await;
    assert_eq!(gate.fixture.verifier.verify(&token, NOW).unwrap().thumbprint, Some(certificate().thumbprint));
    let mut one = grant(1);
    one.limits.parameters.insert("order".parse().unwrap(), vec!["42".into()]);
    let gate = self::gate(&[one]).await;
    assert_eq!(gate.given(exchange(&gate.token(), "&scope=write")).await.1["scope"], "write");
}

#[tokio::test]
async fn of_several_grants_the_longest_that_covers_all_is_used() {
    let mut long = grant(1);
    long.actions = vec!["read".parse().unwrap()];
    long.window.ends = NOW.saturating_add(600 * MINUTE);
    let gate = gate(&[long, grant(2)]).await;
    let token = gate.token();
    let grant_of = |token: String| gate.fixture.verifier.verify(&token, NOW).unwrap().gate.as_ref().unwrap().grant;
    assert_eq!(grant_of(gate.given(exchange(&token, "&scope=read")).await.0), GrantId::from_bits(1));
    assert_eq!(grant_of(gate.given(exchange(&token, "&scope=read+write")).await.0), GrantId::from_bits(2));
}

#[tokio::test]
async fn what_does_not_verify_is_a_stranger_and_tokens_of_ours_cannot_be_prolonged() {
    let gate = gate(&[grant(1)]).await;
    let invalid = (400, "subject_token_invalid".to_owned(), Some(Reason::SubjectTokenInvalid));
    assert_eq!(gate.refused(exchange("a.b.c", "")).await, invalid);
    let (own, _) = gate.given(exchange(&gate.token(), "")).await;
    assert_eq!(gate.refused(exchange(&own, "")).await, invalid);
    let nobody = gate.fixture.token("nobody", MINUTE);
    assert_eq!(gate.refused(exchange(&nobody, "")).await, (400, "identity_unknown".into(), None));
    assert_eq!(gate.refused(exchange(&gate.token(), "&client_id=other")).await.1, "token_request_invalid");
}

#[tokio::test]
async fn forms_that_are_none_are_refused_before_anything_else() {
    let gate = gate(&[grant(1)]).await;
    let good = || exchange("a.b.c", "");
    let invalid = (400, "token_request_invalid".to_owned(), Some(Reason::TokenRequestInvalid));
    assert_eq!(gate.refused(Endpoint { content_type: Some("application/json".into()), ..good() }).await, invalid);
    assert_eq!(gate.refused(Endpoint { content_type: None, ..good() }).await, invalid);
    assert_eq!(gate.refused(Endpoint { authorization: Some("Basic YTpi".into()), ..good() }).await, invalid);
    assert_eq!(gate.refused(Endpoint { method: "GET".into(), ..good() }).await.0, 405);
    assert_eq!(gate.refused(post("/.portcullis/other", "")).await.0, 404);
    let kind = gate.refused(post(TOKEN_PATH, "grant_type=password&resource=a")).await;
    assert_eq!((kind.0, kind.1.as_str()), (400, "token_grant_type_unsupported"));
}

#[tokio::test]
async fn without_evidence_no_token_leaves() {
    let gate = gate(&[grant(1)]).await;
    let token = gate.token();
    gate.fixture.storage.fail_everything(Fault::Error);
    let (status, reason, _) = gate.refused(exchange(&token, "")).await;
    assert_eq!((status, reason.as_str()), (503, "evidence_unavailable"));
    gate.fixture.storage.mend();
}

#[tokio::test]
async fn without_authority_no_token_is_issued() {
    let gate = gate(&[grant(1)]).await;
    for _ in 0..6 {
        gate.fixture.manual.advance(Duration::from_secs(2));
        gate.fixture.authority.tick();
    }
    assert_eq!(gate.refused(exchange(&gate.token(), "")).await.1, "authority_stale");
    gate.fixture.renew();
    gate.fixture.manual.advance(Duration::from_secs(3));
    assert_eq!(gate.refused(exchange(&gate.token(), "")).await.1, "authority_stale", "held, and not answered in time");
}

#[tokio::test]
async fn a_revoked_token_is_dead_here_at_once_and_its_calls_are_cut() {
    let gate = gate(&[grant(1)]).await;
    let (token, _) = gate.given(exchange(&gate.token(), "")).await;
    let verified = gate.fixture.verifier.verify(&token, NOW).unwrap();
    let cut = Cut::new();
    let running = Running {
        call: CallId::from_bits(5),
        identity: IdentityIndex::default(),
        route: "orders".parse().unwrap(),
        grant: Some(GrantId::from_bits(1)),
        exception: None,
        token: Some(TokenKey::of(&verified.issuer, verified.handle())),
        key: None,
        roots: [None, None],
        connection: None,
        ends: Timestamp::MAX,
        end_reason: Reason::GrantExpired,
        authority_bound: MINUTE,
    };
    let registration = gate.fixture.registry.register(0, running, cut.clone());
    let call = tokio::spawn(async move {
        let reason = cut.fired().await;
        drop(registration);
        reason
    });
    let before = gate.fixture.published.load();
    let answer = gate.oauth.handle(post(REVOKE_PATH, &format!("token={token}"))).await;
    assert_eq!(call.await.unwrap(), Reason::TokenRevoked);
    assert!(!gate.fixture.published.is_current(&before), "calls on their way decide again");
    assert_eq!(gate.fixture.verifier.verify(&token, NOW).unwrap_err().reason(), Reason::TokenRevoked);
    assert!(gate.fixture.evidence().contains("token_revoked"));
    // The control plane cannot be reached: the answer does not claim that everybody knows, now or when asked again.
    assert_eq!(answer.status, 503);
    assert!(answer.headers.contains(&("retry-after", "1".to_owned())));
    assert_eq!(gate.oauth.handle(post(REVOKE_PATH, &format!("token={token}"))).await.status, 503);
}

#[tokio::test]
async fn revoking_what_is_no_token_is_done_and_what_is_not_ours_is_not() {
    let gate = gate(&[grant(1)]).await;
    assert_eq!(gate.oauth.handle(post(REVOKE_PATH, "token=a.b.c")).await.status, 200);
    let foreign = gate.oauth.handle(post(REVOKE_PATH, &format!("token={}", gate.token()))).await;
    assert_eq!((foreign.status, &json(&foreign)["error"]), (400, &"unsupported_token_type".into()));
    assert_eq!(gate.refused(post(REVOKE_PATH, "token_type_hint=access_token")).await.1, "token_request_invalid");
    let (bound, _) = gate.given(by_certificate("")).await;
    assert_eq!(gate.refused(post(REVOKE_PATH, &format!("token={bound}"))).await.1, "token_binding");
    assert!(gate.fixture.verifier.revoked().is_empty());
}

#[tokio::test]
async fn keys_and_metadata_are_public() {
    let gate = gate(&[]).await;
    let get = |path: &str| Endpoint { method: "GET".into(), content_type: None, ..post(path, "") };
    let keys = json(&gate.oauth.handle(get(JWKS_PATH)).await);
    let kids: Vec<&str> = keys["keys"].as_array().unwrap().iter().map(|k| k["kid"].as_str().unwrap()).collect();
    assert_eq!(kids, [gate.fixture.upstream_key.kid()], "access tokens verify nowhere but here");
    assert!(keys["keys"].as_array().unwrap().iter().all(|key| key.get("d").is_none()), "public parts alone");
    let metadata = json(&gate.oauth.handle(get(METADATA_PATH)).await);
    assert_eq!(metadata["issuer"], GATE);
    assert_eq!(metadata["token_endpoint"], "https://gate.example/.portcullis/token");
}

#[tokio::test]
async fn a_revocation_that_has_no_room_is_refused() {
    let gate = gate(&[grant(1)]).await;
    let (token, _) = gate.given(exchange(&gate.token(), "")).await;
    let (revoked, issuer) = (gate.fixture.verifier.revoked(), Arc::from("another"));
    for count in 0..crate::issuers::revoked::MAX_REVOKED {
        revoked.insert(&issuer, &Arc::from(count.to_string()), Timestamp::MAX, NOW).unwrap();
    }
    let (status, reason, _) = gate.refused(post(REVOKE_PATH, &format!("token={token}"))).await;
    assert_eq!((status, reason.as_str()), (503, Reason::Overloaded.code()), "what is not done is not said to be");
}
