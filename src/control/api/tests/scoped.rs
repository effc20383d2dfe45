//! Gateways of narrower scopes, spoken for by hand: what comes down, what does not, and what a receipt says of whom.

use v1::control_message::Message as Down;
use v1::gateway_receipt::State;

use super::gateway::Gateway;
use super::plane::{Bench, grant_request};
use crate::domain::Clock as _;
use crate::wire::v1;

fn object(kind: &str, name: &str, spec: &str) -> v1::CatalogObject {
    v1::CatalogObject { kind: kind.into(), name: name.into(), spec_json: spec.into(), ..Default::default() }
}

/// A second resource with its route, and an identity for it.
async fn ledger(bench: &Bench) {
    bench.apply().await;
    let objects = vec![
        object("Resource", "db/ledger", r#"{"owner":"books","sensitivity":"high","authority":"10s"}"#),
        object(
            "Route",
            "ledger",
            r#"{"upstream":"http://127.0.0.1:9001","resource":"db/ledger","host":"ledger.internal",
                "actions":[{"name":"read","methods":["GET"],"path":"/**"}]}"#,
        ),
        object(
            "Identity",
            "books",
            r#"{"kind":"service","owner":"books","purpose":"closes months","environment":"production",
                "authenticate":[{"spiffe":"spiffe://example.org/sa/books"}]}"#,
        ),
    ];
    bench
        .catalog("admin")
        .await
        .apply(v1::ApplyRequest { objects, dry_run: false, ..Default::default() })
        .await
        .unwrap();
}

fn ledger_request() -> v1::CreateGrantRequest {
    v1::CreateGrantRequest {
        identity: "books".into(),
        role: String::new(),
        resource: "db/ledger".into(),
        actions: vec!["read".into()],
        ..grant_request()
    }
}

async fn scope(bench: &Bench, name: &str, routes: &[&str], resources: &[&str]) -> v1::ScopeGatewayResponse {
    let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let scope = v1::GatewayScope { routes: strings(routes), resources: strings(resources) };
    let request =
        v1::ScopeGatewayRequest { name: name.into(), scope: Some(scope), reason: "its place".into(), wait_ms: 0 };
    let mut fleet = v1::fleet_client::FleetClient::new(bench.as_person("admin").await);
    fleet.scope_gateway(request).await.unwrap().into_inner()
}

