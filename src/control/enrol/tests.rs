//! Files, certificates and tokens, run again and again.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rcgen::KeyPair;

use super::super::api::gateway_name;
use super::super::sample::{NOW, core};
use super::*;
use crate::control::record::{Digest, PersonRole};
use crate::domain::clock::ManualClock;

const DAY: Duration = Duration::from_secs(86_400);

fn der(path: &Path) -> Vec<u8> {
    let pem = std::fs::read(path).unwrap();
    x509_parser::pem::parse_x509_pem(&pem).unwrap().1.contents
}

fn files_of(dir: &Path) -> Vec<Vec<u8>> {
    ["ca.pem", "ca.key", "control.pem", "control.key"].map(|f| std::fs::read(dir.join(f)).unwrap()).to_vec()
}

#[tokio::test]
async fn init_run_again_keeps_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(NOW);
    let at = dir.path().join("pki");
    init(&at, "example.org", &[], &clock).await.unwrap();
    let before = files_of(&at);
    init(&at, "example.org", &[], &clock).await.unwrap();
    assert_eq!(files_of(&at), before);
    for key in ["ca.key", "control.key"] {
        assert_eq!(std::fs::metadata(at.join(key)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // Another name is another certificate, for the same key.
    init(&at, "example.org", &["control.example.org".into()], &clock).await.unwrap();
    let after = files_of(&at);
    assert_eq!([&after[0], &after[1], &after[3]], [&before[0], &before[1], &before[3]]);
    assert_ne!(after[2], before[2]);
    assert!(matches!(init(&at, "other.org", &[], &clock).await, Err(EnrolError::Unusable { .. })));
}

#[tokio::test]
async fn certificates_are_issued_anew_when_a_third_of_their_life_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(NOW);
    let ca = init(dir.path(), "example.org", &[], &clock).await.unwrap();
    let subject = Subject::Gateway { name: "edge".parse().unwrap(), names: Vec::new() };
    let (certificate, key) = (dir.path().join("g/cert.pem"), dir.path().join("g/key.pem"));
    assert_eq!(ca.issue(&subject, &certificate, &key, &clock).await.unwrap(), Issued::New);
    let first_key = std::fs::read(&key).unwrap();
    clock.advance(59 * DAY);
    assert_eq!(ca.issue(&subject, &certificate, &key, &clock).await.unwrap(), Issued::Kept);
    clock.advance(2 * DAY);
    assert_eq!(ca.issue(&subject, &certificate, &key, &clock).await.unwrap(), Issued::New);
    assert_eq!(std::fs::read(&key).unwrap(), first_key);
    // A certificate that is not one is replaced, a key that is not one is not.
    files::write(&certificate, b"x", files::PUBLIC).unwrap();
    assert_eq!(ca.issue(&subject, &certificate, &key, &clock).await.unwrap(), Issued::New);
    files::write(&key, b"x", files::PRIVATE).unwrap();
    assert!(matches!(ca.issue(&subject, &certificate, &key, &clock).await, Err(EnrolError::Unusable { .. })));
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_not_kept() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = ManualClock::at(NOW);
    let subject = Subject::Workload("spiffe://example.org/sa/billing".parse().unwrap());
    let (certificate, key) = (one.path().join("cert.pem"), one.path().join("key.pem"));
    let first = init(one.path(), "example.org", &[], &clock).await.unwrap();
    first.issue(&subject, &certificate, &key, &clock).await.unwrap();
    let second = init(two.path(), "example.org", &[], &clock).await.unwrap();
    assert_eq!(second.issue(&subject, &certificate, &key, &clock).await.unwrap(), Issued::New);
}

#[tokio::test]
async fn a_gateway_is_who_its_one_uri_names() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(NOW);
    let ca = init(dir.path(), "example.org", &[], &clock).await.unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    // A key in a file waits for nobody.
    let named = |subject: Subject, domain: &str| {
        ca.issue(&subject, &certificate, &key, &clock).now_or_never().unwrap().unwrap();
        gateway_name(&der(&certificate), domain).map(|name| name.to_string())
    };
    let gateway = |name: &str| Subject::Gateway { name: name.parse().unwrap(), names: vec!["edge.example".into()] };
    assert_eq!(named(gateway("edge"), "example.org").as_deref(), Some("edge"));
    assert_eq!(named(gateway("edge"), "example.com"), None);
    let workload = |id: &str| Subject::Workload(id.parse().unwrap());
    assert_eq!(named(workload("spiffe://example.org/sa/edge"), "example.org"), None);
    assert_eq!(named(workload("spiffe://example.org/gateway/edge/x"), "example.org"), None);
    assert_eq!(named(workload("spiffe://example.org/x/gateway/edge"), "example.org"), None);
    assert_eq!(named(Subject::Server { names: Vec::new() }, "example.org"), None);
    assert_eq!(gateway_name(b"", "example.org"), None);
    // Two URIs are no name at all (X.509-SVID section 2).
    let mut params = rcgen::CertificateParams::default();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    params.subject_alt_names = vec![uri("spiffe://example.org/gateway/edge"), uri("spiffe://example.org/gateway/two")];
    let own = KeyPair::generate().unwrap();
    assert_eq!(gateway_name(params.self_signed(&own).unwrap().der(), "example.org"), None);
}

#[tokio::test]
async fn no_gateway_goes_by_the_control_planes_name() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(NOW);
    let ca = init(dir.path(), "example.org", &[], &clock).await.unwrap();
    let certified = |file: &str| String::from_utf8_lossy(&der(&dir.path().join(file))).contains(CONTROL_SERVER_NAME);
    assert!(certified("control.pem"));
    let issue = |name: &str| {
        let subject = Subject::Gateway { name: "edge".parse().unwrap(), names: vec![name.to_owned()] };
        ca.issue(&subject, &dir.path().join("edge.pem"), &dir.path().join("edge.key"), &clock).now_or_never().unwrap()
    };
    for name in
        [CONTROL_SERVER_NAME, "Control.Portcullis.Internal", "control.portcullis.internal.", "*.portcullis.internal"]
    {
        assert!(matches!(issue(name), Err(EnrolError::Reserved(_))), "{name}");
    }
    issue("control.example").unwrap();
    assert!(!certified("edge.pem"));
}

#[tokio::test]
async fn a_persons_token_is_made_once_and_only_its_digest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let core = core(dir.path(), &clock).await;
    let file = dir.path().join("people/alice");
    let person =
        || PersonSpec { name: "alice".parse().unwrap(), roles: vec![PersonRole::Developer], speaks_for: Vec::new() };
    ensure_person(core.handle(), person(), &file).await.unwrap();
    let token = std::fs::read_to_string(&file).unwrap();
    assert!(token.starts_with("pcp_") && token.len() == 47, "{token}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let alice: crate::domain::name::OwnerName = "alice".parse().unwrap();
    let revision = core.handle().model().people[&alice].revision;
    ensure_person(core.handle(), person(), &file).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), token);
    assert_eq!(core.handle().model().people[&alice].revision, revision);
    assert_eq!(core.handle().model().person_with(&Digest::of(&token)).unwrap().name.as_str(), "alice");
    let database = std::fs::read(dir.path().join("control.db")).unwrap();
    assert!(!database.windows(token.len()).any(|window| window == token.as_bytes()));
    let posing = PersonSpec { name: "gateway.edge".parse().unwrap(), ..person() };
    assert!(ensure_person(core.handle(), posing, &dir.path().join("people/x")).await.is_err());
}
