//! A gateway's log seen from the control plane: grown, cut, rewritten, copied, lost.

use super::*;
use crate::evidence::checkpoint::{EvidenceKey, Origin};
use crate::evidence::tree::{CompactRange, leaf_hash, node_hash};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_000);

fn edge() -> GatewayName {
    "edge".parse().unwrap()
}

fn root(entries: &[&str]) -> TreeHead {
    let mut range = CompactRange::new();
    entries.iter().for_each(|entry| range.append(leaf_hash(entry.as_bytes())));
    TreeHead { size: range.size(), root: range.root() }
}

fn vkey(key: &EvidenceKey, log: &str) -> String {
    key.verifier(&log.parse().unwrap()).to_string()
}

fn apply<T>(model: &mut Model, plan: Plan<T>) -> T {
    plan.changes.iter().for_each(|change| model.apply(change, 1));
    plan.answer
}

fn renew(key: &EvidenceKey, origin: &str, head: TreeHead, from: u64, proof: &[Hash]) -> v1::Renew {
    let origin: Origin = origin.parse().unwrap();
    v1::Renew {
        checkpoint: Checkpoint { origin, head }.sign(key).unwrap(),
        proven_from: from,
        consistency: proof.iter().map(|hash| hash.0.to_vec()).collect(),
        ..Default::default()
    }
}

/// A model in which two records of `edge`'s first log are cosigned.
fn cosigned(key: &EvidenceKey) -> Model {
    let mut model = Model::default();
    let plan = plan_open(&model, NOW, &edge(), &vkey(key, "portcullis/gateway/edge")).unwrap();
    assert_eq!(apply(&mut model, plan), 0);
    let first = renew(key, "portcullis/gateway/edge", root(&["a", "b"]), 0, &[]);
    let Ok(Seen::Extends(checkpoint)) = look(&model.logs[&edge()].value, &first) else { panic!("not extended") };
    let plan = plan_cosign(&model, Timestamp::from_unix_seconds(9), &edge(), 0, &checkpoint).unwrap();
    apply(&mut model, plan);
    model
}

const ORIGIN: &str = "portcullis/gateway/edge";

#[test]
fn a_log_that_grew_is_cosigned_and_one_that_did_not_is_the_same() {
    let key = EvidenceKey::generate().unwrap().0;
    let model = cosigned(&key);
    let log = &model.logs[&edge()].value;
    assert!(matches!(look(log, &renew(&key, ORIGIN, root(&["a", "b"]), 2, &[])), Ok(Seen::Same(_))));
    let c = leaf_hash(b"c");
    let grown = renew(&key, ORIGIN, root(&["a", "b", "c"]), 2, &[c]);
    assert!(matches!(look(log, &grown), Ok(Seen::Extends(_))));
    // Proven from what it was before: an answer is still on its way.
    assert_eq!(look(log, &renew(&key, ORIGIN, root(&["a", "b", "c"]), 0, &[])), Ok(Seen::Stale(2)));
    let Ok(Seen::Extends(checkpoint)) = look(log, &grown) else { panic!("not extended") };
    assert!(plan_cosign(&model, Timestamp::MAX, &edge(), 1, &checkpoint).is_err(), "compared as it is stored");
}

#[test]
fn a_log_that_was_cut_rewritten_or_copied_gets_nothing() {
    let (key, other) = (EvidenceKey::generate().unwrap().0, EvidenceKey::generate().unwrap().0);
    let model = cosigned(&key);
    let log = &model.logs[&edge()].value;
    let fault = |renew| look(log, &renew).unwrap_err();
    let shorter = LogFault::Shorter { gateway: edge(), size: 1, cosigned: 2 };
    assert_eq!(fault(renew(&key, ORIGIN, root(&["a"]), 2, &[])), shorter);
    assert_eq!(fault(v1::Renew::default()), LogFault::Shorter { gateway: edge(), size: 0, cosigned: 2 });
    let forked = LogFault::Forked { gateway: edge(), cosigned: 2 };
    assert_eq!(fault(renew(&key, ORIGIN, root(&["a", "x"]), 2, &[])), forked, "as long, other records");
    let (x, c) = (node_hash(&leaf_hash(b"a"), &leaf_hash(b"x")), leaf_hash(b"c"));
    for proof in [vec![], vec![c], vec![x, c], vec![c; 65]] {
        assert_eq!(fault(renew(&key, ORIGIN, root(&["a", "x", "c"]), 2, &proof)), forked, "{} hashes", proof.len());
    }
    let foreign = [renew(&other, ORIGIN, root(&["a", "b"]), 2, &[]), renew(&key, "other", root(&["a", "b"]), 2, &[])];
    for foreign in foreign {
        assert!(matches!(fault(foreign), LogFault::Checkpoint(..)));
    }
}

