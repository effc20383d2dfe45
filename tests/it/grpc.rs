//! gRPC through the gate, by a client and a server that are not the gate's code: tonic, curl, nghttp, nginx.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use portcullis::wire::v1;
use portcullis::wire::v1::grant_stream_client::GrantStreamClient;
use portcullis::wire::v1::grant_stream_server::{GrantStream, GrantStreamServer};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::dev::{Done, PATIENCE, curl, eventually};
use crate::world::{
    AUDIENCE, Certificate, Fleet, Gate, ISSUER, Nginx, Upstream, authority, free_address, plain_claims, workload,
};

const SPIFFE: &str = "spiffe://test.example/health";

/// A service of streams in both directions: it answers each message with one, and the end with a status that counts them.
struct Echo;

#[tonic::async_trait]
impl GrantStream for Echo {
    type AttachStream = ReceiverStream<Result<v1::ControlMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::GatewayMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        if request.metadata().get("te").is_none_or(|te| te != "trailers") {
            return Err(Status::internal("no trailers are taken"));
        }
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut count = 0;
            while let Ok(Some(_)) = messages.message().await {
                count += 1;
                if sender.send(Ok(v1::ControlMessage::default())).await.is_err() {
                    return;
                }
            }
            let _ = sender.send(Err(Status::failed_precondition(format!("{count} came")))).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A gRPC server on a thread of its own, over TLS with a certificate.
fn serve(certificate: Option<&Certificate>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let tls = certificate.map(|certificate| {
        let read = |path: &str| std::fs::read(path).unwrap();
        ServerTlsConfig::new().identity(Identity::from_pem(read(&certificate.cert), read(&certificate.key)))
    });
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (reporter, health) = tonic_health::server::health_reporter();
            reporter.set_service_status("orders", ServingStatus::Serving).await;
            let mut server = Server::builder();
            if let Some(tls) = tls {
                // This library takes the process's provider; an error says that there is one already.
                let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
                server = server.tls_config(tls).unwrap();
            }
            let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
            let server = server.add_service(health).add_service(GrantStreamServer::new(Echo));
            server.serve_with_incoming(incoming).await.unwrap();
        });
    });
    address
}

