//! A control plane in a temporary directory, and clients for it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tempfile::TempDir;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Request, Status};

use super::super::super::authority::AuthorityKey;
use super::super::super::enrol::{self, CertificateAuthority, PersonSpec, Subject};
use super::super::super::outbox::{Reached, Sink, SinkError, Told};
use super::super::super::record::PersonRole;
use super::super::super::sample;
use super::super::super::{ControlHandle, ControlPlane, Core};
use crate::domain::Clock;
use crate::domain::clock::ManualClock;
use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::{EvidenceKey, Origin};
use crate::evidence::cosignature::CosignerKey;
use crate::settings::ControlSettings;
use crate::wire::v1;

/// A log in memory.
#[derive(Debug, Default)]
pub(super) struct MemorySink {
    pub(super) told: Mutex<Vec<Told>>,
}

#[async_trait]
impl Sink for MemorySink {
    async fn reached(&self) -> Result<Reached, SinkError> {
        let told = self.told.lock().unwrap();
        let Some(last) = told.last() else { return Ok(Reached::default()) };
        let events = told.iter().filter(|t| t.revision == last.revision).count();
        Ok(Reached { revision: last.revision, events })
    }

    async fn append(&self, told: &[Told]) -> Result<(), SinkError> {
        self.told.lock().unwrap().extend_from_slice(told);
        Ok(())
    }
}

pub(super) fn objects() -> Vec<v1::CatalogObject> {
    let object = |(kind, name, spec): &(&str, &str, &str)| v1::CatalogObject {
        kind: (*kind).to_owned(),
        name: (*name).to_owned(),
        spec_json: (*spec).to_owned(),
        ..Default::default()
    };
    sample::CATALOG.iter().map(object).collect()
}

pub(super) struct Bench {
    pub(super) dir: TempDir,
    pub(super) clock: Arc<ManualClock>,
    pub(super) sink: Arc<MemorySink>,
    pub(super) plane: Option<ControlPlane>,
    ca: CertificateAuthority,
    settings: ControlSettings,
}

pub(super) type Client = InterceptedService<Channel, Bearer>;

#[derive(Clone)]
pub(super) struct Bearer(Option<String>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        Ok(request)
    }
}

