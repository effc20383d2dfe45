//! A gateway's settings, from text to checked or to faults.

use super::*;
use crate::settings::issuer::KeySource;
use crate::settings::{Durability, LogFormat, LogLevel};

const LEAST: &str = "\
role: gateway
name: edge-1
state_dir: state
audience: https://gate.example
control: {address: 'https://control.internal:7443', ca_file: ca.pem, certificate_file: c.pem, key_file: k.pem}
";

fn faults(text: &str) -> String {
    GatewaySettings::parse("g.yaml", text).unwrap_err().to_string()
}

#[test]
fn what_only_the_user_can_know_is_enough() {
    let settings = GatewaySettings::parse("/etc/p/gateway.yaml", LEAST).unwrap();
    assert_eq!(settings.listen, [Listener { address: "127.0.0.1:8080".parse().unwrap(), tls: None }]);
    assert_eq!(settings.admin_address.to_string(), "127.0.0.1:9901");
    assert!((1..=MAX_WORKERS).contains(&settings.workers));
    assert_eq!(settings.state_dir, Path::new("/etc/p/state"));
    assert_eq!(settings.evidence.dir, Path::new("/etc/p/state/evidence"));
    assert_eq!((settings.evidence.durability, settings.evidence.segment_bytes), (Durability::Disk, 64 << 20));
    assert_eq!(settings.limits.upstream_read_timeout, None);
    assert_eq!(settings.drain, Duration::from_secs(20));
    assert_eq!((settings.log.format, settings.log.level), (LogFormat::Text, LogLevel::Info));
    assert_eq!(settings.issuers, []);
}

