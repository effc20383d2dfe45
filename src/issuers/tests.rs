//! Registry and verifier together, against a real server on loopback that misbehaves on request.
//!
//! The clocks stand still unless told. The only real times are the fetch timeout, shortened, and the network's own.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use serde_json::Value;

use super::*;
use crate::domain::clock::ManualClock;
use crate::domain::name::GrantId;
use crate::token::keys::{KeyAlgorithm, SigningKey};
use crate::token::mint::{self, AccessToken, PlainToken, UpstreamToken};
use crate::token::verify::TokenTypes;

const ISSUER: &str = "https://token.example";
const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn key() -> SigningKey {
    SigningKey::generate(KeyAlgorithm::Ed25519).unwrap()
}

fn jwks(keys: &[&SigningKey]) -> Answer {
    Answer::Document(SigningKey::public_jwks(keys.iter().copied()).to_string())
}

/// A token of `key` that lives an hour from the start.
fn token(key: &SigningKey, id: u8) -> String {
    let expires = START.saturating_add(MINUTE * 60);
    let plain = PlainToken { issuer: ISSUER, subject: "billing", audience: "gate", expires, random: [id; 16] };
    mint::plain_token(key, &plain, START).unwrap().token
}

#[derive(Clone)]
enum Answer {
    Document(String),
    Redirect(String),
    Status(u16),
    Endless,
    Stall,
}

/// An issuer's key server.
struct Server {
    url: JwksUrl,
    shared: Arc<Shared>,
}

struct Shared {
    answer: Mutex<Answer>,
    asked: AtomicUsize,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let shared = Arc::new(Shared { answer: Mutex::new(answer), asked: AtomicUsize::new(0) });
        let router = axum::Router::new().route("/jwks", axum::routing::get(serve)).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    fn answer(&self, answer: Answer) {
        *self.shared.answer.lock() = answer;
    }

    fn asked(&self) -> usize {
        self.shared.asked.load(SeqCst)
    }
}

async fn serve(State(shared): State<Arc<Shared>>) -> Response<Body> {
    shared.asked.fetch_add(1, SeqCst);
    let answer = shared.answer.lock().clone();
    match answer {
        Answer::Document(text) => Response::new(text.into()),
        Answer::Redirect(to) => Response::builder().status(302).header("location", to).body(Body::empty()).unwrap(),
        Answer::Status(status) => Response::builder().status(status).body("{}".into()).unwrap(),
        Answer::Endless => Response::new(Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(vec![b' '; 8192])
        }))),
        Answer::Stall => std::future::pending().await,
    }
}

struct Gate {
    clock: Arc<ManualClock>,
    issuers: Arc<Issuers>,
    verifier: TokenVerifier,
    own: SigningKey,
    name: GatewayIssuer,
}

impl Gate {
    fn trusting(source: KeySource) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let profile = IssuerProfile::trusted(ISSUER, &["gate"], TokenTypes::default(), Duration::ZERO, None).unwrap();
        let mut trusted = TrustedIssuer::new(profile, source, None, None).unwrap();
        trusted.fetch_timeout = Duration::from_millis(300);
        let (own, name) = (key(), GatewayIssuer::new("https://gate.example"));
        let own_keys = KeySet::of([own.public().clone()]).unwrap();
        let issuers = Issuers::new(&name, "gate", own_keys, vec![trusted], clock.clone()).unwrap();
        let verifier = TokenVerifier::new(issuers.clone(), Arc::default(), cache::DEFAULT_CACHE_BYTES);
        Self { clock, issuers, verifier, own, name }
    }

    async fn started(source: KeySource) -> Self {
        let gate = Self::trusting(source);
        gate.issuers.refresh_all().await;
        gate
    }

    fn verify(&self, token: &str) -> Result<String, TokenError> {
        self.verifier.verify(token, self.clock.now()).map(|verified| verified.subject.to_string())
    }

    async fn verify_awaiting_keys(&self, token: &str) -> Result<String, TokenError> {
        self.verifier.verify_awaiting_keys(token, self.clock.now()).await.map(|verified| verified.subject.to_string())
    }

    fn health(&self) -> IssuerHealth {
        self.issuers.health().into_iter().find(|h| &*h.issuer == ISSUER).unwrap()
    }
}

fn ok() -> Result<String, TokenError> {
    Ok("billing".to_owned())
}