impl Bench {
    /// With the administrator `admin`, `carol` of security, `bob` who speaks for orders, `alice` the developer, and the
    /// gateways `one` and `two`.
    pub(super) async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with more settings.
    pub(super) async fn start_with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Certificates are checked by the machine's clock.
        let clock = Arc::new(ManualClock::at(crate::clock::SystemClock.now()));
        let pki = dir.path().join("pki");
        let ca = enrol::init(&pki, "example.org", &[], clock.as_ref()).await.unwrap();
        let text = format!(
            "role: control\ntrust_domain: example.org\nstate_dir: {}\ngrpc_address: 127.0.0.1:0\nhttp_address: 127.0.0.1:0\n\
             https_address: 127.0.0.1:0\npublic_url: https://localhost:7444\n\
             tls: {{certificate_file: {pki}/control.pem, key_file: {pki}/control.key, client_ca_file: {pki}/ca.pem}}\n\
             drain: 1s\n{more}",
            dir.path().join("state").display(),
            pki = pki.display(),
        );
        let settings = ControlSettings::parse("control.yaml", &text).unwrap();
        let sink = Arc::new(MemorySink::default());
        let mut bench = Self { dir, clock, sink, plane: None, ca, settings };
        bench.resume().await;
        bench.enrol().await;
        bench
    }

    /// Starts the control plane on what is there.
    pub(super) async fn resume(&mut self) {
        // A stream of before may hold the store for a moment longer.
        let core = loop {
            match Core::open(&self.settings, self.clock.clone()).await {
                Err(error) if error.to_string().contains("open in another process") => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        let sink: Arc<dyn Sink> = self.sink.clone();
        self.plane = Some(ControlPlane::serve(core, &self.settings, sink).await.unwrap());
    }

    pub(super) async fn stop(&mut self) {
        self.plane.take().unwrap().shutdown().await;
    }

    pub(super) fn handle(&self) -> ControlHandle {
        self.plane.as_ref().unwrap().handle().clone()
    }

    async fn enrol(&self) {
        let people: [(&str, PersonRole, &[&str]); 4] = [
            ("admin", PersonRole::Administrator, &[]),
            ("carol", PersonRole::Security, &[]),
            ("bob", PersonRole::Owner, &["orders"]),
            ("alice", PersonRole::Developer, &[]),
        ];
        for (name, role, speaks_for) in people {
            let person = PersonSpec {
                name: name.parse().unwrap(),
                roles: vec![role],
                speaks_for: speaks_for.iter().map(|name| name.parse().unwrap()).collect(),
            };
            enrol::ensure_person(&self.handle(), person, &self.dir.path().join("people").join(name)).await.unwrap();
        }
        for name in ["one", "two"] {
            let name: GatewayName = name.parse().unwrap();
            let origin: Origin = format!("portcullis/gateway/{name}").parse().unwrap();
            let key = self.evidence_key(name.as_str()).verifier(&origin).to_string();
            enrol::ensure_gateway(&self.handle(), &name, &key, self.clock.now()).await.unwrap();
        }
    }

    pub(super) fn token(&self, person: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("people").join(person)).unwrap()
    }

    /// A connection, with a client certificate for `subject` if there is one.
    pub(super) async fn channel(&self, subject: Option<Subject>) -> Channel {
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.ca.pem())).domain_name("localhost");
        if let Some(subject) = subject {
            let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
            let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
            self.ca.issue(&subject, &certificate, &key, &crate::clock::SystemClock).await.unwrap();
            let read = |path: &Path| std::fs::read(path).unwrap();
            tls = tls.identity(Identity::from_pem(read(&certificate), read(&key)));
        }
        let address = self.plane.as_ref().unwrap().grpc_address();
        let endpoint = Channel::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// What HTTPS at the control plane is reached with, with a client certificate for `subject` if there is one.
    pub(super) fn https(&self, subject: Option<Subject>) -> (reqwest::Client, String) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(self.ca.pem().as_bytes()).unwrap();
        let mut client = reqwest::Client::builder().no_proxy().tls_certs_only([ca]);
        if let Some(subject) = subject {
            let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
            let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
            self.ca.issue(&subject, &certificate, &key, &crate::clock::SystemClock).now_or_never().unwrap().unwrap();
            let both = [std::fs::read(key).unwrap(), std::fs::read(certificate).unwrap()].concat();
            client = client.identity(reqwest::Identity::from_pem(&both).unwrap());
        }
        let address = self.plane.as_ref().unwrap().https_address().unwrap();
        (client.build().unwrap(), format!("https://localhost:{}", address.port()))
    }

    pub(super) async fn as_person(&self, person: &str) -> Client {
        InterceptedService::new(self.channel(None).await, Bearer(Some(self.token(person))))
    }

    pub(super) async fn as_token(&self, token: Option<&str>) -> Client {
        InterceptedService::new(self.channel(None).await, Bearer(token.map(str::to_owned)))
    }

    /// The same for as long as the bench lives.
    pub(super) fn evidence_key(&self, name: &str) -> EvidenceKey {
        EvidenceKey::load_or_create(&self.dir.path().join(format!("{name}.evidence.key"))).unwrap()
    }

    pub(super) fn authority(&self) -> CosignerKey {
        AuthorityKey::open_or_create(&self.settings.state_dir, "example.org").unwrap().verifier()
    }

    pub(super) async fn as_gateway(&self, name: &str) -> Channel {
        let subject = Subject::Gateway { name: name.parse().unwrap(), names: Vec::new() };
        self.channel(Some(subject)).await
    }

    pub(super) async fn access(&self, person: &str) -> v1::access_client::AccessClient<Client> {
        v1::access_client::AccessClient::new(self.as_person(person).await)
    }

    pub(super) async fn catalog(&self, person: &str) -> v1::catalog_client::CatalogClient<Client> {
        v1::catalog_client::CatalogClient::new(self.as_person(person).await)
    }

    pub(super) async fn apply(&self) -> v1::ApplyResponse {
        let request = v1::ApplyRequest { objects: objects(), ..Default::default() };
        self.catalog("admin").await.apply(request).await.unwrap().into_inner()
    }
}

/// A request for a grant of billing to read orders for an hour.
pub(super) fn grant_request() -> v1::CreateGrantRequest {
    v1::CreateGrantRequest {
        identity: "billing".into(),
        role: "orders-reader".into(),
        duration_ms: 3_600_000,
        reason: "month-end run".into(),
        ..Default::default()
    }
}
