//! The stream end to end: a real control plane's end of it in the test, over mutual TLS.

mod backlog;

use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::sync::Mutex;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use v1::control_message::Message as Down;
use v1::gateway_message::Message as Up;

use super::fixture::{catalog, delta, ended, grant, part, running};
use super::session::{Cause, lasts};
use super::*;
use crate::clock::SystemClock;
use crate::decision::Authority;
use crate::domain::name::GrantId;
use crate::domain::{Clock as _, Reason};
use crate::evidence::checkpoint::{EvidenceKey, Origin, VerifierKey};
use crate::evidence::cosignature::CosignerKey;
use crate::evidence::journal::{JournalOptions, Writer};
use crate::evidence::statement::StatementKind;
use crate::gateway::authority::Memory;
use crate::gateway::live::{Cut, TokenKey};
use crate::wire::v1::grant_stream_server::{GrantStream, GrantStreamServer};
use crate::wire::{CONTROL_SERVER_NAME, v1};

const CHALLENGE: [u8; 16] = [7; 16];
const PATIENCE: Duration = Duration::from_secs(20);

/// One attached stream, as the control plane sees it.
struct Attached {
    hello: v1::Hello,
    key: EvidenceKey,
    down: mpsc::Sender<Result<v1::ControlMessage, Status>>,
    up: Streaming<v1::GatewayMessage>,
}

struct Control {
    key: EvidenceKey,
    attached: mpsc::Sender<Attached>,
}

#[tonic::async_trait]
impl GrantStream for Control {
    type AttachStream = ReceiverStream<Result<v1::ControlMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::GatewayMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        assert!(request.peer_certs().is_some_and(|certs| !certs.is_empty()), "the gateway shows its certificate");
        let mut up = request.into_inner();
        let Some(Ok(v1::GatewayMessage { message: Some(Up::Hello(hello)) })) = up.next().await else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let (down, receiver) = mpsc::channel(16);
        self.attached
            .send(Attached { hello, key: self.key.clone(), down, up })
            .await
            .map_err(|_| Status::aborted("over"))?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Attached {
    async fn send(&self, message: Down) {
        self.down.send(Ok(v1::ControlMessage { message: Some(message) })).await.unwrap();
    }

    /// The next acknowledgement; renewals on the way are answered.
    async fn applied(&mut self) -> v1::Applied {
        loop {
            if let Up::Applied(signed) = self.next().await {
                let key: VerifierKey = self.hello.evidence_key.parse().unwrap();
                assert!(key.stated(StatementKind::Applied, &signed.payload, &signed.signature));
                let applied = v1::Applied::decode(signed.payload.as_slice()).unwrap();
                assert_eq!(applied.log, self.hello.log_origin);
                return applied;
            }
        }
    }

    async fn next(&mut self) -> Up {
        let message = tokio::time::timeout(PATIENCE, self.up.next()).await.unwrap().unwrap().unwrap().message.unwrap();
        self.answer(&message).await;
        message
    }

    fn renewal(&self, signed: &v1::Signed) -> v1::Renew {
        let key: VerifierKey = self.hello.evidence_key.parse().unwrap();
        assert!(key.stated(StatementKind::Renewal, &signed.payload, &signed.signature));
        let renew = v1::Renew::decode(signed.payload.as_slice()).unwrap();
        assert_eq!(renew.challenge, CHALLENGE);
        renew
    }

    async fn answer(&self, message: &Up) {
        if let Up::Renew(signed) = message {
            let renew = self.renewal(signed);
            self.send(Down::Authority(self.authority(&self.key, "edge", &renew.nonce))).await;
        }
    }

    fn authority(&self, key: &EvidenceKey, gateway: &str, nonce: &[u8]) -> v1::Signed {
        let authority = v1::Authority {
            nonce: nonce.to_vec(),
            epoch: 1,
            revision: u64::MAX,
            time_unix_us: SystemClock.now().unix_micros(),
            gateway: gateway.to_owned(),
            committed: 5,
            ..Default::default()
        };
        let payload = authority.encode_to_vec();
        let signature = key.state(StatementKind::Authority, &payload).unwrap();
        v1::Signed { payload, signature }
    }
}

struct House {
    _dir: tempfile::TempDir,
    parts: Parts,
    attached: Mutex<mpsc::Receiver<Attached>>,
    stop: watch::Sender<bool>,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.parts.log.shutdown();
    }
}

struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn leaf(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn write(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    crate::files::write(&path, text.as_bytes(), crate::files::PRIVATE).unwrap();
    path
}

/// A control plane's end, and a gateway's parts that follow it.
async fn house() -> House {
    house_of(CONTROL_SERVER_NAME).await
}

/// The same, with a server whose certificate is for `name`.
async fn house_of(name: &str) -> House {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let (server_certificate, server_key) = certificates.leaf(name, ExtendedKeyUsagePurpose::ServerAuth);
    let (certificate, certificate_key) = certificates.leaf("gateway", ExtendedKeyUsagePurpose::ClientAuth);
    let ca = certificates.issuer.pem();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, attached) = mpsc::channel(4);
    let authority = EvidenceKey::generate().unwrap().0;
    let authority_key = CosignerKey::of(&authority, &"example.org/control".parse().unwrap()).to_string();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server_certificate, server_key))
        .client_ca_root(Certificate::from_pem(&ca));
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_service(GrantStreamServer::new(Control { key: authority.clone(), attached: sender }))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let clock: Arc<dyn crate::domain::Clock> = Arc::new(SystemClock);
    let writer = Writer { program: "test".into(), boot_id: "boot".into() };
    let origin: Origin = "portcullis/gateway/edge".parse().unwrap();
    let key = EvidenceKey::generate().unwrap().0;
    let (evidence, options) = (dir.path().join("evidence"), JournalOptions::default());
    let (log, _) = EvidenceLog::open(&evidence, origin, key, &writer, options, clock.clone()).unwrap();
    let parts = Parts {
        trust: Arc::default(),
        endpoint: ControlEndpoint {
            address: format!("https://localhost:{port}").parse().unwrap(),
            ca_file: write(dir.path(), "ca.pem", &ca),
            certificate_file: write(dir.path(), "cert.pem", &certificate),
            key_file: write(dir.path(), "key.pem", &certificate_key),
            keys_file: write(dir.path(), "control.vkey", &authority_key),
        },
        clock: AuthorityClock::new(clock, Memory::open(dir.path()).unwrap()),
        published: Published::new(),
        registry: Registry::new(1),
        meter: Meter::new([1; 16]),
        revoked: Arc::default(),
        name: "edge".parse().unwrap(),
        log: Arc::new(log),
        evidence_dir: evidence,
        metrics: Metrics::new(1),
    };
    House { _dir: dir, parts, attached: Mutex::new(attached), stop: watch::Sender::new(false) }
}

impl House {
    fn follow(&self) {
        tokio::spawn(run(self.parts.clone(), self.stop.subscribe()));
    }

    async fn attached(&self) -> Attached {
        let attached = tokio::time::timeout(PATIENCE, self.attached.lock().await.recv()).await.unwrap().unwrap();
        let mut attached = attached;
        let welcome = v1::Welcome { cosigned_size: 0, challenge: CHALLENGE.to_vec(), epoch: 1, committed: 5 };
        attached.send(Down::Welcome(welcome)).await;
        let Up::Attach(shown) = attached.next().await else { panic!("an attach comes before anything else") };
        let key: VerifierKey = attached.hello.evidence_key.parse().unwrap();
        assert!(key.stated(StatementKind::Attach, &shown.payload, &shown.signature));
        let attach = v1::Attach::decode(shown.payload.as_slice()).unwrap();
        assert_eq!((attach.challenge, attach.log), (CHALLENGE.to_vec(), attached.hello.log_origin.clone()));
        attached
    }

    /// Follows, and applies a catalog with grants 1 and 2 as revision 7.
    async fn started(&self) -> Attached {
        self.follow();
        let mut attached = self.attached().await;
        assert_eq!((attached.hello.epoch, attached.hello.revision), (0, 0));
        attached.send(Down::Snapshot(part(7, catalog(), vec![grant(1), grant(2)]))).await;
        assert_eq!(attached.applied().await.revision, 7);
        // A renewal may have been answered on the way, or comes with the next message.
        while self.parts.clock.now().authority == Authority::Missing {
            if let Ok(message) = tokio::time::timeout(Duration::from_millis(10), attached.up.next()).await {
                attached.answer(&message.unwrap().unwrap().message.unwrap()).await;
            }
        }
        attached
    }

