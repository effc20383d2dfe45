//! Who may call, and what they are told.

use std::collections::HashMap;
use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use super::super::super::enrol::Subject;
use super::plane::{Bench, grant_request};
use crate::wire::v1;
use v1::access_client::AccessClient;

fn reason(status: &Status) -> &str {
    status.metadata().get("x-portcullis-reason").map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_known_gets_nothing() {
    let bench = Bench::start().await;
    let unknown = |status: Status| {
        assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "unauthenticated"));
    };
    for token in [None, Some(""), Some("pcp_x"), Some("x y")] {
        let client = bench.as_token(token).await;
        unknown(AccessClient::new(client.clone()).who_am_i(v1::WhoAmIRequest {}).await.unwrap_err());
        let health = tonic_health::pb::HealthCheckRequest { service: String::new() };
        unknown(tonic_health::pb::health_client::HealthClient::new(client.clone()).check(health).await.unwrap_err());
        let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            )),
        };
        let mut reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(client);
        unknown(reflection.server_reflection_info(tokio_stream::once(ask)).await.unwrap_err());
    }
    // A certificate of ours that is no recorded gateway's.
    let workload = Subject::Workload("spiffe://example.org/sa/billing".parse().unwrap());
    let stranger = Subject::Gateway { name: "three".parse().unwrap(), names: Vec::new() };
    for subject in [workload, stranger] {
        let mut client = AccessClient::new(bench.channel(Some(subject)).await);
        unknown(client.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_is_who_their_credential_says() {
    let bench = Bench::start().await;
    for (person, role) in [("admin", "administrator"), ("carol", "security"), ("bob", "owner"), ("alice", "developer")]
    {
        let answer = bench.access(person).await.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
        assert_eq!((answer.kind.as_str(), answer.name.as_str()), ("person", person));
        assert_eq!(answer.roles, [role]);
    }
    let mut gateway = AccessClient::new(bench.as_gateway("one").await);
    let answer = gateway.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((answer.kind.as_str(), answer.name.as_str()), ("gateway", "one"));
    let denied = gateway.list_grants(v1::ListGrantsRequest::default()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_says_what_it_takes_and_is_recorded() {
    let mut bench = Bench::start().await;
    bench.apply().await;
    let denied = bench.access("alice").await.create_grant(grant_request()).await.unwrap_err();
    assert_eq!((denied.code(), reason(&denied)), (Code::PermissionDenied, "denied"));
    assert_eq!(denied.message(), "alice may not create_grant: it takes administrator");
    let head = bench.handle().model().revision;
    for _ in 0..100 {
        bench.catalog("alice").await.apply(v1::ApplyRequest::default()).await.unwrap_err();
        if bench.handle().shared().metrics.denied.get() > 70 {
            break;
        }
    }
    assert_eq!(bench.handle().model().revision, head, "gateways hear nothing of it");
    bench.stop().await;
    let told = bench.sink.told.lock().unwrap();
    let recorded: Vec<_> = told.iter().filter(|t| t.event.operation == "access.denied").collect();
    assert_eq!(recorded.len(), 60);
    assert_eq!((recorded[0].actor.as_str(), recorded[0].event.object.as_str()), ("alice", "operation/create_grant"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_end_grants_on_what_they_own_and_nothing_else() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut admin = bench.access("admin").await;
    let id = admin.create_grant(grant_request()).await.unwrap().into_inner().grants[0].id.clone();
    let revoke = |id: &[u8]| v1::RevokeGrantRequest { id: id.to_vec(), reason: "not needed".into(), wait_ms: 0 };
    let denied = bench.access("alice").await.revoke_grant(revoke(&id)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    // What is not there is nobody's: those who may not revoke anything do not learn whether it is.
    let denied = bench.access("alice").await.revoke_grant(revoke(&[7; 16])).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let missing = admin.revoke_grant(revoke(&[7; 16])).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing)), (Code::NotFound, "not_found"));
    let revoked = bench.access("bob").await.revoke_grant(revoke(&id)).await.unwrap().into_inner();
    assert_eq!(revoked.grant.unwrap().revoked.unwrap().by, "bob");
    let quarantine = |state: &str| v1::SetIdentityStateRequest {
        identity: "billing".into(),
        state: state.into(),
        reason: "leak".into(),
        wait_ms: 0,
    };
    admin.create_grant(grant_request()).await.unwrap();
    let mut carol = bench.catalog("carol").await;
    let done = carol.set_identity_state(quarantine("quarantined")).await.unwrap().into_inner();
    assert_eq!((done.object.unwrap().state.as_str(), done.revoked, done.cancelled), ("quarantined", 1, 0));
    assert_eq!(carol.set_identity_state(quarantine("active")).await.unwrap_err().code(), Code::PermissionDenied);
    let conflict = admin.create_grant(grant_request()).await.unwrap_err();
    assert_eq!((conflict.code(), reason(&conflict)), (Code::Aborted, "conflict"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_and_show_what_has_ended_when_asked() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut admin = bench.access("admin").await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(admin.create_grant(grant_request()).await.unwrap().into_inner().grants[0].id.clone());
    }
    let revoke = v1::RevokeGrantRequest { id: ids[2].clone(), reason: "x".into(), wait_ms: 0 };
    admin.revoke_grant(revoke).await.unwrap();
    for (states, expected) in [
        (vec![], vec![0, 1, 3, 4, 5, 6]),
        (vec!["active", "revoked"], vec![0, 1, 2, 3, 4, 5, 6]),
        (vec!["revoked"], vec![2]),
        (vec!["expired"], vec![]),
        (vec!["scheduled"], vec![]),
    ] {
        let mut request = v1::ListGrantsRequest {
            identity: "billing".into(),
            states: states.iter().map(|s| (*s).to_owned()).collect(),
            page_size: 2,
            ..Default::default()
        };
        let mut found = Vec::new();
        loop {
            let page = admin.list_grants(request.clone()).await.unwrap().into_inner();
            assert!(page.grants.len() <= 2);
            found.extend(page.grants.into_iter().map(|g| g.id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(found, expected.into_iter().map(|n: usize| ids[n].clone()).collect::<Vec<_>>(), "{states:?}");
    }
    let nobody = v1::ListGrantsRequest { identity: "nobody".into(), ..Default::default() };
    assert!(admin.list_grants(nobody).await.unwrap().into_inner().grants.is_empty());
    for bad in [
        v1::ListGrantsRequest { states: vec!["dead".into()], ..Default::default() },
        v1::ListGrantsRequest { page_token: "x".into(), ..Default::default() },
        v1::ListGrantsRequest { identity: "A B".into(), ..Default::default() },
    ] {
        assert_eq!(admin.list_grants(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let got = admin.get_grant(v1::GetGrantRequest { id: ids[2].clone() }).await.unwrap().into_inner();
    assert_eq!(got.state, "revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn can_i_says_what_a_gateway_would() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut alice = bench.access("alice").await;
    let ask = |action: &str, order: Option<&str>| v1::CanIRequest {
        identity: "billing".into(),
        action: action.into(),
        resource: "api/orders".into(),
        parameters: order.map(|o| HashMap::from([("order".to_owned(), o.to_owned())])).unwrap_or_default(),
    };
    let answer = alice.can_i(ask("read", None)).await.unwrap().into_inner();
    assert_eq!((answer.allowed, answer.reason.as_str()), (false, "grant_missing"));
    let mut admin = bench.access("admin").await;
    let created = admin.create_grant(grant_request()).await.unwrap().into_inner();
    let answer = alice.can_i(ask("read", None)).await.unwrap().into_inner();
    assert_eq!((answer.allowed, answer.grant), (true, Some(created.grants[0].clone())));
    let answer = alice.can_i(ask("write", None)).await.unwrap().into_inner();
    assert_eq!((answer.allowed, answer.reason.as_str()), (false, "action_not_granted"));
    let limits = v1::Limits {
        parameters: vec![v1::ParameterLimit { name: "order".into(), values: vec!["7".into()] }],
        ..Default::default()
    };
    let narrow = v1::CreateGrantRequest {
        role: String::new(),
        resource: "api/orders".into(),
        actions: vec!["write".into()],
        limits: Some(limits),
        ..grant_request()
    };
    admin.create_grant(narrow).await.unwrap();
    assert!(alice.can_i(ask("write", Some("7"))).await.unwrap().into_inner().allowed);
    let answer = alice.can_i(ask("write", Some("8"))).await.unwrap().into_inner();
    assert_eq!(answer.reason, "parameter_not_granted");
    bench.clock.advance(Duration::from_secs(3600));
    assert!(!alice.can_i(ask("write", Some("7"))).await.unwrap().into_inner().allowed);
    let nobody = v1::CanIRequest { identity: "nobody".into(), ..ask("read", None) };
    assert_eq!(alice.can_i(nobody).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_a_restart_where_it_ended() {
    let mut bench = Bench::start().await;
    bench.apply().await;
    let mut admin = bench.access("admin").await;
    let from_now = v1::WatchGrantsRequest { from_revision: 0 };
    let mut watch = bench.access("alice").await.watch_grants(from_now).await.unwrap().into_inner();
    let created = admin.create_grant(grant_request()).await.unwrap().into_inner();
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!((event.event.as_str(), event.revision), ("created", created.revision));
    assert_eq!(event.grant.unwrap(), created.grants[0]);
    let id = created.grants[0].id.clone();
    admin.revoke_grant(v1::RevokeGrantRequest { id, reason: "x".into(), wait_ms: 0 }).await.unwrap();
    drop(watch);
    bench.stop().await;
    bench.resume().await;
    let from = v1::WatchGrantsRequest { from_revision: created.revision + 1 };
    let mut watch = bench.access("alice").await.watch_grants(from).await.unwrap().into_inner();
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!((event.event.as_str(), event.grant.unwrap().revoked.unwrap().by.as_str()), ("revoked", "admin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_documents_and_requests_come_back_whole() {
    let bench = Bench::start().await;
    let mut catalog = bench.catalog("admin").await;
    let broken = |kind: &str, spec: &str| v1::CatalogObject {
        kind: kind.into(),
        name: "x".into(),
        spec_json: spec.into(),
        ..Default::default()
    };
    let request =
        v1::ApplyRequest { objects: vec![broken("Identity", "{}"), broken("Robot", "{}")], ..Default::default() };
    let invalid = catalog.apply(request).await.unwrap_err();
    assert_eq!((invalid.code(), reason(&invalid)), (Code::InvalidArgument, "invalid"));
    assert!(invalid.message().contains("Identity x") && invalid.message().contains("Robot"));
    let role = broken("Role", r#"{"permissions":[{"resource":"api/x","actions":["read"]}]}"#);
    let unfit =
        catalog.apply(v1::ApplyRequest { objects: vec![role], dry_run: true, ..Default::default() }).await.unwrap_err();
    assert_eq!((unfit.code(), reason(&unfit)), (Code::FailedPrecondition, "unfit"));
    bench.apply().await;
    let all = catalog.list_objects(v1::ListObjectsRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.objects.len(), 4);
    let one = v1::GetObjectRequest { kind: "Role".into(), name: "orders-reader".into() };
    let one = catalog.get_object(one).await.unwrap().into_inner().object.unwrap();
    assert!(one.spec_json.contains("api/orders") && one.revision > 0);
    let both = v1::CreateGrantRequest { resource: "api/orders".into(), ..grant_request() };
    let mut admin = bench.access("admin").await;
    assert_eq!(admin.create_grant(both).await.unwrap_err().code(), Code::InvalidArgument);
    let huge = v1::CreateGrantRequest { reason: "x".repeat(5 * 1024 * 1024), ..grant_request() };
    assert_eq!(admin.create_grant(huge).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_readiness_are_told_on_the_http_address() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bench = Bench::start().await;
    bench.apply().await;
    bench.access("admin").await.create_grant(grant_request()).await.unwrap();
    let address = bench.plane.as_ref().unwrap().http_address();
    let fetch = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    assert!(fetch("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(fetch("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = fetch("/metrics").await;
    for line in [
        "portcullis_control_grants{state=\"active\"} 1",
        "portcullis_control_gateways{state=\"away\"} 2",
        "portcullis_control_gateways{state=\"connected\"} 0",
        "portcullis_control_epoch 1",
        "portcullis_control_command_duration_seconds_count{command=\"create_grant\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}
