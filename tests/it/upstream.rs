//! Upstreams over TLS: who they must be, who the gate is to them, and where it does not go.

use std::sync::mpsc;

use rcgen::{CertificateParams, SanType};
use serde_json::{Value, json};

use crate::dev::{PATIENCE, eventually};
use crate::world::{Certificate, Fleet, Gate, TlsServer, Upstream, authority, ends, server_config, workload};

const SPIFFE: &str = "spiffe://test.example/orders";

/// A server's certificate with this DNS name or address, and these URIs.
fn server(name: &str, uris: &[&str]) -> CertificateParams {
    let mut params = workload(uris);
    params.subject_alt_names.push(match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().unwrap()),
    });
    params
}

fn signed(ca: &Certificate, params: &CertificateParams) -> Certificate {
    Certificate::signed(ca.cert.as_ref(), ca.key.as_ref(), params)
}

fn pem(certificate: &Certificate) -> String {
    std::fs::read_to_string(&certificate.cert).unwrap()
}

/// A route of `api/orders` at the host `NAME.test`.
fn route(name: &str, upstream: &str, tls: &Value) -> String {
    let mut spec = json!({
        "host": format!("{name}.test"), "upstream": upstream, "resource": "api/orders",
        "actions": [{ "name": "read", "methods": ["GET"], "path": "/**" }],
    });
    if !tls.is_null() {
        spec["tls"] = tls.clone();
    }
    format!("kind: Route\nname: {name}\nspec: {spec}\n")
}

fn get(gate: &Gate, fleet: &Fleet, name: &str) -> crate::dev::Answer {
    let (bearer, host) = (fleet.bearer(), format!("Host: {name}.test"));
    crate::dev::curl(&["-H", &bearer, "-H", &host, &format!("{}/x", gate.url)])
}

#[test]
fn an_upstream_is_who_its_route_says_or_is_not_called() {
    let ca = Certificate::self_signed(&authority(&[]));
    let other = Certificate::self_signed(&authority(&[]));
    let mut expired = server("127.0.0.1", &[SPIFFE]);
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_before = rcgen::date_time_ymd(2019, 1, 1);
    let no_usage = {
        let mut params = server("127.0.0.1", &[SPIFFE]);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params
    };
    let trusts = json!({ "ca": pem(&ca) });
    let named = |name: &str| json!({ "ca": pem(&ca), "server_name": name });
    let spiffe = |id: &str| json!({ "ca": pem(&ca), "spiffe_id": id });
    let address = || server("127.0.0.1", &[]);
    let cases = [
        ("address", 200, &ca, address(), trusts.clone()),
        ("elsewhere", 502, &ca, server("127.0.0.2", &[]), trusts.clone()),
        ("unnamed", 502, &ca, server("orders.internal", &[]), trusts.clone()),
        ("named", 200, &ca, server("orders.internal", &[]), named("orders.internal")),
        ("misnamed", 502, &ca, server("orders.internal", &[]), named("other.internal")),
        ("otherca", 502, &other, address(), trusts.clone()),
        ("system", 502, &ca, address(), Value::Null),
        ("defaults", 502, &ca, address(), json!({})),
        ("expired", 502, &ca, expired, trusts.clone()),
        ("client-only", 502, &ca, no_usage, trusts),
        ("spiffe", 200, &ca, workload(&[SPIFFE]), spiffe(SPIFFE)),
        ("spiffe-longer", 502, &ca, workload(&["spiffe://test.example/orders2"]), spiffe(SPIFFE)),
        ("spiffe-domain", 502, &ca, workload(&["spiffe://other.example/orders"]), spiffe(SPIFFE)),
        ("spiffe-two", 502, &ca, workload(&[SPIFFE, "spiffe://test.example/b"]), spiffe(SPIFFE)),
        ("spiffe-none", 502, &ca, address(), spiffe(SPIFFE)),
        ("spiffe-otherca", 502, &other, workload(&[SPIFFE]), spiffe(SPIFFE)),
    ];
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let mut documents = Vec::new();
    let mut servers = Vec::new();
    for (name, status, issuer, params, tls) in cases {
        let server = TlsServer::start(&signed(issuer, &params), None);
        documents.push(route(name, &format!("https://{}", server.address), &tls));
        servers.push((name, status, server));
    }
    fleet.apply(&documents.join("---\n"));
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    for (name, status, server) in &servers {
        let answer = get(&gate, &fleet, name);
        assert_eq!(answer.status, *status, "{name}: {answer:?}");
        assert_eq!(server.heads().len(), usize::from(*status == 200), "{name}: a byte went to the wrong upstream");
        if *status != 200 {
            assert_eq!(answer.json()["reason"], "upstream_unreachable", "{name}");
        }
    }
}

