//! The way from a command to the gateways and back.

use std::time::Duration;

use tonic::Code;
use v1::gateway_receipt::State;

use super::gateway::Gateway;
use super::plane::{Bench, grant_request};
use crate::domain::{Clock as _, Timestamp};
use crate::wire::{self, v1};

fn revoke(id: &[u8], wait_ms: u64) -> v1::RevokeGrantRequest {
    v1::RevokeGrantRequest { id: id.to_vec(), reason: "leaked".into(), wait_ms }
}

fn receipt<'r>(receipts: &'r [v1::GatewayReceipt], gateway: &str) -> &'r v1::GatewayReceipt {
    receipts.iter().find(|r| r.gateway == gateway).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_goes_out_and_its_revocation_comes_back_with_what_was_cut() {
    let mut bench = Bench::start().await;
    bench.apply().await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    one.next().await.unwrap();
    assert_eq!((one.snapshots, one.epoch), (1, 1));
    one.applied(Vec::new()).await;

    let mut access = bench.access("admin").await;
    let created = access.create_grant(grant_request()).await.unwrap().into_inner();
    assert_eq!(created.grants.len(), 1);
    let grant = created.grants[0].clone();
    one.reach(created.revision).await;
    assert_eq!(one.grants[&grant.id], grant);
    one.applied(Vec::new()).await;

    let revoking = tokio::spawn({
        let (mut access, id) = (access.clone(), grant.id.clone());
        async move { access.revoke_grant(revoke(&id, 20_000)).await.unwrap().into_inner() }
    });
    one.reach(created.revision + 1).await;
    assert!(one.grants.is_empty());
    let cut = v1::CutCall {
        call_id: vec![9; 16],
        grant_id: grant.id.clone(),
        reason: "grant_revoked".into(),
        intent_seq: 3,
        response_bytes: 100,
        late_bytes: 7,
    };
    // As many as an acknowledgement lists.
    one.applied(vec![cut; wire::MAX_CUT_CALLS_LISTED]).await;
    let revoked = revoking.await.unwrap();
    assert_eq!(revoked.grant.unwrap().revoked.unwrap().reason, "leaked");
    let enforced = receipt(&revoked.receipts, "one");
    assert_eq!((enforced.state(), enforced.took_us), (State::Enforced, 42));
    assert_eq!((enforced.cut.len(), enforced.cut[0].intent_seq), (wire::MAX_CUT_CALLS_LISTED, 3));
    let away = receipt(&revoked.receipts, "two");
    assert_eq!((away.state(), away.connected), (State::Pending, false));
    // Counted as answered when it was recorded; the resource's authority may be 10 s old, and calls end within a second.
    let by = bench.clock.now().saturating_add(Duration::from_secs(11));
    assert_eq!(away.stops_by_unix_us, by.unix_micros());

    // Again: the same answer, nothing new.
    let again = access.revoke_grant(revoke(&grant.id, 0)).await.unwrap().into_inner();
    assert_eq!(
        (again.revision, receipt(&again.receipts, "one").cut.len()),
        (revoked.revision, wire::MAX_CUT_CALLS_LISTED)
    );
    bench.stop().await;
    let told = bench.sink.told.lock().unwrap().clone();
    let operations: Vec<&str> = told.iter().map(|t| t.event.operation.as_str()).collect();
    assert_eq!(operations.iter().filter(|o| **o == "grant.revoked").count(), 1);
    assert!(told.is_sorted_by_key(|t| t.revision));
    let made = told.iter().find(|t| t.event.operation == "grant.created").unwrap();
    assert_eq!((made.actor.as_str(), made.event.reason.as_deref()), ("admin", Some("month-end run")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stalls_is_pending_and_one_that_leaves_is_unreachable() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    let mut two = Gateway::attach(&bench, "two", 0, 0).await.unwrap();
    one.next().await.unwrap();
    two.next().await.unwrap();
    let mut access = bench.access("admin").await;
    let created = access.create_grant(grant_request()).await.unwrap().into_inner();
    let id = created.grants[0].id.clone();
    one.reach(created.revision).await;
    two.reach(created.revision).await;

    // `two` is answered, and then says nothing any more.
    two.renew(1).await;
    assert_eq!(two.authority().await.unwrap().revision, created.revision);
    let answered = bench.clock.now();
    bench.clock.advance(Duration::from_secs(2));
    let first = tokio::spawn({
        let (mut access, id) = (access.clone(), id.clone());
        async move { access.revoke_grant(revoke(&id, 300)).await.unwrap().into_inner() }
    });
    one.reach(created.revision + 1).await;
    one.applied(Vec::new()).await;
    let first = first.await.unwrap();
    assert_eq!(receipt(&first.receipts, "one").state(), State::Enforced);
    let pending = receipt(&first.receipts, "two");
    assert_eq!(pending.state(), State::Pending);
    assert!(pending.stops_by_unix_us > bench.clock.now().unix_micros());

    // It leaves while somebody waits: the wait ends, with the moment at which it stops by itself.
    let second = tokio::spawn({
        let (mut access, id) = (access.clone(), id.clone());
        async move { access.revoke_grant(revoke(&id, 60_000)).await.unwrap().into_inner() }
    });
    drop(two);
    let second = second.await.unwrap();
    let away = receipt(&second.receipts, "two");
    assert_eq!((away.state(), away.connected), (State::Pending, false));
    assert_eq!(away.stops_by_unix_us, answered.saturating_add(Duration::from_secs(11)).unix_micros());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_comes_back_gets_exactly_what_it_missed() {
    let mut bench = Bench::start().await;
    bench.apply().await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    one.next().await.unwrap();
    let (epoch, revision) = (one.epoch, one.revision);
    drop(one);
    let mut access = bench.access("admin").await;
    let first = access.create_grant(grant_request()).await.unwrap().into_inner();
    let second = access.create_grant(grant_request()).await.unwrap().into_inner();
    let last = access.revoke_grant(revoke(&first.grants[0].id, 0)).await.unwrap().into_inner().revision;

    let mut back = Gateway::attach(&bench, "one", epoch, revision).await.unwrap();
    back.reach(last).await;
    assert_eq!((back.snapshots, back.changes), (0, 3));
    assert_eq!(back.grants.keys().collect::<Vec<_>>(), [&second.grants[0].id]);
    drop(back);

    // Current when the control plane starts anew: nothing to send but authority.
    bench.stop().await;
    bench.resume().await;
    let mut current = Gateway::attach(&bench, "one", epoch, last).await.unwrap();
    current.renew(7).await;
    let authority = current.authority().await.unwrap();
    assert_eq!((authority.revision, authority.nonce, authority.epoch), (last, vec![7; 16], epoch));
    assert_eq!((current.snapshots, current.changes), (0, 0));
    drop(current);

    // Too far behind for what is at hand: the whole picture.
    let mut late = Gateway::attach(&bench, "one", epoch, revision).await.unwrap();
    late.next().await.unwrap();
    assert_eq!((late.snapshots, late.grants.len(), late.revision), (1, 1, last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_older_than_what_a_gateway_saw_is_refused_until_it_is_declared() {
    let bench = Bench::start().await;
    bench.apply().await;
    let head = bench.handle().model().revision;
    for (epoch, revision) in [(1, head + 1), (2, 1)] {
        let refused = Gateway::attach(&bench, "one", epoch, revision).await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(refused.metadata().get("x-portcullis-reason").unwrap(), "store_behind");
    }
    bench
        .handle()
        .begin_epoch(&super::super::super::authorize::Caller::System, 3, Timestamp::UNIX_EPOCH, "a backup".into())
        .await
        .unwrap();
    let mut one = Gateway::attach(&bench, "one", 2, 999).await.unwrap();
    one.next().await.unwrap();
    assert_eq!((one.snapshots, one.epoch), (1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_renews_and_does_not_apply_gets_no_more_authority() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    one.next().await.unwrap();
    let held = one.revision;
    let created = bench.access("admin").await.create_grant(grant_request()).await.unwrap().into_inner();
    one.reach(created.revision).await;
    one.revision = held;
    one.renew(1).await;
    assert_eq!(one.authority().await.unwrap().nonce, vec![1; 16]);
    let before = bench.clock.now();
    bench.clock.advance(Duration::from_secs(11));
    // Setting the clock back gives it no time.
    bench.clock.set_wall(before);
    one.renew(2).await;
    // Both in one stream, in order: were the second answered, its answer would come first.
    let withheld = || bench.handle().shared().metrics.renewals.with_label_values(&["withheld"]).get();
    while withheld() == 0 {
        tokio::task::yield_now().await;
    }
    one.revision = created.revision;
    one.renew(3).await;
    assert_eq!(one.authority().await.unwrap().nonce, vec![3; 16]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stream_of_a_gateway_ends_the_first() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut first = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    first.next().await.unwrap();
    let mut second = Gateway::attach(&bench, "one", first.epoch, first.revision).await.unwrap();
    assert!(first.next().await.is_err());
    second.renew(1).await;
    second.authority().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expelled_gateway_is_answered_no_more() {
    use super::super::super::authorize::Caller;
    use super::super::super::record::{GatewayRecord, Standing};
    let bench = Bench::start().await;
    bench.apply().await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    one.next().await.unwrap();
    let expelled = GatewayRecord {
        name: "one".parse().unwrap(),
        standing: Standing::Expelled,
        registered: bench.clock.now(),
        hosts: Vec::new(),
        token: None,
        client_key: None,
        scope: Default::default(),
        attested: None,
    };
    bench.handle().put_gateway(&Caller::System, expelled).await.unwrap();
    // At once: nobody waits for its next renewal.
    assert_eq!(one.authority().await.err().unwrap().code(), Code::PermissionDenied);
    assert_eq!(Gateway::attach(&bench, "one", 0, 0).await.err().unwrap().code(), Code::PermissionDenied);
    // Nor does its certificate open anything else.
    let mut access = v1::access_client::AccessClient::new(bench.as_gateway("one").await);
    let token = v1::RevokeTokenRequest { issuer: "https://i".into(), jti: "x".into(), expires_unix_us: i64::MAX };
    assert_eq!(access.revoke_token(token).await.unwrap_err().code(), Code::PermissionDenied);
    let mut fleet = v1::fleet_client::FleetClient::new(bench.as_gateway("one").await);
    let asked = fleet.certify(v1::CertifyRequest::default()).await;
    assert_eq!(asked.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_by_the_clock_and_revoked_tokens_reach_the_gateways() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    one.next().await.unwrap();
    let created = bench.access("admin").await.create_grant(grant_request()).await.unwrap().into_inner();
    one.reach(created.revision).await;
    bench.clock.advance(Duration::from_secs(3600));
    one.reach(created.revision + 1).await;
    assert!(one.grants.is_empty());

    let mut gateway = v1::access_client::AccessClient::new(bench.as_gateway("two").await);
    let expires_unix_us = bench.clock.now().saturating_add(Duration::from_secs(60)).unix_micros();
    let token = v1::RevokeTokenRequest { issuer: "https://two".into(), jti: "j1".into(), expires_unix_us };
    let revision = gateway.revoke_token(token.clone()).await.unwrap().into_inner().revision;
    one.reach(revision).await;
    // Somebody who attaches later hears of it too, until it would have ended.
    let mut two = Gateway::attach(&bench, "two", 0, 0).await.unwrap();
    let v1::control_message::Message::Snapshot(part) = two.next().await.unwrap() else { panic!() };
    assert_eq!(part.revoked_tokens.len(), 1);
    assert_eq!(part.revoked_tokens[0].jti, token.jti);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_ends_the_streams_at_once() {
    let mut bench = Bench::start().await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    one.next().await.unwrap();
    bench.stop().await;
    assert_eq!(one.next().await.err().unwrap().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joined_with_other_keys_is_known_by_no_certificate_of_its_old_ones() {
    use super::super::super::authorize::Caller;
    use super::super::super::record::{Digest, JoinToken};
    use super::super::super::registry::{Invited, Joining};
    let bench = Bench::start().await;
    drop(Gateway::attach(&bench, "one", 0, 0).await.unwrap());
    let name: crate::domain::name::GatewayName = "one".parse().unwrap();
    let expires = bench.clock.now().saturating_add(Duration::from_secs(60));
    let mut joinings = Vec::new();
    for token in ["first", "second"] {
        let digest = Digest::of(token);
        let invited =
            Invited { name: name.clone(), hosts: Vec::new(), token: JoinToken { digest, expires }, scope: None };
        bench.handle().invite(&Caller::System, invited).await.unwrap();
        let log = "portcullis/gateway/one".parse().unwrap();
        let key = crate::evidence::checkpoint::EvidenceKey::generate().unwrap().0;
        let (client_key, evidence_key) = (Digest::of("its key"), key.verifier(&log).to_string());
        joinings.push(Joining { gateway: name.clone(), token: digest, client_key, evidence_key });
    }
    let (second, first) = (joinings.pop().unwrap(), joinings.pop().unwrap());
    assert!(bench.handle().join(first).await.is_err(), "its invitation was replaced while it was on its way");
    bench.handle().join(second.clone()).await.unwrap();
    assert!(bench.handle().join(second).await.is_err(), "once");
    let refused = Gateway::attach(&bench, "one", 0, 0).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    drop(Gateway::attach(&bench, "two", 0, 0).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_does_not_take_is_answered_when_it_does() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut access = bench.access("admin").await;
    let limits = v1::Limits { uses: 3, ..Default::default() };
    let counted = v1::CreateGrantRequest { limits: Some(limits), ..grant_request() };
    let created = access.create_grant(counted).await.unwrap().into_inner();
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    one.reach(created.revision).await;
    one.applied(Vec::new()).await;
    // What is told cannot be remembered beside the store: as with a full disk.
    let file = bench.dir.path().join("state/committed.json");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let wanted = v1::UsesWanted { grant_id: created.grants[0].id.clone(), uses: 1, ahead: 0 };
    let renew = v1::Renew { uses_wanted: vec![wanted], process: vec![1; 16], stream: 1, ..Default::default() };
    one.renew_with(1, renew).await;
    let handle = bench.handle();
    while handle.shared().metrics.renewals.with_label_values(&["unstored"]).get() == 0 {
        tokio::task::yield_now().await;
    }
    std::fs::remove_dir(&file).unwrap();
    // It asks once.
    let authority = one.authority().await.unwrap();
    assert_eq!(authority.allotments[0].uses, 1);
}
