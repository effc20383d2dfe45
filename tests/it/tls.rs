//! TLS of the listeners: who comes through the handshake, what is never resumed, and what changes while the gate runs.

mod edge;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, SerialNumber};
use rustix::process::Signal;
use rustls::NamedGroup;
use serde_json::{Value, json};

use edge::{BILLING, Edge, ORDERS, SessionServer, days, openssl};

use crate::dev::{PATIENCE, Raw, Stream, curl, eventually, run, try_curl};
use crate::world::{
    Agent, Authority, Certificate, Tls, Upstream, X509SvidResponse, authority, client_config, client_config_with,
    workload,
};

#[test]
fn only_svids_by_their_own_domains_bundle_come_through_the_handshake() {
    let edge = Edge::new(Upstream::ok());
    let gate = edge.gate(&[
        edge.tls(&json!({ "client_trust": edge.domains() })),
        edge.tls(&json!({ "client_trust": edge.domains(), "client_certificate": "off" })),
    ]);
    let good = edge.ours.sign(&workload(&[BILLING]));
    assert_eq!(edge.call(&gate.tls, Some(&good)), Some(200));
    // The other domain is trusted, too: for itself.
    let other = edge.theirs.sign(&workload(&["spiffe://other.example/billing"]));
    assert_eq!(edge.call(&gate.tls, Some(&other)), Some(403));
    // Where none is asked for, a certificate is nobody's.
    assert_eq!(edge.call(&gate.tls_at[1], Some(&good)), Some(401));

    let with = |edit: &dyn Fn(&mut CertificateParams)| {
        let mut params = workload(&[BILLING]);
        edit(&mut params);
        Some(edge.ours.sign(&params))
    };
    let refused = [
        ("none", None),
        ("ours, by the other domain's authority", Some(edge.theirs.sign(&workload(&[BILLING])))),
        ("theirs, by our authority", Some(edge.ours.sign(&workload(&["spiffe://other.example/billing"])))),
        ("of a domain without a bundle", Some(edge.ours.sign(&workload(&["spiffe://third.example/billing"])))),
        ("by nobody", Some(Certificate::self_signed(&workload(&[BILLING])))),
        ("two URIs", Some(edge.ours.sign(&workload(&[BILLING, "spiffe://test.example/other"])))),
        ("no URI", Some(edge.ours.sign(&workload(&[])))),
        ("no path", Some(edge.ours.sign(&workload(&["spiffe://test.example"])))),
        ("an escape", Some(edge.ours.sign(&workload(&["spiffe://test.example/a%2fb"])))),
        ("an authority", Some(edge.ours.sign(&authority(&[BILLING])))),
        ("may sign certificates", with(&|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign))),
        ("may not sign", with(&|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment])),
        ("for servers", with(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ("expired", with(&|p| *p = days(p.clone(), -3, -1))),
        ("not yet valid", with(&|p| *p = days(p.clone(), 1, 3))),
    ];
    for (what, certificate) in &refused {
        assert_eq!(edge.call(&gate.tls, certificate.as_ref()), None, "{what}");
    }
    // In the handshake, each of them: no request was read.
    assert_eq!(gate.metric("portcullis_connections_refused_total"), refused.len() as f64);
    assert_eq!(gate.process.log().matches("a TLS handshake failed").count(), refused.len(), "{}", gate.process.log());
    // No purpose is every purpose.
    assert_eq!(edge.call(&gate.tls, with(&|p| p.extended_key_usages.clear()).as_ref()), Some(200));
    assert_eq!(edge.upstream.seen(), 2);
}