#[test]
fn connections_are_kept_per_identity_and_bundle() {
    let ca = Certificate::self_signed(&authority(&[]));
    let other = Certificate::self_signed(&authority(&[]));
    let server = TlsServer::start(&signed(&ca, &server("127.0.0.1", &[SPIFFE])), None);
    let url = format!("https://{}", server.address);
    let fleet = Fleet::start(Upstream::ok().address);
    let by_name = route("by-name", &url, &json!({ "ca": pem(&ca) }));
    let by_id = route("by-id", &url, &json!({ "ca": pem(&ca), "spiffe_id": SPIFFE }));
    let same = route("same", &url, &json!({ "ca": pem(&ca) }));
    fleet.apply(&[by_name, by_id, same].join("---\n"));
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    for _ in 0..10 {
        for name in ["by-name", "by-id", "same"] {
            assert_eq!(get(&gate, &fleet, name).status, 200);
        }
    }
    assert_eq!(server.heads().len(), 30);
    assert_eq!(server.connections(), 2, "one by name, one by SPIFFE ID");
    // Another bundle: what was verified by the old one serves nobody, though it is open.
    fleet.apply(&route("by-name", &url, &json!({ "ca": pem(&other) })));
    eventually("the bundle is live", PATIENCE, || get(&gate, &fleet, "by-name").status == 502);
    let both = format!("{}{}", pem(&other), pem(&ca));
    fleet.apply(&route("by-name", &url, &json!({ "ca": both })));
    eventually("the bundle is live", PATIENCE, || get(&gate, &fleet, "by-name").status == 200);
    assert_eq!(get(&gate, &fleet, "by-id").status, 200);
    assert_eq!(server.connections(), 3, "one more, for the new bundle");
}

#[test]
fn a_kept_connection_that_went_stale_costs_nobody_an_answer() {
    let ca = Certificate::self_signed(&authority(&[]));
    let server = TlsServer::serve(&signed(&ca, &server("127.0.0.1", &[])), None, |_, stream| {
        use std::io::Write as _;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        // Closed without a word, as servers do with connections that they kept for long enough.
        false
    });
    let fleet = Fleet::start(Upstream::ok().address);
    fleet.apply(&route("stale", &format!("https://{}", server.address), &json!({ "ca": pem(&ca) })));
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    for _ in 0..20 {
        assert_eq!(get(&gate, &fleet, "stale").status, 200);
    }
}

/// An HTTP/2 server over TLS that answers with what it was asked for: scheme, authority, path.
fn mirror(certificate: &Certificate) -> std::net::SocketAddr {
    let acceptor = tokio_rustls::TlsAcceptor::from(server_config(certificate, None, &[b"h2"]));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let mut connection = h2::server::handshake(tls).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let seen = format!("{} {:?}", request.uri(), request.headers().get("host"));
                        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                        body.send_data(seen.into(), true).unwrap();
                    }
                });
            }
        });
    });
    address
}

