//! What a test from outside cannot hit: a change of trust between a handshake and the connection's place on the list.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;
use crate::domain::Timestamp;
use crate::domain::clock::ManualClock;
use crate::gateway::authority::Memory;
use crate::settings::gateway::{ClientCertificate, ClientTrust, ListenerClients, SniRule, TlsSource, TrustBundle};

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn a_handshake_that_a_change_of_trust_overtook_is_good_for_no_call() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let file = dir.path().join(name);
        crate::files::write(&file, text.as_bytes(), crate::files::PRIVATE).unwrap();
        file
    };
    let (old, new, key) = (authority(), authority(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://td/a".try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let svid = params.signed_by(&key, &old).unwrap();
    let file = put("bundle.pem", &old.pem());
    let bundle = TrustBundle { file, crl_files: Vec::new() };
    let trust = ClientTrust::Domains(vec![("td".parse().unwrap(), bundle)]);
    let settings = ListenerTls {
        source: TlsSource::Files {
            certificate_file: put("tls.pem", &svid.pem()),
            key_file: put("tls.key", &key.serialize_pem()),
        },
        min_version: TlsVersion::Tls13,
        sni: SniRule::Match,
        clients: Some(ListenerClients { certificate: ClientCertificate::Required, trust }),
    };
    let listener = Listener { address: "127.0.0.1:0".parse().unwrap(), tls: Some(settings) };
    let clock =
        AuthorityClock::new(Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000))), Memory::volatile());
    let tls = Tls::load(&[listener], clock, Registry::new(1), Metrics::new(1)).await.unwrap();
    let listener = tls.listener(0).unwrap();
    let chain = || vec![svid.der().clone()];

    let before = listener.current();
    let early = tls.enter(&listener, &before, chain());
    assert!(!early.is_withdrawn());
    assert_eq!(tls.reload(), Reloaded::InForce);
    assert!(!early.is_withdrawn(), "nothing changed for it");
    put("bundle.pem", "");
    assert_eq!(tls.reload(), Reloaded::Kept);
    assert!(!early.is_withdrawn(), "a bad file changes nothing");
    put("bundle.pem", &new.pem());
    assert_eq!(tls.reload(), Reloaded::InForce);
    assert!(early.is_withdrawn(), "it was on the list");
    assert!(tls.enter(&listener, &before, chain()).is_withdrawn(), "its handshake was with what is gone");
    put("bundle.pem", &format!("{}{}", old.pem(), new.pem()));
    tls.look();
    assert!(!tls.enter(&listener, &before, chain()).is_withdrawn(), "it is trusted again");
    assert!(early.is_withdrawn(), "what was withdrawn stays so");
    drop(early);
    assert!(tls.clients.untrusted(|_| true).is_empty(), "who has left is forgotten");
}

#[tokio::test]
async fn a_listener_that_takes_certificates_of_nobody_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["gate".to_owned()]).unwrap().self_signed(&key).unwrap();
    let put = |name: &str, text: &str| {
        let file = dir.path().join(name);
        crate::files::write(&file, text.as_bytes(), crate::files::PRIVATE).unwrap();
        file
    };
    let source = TlsSource::Files {
        certificate_file: put("tls.pem", &certificate.pem()),
        key_file: put("tls.key", &key.serialize_pem()),
    };
    for certificate in [ClientCertificate::Required, ClientCertificate::Optional] {
        // The bundles of an agent that is none.
        let clients = Some(ListenerClients { certificate, trust: ClientTrust::WorkloadApi });
        let tls = ListenerTls { source: source.clone(), min_version: TlsVersion::Tls13, sni: SniRule::Match, clients };
        let listener = Listener { address: "127.0.0.1:0".parse().unwrap(), tls: Some(tls) };
        let clock = AuthorityClock::new(Arc::new(ManualClock::at(Timestamp::from_unix_seconds(0))), Memory::volatile());
        let loaded = Tls::load(&[listener], clock, Registry::new(1), Metrics::new(1)).await;
        assert!(loaded.is_err_and(|error| error.to_string().contains("without authorities")));
    }
}
