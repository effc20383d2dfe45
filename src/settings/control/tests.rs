//! What a control plane's file may say, and what it is told otherwise.

use super::*;

const LEAST: &str = "role: control\ntrust_domain: example.org\nstate_dir: state\n\
                     tls: {certificate_file: c.pem, key_file: k.pem, client_ca_file: /ca.pem}\n";

#[test]
fn what_only_the_user_can_know_is_enough() {
    let settings = ControlSettings::parse("/etc/p/control.yaml", LEAST).unwrap();
    assert_eq!(settings.grpc_address.to_string(), "127.0.0.1:7443");
    assert_eq!(settings.http_address.to_string(), "127.0.0.1:7080");
    assert_eq!(settings.state_dir, Path::new("/etc/p/state"));
    assert_eq!(settings.tls.certificate_file, Path::new("/etc/p/c.pem"));
    assert_eq!(settings.tls.client_ca_file, Path::new("/ca.pem"));
    assert_eq!(settings.store, StoreSettings::Sqlite { file: "/etc/p/state/control.db".into() });
    assert_eq!(settings.seal_key_file, Path::new("/etc/p/state/seal.key"));
    assert_eq!(settings.evidence.dir, Path::new("/etc/p/state/evidence"));
    assert_eq!(settings.drain, Duration::from_secs(20));
}

#[test]
fn the_plain_api_stays_on_loopback_and_all_faults_show() {
    let text = LEAST.replace("example.org", "Example/x") + "http_address: 0.0.0.0:7080\nlimits: {max_connections: 0}\n";
    let faults = ControlSettings::parse("c.yaml", &text).unwrap_err();
    let places: Vec<_> = faults.as_slice().iter().map(|fault| (fault.line, fault.path.as_str())).collect();
    assert_eq!(places, [(2, "/trust_domain"), (5, "/http_address"), (6, "/limits/max_connections")], "{faults}");
}

#[test]
fn callers_are_told_an_address_that_is_safe_to_send_a_token_to() {
    let parse = |more: &str| ControlSettings::parse("c.yaml", &(LEAST.to_owned() + more));
    let tls = "https_address: 0.0.0.0:7444\n";
    for (url, good) in [
        ("https://control.example.org", true),
        ("https://control.example.org:7444/", true),
        ("http://127.0.0.1:9000", true),
        ("http://control.example.org", false),
        ("https://control.example.org/path", false),
        ("https://a@control.example.org", false),
        ("control.example.org", false),
        ("ftp://control.example.org", false),
    ] {
        let settings = parse(&format!("{tls}public_url: {url}\n"));
        assert_eq!(settings.is_ok(), good, "{url}");
        if let Ok(settings) = settings {
            assert_eq!(settings.public_url.as_deref(), Some(url.trim_end_matches('/')));
        }
    }
    assert!(parse(tls).unwrap_err().to_string().contains("public_url"));
    assert!(parse("").is_ok());
}
