//! Mutual TLS: whose certificate is taken, whose is not, and what a connection remembers.

use std::process::Command;
use std::sync::Arc;

use rcgen::CertificateParams;

use crate::dev::{Dev, PATIENCE, eventually, try_curl};
use crate::world::{Certificate, Fleet, Tls, Upstream, authority, client_config, record, workload};

const BILLING: &str = "spiffe://dev.portcullis.local/workload/billing";

/// What a call with this certificate comes to: the status and reason, or nothing where there is no answer at all.
fn call(dev: &Dev, certificate: &Certificate) -> Option<(u16, String)> {
    let ca = dev.dir().join("ca.pem").display().to_string();
    let url = format!("{}/v1/orders/7", dev.addresses.gateway_tls);
    let done = try_curl(&["--cacert", &ca, "--cert", &certificate.cert, "--key", &certificate.key, &url]);
    let (head, body) = done.stdout.split_once("\r\n\r\n")?;
    assert_eq!(done.code, 0, "{done:?}");
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let reason =
        serde_json::from_str::<serde_json::Value>(body).ok()?["reason"].as_str().unwrap_or_default().to_owned();
    Some((status, reason))
}

fn dated(mut params: CertificateParams, from: i64, to: i64) -> CertificateParams {
    let day =
        |offset: i64| std::time::SystemTime::now() + std::time::Duration::from_secs(86_400 * offset.unsigned_abs());
    let past =
        |offset: i64| std::time::SystemTime::now() - std::time::Duration::from_secs(86_400 * offset.unsigned_abs());
    let at = |offset: i64| if offset < 0 { past(offset) } else { day(offset) };
    params.not_before = at(from).into();
    params.not_after = at(to).into();
    params
}

#[test]
fn only_a_workloads_certificate_of_the_trust_domain_is_anybody() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let good = Certificate::of_dev(&dev, &workload(&[BILLING]));
    assert_eq!(call(&dev, &good), Some((200, String::new())));
    // A good certificate of somebody who is not in the inventory.
    let stranger = Certificate::of_dev(&dev, &workload(&["spiffe://dev.portcullis.local/workload/nobody"]));
    assert_eq!(call(&dev, &stranger), Some((403, "identity_unknown".to_owned())));
    let foreign = Certificate::of_dev(&dev, &workload(&["spiffe://other.domain/workload/billing"]));
    assert_eq!(call(&dev, &foreign), Some((403, "identity_unknown".to_owned())));

    let refused = [
        ("two URIs", Certificate::of_dev(&dev, &workload(&[BILLING, "spiffe://dev.portcullis.local/workload/helper"]))),
        ("no URI", Certificate::of_dev(&dev, &workload(&[]))),
        ("an authority", Certificate::of_dev(&dev, &authority(&[BILLING]))),
        ("no SPIFFE ID", Certificate::of_dev(&dev, &workload(&["https://dev.portcullis.local/workload/billing"]))),
        ("expired", Certificate::of_dev(&dev, &dated(workload(&[BILLING]), -3, -1))),
        ("not yet valid", Certificate::of_dev(&dev, &dated(workload(&[BILLING]), 1, 3))),
        ("of nobody", Certificate::self_signed(&workload(&[BILLING]))),
        ("of another authority", other_authority(&workload(&[BILLING]))),
    ];
    for (what, certificate) in refused {
        assert_eq!(call(&dev, &certificate), None, "{what}");
    }
    assert_eq!(call(&dev, &good), Some((200, String::new())));
}

/// A CA of the test's own with the very name of dev's.
fn other_authority(params: &CertificateParams) -> Certificate {
    let ca = Certificate::self_signed(&authority(&[]));
    Certificate::signed(ca.cert.as_ref(), ca.key.as_ref(), params)
}

