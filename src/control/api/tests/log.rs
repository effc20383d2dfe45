//! Renewals over a log: cosigned when it grew, refused and told when it was cut, rewritten or copied.

use tonic::Code;

use super::super::super::authorize::Caller;
use super::super::super::record::{GatewayRecord, Standing};
use super::gateway::Gateway;
use super::plane::Bench;
use crate::domain::Clock as _;
use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::{Checkpoint, EvidenceKey};
use crate::evidence::statement::StatementKind;
use crate::evidence::tree::{CompactRange, Hash, TreeHead, leaf_hash};
use crate::wire::v1;
use v1::gateway_message::Message as Up;

fn head(entries: &[&str]) -> TreeHead {
    let mut range = CompactRange::new();
    entries.iter().for_each(|entry| range.append(leaf_hash(entry.as_bytes())));
    TreeHead { size: range.size(), root: range.root() }
}

impl Gateway {
    fn shown(&self, entries: &[&str], from: u64, proof: &[Hash]) -> v1::Renew {
        let checkpoint = Checkpoint { origin: self.origin.clone(), head: head(entries) };
        v1::Renew {
            checkpoint: checkpoint.sign(&self.key).unwrap(),
            proven_from: from,
            consistency: proof.iter().map(|hash| hash.0.to_vec()).collect(),
            ..Default::default()
        }
    }
}

/// Attached, with two records cosigned.
async fn cosigned(bench: &Bench) -> Gateway {
    let mut one = Gateway::attach(bench, "one", 0, 0).await.unwrap();
    one.next().await.unwrap();
    assert_eq!(one.cosigned, 0);
    let shown = one.shown(&["a", "b"], 0, &[]);
    one.renew_with(1, shown.clone()).await;
    let authority = one.authority().await.unwrap();
    assert_eq!(authority.gateway, "one");
    let note = shown.checkpoint + &authority.cosignature;
    assert!(bench.authority().cosigned(&note).is_some(), "{note}");
    one
}