#[tokio::test]
async fn a_key_taken_out_ends_its_tokens_at_once_cached_or_not() {
    let (old, new) = (key(), key());
    let server = Server::start(jwks(&[&old])).await;
    let gate = Gate::started(KeySource::Url(server.url.clone())).await;
    let (cached, unseen) = (token(&old, 1), token(&old, 2));
    assert_eq!((gate.verify(&cached), gate.verify(&cached)), (ok(), ok()));
    assert_eq!(gate.verifier.hits_and_misses(), (1, 1));

    // Rotation with overlap: the cached token goes on, without its signature being looked at again.
    server.answer(jwks(&[&new, &old]));
    gate.issuers.refresh_all().await;
    assert_eq!((gate.verify(&cached), gate.verify(&token(&new, 3))), (ok(), ok()));
    assert_eq!(gate.verifier.hits_and_misses(), (2, 2));

    server.answer(jwks(&[&new]));
    gate.issuers.refresh_all().await;
    assert_eq!(gate.verify(&cached), Err(TokenError::KeyUnknown));
    assert_eq!(gate.verify(&unseen), Err(TokenError::KeyUnknown));
    assert_eq!(gate.verify(&token(&new, 3)), ok());
    assert_eq!((gate.health().generation, gate.health().keys), (3, 1));
}

#[tokio::test]
async fn a_name_given_to_another_key_ends_the_first_keys_tokens() {
    let (old, new) = (key(), key());
    let named = |key: &SigningKey| {
        let mut jwk = key.public_jwk();
        jwk["kid"] = old.kid().into();
        Answer::Document(serde_json::json!({ "keys": [jwk] }).to_string())
    };
    let server = Server::start(named(&old)).await;
    let gate = Gate::started(KeySource::Url(server.url.clone())).await;
    let cached = token(&old, 1);
    assert_eq!(gate.verify(&cached), ok());
    server.answer(named(&new));
    gate.issuers.refresh_all().await;
    assert_eq!(gate.verify(&cached), Err(TokenError::Signature));
}

#[tokio::test]
async fn an_unchanged_set_keeps_its_generation() {
    let (one, two) = (key(), key());
    let server = Server::start(jwks(&[&one, &two])).await;
    let gate = Gate::started(KeySource::Url(server.url.clone())).await;
    server.answer(jwks(&[&two, &one]));
    gate.issuers.refresh_all().await;
    assert_eq!((server.asked(), gate.health().generation), (2, 1));
}