#[test]
fn an_http2_upstream_over_tls_is_called_by_its_own_name_and_scheme() {
    let ca = Certificate::self_signed(&authority(&[]));
    let address = mirror(&signed(&ca, &server("127.0.0.1", &[])));
    let plain = TlsServer::start(&signed(&ca, &server("127.0.0.1", &[])), None);
    let fleet = Fleet::start(Upstream::ok().address);
    let http2 = |name: &str, address: std::net::SocketAddr| {
        let route = route(name, &format!("https://{address}"), &json!({ "ca": pem(&ca) }));
        route.replacen('{', "{\"protocol\":\"http2\",", 1)
    };
    fleet.apply(&[http2("mirror", address), http2("http1-only", plain.address)].join("---\n"));
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (bearer, url) = (fleet.bearer(), format!("{}/x/y?q=%2F", gate.url));
        let answer = crate::dev::curl(&[version, "-H", &bearer, "-H", "Host: mirror.test", &url]).is(200);
        assert_eq!(answer.body, format!("https://{address}/x/y?q=%2F None"), "{version}");
    }
    // A server that does not speak it is not spoken to in something else.
    get(&gate, &fleet, "http1-only").refuses(502, "upstream_unreachable");
    assert_eq!(plain.heads().len(), 0);
}

#[test]
fn the_gates_own_certificate_is_shown_where_the_route_says_so() {
    let ca = Certificate::self_signed(&authority(&[]));
    let own = signed(&ca, &workload(&["spiffe://test.example/gate"]));
    let server = TlsServer::start(&signed(&ca, &server("127.0.0.1", &[])), Some(&ca));
    let url = format!("https://{}", server.address);
    let fleet = Fleet::start(Upstream::ok().address);
    let shown = json!({ "ca": pem(&ca), "client_certificate": "gateway" });
    let hidden = json!({ "ca": pem(&ca) });
    fleet.apply(&[route("shown", &url, &shown), route("hidden", &url, &hidden)].join("---\n"));
    let upstreams = json!({ "certificate_file": own.cert, "key_file": own.key });
    let mut gate = fleet.gateway(|config| config["upstreams"] = upstreams).ready();
    fleet.grant("--wait");
    assert_eq!(get(&gate, &fleet, "shown").status, 200);
    assert_eq!(get(&gate, &fleet, "hidden").status, 502);
    assert_eq!(get(&gate, &fleet, "shown").status, 200);
    assert_eq!(server.heads().len(), 2);
    // A gateway that has none to show does not call instead without one.
    gate.process.signal(rustix::process::Signal::TERM);
    assert_eq!(gate.process.ended(), Some(0));
    let gate = fleet.gateway(|_| ()).ready();
    assert_eq!(get(&gate, &fleet, "shown").refuses(502, "upstream_unreachable").status, 502);
    assert_eq!(server.heads().len(), 2);
}

#[test]
fn the_gates_own_certificate_is_renewed_without_a_restart_and_its_old_connections_serve_no_call() {
    let ca = Certificate::self_signed(&authority(&[]));
    let own = signed(&ca, &workload(&["spiffe://test.example/gate"]));
    let (sender, shown) = mpsc::channel();
    let server = TlsServer::serve(&signed(&ca, &server("127.0.0.1", &[])), Some(&ca), move |_, stream| {
        use std::io::Write as _;
        let _ = sender.send(stream.conn.peer_certificates().unwrap()[0].to_vec());
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
    });
    let fleet = Fleet::start(Upstream::ok().address);
    let tls = json!({ "ca": pem(&ca), "client_certificate": "gateway" });
    fleet.apply(&route("shown", &format!("https://{}", server.address), &tls));
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = (files.path().join("gate.pem"), files.path().join("gate.key"));
    let put = |certificate: &Certificate| {
        for (from, to) in [(&certificate.key, &key), (&certificate.cert, &cert)] {
            crate::world::exchange(to, std::fs::read(from).unwrap());
        }
    };
    put(&own);
    let upstreams = json!({ "certificate_file": cert, "key_file": key });
    let gate = fleet.gateway(|config| config["upstreams"] = upstreams).ready();
    fleet.grant("--wait");
    let call = || {
        get(&gate, &fleet, "shown").is(200);
        shown.recv_timeout(PATIENCE).unwrap()
    };
    let first = call();
    assert_eq!(call(), first);
    // Half of a renewal, or rubbish, leaves things as they are.
    crate::world::exchange(&key, "rubbish");
    let failed = || gate.metric("portcullis_tls_reloads_total{result=\"failed\"}") >= 1.0;
    eventually("the bad file was seen", PATIENCE, failed);
    assert_eq!(call(), first);
    put(&signed(&ca, &workload(&["spiffe://test.example/gate"])));
    eventually("the new certificate is shown", PATIENCE, || call() != first);
    let second = call();
    (0..20).for_each(|_| assert_eq!(call(), second, "a connection of the old certificate was used"));
}