#[test]
fn everything_that_can_be_said_is_taken() {
    let text = LEAST.to_owned()
        + "\
listen:
  - address: 127.0.0.1:0
  - address: 0.0.0.0:8443
    tls: {certificate_file: /t/c.pem, key_file: /t/k.pem, client_ca_file: /t/ca.pem, client_certificate: optional, sni: any}
  - address: '[::]:8444'
    tls: {certificate_file: /t/c.pem, key_file: /t/k.pem}
  - address: '[::]:8445'
    tls:
      certificate_file: /t/c.pem
      key_file: /t/k.pem
      min_version: \"1.2\"
      client_trust:
        - {trust_domain: a.example, bundle_file: /t/a.pem, crl_files: [/t/a.crl, /t/b.crl]}
        - {trust_domain: b.example, bundle_file: b.pem}
  - address: '[::]:8446'
    tls: {certificate_file: /t/c.pem, key_file: /t/k.pem, client_ca_file: /t/ca.pem, client_certificate: off}
  - address: '[::]:8447'
    tls: {spiffe_workload_api: {socket: 'unix:///run/spire/agent.sock'}, client_certificate: optional}
admin_address: '[::1]:9901'
workers: 3
issuers:
  - {issuer: https://a.example, jwks_url: 'https://a.example/keys', audiences: [one, two], leeway: 0s}
  - {issuer: https://b.example, jwks_file: keys/b.json, max_lifetime: 1h, refresh: 10s, max_stale: 1m}
evidence: {dir: /var/log/p, durability: process, segment_bytes: 1MiB}
limits: {max_connections: 5, max_connections_per_address: 2, max_streams_per_connection: 7, handshake_deadline: 2s, max_head_bytes: 16KiB, upstream_read_timeout: 5m, token_cache_bytes: 1048576, hold: 0s, inspect_bytes: 1MiB, inspect_deadline: 1s}
upstreams: {certificate_file: u.pem, key_file: /t/u.key, allow_networks: [169.254.170.2/32, 'fe80::/10']}
drain: 5s
log: {format: json, level: debug}
";
    let settings = GatewaySettings::parse("g.yaml", &text).unwrap();
    let clients: Vec<_> = settings
        .listen
        .iter()
        .map(|l| l.tls.as_ref().and_then(|t| t.clients.as_ref()).map(|c| c.certificate))
        .collect();
    let (required, optional) = (Some(ClientCertificate::Required), Some(ClientCertificate::Optional));
    assert_eq!(clients, [None, optional, None, required, None, optional]);
    let tls: Vec<_> = settings.listen.iter().filter_map(|l| l.tls.clone()).collect();
    let versions: Vec<_> = tls.iter().map(|tls| tls.min_version).collect();
    assert_eq!(
        versions,
        [TlsVersion::Tls13, TlsVersion::Tls13, TlsVersion::Tls12, TlsVersion::Tls13, TlsVersion::Tls13]
    );
    let sni: Vec<_> = tls.iter().map(|tls| tls.sni).collect();
    assert_eq!(sni, [SniRule::Any, SniRule::Match, SniRule::Match, SniRule::Match, SniRule::Match]);
    let socket = "unix:///run/spire/agent.sock".to_owned();
    assert_eq!(tls[4].source, TlsSource::WorkloadApi { socket });
    let bundle = |file: &str, crls: &[&str]| TrustBundle {
        file: file.into(),
        crl_files: crls.iter().map(PathBuf::from).collect(),
    };
    let trust: Vec<_> = tls.into_iter().filter_map(|tls| tls.clients).map(|clients| clients.trust).collect();
    let domains = vec![
        ("a.example".parse().unwrap(), bundle("/t/a.pem", &["/t/a.crl", "/t/b.crl"])),
        ("b.example".parse().unwrap(), bundle("b.pem", &[])),
    ];
    assert_eq!(
        trust,
        [ClientTrust::AnyDomain(bundle("/t/ca.pem", &[])), ClientTrust::Domains(domains), ClientTrust::WorkloadApi]
    );
    let [a, b] = settings.issuers.as_slice() else { panic!("{:?}", settings.issuers) };
    assert_eq!((a.audiences.join(" "), a.leeway), ("one two".to_owned(), Duration::ZERO));
    assert_eq!(a.keys, KeySource::Url("https://a.example/keys".to_owned()));
    assert_eq!(
        (b.audiences.join(" "), &b.keys),
        ("https://gate.example".to_owned(), &KeySource::File("keys/b.json".into()))
    );
    assert_eq!(settings.limits.max_connections_per_address, 2);
    assert_eq!(settings.limits.max_streams_per_connection, 7);
    assert_eq!(settings.limits.handshake_deadline, Duration::from_secs(2));
    assert_eq!((settings.limits.max_head_bytes, settings.limits.token_cache_bytes), (16 << 10, 1 << 20));
    assert_eq!((settings.limits.inspect_bytes, settings.limits.inspect_deadline), (1 << 20, Duration::from_secs(1)));
    assert_eq!(settings.limits.upstream_read_timeout, Some(Duration::from_secs(300)));
    assert_eq!(settings.workers, 3);
    let UpstreamSettings { certificate, allow_networks } = settings.upstreams;
    assert_eq!(certificate.unwrap().certificate_file, Path::new("u.pem"));
    assert_eq!(allow_networks, ["169.254.170.2/32".parse().unwrap(), "fe80::/10".parse().unwrap()]);
}

#[test]
fn a_certificate_towards_upstreams_has_its_key_and_a_network_its_length() {
    assert!(
        faults(
            &(LEAST.to_owned()
                + "upstreams: {key_file: k}
")
        )
        .contains("belong together")
    );
    let told = faults(
        &(LEAST.to_owned()
            + "upstreams: {allow_networks: [169.254.170.2], insecure: true}
"),
    );
    assert!(told.contains("`169.254.170.2` is not a network") && told.contains("unknown key `insecure`"), "{told}");
}

#[test]
fn faults_of_shape_show_all_at_once_in_words() {
    let text = LEAST.replace("audience:", "audiense:")
        + "\
listen:
  - adress: 127.0.0.1:8080
  - {address: localhost:8080, tls: true}
workers: many
drain: 10
limits: {head_deadline: soon, max_head_bytes: 4MB, max_connections: -1}
evidence: {durability: disc}
log: {level: loud}
";
    let expected = "\
g.yaml:1:1: key `audience` is missing: the audience that tokens for this gateway carry, usually its URL
g.yaml:4:1: unknown key `audiense`; did you mean `audience`?
g.yaml:7:5: key `address` is missing: IP and port; without `tls` on loopback only
g.yaml:7:5: unknown key `adress`; did you mean `address`?
g.yaml:8:15: `localhost:8080` is not an address: IP and port, as in 127.0.0.1:8080 or [::1]:8080
g.yaml:8:36: a mapping is expected, found `true`
g.yaml:9:10: a whole number is expected, found text
g.yaml:10:8: text is expected, found `10`: put it into quotes
g.yaml:11:25: `soon` is not a duration: a whole number and a unit, as in 250ms, 10s, 5m, 8h or 7d
g.yaml:11:47: `4MB` is not a size: a whole number of bytes, or one with a unit, as in 64KiB, 4MiB or 1GiB
g.yaml:11:69: at least 0 is expected
g.yaml:12:24: `disk`, `process` or `remote` is expected, found `disc`; did you mean `disk`?
g.yaml:13:14: `error`, `warn`, `info` or `debug` is expected, found `loud`";
    let faults = faults(&text);
    assert_eq!(faults, expected, "\n{faults}\n");
}

#[test]
fn faults_between_values_show_all_at_once() {
    let text = LEAST.replace("https://control", "http://control")
        + "\
listen:
  - address: 0.0.0.0:8080
  - address: 127.0.0.1:9901
  - address: 0.0.0.0:8443
    tls: {certificate_file: c, key_file: k, client_certificate: required}
  - address: 0.0.0.0:8444
    tls:
      {certificate_file: c, key_file: k, client_ca_file: a, client_trust: [{trust_domain: a, bundle_file: b}]}
  - address: 0.0.0.0:8445
    tls:
      certificate_file: c
      key_file: k
      client_crl_files: [a]
      client_trust: [{trust_domain: a, bundle_file: b}, {trust_domain: a, bundle_file: c}]
admin_address: 127.0.0.1:9901
workers: 65
issuers:
  - {issuer: https://a.example, jwks_url: 'http://a.example/keys', leeway: 5m}
  - {issuer: https://a.example, jwks_url: 'http://127.0.0.1:1/keys', jwks_file: b}
  - {issuer: https://a.example, jwks_url: 'https://u:p@a.example/keys', refresh: 1h, max_stale: 1m}
drain: 2h
limits: {handshake_deadline: 2m, max_connections_per_address: 0}
evidence: {segment_bytes: 1}
";
    let faults = GatewaySettings::parse("g.yaml", &text).unwrap_err();
    let places: Vec<_> = faults.as_slice().iter().map(|fault| (fault.line, fault.path.as_str())).collect();
    let expected = [
        (5, "/control/address"),
        (7, "/listen/0/address"),
        (10, "/listen/2/tls/client_certificate"),
        (13, "/listen/3/tls/client_trust"),
        (18, "/listen/4/tls/client_crl_files"),
        (19, "/listen/4/tls/client_trust/1/trust_domain"),
        (20, "/admin_address"),
        (21, "/workers"),
        (23, "/issuers/0/jwks_url"),
        (23, "/issuers/0/leeway"),
        (24, "/issuers/1/issuer"),
        (24, "/issuers/1"),
        (25, "/issuers/2/issuer"),
        (25, "/issuers/2/jwks_url"),
        (25, "/issuers/2/max_stale"),
        (26, "/drain"),
        (27, "/limits/handshake_deadline"),
        (27, "/limits/max_connections_per_address"),
        (28, "/evidence/segment_bytes"),
    ];
    for place in expected {
        assert!(places.contains(&place), "{place:?} in\n{faults}");
    }
    assert_eq!(places.len(), expected.len(), "{faults}");
}

#[test]
fn the_role_decides_and_a_second_document_is_refused() {
    assert!(
        faults(&LEAST.replace("role: gateway", "role: control"))
            .starts_with("g.yaml:1:7: `gateway` is expected, found `control`")
    );
    assert!(faults(&format!("{LEAST}---\na: 1\n")).contains("g.yaml:7:1: a settings file is one document"));
    assert_eq!(faults(""), "g.yaml:1:1: nothing is in it");
    assert_eq!(faults("[]"), "g.yaml:1:1: a mapping is expected, found a list");
}

#[test]
fn a_listener_has_one_source_of_its_tls() {
    let text = LEAST.to_owned()
        + "\
listen:
  - {address: 0.0.0.0:1, tls: {}}
  - {address: 0.0.0.0:2, tls: {certificate_file: c}}
  - {address: 0.0.0.0:3, tls: {spiffe_workload_api: {socket: 'unix:agent.sock'}, key_file: k, client_ca_file: a}}
  - {address: 0.0.0.0:4, tls: {spiffe_workload_api: {socket: 'tcp://127.0.0.1:1'}}}
";
    let expected = "\
g.yaml:7:31: key `certificate_file` is missing, or `spiffe_workload_api`
g.yaml:7:31: key `key_file` is missing, or `spiffe_workload_api`
g.yaml:8:31: key `key_file` is missing, or `spiffe_workload_api`
g.yaml:9:62: `unix:agent.sock` is not the socket of an agent: unix:///ABSOLUTE/PATH is expected
g.yaml:9:92: with `spiffe_workload_api` this comes from there
g.yaml:9:111: with `spiffe_workload_api` this comes from there
g.yaml:10:62: `tcp://127.0.0.1:1` is not the socket of an agent: unix:///ABSOLUTE/PATH is expected";
    let faults = faults(&text);
    assert_eq!(faults, expected, "\n{faults}\n");
}