#[tokio::test]
async fn bad_answers_keep_the_last_good_keys_until_they_are_too_old() {
    let good = key();
    let server = Server::start(jwks(&[&good])).await;
    let elsewhere = Server::start(jwks(&[&key()])).await;
    let gate = Gate::started(KeySource::Url(server.url.clone())).await;
    let mut private = good.public_jwk();
    private["d"] = "AA".into();
    let answers = [
        Answer::Redirect(elsewhere.url.to_string()),
        Answer::Redirect("file:///etc/passwd".into()),
        Answer::Status(500),
        Answer::Status(404),
        Answer::Endless,
        Answer::Stall,
        Answer::Document(String::new()),
        Answer::Document("<html>login</html>".into()),
        Answer::Document(r#"{"keys":[]}"#.into()),
        Answer::Document(r#"{"keys":[],"keys":[]}"#.into()),
        Answer::Document(serde_json::json!({ "keys": [private] }).to_string()),
    ];
    gate.clock.advance(Duration::from_secs(1));
    for (place, answer) in answers.into_iter().enumerate() {
        server.answer(answer);
        gate.issuers.refresh_all().await;
        let health = gate.health();
        assert!(health.fault.is_some() && health.available, "{place}");
        assert_eq!(gate.verify(&token(&good, 1)), ok(), "{place}");
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");

    // The good answer came one second before: an hour after it, cached tokens are refused as well as new ones.
    gate.clock.advance(MINUTE * 60 - Duration::from_secs(2));
    assert_eq!(gate.verify(&token(&good, 1)), ok());
    gate.clock.advance(Duration::from_secs(1));
    let long = PlainToken {
        issuer: ISSUER,
        subject: "billing",
        audience: "gate",
        expires: START.saturating_add(MINUTE * 180),
        random: [7; 16],
    };
    let long = mint::plain_token(&good, &long, START).unwrap().token;
    assert_eq!(gate.verify(&long), Err(TokenError::IssuerUnavailable));
    assert_eq!(gate.verify(&token(&good, 1)), Err(TokenError::IssuerUnavailable));
    assert!(!gate.health().available);

    server.answer(jwks(&[&good]));
    gate.issuers.refresh_all().await;
    assert_eq!((gate.verify(&long), gate.health().fault), (ok(), None));
}

#[tokio::test]
async fn an_issuer_never_heard_is_unavailable_and_not_open() {
    let good = key();
    let server = Server::start(Answer::Status(503)).await;
    let gate = Gate::started(KeySource::Url(server.url.clone())).await;
    let refused = gate.verify(&token(&good, 1)).unwrap_err();
    assert_eq!((refused, refused.reason().code()), (TokenError::IssuerUnavailable, "issuer_unavailable"));
}

#[tokio::test]
async fn rotation_refuses_nobody_who_waits_and_strangers_cannot_make_us_hammer_the_issuer() {
    let (old, new) = (key(), key());
    let server = Server::start(jwks(&[&old])).await;
    let gate = Gate::trusting(KeySource::Url(server.url.clone()));
    let _tasks = gate.issuers.keep_fresh(&Handle::current());
    assert_eq!(gate.verify_awaiting_keys(&token(&old, 1)).await, ok(), "the first caller waits for the first fetch");
    assert_eq!(server.asked(), 1);

    server.answer(jwks(&[&old, &new]));
    gate.clock.advance(MIN_FETCH_INTERVAL - Duration::from_secs(1));
    assert_eq!(gate.verify_awaiting_keys(&token(&new, 2)).await, Err(TokenError::KeyUnknown), "asked 9 s ago");
    gate.clock.advance(Duration::from_secs(1));
    assert_eq!(gate.verify_awaiting_keys(&token(&new, 2)).await, ok());
    assert_eq!(server.asked(), 2);

    for id in 0..200 {
        assert_eq!(gate.verify_awaiting_keys(&token(&key(), id)).await, Err(TokenError::KeyUnknown));
    }
    assert_eq!(server.asked(), 2);
    gate.clock.advance(MIN_FETCH_INTERVAL);
    let strangers: Vec<String> = (0..50).map(|id| token(&key(), id)).collect();
    let all = futures_util::future::join_all(strangers.iter().map(|t| gate.verify_awaiting_keys(t))).await;
    assert!(all.iter().all(|result| *result == Err(TokenError::KeyUnknown)));
    assert_eq!(server.asked(), 3, "fifty at once are one fetch");
}

#[tokio::test]
async fn nobody_waits_for_a_stalled_issuer_longer_than_a_fetch() {
    let server = Server::start(Answer::Stall).await;
    let gate = Gate::trusting(KeySource::Url(server.url.clone()));
    let _tasks = gate.issuers.keep_fresh(&Handle::current());
    assert_eq!(gate.verify_awaiting_keys(&token(&key(), 1)).await, Err(TokenError::IssuerUnavailable));
    assert_eq!(gate.health().fault, Some(FetchError::Timeout));
}

#[tokio::test]
async fn keys_of_a_file_follow_the_file() {
    let (old, new) = (key(), key());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let write = |keys: &[&SigningKey]| {
        let document: Value = SigningKey::public_jwks(keys.iter().copied());
        tempfile::NamedTempFile::new_in(dir.path()).map(|mut file| {
            std::io::Write::write_all(&mut file, document.to_string().as_bytes()).unwrap();
            file.persist(&path).unwrap();
        })
    };
    write(&[&old]).unwrap();
    let gate = Gate::started(KeySource::File(path.clone())).await;
    assert_eq!(gate.verify(&token(&old, 1)), ok());
    write(&[&new]).unwrap();
    gate.issuers.refresh_all().await;
    assert_eq!((gate.verify(&token(&old, 1)), gate.verify(&token(&new, 1))), (Err(TokenError::KeyUnknown), ok()));
    std::fs::remove_file(&path).unwrap();
    gate.issuers.refresh_all().await;
    assert_eq!(gate.health().fault, Some(FetchError::File(std::io::ErrorKind::NotFound)));
    assert_eq!(gate.verify(&token(&new, 1)), ok());
}

#[tokio::test]
async fn a_cached_token_ends_with_its_time_and_with_its_revocation() {
    let good = key();
    let server = Server::start(jwks(&[&good])).await;
    let gate = Gate::started(KeySource::Url(server.url.clone())).await;
    let (one, two) = (token(&good, 1), token(&good, 2));
    let verified = gate.verifier.verify(&one, gate.clock.now()).unwrap();
    assert_eq!(gate.verify(&two), ok());
    gate.verifier.revoked().revoke(&verified, gate.clock.now()).unwrap();
    assert_eq!(
        (gate.verify(&one), gate.verify(&one), gate.verify(&two)),
        (Err(TokenError::Revoked), Err(TokenError::Revoked), ok())
    );

    // Revoked before it was ever seen here: as a revocation that came from another gateway.
    let three = token(&good, 3);
    let unseen = Gate::started(KeySource::Url(server.url.clone())).await.verifier.verify(&three, START).unwrap();
    gate.verifier.revoked().insert(&unseen.issuer, unseen.handle(), unseen.valid_until(), START).unwrap();
    assert_eq!((gate.verify(&three), gate.verify(&three)), (Err(TokenError::Revoked), Err(TokenError::Revoked)));

    gate.issuers.refresh_all().await;
    gate.clock.advance(MINUTE * 59 + Duration::from_secs(59));
    assert_eq!(gate.verify(&two), ok());
    gate.issuers.refresh_all().await;
    gate.clock.advance(Duration::from_secs(1));
    assert_eq!((gate.verify(&two), gate.verify(&two)), (Err(TokenError::Expired), Err(TokenError::Expired)));
}

#[tokio::test]
async fn only_a_whole_token_is_found_in_the_cache() {
    let good = key();
    let server = Server::start(jwks(&[&good])).await;
    let gate = Gate::started(KeySource::Url(server.url.clone())).await;
    let one = token(&good, 1);
    assert_eq!(gate.verify(&one), ok());
    let other_signature = format!("{}{}", one.rsplit_once('.').unwrap().0, ".AAAA");
    for near in
        [&one[..one.len() - 1], &format!("{one} "), &format!("{one}="), &other_signature, &one.to_ascii_lowercase()]
    {
        assert!(gate.verify(near).is_err(), "{near}");
    }
    assert_eq!(gate.verifier.hits_and_misses().0, 0);
    assert!(!format!("{:?}", gate.verifier).contains(&one[..30]));
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let good = key();
    let server = Server::start(jwks(&[&good])).await;
    let gate = Gate::started(KeySource::Url(server.url.clone())).await;
    let small = TokenVerifier::new(gate.issuers.clone(), Arc::default(), 20_000);
    for id in 0..=255 {
        assert!(small.verify(&token(&good, id), START).is_ok());
    }
    assert!(small.cached_bytes() <= 20_000 && small.cached_bytes() > 0, "{}", small.cached_bytes());
}

#[tokio::test]
async fn the_gates_own_tokens_are_callers_credentials_and_upstream_tokens_never() {
    let gate = Gate::trusting(KeySource::File("/nonexistent".into()));
    let (identity, resource, actions) =
        ("billing".parse().unwrap(), "api/orders".parse().unwrap(), ["read".parse().unwrap()]);
    let access = AccessToken {
        issuer: &gate.name,
        audience: "gate",
        identity: &identity,
        grant: GrantId::from_bits(3),
        resource: &resource,
        actions: &actions,
        thumbprint: None,
        root: &crate::domain::root::Root::Unknown,
        not_after: Timestamp::MAX,
        random: [1; 16],
    };
    let upstream = UpstreamToken {
        issuer: &gate.name,
        audience: "api/orders",
        identity: &identity,
        grant: GrantId::from_bits(3),
        resource: &resource,
        actions: &actions,
        life: MINUTE,
        not_after: Timestamp::MAX,
        random: [1; 16],
    };
    let access = mint::access_token(&gate.own, &access, START).unwrap().token;
    let upstream = mint::upstream_token(&gate.own, &upstream, START).unwrap().token;
    assert_eq!((gate.verify(&access), gate.verify(&upstream)), (ok(), Err(TokenError::IssuerUnknown)));
    // A new key of the gateway ends the old one's tokens, cached ones too.
    gate.issuers.replace_own_keys(KeySet::of([key().public().clone()]).unwrap());
    assert_eq!(gate.verify(&access), Err(TokenError::KeyUnknown));
}

#[tokio::test]
async fn issuers_must_go_together() {
    let profile =
        |issuer: &str| IssuerProfile::trusted(issuer, &["gate"], TokenTypes::default(), Duration::ZERO, None).unwrap();
    let trusted = |issuer: &str| TrustedIssuer::new(profile(issuer), KeySource::File("x".into()), None, None).unwrap();
    let build = |trusted: Vec<TrustedIssuer>| {
        let keys = KeySet::of([key().public().clone()]).unwrap();
        Issuers::new(
            &GatewayIssuer::new("https://gate.example"),
            "gate",
            keys,
            trusted,
            Arc::new(ManualClock::at(START)),
        )
        .unwrap_err()
    };
    assert_eq!(build(vec![trusted("a"), trusted("a")]), IssuersError::Duplicate("a".into()));
    for own in ["https://gate.example", "https://gate.example/upstream"] {
        assert_eq!(build(vec![trusted(own)]), IssuersError::Own(own.into()));
    }
}

#[tokio::test]
async fn strangers_issuers_are_unknown() {
    let gate = Gate::trusting(KeySource::File("/nonexistent".into()));
    let stranger = PlainToken {
        issuer: "https://evil.example",
        subject: "billing",
        audience: "gate",
        expires: START.saturating_add(MINUTE),
        random: [0; 16],
    };
    let stranger = mint::plain_token(&key(), &stranger, START).unwrap().token;
    assert_eq!(gate.verify(&stranger), Err(TokenError::IssuerUnknown));
    assert_eq!(gate.verify_awaiting_keys(&stranger).await, Err(TokenError::IssuerUnknown));
    assert_eq!(gate.verify(&"A".repeat(9000)).unwrap_err().reason().code(), "credential_malformed");
}
