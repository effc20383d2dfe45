//! The way from a command to the gateways and back.

use std::time::Duration;

use tonic::Code;
use v1::gateway_receipt::State;

use super::gateway::Gateway;
use super::plane::{Bench, grant_request};
use crate::domain::Clock as _;
use crate::wire::v1;

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
    };
    one.applied(vec![cut]).await;
    let revoked = revoking.await.unwrap();
    assert_eq!(revoked.grant.unwrap().revoked.unwrap().reason, "leaked");
    let enforced = receipt(&revoked.receipts, "one");
    assert_eq!((enforced.state(), enforced.took_us), (State::Enforced, 42));
    assert_eq!((enforced.cut.len(), enforced.cut[0].intent_seq), (1, 3));
    let away = receipt(&revoked.receipts, "two");
    assert_eq!(away.state(), State::Unreachable);
    // Counted as answered when it was recorded; the resource's authority may be 10 s old.
    let by = bench.clock.now().saturating_add(Duration::from_secs(10));
    assert_eq!(away.stops_by_unix_us, by.unix_micros());

    // Again: the same answer, nothing new.
    let again = access.revoke_grant(revoke(&grant.id, 0)).await.unwrap().into_inner();
    assert_eq!((again.revision, receipt(&again.receipts, "one").cut.len()), (revoked.revision, 1));
    bench.stop().await;
    let told = bench.sink.told.lock().unwrap().clone();
    let operations: Vec<&str> = told.iter().map(|t| t.event.operation.as_str()).collect();
    assert_eq!(operations.iter().filter(|o| **o == "grant.revoked").count(), 1);
    assert!(told.is_sorted_by_key(|t| t.revision));
    let made = told.iter().find(|t| t.event.operation == "grant.created").unwrap();
    assert_eq!((made.actor.as_str(), made.event.reason.as_deref()), ("admin", Some("month-end run")));
}