#[test]
fn what_an_authority_revoked_is_refused_and_an_old_list_vouches_for_nobody() {
    let edge = Edge::new(Upstream::ok());
    edge.put("now.crl", edge.ours.crl(&[7], false));
    edge.put("old.crl", edge.ours.crl(&[], true));
    edge.put("theirs.crl", edge.theirs.crl(&[], false));
    let listener = |crls: &[&str]| {
        let crls: Vec<_> = crls.iter().map(|name| edge.at(name)).collect();
        let trust = json!({ "trust_domain": "test.example", "bundle_file": edge.at("ours.pem"), "crl_files": crls });
        edge.tls(&json!({ "client_trust": [trust] }))
    };
    let by_ca = json!({ "client_ca_file": edge.at("ours.pem"), "client_crl_files": [edge.at("now.crl")] });
    let gate =
        edge.gate(&[listener(&["now.crl"]), listener(&["old.crl"]), listener(&["theirs.crl"]), edge.tls(&by_ca)]);
    let numbered = |serial: u64| {
        let mut params = workload(&[BILLING]);
        params.serial_number = Some(SerialNumber::from(serial));
        edge.ours.sign(&params)
    };
    let (good, revoked) = (numbered(6), numbered(7));
    let seen = |certificate| [0, 1, 2, 3].map(|place: usize| edge.call(&gate.tls_at[place], Some(certificate)));
    // The second list has ended; the third is another authority's, which has the same name.
    assert_eq!(seen(&good), [Some(200), None, None, Some(200)]);
    assert_eq!(seen(&revoked), [None; 4]);
}

#[test]
fn no_session_is_resumed_in_any_version() {
    let edge = Edge::new(Upstream::ok());
    let more = json!({ "client_trust": edge.domains(), "client_certificate": "optional", "min_version": "1.2" });
    let gate = edge.gate(&[edge.tls(&more)]);
    let good = edge.ours.sign(&workload(&[BILLING]));
    for (flag, version) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let session = edge.at(version).display().to_string();
        let first = openssl(&gate.tls, &[flag, "-cert", &good.cert, "-key", &good.key, "-sess_out", &session]);
        assert!(first.contains(&format!("New, {version}")) && first.contains("HTTP/1.1 200"), "{first}");
        assert!(!first.contains("TLS session ticket:"), "{first}");
        let id = first.lines().find_map(|line| line.trim().strip_prefix("Session-ID:"));
        assert!(version == "TLSv1.3" || id.is_some_and(|id| id.trim().is_empty()), "{first}");
        // The tool was given nothing that it could keep.
        assert!(!Path::new(&session).exists(), "{version}");
        // And what somebody else gave it, under the same certificate, is of no use here: nobody, without one.
        let server = SessionServer::start(&edge);
        let given = openssl(&server.url, &[flag, "-sess_out", &session]);
        assert!(Path::new(&session).exists(), "{given}");
        assert!(openssl(&server.url, &[flag, "-sess_in", &session]).contains(&format!("Reused, {version}")));
        let second = openssl(&gate.tls, &[flag, "-sess_in", &session]);
        assert!(second.contains(&format!("New, {version}")) && !second.contains("Reused"), "{second}");
        assert!(second.contains("HTTP/1.1 401") && second.contains("credential_missing"), "{second}");
        // A library that would resume if it could.
        let mut config = client_config(&edge.server.pem, Some(&good));
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        for _ in 0..2 {
            let mut connection = Tls::connect(&gate.tls, &config);
            assert!(connection.get(ORDERS).starts_with("HTTP/1.1 200 "));
            assert_eq!(connection.stream.conn.handshake_kind(), Some(rustls::HandshakeKind::Full));
        }
    }
}