    fn enter(&self, call: u128, grant: u128) -> (crate::gateway::live::Registration, Arc<Cut>) {
        let cut = Cut::new();
        let running = crate::gateway::live::Running {
            token: Some(TokenKey::of("https://i", "one")),
            ends: crate::domain::Timestamp::MAX,
            ..running(&self.parts.published.load(), call, grant)
        };
        (self.parts.registry.register(0, running, cut.clone()), cut)
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let polling = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, polling).await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_authority_come_down_and_an_acknowledgement_goes_up() {
    let house = house().await;
    assert_eq!(house.parts.clock.now().authority, Authority::Missing);
    let _attached = house.started().await;
    assert_eq!(house.parts.published.load().grant_count(), 2);
    assert!(matches!(house.parts.clock.now().authority, Authority::Age(age) if age < PATIENCE));
    assert!(house.parts.metrics.is_connected());
    assert_eq!(house.parts.clock.memory().highest().revision, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_acknowledged_when_its_calls_are_gone_and_recorded() {
    let house = house().await;
    let mut attached = house.started().await;
    let (registration, cut) = house.enter(1, 1);
    let (_other, untouched) = house.enter(2, 2);
    registration.intent(41);
    let call = tokio::spawn(async move {
        let reason = cut.fired().await;
        registration.count_response(123);
        drop(registration);
        reason
    });
    attached.send(Down::Delta(delta(8, vec![ended(1)]))).await;
    let applied = attached.applied().await;
    assert_eq!(call.await.unwrap(), Reason::GrantRevoked);
    assert_eq!(untouched.reason(), None);
    assert_eq!((applied.revision, applied.cut.len()), (8, 1));
    let told = &applied.cut[0];
    assert_eq!((told.reason.as_str(), told.intent_seq, told.response_bytes), ("grant_revoked", 41, 123));
    assert!(house.parts.published.load().grant(GrantId::from_bits(1)).is_none());
    assert!(house.parts.log.journal().durable_seq() >= 2, "the log's opening and the enforcement");
    let remembered = Memory::open(house._dir.path()).unwrap().highest();
    assert_eq!((remembered.epoch, remembered.revision), (1, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_whose_calls_still_run_is_not_acknowledged_and_later_ones_take_effect() {
    let house = house().await;
    let mut attached = house.started().await;
    let (stuck, cut) = house.enter(1, 1);
    attached.send(Down::Delta(delta(8, vec![ended(1)]))).await;
    attached.send(Down::Delta(delta(9, vec![ended(2)]))).await;
    eventually("the later revision is in force", || house.parts.published.peek().revision() == 9).await;
    assert_eq!(cut.fired().await, Reason::GrantRevoked);
    // A renewal comes every three seconds: one without an acknowledgement before it says enough.
    match attached.next().await {
        Up::Renew(signed) => assert_eq!(attached.renewal(&signed).applied_revision, 7),
        other => panic!("{other:?} before the call was over"),
    }
    drop(stuck);
    assert_eq!(attached.applied().await.revision, 8);
    assert_eq!(attached.applied().await.revision, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_and_its_calls_are_cut() {
    let house = house().await;
    let mut attached = house.started().await;
    let (registration, cut) = house.enter(1, 1);
    let expires_unix_us = SystemClock.now().saturating_add(PATIENCE).unix_micros();
    let token = v1::RevokedToken { issuer: "https://i".into(), jti: "one".into(), expires_unix_us };
    attached.send(Down::Delta(delta(8, vec![v1::change::Change::TokenRevoked(token)]))).await;
    assert_eq!(cut.fired().await, Reason::TokenRevoked);
    assert_eq!(house.parts.revoked.len(), 1);
    drop(registration);
    assert_eq!(attached.applied().await.cut[0].reason, "token_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_answered_with_a_resync() {
    let house = house().await;
    let attached = house.started().await;
    let (_registration, cut) = house.enter(1, 1);
    let unknown = v1::Delta { changes: vec![v1::Change { change: None }], ..delta(8, Vec::new()) };
    attached.send(Down::Delta(unknown)).await;
    let mut again = house.attached().await;
    assert_eq!((again.hello.epoch, again.hello.revision), (0, 0));
    assert_eq!(house.parts.published.peek().revision(), 7, "what was in force stays");
    assert_eq!(again.applied().await.revision, 7, "and is told");
    again.send(Down::Snapshot(part(9, catalog(), vec![grant(2)]))).await;
    assert_eq!(cut.fired().await, Reason::GrantRevoked, "a snapshot without the grant ends its calls");
    drop(_registration);
    assert_eq!(again.applied().await.cut.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_is_resumed_and_its_acknowledgements_are_sent_again() {
    let house = house().await;
    let mut attached = house.started().await;
    attached.send(Down::Delta(delta(8, vec![ended(1)]))).await;
    assert_eq!(attached.applied().await.revision, 8);
    drop(attached);
    let mut again = house.attached().await;
    assert_eq!((again.hello.epoch, again.hello.revision), (1, 8));
    let mut told = again.applied().await.revision;
    while told < 8 {
        told = again.applied().await.revision;
    }
    assert_eq!(told, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_refused() {
    let house = house().await;
    house.parts.clock.memory().saw(1, 100);
    house.follow();
    let attached = house.attached().await;
    attached.send(Down::Snapshot(part(7, catalog(), vec![grant(1)]))).await;
    let again = house.attached().await;
    assert_eq!((again.hello.epoch, again.hello.revision), (0, 0));
    assert_eq!(house.parts.published.peek().grant_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_of_another_authority_is_not_followed() {
    let house = house().await;
    let other = Certificates::new();
    write(house._dir.path(), "ca.pem", &other.issuer.pem());
    let error = connect::connect(&house.parts.endpoint, PING_PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_gateways_certificate_is_not_followed() {
    // The right authority and the right address: what a gateway's certificate has, too.
    let house = house_of("localhost").await;
    let error = connect::connect(&house.parts.endpoint, PING_PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[test]
fn who_comes_back_with_everybody_waits_longer_each_time_until_there_is_authority() {
    let end = |failed, renewed| SessionEnd { failed, renewed, cause: Cause::Closed };
    let (without, with) = (end(true, false), end(true, true));
    let mut patience = PING_PATIENCE;
    for expected in [3_000, 6_000, 12_000, 12_000] {
        patience = next_patience(patience, &without);
        assert_eq!(patience.as_millis(), expected);
    }
    // Who is told why, or finds nobody, need not be more patient.
    assert_eq!(next_patience(patience, &end(false, false)), patience);
    assert_eq!(next_patience(patience, &with), PING_PATIENCE);
    // What is missed later than others is not kept for long.
    assert_eq!(lasts(PING_PATIENCE), None);
    assert!(lasts(patience).is_some_and(|lasts| (15..=30).contains(&lasts.as_secs())));
    assert!(Cause::Patient.is_own(), "and that is no fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_another_key_or_for_another_gateway_counts_for_nothing() {
    let house = house().await;
    house.follow();
    let other = EvidenceKey::generate().unwrap().0;
    for of_another_key in [true, false] {
        let mut attached = house.attached().await;
        let nonce = loop {
            let message = tokio::time::timeout(PATIENCE, attached.up.next()).await.unwrap().unwrap().unwrap();
            if let Some(Up::Renew(signed)) = message.message {
                break attached.renewal(&signed).nonce;
            }
        };
        let key = if of_another_key { other.clone() } else { attached.key.clone() };
        let gateway = if of_another_key { "edge" } else { "other" };
        attached.send(Down::Authority(attached.authority(&key, gateway, &nonce))).await;
        // Its stream ends, and it asks on a new one.
        while let Ok(Some(Ok(_))) = tokio::time::timeout(PATIENCE, attached.up.next()).await {}
        assert_eq!(house.parts.clock.now().authority, Authority::Missing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halt_that_cuts_nothing_is_on_disk_before_it_is_acknowledged() {
    let house = house().await;
    let mut attached = house.started().await;
    let before = house.parts.log.journal().durable_seq();
    let halt = super::fixture::object("Halt", "resource/api/orders", &serde_json::json!({}));
    attached.send(Down::Delta(delta(8, vec![v1::change::Change::ObjectPut(halt)]))).await;
    assert_eq!(attached.applied().await.revision, 8);
    assert_eq!(Memory::open(house._dir.path()).unwrap().highest().revision, 8, "no restart forgets it");
    assert!(house.parts.log.journal().durable_seq() > before, "and the evidence tells of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstreams_hold_is_told_of_whatever_ends_or_stands_still_and_also_by_a_whole_picture() {
    let house = house().await;
    let mut attached = house.started().await;
    let (now, until) = (house.parts.clock.wall(), |seconds| Duration::from_secs(seconds));
    for (grant, seconds) in [(1, 60), (2, 90)] {
        let expires = now.saturating_add(until(seconds));
        house.parts.registry.handed().note(GrantId::from_bits(grant), expires, now);
    }
    let told = |applied: &v1::Applied| -> Vec<u128> {
        let grant = |left: &v1::ResidualTokens| u128::from_be_bytes(left.grant_id.as_slice().try_into().unwrap());
        applied.residual.iter().map(grant).collect()
    };
    // Everything on the resource stands still.
    let halt = super::fixture::object("Halt", "resource/api/orders", &serde_json::json!({}));
    attached.send(Down::Delta(delta(8, vec![v1::change::Change::ObjectPut(halt.clone())]))).await;
    assert_eq!(told(&attached.applied().await), [1, 2]);
    // What changes nothing for them tells nothing of them.
    attached.send(Down::Delta(delta(9, vec![v1::change::Change::ObjectPut(super::fixture::resource("5s"))]))).await;
    assert_eq!(told(&attached.applied().await), [0; 0]);
    // A key that signed who knows what.
    let key = super::fixture::object("Halt", "issuer/https://i#k", &serde_json::json!({}));
    attached.send(Down::Delta(delta(10, vec![v1::change::Change::ObjectPut(key.clone())]))).await;
    assert_eq!(told(&attached.applied().await), [1, 2]);
    // One ended while this gateway heard nothing, and all that it hears of it is that the grant is not there.
    attached.send(Down::Snapshot(part(12, [catalog(), vec![halt, key]].concat(), vec![grant(2)]))).await;
    assert_eq!(told(&attached.applied().await), [1]);
}