fn route(name: &str, upstream: &str, protocol: &str, more: &Value) -> String {
    let methods = if protocol == "grpc" { json!(["POST"]) } else { json!(["GET", "POST"]) };
    let path = |path: &str| json!({ "name": "read", "methods": methods, "path": path });
    let mut spec = json!({
        "upstream": upstream, "resource": "api/orders", "protocol": protocol,
        "actions": [path("/grpc.health.v1.Health/**"), path("/portcullis.v1.GrantStream/**")],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    format!("kind: Route\nname: {name}\nspec: {spec}\n")
}

/// A caller's interceptor, as the generated clients take it.
#[derive(Clone)]
struct Bearer(AsciiMetadataValue);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Caller = InterceptedService<Channel, Bearer>;

/// A caller of this subject on a connection.
fn caller(fleet: &Fleet, channel: &Channel, subject: &str) -> Caller {
    let token = format!("Bearer {}", fleet.key.sign(&plain_claims(ISSUER, AUDIENCE, subject)));
    InterceptedService::new(channel.clone(), Bearer(token.parse().unwrap()))
}

async fn connect(gate: &Gate) -> Channel {
    Endpoint::from_shared(gate.url.clone()).unwrap().connect().await.unwrap()
}

fn asked(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

/// A stream in both directions that has carried one message each way.
async fn open(caller: &Caller) -> (mpsc::Sender<v1::GatewayMessage>, Streaming<v1::ControlMessage>) {
    let (sender, receiver) = mpsc::channel(1);
    sender.send(v1::GatewayMessage::default()).await.unwrap();
    let mut client = GrantStreamClient::new(caller.clone());
    let mut answers = client.attach(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    answers.message().await.unwrap().expect("an answer");
    (sender, answers)
}

fn run<F: std::future::Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await.expect("in time") })
}

#[test]
fn calls_and_streams_pass_with_their_status_and_a_denial_is_one() {
    let fleet = Fleet::start(Upstream::ok().address);
    fleet.apply(&route("grpc", &format!("http://{}", serve(None)), "grpc", &Value::Null));
    let gate = fleet.gateway(|_| ()).ready();
    run(async {
        let channel = connect(&gate).await;
        let billing = caller(&fleet, &channel, "billing");
        let mut health = HealthClient::new(billing.clone());
        let denied = health.check(asked("orders")).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
        assert!(denied.message().contains("grant_missing"), "{denied:?}");
        let mut nobody = HealthClient::new(channel.clone());
        assert_eq!(nobody.check(asked("orders")).await.unwrap_err().code(), Code::Unauthenticated);
        fleet.grant("--wait");
        // The upstream's own statuses: in trailers, and where there is nothing but trailers.
        let answer = health.check(asked("orders")).await.unwrap();
        assert!(answer.metadata().contains_key("portcullis-call-id"));
        assert_eq!(answer.into_inner().status, 1, "serving");
        assert_eq!(health.check(asked("nothing")).await.unwrap_err().code(), Code::NotFound);
        let mut watch = health.watch(asked("orders")).await.unwrap().into_inner();
        assert_eq!(watch.next().await.unwrap().unwrap().status, 1);
        let (sender, mut answers) = open(&billing).await;
        for _ in 0..2 {
            sender.send(v1::GatewayMessage::default()).await.unwrap();
            answers.message().await.unwrap().expect("an answer while the request is still open");
        }
        drop(sender);
        let ended = answers.message().await.unwrap_err();
        assert_eq!((ended.code(), ended.message()), (Code::FailedPrecondition, "3 came"));
    });
}

#[test]
fn a_cut_ends_its_call_and_no_neighbour_on_the_connection() {
    let fleet = Fleet::start(Upstream::ok().address);
    let other = format!(
        "kind: Identity\nname: other\nspec: {{ kind: service, owner: o, purpose: tests, environment: test,\n  \
         authenticate: [ {{ issuer: \"{ISSUER}\", subject: other }} ] }}\n"
    );
    fleet.apply(&[route("grpc", &format!("http://{}", serve(None)), "grpc", &Value::Null), other].join("---\n"));
    let gate = fleet.gateway(|_| ()).ready();
    let grant = fleet.grant("--wait");
    let create = ["grant", "create", "--identity", "other", "--resource", "api/orders", "--action", "read"];
    fleet.cli(&[&create[..], &["--duration", "15m", "--reason", "test", "--wait"]].concat()).exits(0);
    run(async {
        // One connection of callers, and behind the gate one connection to the upstream.
        let channel = connect(&gate).await;
        let (_open, mut cut) = open(&caller(&fleet, &channel, "billing")).await;
        let (sender, mut spared) = open(&caller(&fleet, &channel, "other")).await;
        fleet.cli(&["grant", "revoke", &grant, "--reason", "test", "--wait"]).exits(0);
        // RST_STREAM with CANCEL, which gRPC over HTTP/2 reads as this status.
        assert_eq!(cut.message().await.unwrap_err().code(), Code::Cancelled);
        for _ in 0..3 {
            sender.send(v1::GatewayMessage::default()).await.unwrap();
            spared.message().await.unwrap().expect("the neighbour goes on");
        }
        drop(sender);
        assert_eq!(spared.message().await.unwrap_err().message(), "4 came");
        let mut again = HealthClient::new(caller(&fleet, &channel, "billing"));
        assert_eq!(again.check(asked("orders")).await.unwrap_err().code(), Code::PermissionDenied);
    });
}

#[test]
fn a_silent_stream_outlives_the_limit_for_bodies_that_stall() {
    let stuck = Upstream::start(|_, stream| {
        crate::world::ends(stream);
    });
    let fleet = Fleet::start(stuck.address);
    let plain = crate::world::catalog(stuck.address).replace("[GET, HEAD]", "[GET, HEAD, POST]");
    fleet.apply(&[plain, route("grpc", &format!("http://{}", serve(None)), "grpc", &Value::Null)].join("---\n"));
    let gate = fleet.gateway(|config| config["limits"] = json!({ "idle_timeout": "1s" })).ready();
    fleet.grant("--wait");
    run(async {
        let channel = connect(&gate).await;
        let (sender, mut answers) = open(&caller(&fleet, &channel, "billing")).await;
        // A body of plain HTTP/2 that begins after the stream, and stalls until its limit has passed.
        let mut upload = Command::new("curl");
        upload.args([
            "-sS",
            "--http2-prior-knowledge",
            "--max-time",
            "60",
            "-T",
            "-",
            "-X",
            "POST",
            "-H",
            &fleet.bearer(),
        ]);
        upload.args(["-H", "Host: a", &format!("{}/v1/orders/7", gate.url)]);
        upload
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut upload = upload.spawn().unwrap();
        std::io::Write::write_all(upload.stdin.as_mut().unwrap(), b"half").unwrap();
        eventually("both run", PATIENCE, || gate.metric("portcullis_running_calls") == 2.0);
        eventually("one has ended", PATIENCE, || gate.metric("portcullis_running_calls") == 1.0);
        let _ = upload.kill();
        let _ = upload.wait();
        sender.send(v1::GatewayMessage::default()).await.unwrap();
        answers.message().await.unwrap().expect("the stream goes on");
    });
}

#[test]
fn a_server_known_by_its_spiffe_id_is_called_over_tls() {
    let ca = Certificate::self_signed(&authority(&[]));
    let own = Certificate::signed(ca.cert.as_ref(), ca.key.as_ref(), &workload(&[SPIFFE]));
    let fleet = Fleet::start(Upstream::ok().address);
    let tls = |id: &str| json!({ "tls": { "ca": std::fs::read_to_string(&ca.cert).unwrap(), "spiffe_id": id } });
    let url = format!("https://{}", serve(Some(&own)));
    fleet.apply(&route("grpc", &url, "grpc", &tls(SPIFFE)));
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    run(async {
        let channel = connect(&gate).await;
        let billing = caller(&fleet, &channel, "billing");
        let mut health = HealthClient::new(billing.clone());
        for _ in 0..5 {
            assert_eq!(health.check(asked("orders")).await.unwrap().into_inner().status, 1);
        }
        let (_sender, mut answers) = open(&billing).await;
        // Another ID: calls that begin now find no upstream, a failure in the caller's own terms.
        fleet.apply(&route("grpc", &url, "grpc", &tls("spiffe://test.example/another")));
        let mut failed = Code::Ok;
        while failed == Code::Ok {
            failed = health.check(asked("orders")).await.map_or_else(|status| status.code(), |_| Code::Ok);
        }
        assert_eq!(failed, Code::Unavailable);
        assert!(tokio::time::timeout(Duration::from_millis(50), answers.message()).await.is_err(), "still open");
    });
}

#[test]
fn a_route_carries_its_protocol_and_no_other() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    fleet.apply(&route("grpc", &format!("http://{}", serve(None)), "grpc", &Value::Null));
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    let (bearer, url) = (fleet.bearer(), format!("{}/grpc.health.v1.Health/Check", gate.url));
    let post = ["-H", bearer.as_str(), "-d", "x", url.as_str()];
    curl(&[&["--http1.1"], &post[..]].concat()).refuses(415, "protocol_mismatch");
    curl(&[&["--http2-prior-knowledge"], &post[..]].concat()).refuses(415, "protocol_mismatch");
    let web = ["--http2-prior-knowledge", "-H", "content-type: application/grpc-web"];
    curl(&[&web[..], &post].concat()).refuses(415, "protocol_mismatch");
    let (orders, grpc) = (format!("{}/v1/orders/7", gate.url), "content-type: application/grpc+proto");
    let answer = curl(&["--http2-prior-knowledge", "-H", &bearer, "-H", grpc, &orders]).is(200);
    assert_eq!(answer.header("grpc-status"), Some("12"), "{answer:?}");
    assert!(answer.header("grpc-message").unwrap().contains("protocol_mismatch"), "{answer:?}");
    assert_eq!(upstream.seen(), 0);
    // What could never be a gRPC call is refused where it is written.
    let file = fleet.home.path().join("bad.yaml");
    let bad = route("grpc", "http://127.0.0.1:1", "grpc", &Value::Null).replace("POST", "GET");
    std::fs::write(&file, bad).unwrap();
    let done = fleet.cli(&["apply", "-f", file.to_str().unwrap()]);
    assert!(done.code != 0 && done.stderr.contains("gRPC calls are POST"), "{done:?}");
}