#[test]
fn a_certificate_and_a_token_are_the_same_identity_and_the_token_speaks() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let answer = dev.call_tls("billing", "GET", "/v1/orders/7").is(200);
    let intent = record(&dev, answer.header("portcullis-call-id").unwrap(), "intent");
    assert_eq!(intent["data"]["credential"], "certificate");
    assert_eq!(intent["data"]["principal"], BILLING);
    assert_eq!(intent["data"]["identity"], "billing");
    // Over billing's connection, helper's token is helper's call.
    let path = |file: &str| dev.identity("billing", file).display().to_string();
    let (ca, cert, key) = (dev.dir().join("ca.pem").display().to_string(), path("cert.pem"), path("key.pem"));
    let url = format!("{}/v1/orders/7", dev.addresses.gateway_tls);
    let mtls = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    let helper = dev.bearer("helper");
    crate::dev::curl(&[&mtls[..], &["-H", helper.as_str(), url.as_str()]].concat()).refuses(403, "grant_missing");
    // A bad token is not made good by a good certificate.
    let bad = ["-H", "Authorization: Bearer a.b.c", url.as_str()];
    crate::dev::curl(&[&mtls[..], &bad].concat()).is(401);
    // No certificate and no token: nobody.
    crate::dev::curl(&["--cacert", &ca, &url]).refuses(401, "credential_missing");
}

#[test]
fn a_connection_outlives_its_certificate_and_its_calls_do_not() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let mut params = workload(&[BILLING]);
    params.not_after = (std::time::SystemTime::now() + std::time::Duration::from_secs(4)).into();
    let certificate = Certificate::of_dev(&dev, &params);
    let mut connection = Tls::connect(&dev.addresses.gateway_tls, &config_of(&dev, &certificate));
    let first = connection.get("/v1/orders/7");
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    let mut last = String::new();
    eventually("the certificate has ended", PATIENCE, || {
        last = connection.get("/v1/orders/7");
        !last.starts_with("HTTP/1.1 200 ")
    });
    assert!(last.starts_with("HTTP/1.1 401 ") && last.contains("credential_expired"), "{last}");
}

#[test]
fn a_resumed_session_carries_nobody() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let certificate = Certificate::of_dev(&dev, &workload(&[BILLING]));
    let config = config_of(&dev, &certificate);
    for _ in 0..3 {
        let mut connection = Tls::connect(&dev.addresses.gateway_tls, &config);
        assert!(connection.get("/v1/orders/7").starts_with("HTTP/1.1 200 "));
        let kind = connection.stream.conn.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full), "a session was resumed: nobody would have shown a key");
    }
    // An old tool's way to resume, for what the library above would not try.
    let session = dev.home.path().join("session");
    let address = dev.addresses.gateway_tls.trim_start_matches("https://").to_owned();
    let openssl = |flag: &str| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address, "-cert", &certificate.cert, "-key", &certificate.key, flag]);
        command.arg(&session).stdin(std::process::Stdio::null());
        command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if let Ok(first) = openssl("-sess_out") {
        assert!(first.contains("New, TLSv1.3"), "{first}");
        assert!(!session.exists() || openssl("-sess_in").unwrap().contains("New, TLSv1.3"));
    }
}

#[test]
fn older_tls_and_plain_text_are_not_spoken() {
    let dev = Dev::start();
    let ca = dev.dir().join("ca.pem").display().to_string();
    let url = format!("{}/v1/orders/7", dev.addresses.gateway_tls);
    assert_ne!(try_curl(&["--cacert", &ca, "--tls-max", "1.2", &url]).code, 0);
    assert_ne!(try_curl(&[&url.replace("https://", "http://")]).code, 0);
    assert_ne!(try_curl(&[&url]).code, 0, "its certificate is of nobody that the system trusts");
}

#[test]
fn where_a_certificate_is_required_nobody_comes_without_one() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|config| {
        config["listen"][1]["tls"].as_object_mut().unwrap().remove("client_certificate");
    });
    let gate = gate.ready();
    fleet.grant("--wait=20s");
    let control = fleet.home.path().join("control/ca");
    let ca = control.join("ca.pem").display().to_string();
    let url = format!("{}/v1/orders/7", gate.tls);
    let bearer = fleet.bearer();
    assert_ne!(try_curl(&["--cacert", &ca, "-H", &bearer, &url]).code, 0);
    let certificate = Certificate::signed(
        &control.join("ca.pem"),
        &control.join("ca.key"),
        &workload(&["spiffe://test.example/billing"]),
    );
    let done = try_curl(&["--cacert", &ca, "--cert", &certificate.cert, "--key", &certificate.key, &url]).exits(0);
    assert!(done.stdout.contains(" 200"), "{done:?}");
    assert_eq!(upstream.seen(), 1);
}

fn config_of(dev: &Dev, certificate: &Certificate) -> Arc<rustls::ClientConfig> {
    Arc::new(client_config(&dev.dir().join("ca.pem"), Some(certificate)))
}