#[test]
fn a_listener_speaks_tls_1_2_where_it_is_told_to_and_hybrid_key_exchange_where_the_caller_can() {
    let edge = Edge::new(Upstream::ok());
    let trust = json!({ "client_trust": edge.domains() });
    let older = json!({ "client_trust": edge.domains(), "min_version": "1.2" });
    let gate = edge.gate(&[edge.tls(&trust), edge.tls(&older)]);
    let good = edge.ours.sign(&workload(&[BILLING]));
    let ca = edge.server.pem.display().to_string();
    let with = |more: &[&str], url: &str| {
        let url = format!("{url}{ORDERS}");
        try_curl(&[&["--cacert", &ca, "--cert", &good.cert, "--key", &good.key], more, &[&url]].concat())
    };
    assert_ne!(with(&["--tls-max", "1.2"], &gate.tls_at[0]).code, 0);
    assert!(with(&["--tls-max", "1.2"], &gate.tls_at[1]).exits(0).stdout.contains(" 200"));
    assert_ne!(with(&["--tls-max", "1.1"], &gate.tls_at[1]).code, 0);
    // TLS 1.2 is no way around the certificate.
    assert_ne!(try_curl(&["--cacert", &ca, "--tls-max", "1.2", &gate.tls_at[1]]).code, 0);
    for url in &gate.tls_at {
        assert!(with(&[], url).exits(0).stdout.contains(" 200"));
        let group = |provider| {
            let config = Arc::new(client_config_with(provider, &edge.server.pem, Some(&good)));
            let mut connection = Tls::connect(url, &config);
            assert!(connection.get(ORDERS).starts_with("HTTP/1.1 200 "));
            assert_eq!(connection.stream.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            connection.stream.conn.negotiated_key_exchange_group().unwrap().name()
        };
        let whole = rustls::crypto::aws_lc_rs::default_provider();
        let mut classic = whole.clone();
        classic.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
        assert_eq!(group(whole), NamedGroup::X25519MLKEM768);
        assert_eq!(group(classic), NamedGroup::X25519);
    }
}

#[test]
fn certificates_are_exchanged_under_load_and_no_call_fails() {
    let edge = Edge::new(Upstream::ok());
    let gate = edge.gate(&[edge.tls(&json!({ "client_trust": edge.domains() }))]);
    let good = edge.ours.sign(&workload(&[BILLING]));
    let config = edge.config(Some(&good));
    let shown = || {
        let mut connection = Tls::connect(&gate.tls, &config);
        connection.get(ORDERS);
        connection.server_certificate()
    };
    let (done, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures = std::thread::scope(|scope| {
        let call = |kept: bool| {
            let (config, url, done, calls) = (&config, &gate.tls, &done, &calls);
            move || {
                let mut failures = Vec::new();
                let mut connection = Tls::connect(url, config);
                while !done.load(Ordering::Relaxed) {
                    if !kept {
                        connection = Tls::connect(url, config);
                    }
                    match connection.try_get(ORDERS, &[]) {
                        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => calls.fetch_add(1, Ordering::Relaxed),
                        other => {
                            failures.push(format!("{other:?}"));
                            break;
                        }
                    };
                }
                failures
            }
        };
        let callers = [scope.spawn(call(true)), scope.spawn(call(false)), scope.spawn(call(false))];
        let mut before = shown();
        for round in 0..6 {
            let seen = calls.load(Ordering::Relaxed);
            edge.renew();
            // By the signal, and by looking.
            if round % 2 == 0 {
                gate.process.signal(Signal::HUP);
            }
            eventually("the new certificate is shown", PATIENCE, || shown() != before);
            before = shown();
            eventually("calls go on", PATIENCE, || {
                calls.load(Ordering::Relaxed) > seen + 10 || callers.iter().any(|caller| caller.is_finished())
            });
        }
        // Bad files leave everything as it was, and say so.
        edge.put("tls.pem", "no certificate");
        gate.process.signal(Signal::HUP);
        eventually("it is failing", PATIENCE, || gate.metric("portcullis_tls_reload_failing") == 1.0);
        assert_eq!(shown(), before);
        edge.renew();
        edge.put("ours.pem", "");
        eventually("it is said of the bundle", PATIENCE, || {
            gate.process.log().contains("ours.pem: it holds no certificate")
        });
        assert_eq!(shown(), before, "all or nothing");
        edge.put("ours.pem", edge.ours.text());
        eventually("it is in force", PATIENCE, || gate.metric("portcullis_tls_reload_failing") == 0.0);
        assert_ne!(shown(), before);
        done.store(true, Ordering::Relaxed);
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(failures, [""; 0], "after {calls:?} calls");
    assert!(gate.process.log().contains("the TLS files cannot be used"), "{}", gate.process.log());
    assert_eq!(gate.metric("portcullis_connections_withdrawn_total"), 0.0);
}

#[test]
fn trust_that_is_withdrawn_ends_calls_and_connections() {
    // Streams that never end by themselves.
    let upstream = Upstream::start(|head, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nopen\r\n");
        if head.contains("/events") {
            crate::world::ends(stream);
        } else {
            let _ = stream.write_all(b"0\r\n\r\n");
        }
    });
    let edge = Edge::new(upstream);
    edge.put("ours.crl", edge.ours.crl(&[], false));
    let trust = json!([{
        "trust_domain": "test.example", "bundle_file": edge.at("ours.pem"), "crl_files": [edge.at("ours.crl")],
    }]);
    let gate = edge.gate(&[edge.tls(&json!({ "client_trust": trust }))]);
    let numbered = |serial: u64| {
        let mut params = workload(&[BILLING]);
        params.serial_number = Some(SerialNumber::from(serial));
        edge.ours.sign(&params)
    };
    let (one, two) = (numbered(1), numbered(2));
    let open = |certificate: &Certificate, path: &str, headers: &[&str]| {
        let mut connection = Tls::connect(&gate.tls, &edge.config(Some(certificate)));
        connection.send(path, headers).unwrap();
        let text = connection.until(if path.contains("events") { "open" } else { "0\r\n\r\n" });
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        (connection, text)
    };
    let (mut stream, head) = open(&one, "/v1/orders/events", &[]);
    // Whoever speaks by a token stands on the connection as well.
    let bearer = edge.fleet.bearer();
    let (mut by_token, _) = open(&one, "/v1/orders/events", &[&bearer]);
    let (mut kept, _) = open(&one, ORDERS, &[]);
    let (_neighbour_stream, _) = open(&two, "/v1/orders/events", &[]);
    let (mut neighbour, _) = open(&two, ORDERS, &[]);

    // One certificate is revoked: no signal, the gate looks by itself.
    edge.put("ours.crl", edge.ours.crl(&[1], false));
    assert!(stream.ends() && by_token.ends());
    assert_eq!(gate.metric("portcullis_connections_withdrawn_total"), 3.0);
    eventually("both are counted", PATIENCE, || {
        gate.metric("portcullis_cuts_total{reason=\"credential_untrusted\"}") == 2.0
    });
    for headers in [&[][..], &[bearer.as_str()]] {
        let refused = kept.try_get(ORDERS, headers).unwrap();
        assert!(refused.starts_with("HTTP/1.1 401 ") && refused.contains("credential_untrusted"), "{refused}");
    }
    let refused = kept.try_get("/.portcullis/jwks.json", &[]).unwrap();
    assert!(refused.contains("credential_untrusted"), "{refused}");
    assert_eq!(edge.call(&gate.tls, Some(&one)), None);
    let call = head.lines().find_map(|line| line.strip_prefix("portcullis-call-id: ")).unwrap();
    let mut ended = Value::Null;
    let query = ["-o", "json", "evidence", "query", "edge/evidence", "--call", call, "--kind", "outcome"];
    eventually("the outcome is recorded", PATIENCE, || {
        let done = run(edge.fleet.home.path(), &query);
        ended = done.stdout.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        !ended.is_null()
    });
    assert_eq!(ended["data"]["reason"], "credential_untrusted", "{ended}");

    // The others notice nothing, until their authority is replaced.
    neighbour.send(ORDERS, &[]).unwrap();
    assert!(neighbour.until("0\r\n\r\n").starts_with("HTTP/1.1 200 "));
    eventually("one runs", PATIENCE, || gate.metric("portcullis_running_calls") == 1.0);
    let new = Authority::new();
    edge.put("ours.crl", new.crl(&[], false));
    edge.put("ours.pem", new.text());
    gate.process.signal(Signal::HUP);
    eventually("their calls are cut, too", PATIENCE, || gate.metric("portcullis_running_calls") == 0.0);
    let refused = neighbour.get(ORDERS);
    assert!(refused.contains("credential_untrusted"), "{refused}");
    assert_eq!(gate.metric("portcullis_connections_withdrawn_total"), 5.0);
    assert_eq!(edge.call(&gate.tls, Some(&new.sign(&workload(&[BILLING])))), Some(200));
}

#[test]
fn one_address_takes_its_places_and_a_silent_handshake_none_for_long() {
    let edge = Edge::new(Upstream::ok());
    let listener = edge.tls(&json!({ "client_trust": edge.domains() }));
    let gate = edge.fleet.gateway(|config| {
        config["listen"][1] = listener;
        config["limits"] = json!({ "max_connections_per_address": 3, "handshake_deadline": "300ms" });
    });
    let gate = gate.ready();
    let mut held: Vec<_> = (0..3).map(|_| Raw::connect(&gate.url)).collect();
    eventually("the fourth is turned away", PATIENCE, || try_curl(&["--max-time", "2", &gate.url]).code != 0);
    assert!(gate.metric("portcullis_address_limit_hits_total") >= 1.0);
    // Somebody else is served.
    curl(&["--interface", "127.0.0.2", &gate.url]).refuses(401, "credential_missing");
    held[0].send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").until("credential_missing");
    // Places come back, and so do those of who says nothing.
    held.clear();
    eventually("they are free again", PATIENCE, || try_curl(&[&gate.url]).code == 0);
    let refused = gate.metric("portcullis_connections_refused_total");
    let hits = gate.metric("portcullis_address_limit_hits_total");
    Raw::connect(&gate.tls).to_end();
    Raw::connect(&gate.tls).send("\x16\x03\x01").to_end();
    assert_eq!(gate.metric("portcullis_connections_refused_total"), refused + 2.0);
    assert_eq!(gate.metric("portcullis_address_limit_hits_total"), hits);
}

#[test]
fn a_workload_api_gives_certificate_and_bundles_and_their_rotation() {
    const GATE: &str = "spiffe://test.example/gate";
    let edge = Edge::new(Upstream::ok());
    let (socket, next) = (edge.at("agent.sock"), Authority::new());
    let svid = || {
        let mut params = workload(&[GATE]);
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.distinguished_name.push(rcgen::DnType::CommonName, "gate");
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        edge.server.sign(&params)
    };
    let both = [("other.example", &edge.theirs)];
    let agent = Agent::start(&socket, X509SvidResponse::new(GATE, &svid(), &edge.ours, &both));
    let gate = edge.gate(&[json!({
        "address": "127.0.0.1:0",
        "tls": { "spiffe_workload_api": { "socket": format!("unix://{}", socket.display()) } },
    })]);
    let (good, other) =
        (edge.ours.sign(&workload(&[BILLING])), edge.theirs.sign(&workload(&["spiffe://other.example/x"])));
    let mixed = edge.theirs.sign(&workload(&[BILLING]));
    let seen = || [Some(&good), Some(&other), Some(&mixed), None].map(|certificate| edge.call(&gate.tls, certificate));
    assert_eq!(seen(), [Some(200), Some(403), None, None]);

    let shown = || {
        let mut connection = Tls::connect(&gate.tls, &edge.config(Some(&good)));
        connection.get(ORDERS);
        connection.server_certificate()
    };
    let before = shown();
    agent.give(X509SvidResponse::new(GATE, &svid(), &edge.ours, &both));
    eventually("the new certificate is shown", PATIENCE, || shown() != before);
    // A domain that is federated no more, and a new authority of our own.
    let mut kept = [&good, &other].map(|certificate| Tls::connect(&gate.tls, &edge.config(Some(certificate))));
    assert!(kept[0].get(ORDERS).starts_with("HTTP/1.1 200 ") && kept[1].get(ORDERS).starts_with("HTTP/1.1 403 "));
    agent.give(X509SvidResponse::new(GATE, &svid(), &edge.ours, &[]));
    eventually("the other domain is trusted no more", PATIENCE, || {
        kept[1].get(ORDERS).contains("credential_untrusted")
    });
    assert_eq!(seen(), [Some(200), None, None, None]);
    assert!(kept[0].get(ORDERS).starts_with("HTTP/1.1 200 "));
    // An agent that is gone takes nothing with it, and one that is back goes on.
    drop(agent);
    assert_eq!(seen(), [Some(200), None, None, None]);
    let _agent = Agent::start(&socket, X509SvidResponse::new(GATE, &svid(), &next, &[]));
    eventually("the new authority is the only one", PATIENCE, || match kept[0].try_get(ORDERS, &[]) {
        Ok(answer) => answer.contains("credential_untrusted"),
        // The call was running at that very moment.
        Err(_cut) => true,
    });
    assert_eq!(seen(), [None; 4]);
    assert_eq!(edge.call(&gate.tls, Some(&next.sign(&workload(&[BILLING])))), Some(200));
}

#[test]
fn a_request_is_for_the_name_that_its_handshake_said() {
    let edge = Edge::new(Upstream::ok());
    let strict = edge.tls(&json!({}));
    let mut lax = edge.tls(&json!({}));
    lax["tls"]["sni"] = json!("any");
    let gate = edge.gate(&[strict, lax]);
    let ask = |address: &str, name: &str, host: &str, version: &str| {
        let port = address.rsplit(':').next().unwrap();
        let (resolve, url) = (format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}{ORDERS}"));
        // Whose certificate it is does not matter here.
        curl(&["-k", "--resolve", &resolve, "-H", &format!("Host: {host}"), version, &url])
    };
    let strict = gate.tls.clone();
    let lax = gate.tls_at[1].clone();
    for version in ["--http1.1", "--http2"] {
        ask(&strict, "orders.internal", "orders.internal", version).refuses(401, "credential_missing");
        ask(&strict, "orders.internal", "ORDERS.internal:444", version).refuses(401, "credential_missing");
        for host in ["other.internal", "orders.internal.evil.test", "127.0.0.1", "internal"] {
            ask(&strict, "orders.internal", host, version).refuses(421, "misdirected");
        }
        ask(&lax, "orders.internal", "other.internal", version).refuses(401, "credential_missing");
        // A handshake that names nobody says nothing.
        curl(&["-k", "-H", "Host: other.internal", version, &format!("{strict}{ORDERS}")])
            .refuses(401, "credential_missing");
    }
}

#[test]
fn trust_that_is_withdrawn_while_a_body_is_awaited_gets_no_token_and_ends_http2_too() {
    let upstream = Upstream::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nopen\n\r\n");
        crate::world::ends(stream);
    });
    let edge = Edge::new(upstream);
    let trust = json!([{ "trust_domain": "test.example", "bundle_file": edge.at("ours.pem") }]);
    let gate = edge.gate(&[edge.tls(&json!({ "client_trust": trust }))]);
    let billing = edge.ours.sign(&workload(&[BILLING]));
    let ca = edge.server.pem.display().to_string();
    let mut command = Command::new("curl");
    command.args(["-sSN", "--http2", "--max-time", "60", "--cacert", &ca]);
    command.args(["--cert", &billing.cert, "--key", &billing.key, &format!("{}{ORDERS}", gate.tls)]);
    let stream = Stream::of(command);
    stream.line("open");
    let mut token = Tls::connect(&gate.tls, &edge.config(Some(&billing)));
    let form = "grant_type=client_credentials&resource=api/orders";
    let (sent, rest) = form.split_at(20);
    let kind = "Content-Type: application/x-www-form-urlencoded";
    let head =
        format!("POST /.portcullis/token HTTP/1.1\r\nHost: a\r\n{kind}\r\nContent-Length: {}\r\n\r\n", form.len());
    token.stream.write_all(format!("{head}{sent}").as_bytes()).unwrap();
    // Both connections are there before the trust goes.
    eventually("the stream runs", PATIENCE, || gate.metric("portcullis_running_calls") == 1.0);
    eventually("both are open", PATIENCE, || gate.metric("portcullis_connections_open") >= 2.0);
    edge.put("ours.pem", Authority::new().text());
    let (code, said) = stream.ended();
    assert_ne!(code, 0, "a stream over HTTP/2 that was cut looks whole: {said}");
    eventually("both were withdrawn", PATIENCE, || gate.metric("portcullis_connections_withdrawn_total") == 2.0);
    token.stream.write_all(rest.as_bytes()).unwrap();
    let text = token.until("\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 401 ") && !text.contains("access_token"), "{text}");
}