#[test]
fn nginx_is_called_over_http2_by_callers_of_either_version() {
    let ca = Certificate::self_signed(&authority(&[]));
    let mut params = workload(&[]);
    params.subject_alt_names.push(rcgen::SanType::DnsName("orders.internal".try_into().unwrap()));
    let own = Certificate::signed(ca.cert.as_ref(), ca.key.as_ref(), &params);
    let (tls, plain) = (free_address(), free_address());
    let answer =
        "location / { add_header x-connection $connection; return 200 \"$server_protocol $http_te $ssl_protocol\"; }";
    let _nginx = Nginx::start(&format!(
        "{answer} }} server {{ listen {plain} http2; {answer} }} server {{ listen {tls} ssl http2; \
         ssl_protocols TLSv1.2; ssl_certificate {}; ssl_certificate_key {}; {answer}",
        own.cert, own.key
    ));
    let fleet = Fleet::start(Upstream::ok().address);
    let side = |name: &str, url: String, tls: Value| {
        let mut more = json!({ "host": format!("{name}.test") });
        more.as_object_mut().unwrap().extend(tls.as_object().cloned().unwrap_or_default());
        route(name, &url, "http2", &more)
    };
    let trust =
        json!({ "tls": { "ca": std::fs::read_to_string(&ca.cert).unwrap(), "server_name": "orders.internal" } });
    let documents =
        [side("tls", format!("https://{tls}"), trust), side("plain", format!("http://{plain}"), Value::Null)];
    fleet.apply(&documents.join("---\n"));
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    let (bearer, url) = (fleet.bearer(), format!("{}/grpc.health.v1.Health/x", gate.url));
    for (name, says) in [("tls", "HTTP/2.0 trailers TLSv1.2"), ("plain", "HTTP/2.0 trailers ")] {
        let host = format!("Host: {name}.test");
        let mut connections = std::collections::BTreeSet::new();
        for version in ["--http1.1", "--http2-prior-knowledge", "--http1.1", "--http2-prior-knowledge"] {
            let answer = curl(&[version, "-H", &bearer, "-H", &host, &url]).is(200);
            assert_eq!(answer.body, says, "{name} {version}");
            connections.insert(answer.header("x-connection").unwrap().to_owned());
        }
        assert_eq!(connections.len(), 1, "{name}: one connection carries them all");
        let mut nghttp = Command::new("nghttp");
        nghttp.args(["-v", "-H", &bearer, "-H", &format!(":authority: {name}.test"), &url]);
        let done = Done::of(nghttp.output().expect("nghttp is installed")).exits(0);
        assert!(done.stdout.contains(":status: 200") && done.stdout.contains(says), "{done:?}");
    }
}

#[test]
fn python_calls_and_streams_as_tonic_does() {
    let fleet = Fleet::start(Upstream::ok().address);
    fleet.apply(&route("grpc", &format!("http://{}", serve(None)), "grpc", &Value::Null));
    let gate = fleet.gateway(|_| ()).ready();
    fleet.grant("--wait");
    let token = fleet.bearer().trim_start_matches("Authorization: Bearer ").to_owned();
    let mut python = Command::new(crate::clients::clients().join("venv/bin/python"));
    python.arg(crate::clients::script("health.py")).args([gate.url.trim_start_matches("http://"), &token]);
    let done = Done::of(python.output().expect("./test installs it")).exits(0);
    let expected = "UNAUTHENTICATED\nUNAUTHENTICATED\nanswer 0801\nNOT_FOUND\nmessage\nmessage\n\
                    FAILED_PRECONDITION 2 came\n";
    assert_eq!(done.stdout, expected, "{done:?}");
}