fn operations(bench: &Bench, operation: &str) -> usize {
    bench.sink.told.lock().unwrap().iter().filter(|told| told.event.operation == operation).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_grows_is_cosigned_also_over_a_restart_of_the_control_plane() {
    let mut bench = Bench::start().await;
    let mut one = cosigned(&bench).await;
    let grown = one.shown(&["a", "b", "c"], 2, &[leaf_hash(b"c")]);
    one.renew_with(2, grown.clone()).await;
    assert_eq!(one.authority().await.unwrap().nonce, [2; 16]);
    // The answer was lost, say: the same again is the same.
    one.renew_with(3, grown).await;
    assert_eq!(one.authority().await.unwrap().nonce, [3; 16]);
    // Proven from a size that is not the last: not answered, and nothing breaks.
    let shown = one.shown(&["a", "b", "c", "d"], 2, &[]);
    one.renew_with(4, shown).await;
    assert_eq!(one.cosigned, 0, "as it was welcomed");
    one.next().await.unwrap();
    assert_eq!(one.cosigned, 3, "it is told anew from where to prove");
    let shown = one.shown(&["a", "b", "c"], 3, &[]);
    one.renew_with(5, shown).await;
    assert_eq!(one.authority().await.unwrap().nonce, [5; 16]);
    bench.stop().await;
    bench.resume().await;
    let mut back = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    back.next().await.unwrap();
    assert_eq!(back.cosigned, 3);
    let cut = back.shown(&["a", "b"], 3, &[]);
    back.renew_with(6, cut).await;
    let refused = back.authority().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("2 records, and 3 were cosigned"), "{refused}");
    bench.stop().await;
    assert_eq!((operations(&bench, "log.opened"), operations(&bench, "log.refused")), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_with_the_same_keys_are_found_when_their_logs_part() {
    let mut bench = Bench::start().await;
    let original = cosigned(&bench).await;
    drop(original);
    // Both begin with the same copy, and write on.
    let mut copy = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    copy.next().await.unwrap();
    let shown = copy.shown(&["a", "b", "of the copy"], 2, &[leaf_hash(b"of the copy")]);
    copy.renew_with(1, shown).await;
    copy.authority().await.unwrap();
    let mut original = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    original.next().await.unwrap();
    assert_eq!(original.cosigned, 3);
    let shown = original.shown(&["a", "b", "of the original"], 2, &[leaf_hash(b"of the original")]);
    original.renew_with(2, shown).await;
    let refused = original.authority().await.unwrap_err();
    assert!(refused.message().contains("two gateways use one key"), "{refused}");
    bench.stop().await;
    assert_eq!(operations(&bench, "log.refused"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_evidence_key_is_refused_and_a_statement_of_it_ends_the_stream() {
    let mut bench = Bench::start().await;
    let mut one = cosigned(&bench).await;
    let other = EvidenceKey::generate().unwrap().0;
    let refused = Gateway::attach_with(&bench, "one", other.clone(), 0, 0).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("fleet readmit one"), "{refused}");
    one.applied_by(&other, Vec::new()).await;
    one.renew(9).await;
    assert!(one.authority().await.is_err(), "whoever states with another key is heard no more");
    let receipt = bench.handle().gateways().into_iter().find(|gateway| gateway.name.as_str() == "one").unwrap();
    assert_eq!(receipt.applied, 0);
    bench.stop().await;
    assert_eq!(operations(&bench, "log.refused"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_certificate_and_not_the_evidence_key_takes_nobodys_place() {
    let mut bench = Bench::start().await;
    let mut one = cosigned(&bench).await;
    let other = EvidenceKey::generate().unwrap().0;
    let attach = |challenge: &[u8]| v1::Attach { challenge: challenge.to_vec(), log: "portcullis/gateway/one".into() };
    let known = bench.evidence_key("one");
    // The public key is no secret: the hello shows it, and the proof is by another key, or of another stream.
    for (key, challenge) in [(&other, None), (&known, Some([0; 16]))] {
        let mut impostor = Gateway::greeted(&bench, "one", known.clone(), 0, 0).await.unwrap();
        assert_eq!(impostor.cosigned, 2);
        let shown = attach(&challenge.map_or(impostor.challenge.clone(), |other| other.to_vec()));
        impostor.send_signed(StatementKind::Attach, key, &shown, Up::Attach).await;
        assert_eq!(impostor.next().await.unwrap_err().code(), Code::PermissionDenied);
    }
    // Nor does whoever says nothing, or asks for authority first.
    let mut hasty = Gateway::greeted(&bench, "one", known.clone(), 0, 0).await.unwrap();
    hasty.renew(5).await;
    assert_eq!(hasty.next().await.unwrap_err().code(), Code::InvalidArgument);
    one.renew_with(2, one.shown(&["a", "b"], 2, &[])).await;
    assert_eq!(one.authority().await.unwrap().nonce, [2; 16], "its own stream went on");
    // A renewal of another stream, or by another key, ends this one.
    let renew = v1::Renew { nonce: vec![3; 16], challenge: vec![0; 16], ..one.shown(&["a", "b"], 2, &[]) };
    one.send_signed(StatementKind::Renewal, &known, &renew, Up::Renew).await;
    assert!(one.authority().await.is_err());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_brings_no_evidence_key_of_its_own_also_before_anything_was_cosigned() {
    let mut bench = Bench::start().await;
    let claimed = EvidenceKey::generate().unwrap().0;
    let refused = Gateway::greeted(&bench, "one", claimed.clone(), 0, 0).await.err().unwrap();
    assert!(refused.message().contains("another evidence key"), "{refused}");
    let one = cosigned(&bench).await;
    drop(one);
    // Nor where none is recorded: by an earlier version, for a gateway that never came.
    let name: GatewayName = "three".parse().unwrap();
    let record = GatewayRecord {
        name: name.clone(),
        standing: Standing::Good,
        registered: bench.clock.now(),
        hosts: Vec::new(),
        token: None,
        client_key: None,
        scope: Default::default(),
        attested: None,
    };
    bench.handle().put_gateway(&Caller::System, record).await.unwrap();
    let refused = Gateway::greeted(&bench, "three", claimed, 0, 0).await.err().unwrap();
    assert!(refused.message().contains("fleet invite three"), "{refused}");
    bench.stop().await;
    assert_eq!((operations(&bench, "log.opened"), operations(&bench, "log.refused")), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_renewal_says_of_itself_is_no_acknowledgement() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    one.next().await.unwrap();
    let revision = one.revision;
    drop(one);
    // It held that before; whether it enforced it, it has to say.
    let mut one = Gateway::attach(&bench, "one", 1, revision).await.unwrap();
    one.renew(1).await;
    one.authority().await.unwrap();
    assert_eq!(bench.handle().gateways()[0].applied, 0);
    one.applied(Vec::new()).await;
    one.renew(2).await;
    one.authority().await.unwrap();
    assert_eq!(bench.handle().gateways()[0].applied, revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_published_yet_nobody_has_enforced() {
    let bench = Bench::start().await;
    bench.apply().await;
    let mut one = Gateway::attach(&bench, "one", 0, 0).await.unwrap();
    one.next().await.unwrap();
    let revision = one.revision;
    one.revision = u64::MAX;
    one.applied(Vec::new()).await;
    while one.next().await.is_ok() {}
    assert!(bench.handle().gateways()[0].applied <= revision, "who says so is heard no more");
}
