//! A request of which nobody answers, over the real writer, its clock and a restart.

use std::time::Duration;

use serde_json::Value;

use super::super::super::policy::starter;
use super::plane::Bench;
use crate::domain::request::Request;
use crate::wire::v1;

/// Reading for hours takes the owner; after two hours of silence security may answer as well.
async fn silent() -> Bench {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut files = starter();
    let rule = "@id(\"read\")\n@approvers(\"resource-owner\")";
    files[0].text = files[0].text.replace(rule, &format!("{rule}\n@escalate(\"2h standing:security\")"));
    let files = files.into_iter().map(|file| v1::PolicyFile { name: file.name, text: file.text }).collect();
    let publish = v1::PublishPolicyRequest { files, reason: "x".into(), ..Default::default() };
    bench.catalog("admin").await.publish_policy(publish).await.unwrap();
    bench
}

fn request(answer: tonic::Response<v1::RequestResponse>) -> Request {
    serde_json::from_str(&answer.into_inner().request.unwrap().request_json).unwrap()
}

/// Waits until the request is as `until` wants it: looked at after each commit.
async fn seen(bench: &Bench, id: &[u8], until: impl Fn(&Request) -> bool) -> Request {
    let mut committed = bench.handle().shared().outbox.subscribe();
    let mut access = bench.access("alice").await;
    loop {
        committed.mark_unchanged();
        let get = v1::GetRequestRequest { id: id.to_vec(), wait_ms: 0 };
        let found = request(access.get_request(get).await.unwrap());
        if until(&found) {
            return found;
        }
        let changed = tokio::time::timeout(Duration::from_secs(60), committed.changed()).await;
        changed.expect("the writer goes on").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_recorded_once_and_lets_others_answer_over_a_restart() {
    let mut bench = silent().await;
    let create = v1::CreateRequestRequest {
        identity: "billing".into(),
        role: "orders-reader".into(),
        duration_ms: 4 * 3_600_000,
        reason: "month-end".into(),
        ..Default::default()
    };
    let asked = request(bench.access("admin").await.create_request(create).await.unwrap());
    let id = asked.id.bits().to_be_bytes().to_vec();
    let approve =
        v1::ApproveRequestRequest { id: id.clone(), digest: asked.analysis.digest.clone(), ..Default::default() };
    let early = bench.access("carol").await.approve_request(approve.clone()).await.unwrap_err();
    assert_eq!(early.code(), tonic::Code::PermissionDenied, "{early}");
    bench.clock.advance(Duration::from_secs(2 * 3600));
    let escalated = seen(&bench, &id, |request| !request.escalated.is_empty()).await;
    assert!(escalated.analysis.eligible.contains(&"carol".parse().unwrap()), "{escalated:?}");
    bench.stop().await;
    bench.resume().await;
    let granted = request(bench.access("carol").await.approve_request(approve).await.unwrap());
    assert_eq!(granted.state.as_str(), "granted");
    bench.stop().await;
    let told = bench.sink.told.lock().unwrap();
    let recorded: Vec<_> = told.iter().filter(|it| it.event.operation == "request.escalated").collect();
    assert_eq!(recorded.len(), 1);
    let after = recorded[0].event.after.as_ref().unwrap();
    assert_eq!(after.pointer("/escalated/0/stage/approvers").and_then(Value::as_str), Some("owner:orders"), "{after}");
    assert_eq!(recorded[0].actor, "portcullis");
}