#[test]
fn a_log_goes_on_or_a_later_one_of_the_same_key_begins() {
    let (key, other) = (EvidenceKey::generate().unwrap().0, EvidenceKey::generate().unwrap().0);
    let mut model = cosigned(&key);
    let opened = |model: &Model, key: &EvidenceKey, log: &str| opened(model, NOW, &edge(), &vkey(key, log));
    assert_eq!(opened(&model, &key, ORIGIN).unwrap().answer, 2);
    assert_eq!(opened(&model, &other, ORIGIN).unwrap_err(), LogFault::OtherKey(edge()));
    assert_eq!(opened(&model, &other, "portcullis/gateway/edge/2").unwrap_err(), LogFault::OtherKey(edge()));
    for foreign in ["portcullis/gateway/other", "portcullis/gateway/edge2", "portcullis/gateway/edge/1", "edge"] {
        assert_eq!(opened(&model, &key, foreign).unwrap_err(), LogFault::Key(edge()), "{foreign}");
    }
    let next = opened(&model, &key, "portcullis/gateway/edge/2").unwrap();
    assert_eq!(next.events[0].operation, "log.replaced");
    assert_eq!(apply(&mut model, next), 0);
    let log = &model.logs[&edge()].value;
    assert_eq!((log.size, log.before.len(), log.before[0].size), (0, 1, 2));
    assert_eq!(opened(&model, &key, ORIGIN).unwrap_err(), LogFault::Sealed(edge()), "a copy of the older state");
}

#[test]
fn a_gateway_that_lost_its_key_comes_back_when_it_is_readmitted() {
    let (key, new) = (EvidenceKey::generate().unwrap().0, EvidenceKey::generate().unwrap().0);
    let mut model = cosigned(&key);
    assert!(matches!(plan_readmit(&model, NOW, &edge(), " "), Err(Refused::Invalid(_))));
    assert!(matches!(plan_readmit(&model, NOW, &"other".parse().unwrap(), "why"), Err(Refused::NotFound(_))));
    let plan = plan_readmit(&model, NOW, &edge(), "its disk died").unwrap();
    assert_eq!(plan.events[0].reason.as_deref(), Some("its disk died"));
    apply(&mut model, plan);
    let plan = plan_open(&model, NOW, &edge(), &vkey(&new, ORIGIN)).unwrap();
    apply(&mut model, plan);
    let log = &model.logs[&edge()].value;
    assert_eq!((log.size, log.before.len()), (0, 1));
    assert!(matches!(look(log, &renew(&new, ORIGIN, root(&["z"]), 0, &[])), Ok(Seen::Extends(_))));
}

#[test]
fn a_sealed_log_does_not_come_back_after_a_readmission() {
    let key = EvidenceKey::generate().unwrap().0;
    let mut model = cosigned(&key);
    let plan = plan_readmit(&model, NOW, &edge(), "its disk was lost").unwrap();
    apply(&mut model, plan);
    // Whoever has a copy of the old key is not the first comer.
    let sealed = opened(&model, NOW, &edge(), &vkey(&key, ORIGIN));
    assert_eq!(sealed.err(), Some(LogFault::Sealed(edge())));
    assert_eq!(plan_bring(&model, NOW, &edge(), &vkey(&key, ORIGIN)).err(), Some(LogFault::Sealed(edge()).into()));
    // The same key with a new log goes on, and so does another key.
    assert!(opened(&model, NOW, &edge(), &vkey(&key, &format!("{ORIGIN}/2"))).is_ok());
    let other = EvidenceKey::generate().unwrap().0;
    assert!(opened(&model, NOW, &edge(), &vkey(&other, ORIGIN)).is_ok());
}

#[test]
fn new_logs_do_not_push_the_sealed_ones_out() {
    let key = EvidenceKey::generate().unwrap().0;
    let mut model = cosigned(&key);
    for place in 2..200 {
        match plan_open(&model, NOW, &edge(), &vkey(&key, &format!("{ORIGIN}/{place}"))) {
            Ok(plan) => drop(apply(&mut model, plan)),
            Err(refused) => {
                assert_eq!((place, refused), (MAX_SEALED as u64 + 2, LogFault::TooMany(edge()).into()));
                break;
            }
        }
    }
    assert_eq!(model.logs[&edge()].value.before[0].key, vkey(&key, ORIGIN));
    let plan = plan_readmit(&model, NOW, &edge(), "it crashes").unwrap();
    apply(&mut model, plan);
    assert!(opened(&model, NOW, &edge(), &vkey(&key, &format!("{ORIGIN}/7"))).is_err());
    assert!(opened(&model, NOW, &edge(), &vkey(&key, &format!("{ORIGIN}/102"))).is_ok());
}

#[test]
fn that_another_process_had_the_authority_is_remembered_over_a_restart() {
    let (key, new) = (EvidenceKey::generate().unwrap().0, EvidenceKey::generate().unwrap().0);
    let cosigned = cosigned(&key);
    let parted = |model: &Model, now| parted_lately(&model.logs[&edge()].value, now);
    assert!(!parted(&cosigned, NOW));
    let plans: [Plan<()>; 3] = [
        plan_open(&cosigned, NOW, &edge(), &vkey(&key, &format!("{ORIGIN}/2"))).unwrap().map(drop),
        plan_bring(&cosigned, NOW, &edge(), &vkey(&new, ORIGIN)).unwrap().map(drop),
        plan_note(&cosigned, NOW, &edge(), "forked".to_owned(), true),
    ];
    for plan in plans {
        let mut model = cosigned.clone();
        apply(&mut model, plan);
        let day = MAX_AUTHORITY.duration();
        let states = [Timestamp::UNIX_EPOCH, NOW, NOW.saturating_add(day), NOW.saturating_add(2 * day)];
        assert_eq!(states.map(|now| parted(&model, now)), [true, true, true, false]);
    }
    let mut model = cosigned.clone();
    apply(&mut model, plan_note(&cosigned, NOW, &edge(), "another key".to_owned(), false));
    assert!(!parted(&model, NOW));
}