#[test]
fn a_revoked_grant_closes_the_connection_of_its_stream_over_tls() {
    let ca = Certificate::self_signed(&authority(&[]));
    let (sender, ended) = mpsc::channel();
    let server = TlsServer::serve(&signed(&ca, &server("127.0.0.1", &[])), None, move |_, stream| {
        use std::io::{Read as _, Write as _};
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        // Says nothing more, and does not answer a close: the gate has to end the connection by itself.
        let _ = stream.sock.set_read_timeout(Some(PATIENCE));
        let mut sink = [0; 1024];
        while matches!(stream.read(&mut sink), Ok(1..)) {}
        if ends(stream.sock) {
            let _ = sender.send(());
        }
        false
    });
    let fleet = Fleet::start(Upstream::ok().address);
    fleet.apply(&route("stream", &format!("https://{}", server.address), &json!({ "ca": pem(&ca) })));
    let gate = fleet.gateway(|_| ()).ready();
    let grant = fleet.grant("--wait");
    let mut raw = crate::dev::Raw::connect(&gate.url);
    raw.send(format!("GET /x HTTP/1.1\r\nHost: stream.test\r\n{}\r\n\r\n", fleet.bearer())).until("\r\n\r\n");
    fleet.cli(&["grant", "revoke", &grant, "--reason", "test", "--wait"]).exits(0);
    ended.recv_timeout(PATIENCE).expect("the upstream's side has ended");
}

#[test]
fn an_upstream_that_does_not_read_keeps_nothing_of_a_call_that_was_cut() {
    let ca = Certificate::self_signed(&authority(&[]));
    let (sender, finish) = mpsc::channel::<()>();
    let finish = std::sync::Mutex::new(finish);
    let (tell, ended) = mpsc::channel();
    let server = TlsServer::serve(&signed(&ca, &server("127.0.0.1", &[])), None, move |_, stream| {
        use std::io::{Read as _, Write as _};
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        // Reads nothing until the call is over, and then all that is there.
        let _ = finish.lock().unwrap().recv_timeout(PATIENCE);
        let mut sink = [0; 65536];
        let end = loop {
            match stream.sock.read(&mut sink) {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error.kind()),
            }
        };
        let _ = tell.send(end);
        false
    });
    let fleet = Fleet::start(Upstream::ok().address);
    fleet.apply(&route("stream", &format!("https://{}", server.address), &json!({ "ca": pem(&ca) })));
    let gate = fleet.gateway(|_| ()).ready();
    let grant = fleet.grant("--wait");
    // The gate's ends of connections to the upstream, as the kernel knows them.
    let port = format!(":{:04X}", server.address.port());
    let open = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|row| row[2].ends_with(&port) && row[3] == "01").count()
    };
    let mut raw = crate::dev::Raw::connect(&gate.url);
    let head = "Transfer-Encoding: chunked";
    raw.send(format!("GET /x HTTP/1.1\r\nHost: stream.test\r\n{}\r\n{head}\r\n\r\n", fleet.bearer()));
    raw.until("\r\n\r\n");
    // More than every buffer on the way holds, from a thread of its own: it gets stuck.
    let upload = std::thread::spawn(move || {
        let part = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        for _ in 0..2_000 {
            raw.send(&part);
        }
    });
    crate::dev::eventually("the connection to the upstream is there", PATIENCE, || open() == 1);
    fleet.cli(&["grant", "revoke", &grant, "--reason", "test", "--wait"]).exits(0);
    crate::dev::eventually("the gate has let go of it", PATIENCE, || open() == 0);
    sender.send(()).unwrap();
    let end = ended.recv_timeout(PATIENCE).expect("the upstream's side has ended");
    assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset), "what waited to be sent was dropped");
    upload.join().unwrap();
}