/// The first picture of a stream: names of objects, and how many grants.
async fn picture(gateway: &mut Gateway) -> (Vec<String>, usize) {
    let Down::Snapshot(part) = gateway.next().await.unwrap() else { panic!("a picture comes first") };
    assert!(part.last);
    (part.objects.iter().map(|object| object.name.clone()).collect(), part.grants.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_told_of_its_scope_alone_and_follows_when_that_changes() {
    let bench = Bench::start().await;
    ledger(&bench).await;
    scope(&bench, "one", &["orders"], &[]).await;
    scope(&bench, "two", &[], &["db/ledger"]).await;
    let mut access = bench.access("admin").await;
    let orders = access.create_grant(grant_request()).await.unwrap().into_inner().grants[0].id.clone();
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    let mut two = Gateway::attach(&bench, "two", 0, 0).await.unwrap();
    // And that some calls which its route would take are somebody else's.
    let own = ["billing", "api/orders", "orders", "elsewhere"].map(String::from);
    assert_eq!(picture(&mut one).await, (own.to_vec(), 1));
    assert_eq!(picture(&mut two).await, (vec!["db/ledger".into(), "ledger".into()], 0));
    one.applied(Vec::new()).await;
    two.applied(Vec::new()).await;

    // What concerns one of them the other hears of as a revision without changes.
    let created = access.create_grant(ledger_request()).await.unwrap().into_inner();
    let books = created.grants[0].id.clone();
    one.reach(created.revision).await;
    two.reach(created.revision).await;
    assert_eq!((one.changes, two.changes), (0, 2), "the grant, and whose it is");
    assert!(one.grants.contains_key(&orders) && two.grants.contains_key(&books));
    assert!(!one.grants.contains_key(&books) && !two.grants.contains_key(&orders));
    one.applied(Vec::new()).await;
    two.applied(Vec::new()).await;

    // What went out is taken away, what came in is sent: as a whole.
    let scoped = scope(&bench, "one", &["ledger"], &[]).await;
    assert_eq!(scoped.gateway.unwrap().scope.unwrap().routes, ["ledger"]);
    one.grants.clear();
    one.reach(scoped.revision).await;
    assert_eq!((one.snapshots, one.grants.keys().collect::<Vec<_>>()), (2, vec![&books]));
    two.reach(scoped.revision).await;
    assert_eq!((two.snapshots, two.changes), (1, 2), "which is nothing to the other");

    // And so is what a route leads to.
    let route = r#"{"upstream":"http://127.0.0.1:9001","resource":"api/orders","host":"ledger.internal",
        "actions":[{"name":"read","methods":["GET"],"path":"/**"}]}"#;
    let request =
        v1::ApplyRequest { objects: vec![object("Route", "ledger", route)], dry_run: false, ..Default::default() };
    let applied = bench.catalog("admin").await.apply(request).await.unwrap().into_inner();
    one.grants.clear();
    one.reach(applied.revision).await;
    assert_eq!((one.snapshots, one.grants.keys().collect::<Vec<_>>()), (3, vec![&orders]));

    // Halts and revoked tokens are kept from nobody.
    let in_an_hour = bench.clock.now().saturating_add(std::time::Duration::from_secs(3_600)).unix_micros();
    let token = v1::RevokeTokenRequest { issuer: "https://i".into(), jti: "x".into(), expires_unix_us: in_an_hour };
    let revision = access.revoke_token(token).await.unwrap().into_inner().revision;
    let before = (one.changes, two.changes);
    one.reach(revision).await;
    two.reach(revision).await;
    assert!(one.changes > before.0 && two.changes > before.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_concerns_a_gateway_in_nothing_it_hears_of_now_and_then_and_of_the_last_for_certain() {
    use crate::domain::Clock as _;
    let bench = Bench::start().await;
    ledger(&bench).await;
    scope(&bench, "one", &["orders"], &[]).await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    picture(&mut one).await;
    let since_boot = || crate::clock::SystemClock.since_boot();
    let (mut access, began) = (bench.access("admin").await, since_boot());
    let mut last = 0;
    for _ in 0..200 {
        last = access.create_grant(ledger_request()).await.unwrap().into_inner().revision;
    }
    // The one that matters waits for nothing.
    let orders = access.create_grant(grant_request()).await.unwrap().into_inner();
    let mut deltas = 0_u128;
    while one.revision < last {
        one.next().await.unwrap();
        deltas += 1;
    }
    let quiet = since_boot().saturating_sub(began).as_millis() / super::super::push::follow::QUIET.as_millis();
    assert!(deltas <= quiet + 3, "{deltas} deltas in {quiet} times the quiet");
    one.reach(orders.revision).await;
    assert_eq!((one.changes, one.grants.len()), (2, 1), "the grant, and whose it is");
    // And the last, though nothing comes after it.
    access.create_grant(ledger_request()).await.unwrap();
    let created = access.create_grant(ledger_request()).await.unwrap().into_inner();
    one.reach(created.revision).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_asks_for_anothers_scope_gets_nothing() {
    let bench = Bench::start().await;
    ledger(&bench).await;
    scope(&bench, "one", &["orders"], &[]).await;
    let mut access = bench.access("admin").await;
    let limits = v1::Limits { uses: 10, ..Default::default() };
    let counted = |request: v1::CreateGrantRequest| v1::CreateGrantRequest { limits: Some(limits.clone()), ..request };
    let own = access.create_grant(counted(grant_request())).await.unwrap().into_inner();
    let others = access.create_grant(counted(ledger_request())).await.unwrap().into_inner();
    let (own, others) = (own.grants[0].id.clone(), others.grants[0].id.clone());

    // It claims to hold the whole picture already, so as to be sent what changes in all of it.
    let head = bench.handle().model().revision;
    let mut one = Gateway::attach(&bench, "one", 1, head).await.unwrap();
    let (names, grants) = picture(&mut one).await;
    assert_eq!((names.contains(&"ledger".to_owned()), grants), (false, 1));
    one.applied(Vec::new()).await;
    // It wants uses of a grant that it knows of from somewhere.
    let want = |grant_id: &Vec<u8>| v1::UsesWanted { grant_id: grant_id.clone(), uses: 3, ahead: 3 };
    let renew = v1::Renew {
        uses_wanted: vec![want(&own), want(&others)],
        process: vec![1; 16],
        stream: 1,
        uses_held: Some(v1::UsesHeld::default()),
        ..Default::default()
    };
    one.renew_with(1, renew).await;
    let authority = one.authority().await.unwrap();
    let given = |id: &Vec<u8>| authority.allotments.iter().find(|it| it.grant_id == *id).map(|it| it.uses);
    assert!(given(&own) >= Some(3), "{authority:?}");
    assert_eq!(given(&others), Some(0));
    assert_eq!(bench.handle().model().ledgers.len(), 1, "nothing of the other's was given out");
    // No message of the protocol names a scope: a second hello ends the stream, and changes nothing.
    let fleet = bench.as_gateway("one").await;
    let request = v1::ScopeGatewayRequest { name: "one".into(), reason: "mine".into(), ..Default::default() };
    let refused = v1::fleet_client::FleetClient::new(fleet).scope_gateway(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_names_who_is_not_concerned_and_never_one_that_may_be() {
    let bench = Bench::start().await;
    ledger(&bench).await;
    scope(&bench, "two", &["ledger"], &[]).await;
    let mut access = bench.access("admin").await;
    let created = access.create_grant(grant_request()).await.unwrap().into_inner();
    let id = created.grants[0].id.clone();
    let state = |receipts: &[v1::GatewayReceipt], name: &str| {
        receipts.iter().find(|receipt| receipt.gateway == name).unwrap().state()
    };
    let (admin, grant) = (access.clone(), id.clone());
    let revoke = |wait_ms: u64| {
        let request = v1::RevokeGrantRequest { id: grant.clone(), reason: "leaked".into(), wait_ms };
        let mut access = admin.clone();
        async move { access.revoke_grant(request).await.unwrap().into_inner() }
    };
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    let mut two = Gateway::attach(&bench, "two", 0, 0).await.unwrap();
    let _ = (picture(&mut one).await, picture(&mut two).await);
    one.applied(Vec::new()).await;
    two.applied(Vec::new()).await;
    // In the middle of it one gateway is given another place: what it holds until it says otherwise, counts.
    let moved = scope(&bench, "one", &["ledger"], &[]).await;
    let revoked = revoke(0).await;
    assert_eq!(state(&revoked.receipts, "two"), State::NotConcerned);
    assert_eq!(state(&revoked.receipts, "one"), State::Pending);
    // Gone before it said so, it may go on with what it had.
    drop(one);
    while bench.handle().gateways().iter().any(|status| status.name.as_str() == "one" && status.connected) {
        tokio::task::yield_now().await;
    }
    assert_eq!(state(&revoke(0).await.receipts, "one"), State::Pending);
    let mut one = Gateway::attach(&bench, "one", 1, created.revision).await.unwrap();
    one.reach(moved.revision).await;
    assert_eq!(state(&revoke(0).await.receipts, "one"), State::Pending);
    one.applied(Vec::new()).await;
    // It goes by its new scope, of which no grant of orders is.
    assert_ne!(state(&revoke(20_000).await.receipts, "one"), State::Pending);
}