#[test]
fn metadata_and_link_local_addresses_are_not_connected_to() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let refused = [
        ("plain", "http://169.254.169.254"),
        ("mapped", "http://[::ffff:169.254.169.254]"),
        ("six", "http://[fe80::1]"),
        ("number", "http://2852039166"),
        ("translated", "http://[64:ff9b::a9fe:a9fe]"),
        ("nowhere", "http://[::]:1"),
        ("translated-nowhere", "http://[::ffff:0.0.0.1]:1"),
        ("tls", "https://169.254.169.254"),
    ];
    // Linux takes it for loopback: the one special address behind which a test can listen.
    let url = format!("http://0.0.0.0:{}", upstream.address.port());
    let allowed = ("allowed", url.as_str());
    let documents = refused.iter().chain([&allowed]).map(|(name, url)| route(name, url, &Value::Null));
    fleet.apply(&documents.collect::<Vec<_>>().join("---\n"));
    let gate = fleet.gateway(|config| {
        config["upstreams"] = json!({ "allow_networks": ["0.0.0.0/32"] });
    });
    let gate = gate.ready();
    fleet.grant("--wait");
    for (name, _) in refused {
        get(&gate, &fleet, name).refuses(502, "upstream_address_refused");
    }
    assert_eq!(get(&gate, &fleet, allowed.0).status, 200);
    assert_eq!(upstream.seen(), 1);
}

#[test]
fn a_redirect_is_the_callers_to_follow() {
    let inside = Upstream::ok();
    let to = format!("HTTP/1.1 302 Found\r\nlocation: http://{}/secret\r\ncontent-length: 0\r\n\r\n", inside.address);
    let upstream = Upstream::start(move |_, stream| {
        use std::io::Write as _;
        let _ = stream.write_all(to.as_bytes());
    });
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    assert_eq!(gate.get(&fleet.bearer(), "/v1/orders/7").status, 302);
    assert_eq!(inside.seen(), 0);
}

#[test]
fn what_would_verify_nothing_is_refused_before_it_counts() {
    let ca = Certificate::self_signed(&authority(&[]));
    let fleet = Fleet::start(Upstream::ok().address);
    let key = std::fs::read_to_string(&ca.key).unwrap();
    let cases = [
        ("https://a", json!({ "spiffe_id": SPIFFE }), "needs `ca`"),
        ("https://a", json!({ "ca": pem(&ca), "spiffe_id": SPIFFE, "server_name": "b" }), "takes the place"),
        ("http://a", json!({ "ca": pem(&ca) }), "nothing verifies"),
        ("https://a", json!({ "ca": pem(&ca) + &key }), "a private key is in it"),
        ("https://a", json!({ "ca": "" }), "CERTIFICATE are expected"),
        ("https://a", json!({ "verify": false }), "unknown key `verify`"),
        ("https://a", json!({ "server_name": "" }), "is not a host"),
    ];
    for (upstream, tls, why) in cases {
        let file = fleet.home.path().join("bad.yaml");
        std::fs::write(&file, route("bad", upstream, &tls)).unwrap();
        let done = fleet.cli(&["apply", "-f", file.to_str().unwrap()]);
        assert_ne!(done.code, 0, "{why}");
        assert!(done.stderr.contains(why), "{why}: {}", done.stderr);
        let secret = key.lines().nth(1).unwrap();
        assert!(!done.stderr.contains(secret) && !fleet.control.log().contains(secret), "the key was shown");
    }
}
