//! Proofs: made, carried away, forged.

use super::*;
use crate::evidence::checkpoint::{EvidenceKey, Origin};
use crate::evidence::cosignature::cosign;
use crate::evidence::journal::tests::{clock, completed, intent, origin, small, writer};
use crate::evidence::storage::{FakeStorage, Persist};
use crate::evidence::{EvidenceLog, LogError};

fn open(disk: &FakeStorage, key: &EvidenceKey) -> Result<EvidenceLog, LogError> {
    EvidenceLog::open_in(Arc::new(disk.clone()), origin(), key.clone(), &writer(), small(), clock()).map(|(log, _)| log)
}

fn written(key: &EvidenceKey, calls: u64) -> FakeStorage {
    let disk = FakeStorage::new();
    let log = open(&disk, key).unwrap();
    for n in 0..calls {
        let (ticket, room) = log.journal().intent(&intent(n)).unwrap();
        log.journal().durable_blocking(ticket).unwrap();
        room.record(completed());
    }
    log.shutdown();
    disk
}

fn storage(disk: &FakeStorage) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

#[test]
fn every_record_is_proven_by_a_file_that_needs_nothing_else() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (other, _) = EvidenceKey::generate().unwrap();
    let disk = written(&key, 300);
    for index in (0..601).step_by(37).chain([0, 255, 256, 600]) {
        let text = TlogProof::make(&storage(&disk), index).unwrap().to_string();
        let proof: TlogProof = text.parse().unwrap();
        assert_eq!(proof.to_string(), text);
        let proven = proof.verify(Some(&key.verifier(&origin())), None).unwrap();
        assert_eq!((proven.entry.seq, proven.checkpoint.head.size, proven.cosigned), (index, 601, None));
        assert!(matches!(proof.verify(Some(&other.verifier(&origin())), None), Err(BadProof::Checkpoint(_))));
        assert!(matches!(proof.verify(None, None), Err(BadProof::Checkpoint(NoteError::Unsigned(_)))));
    }
    assert!(matches!(TlogProof::make(&storage(&disk), 601), Err(CannotProve::NotSigned(601))));
}

#[test]
fn no_altered_byte_of_a_proof_holds() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let verifier = key.verifier(&origin());
    let disk = written(&key, 150);
    let text = TlogProof::make(&storage(&disk), 77).unwrap().to_string().into_bytes();
    for at in 0..text.len() {
        for bit in [0, 1, 5] {
            let mut altered = text.clone();
            altered[at] ^= 1 << bit;
            let proof = std::str::from_utf8(&altered).ok().and_then(|text| text.parse::<TlogProof>().ok());
            let verified = proof.and_then(|proof| proof.verify(Some(&verifier), None).ok());
            assert!(verified.is_none(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn a_proof_is_under_the_cosigned_checkpoint_where_that_reaches() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (plane, _) = EvidenceKey::generate().unwrap();
    let name: Origin = "control.example/cosign".parse().unwrap();
    let cosigner = CosignerKey::of(&plane, &name);
    let disk = written(&key, 20);
    let note = String::from_utf8(read_note(&disk, CHECKPOINT).unwrap().unwrap()).unwrap();
    let checkpoint = Checkpoint::verify(note.as_bytes(), &key.verifier(&origin())).unwrap();
    let at = Timestamp::from_unix_seconds(1_800_000_000);
    let line = cosign(&checkpoint, &plane, &name, at).unwrap();
    disk.write_file(COSIGNED, format!("{note}{line}").as_bytes(), Persist::Now).unwrap();
    let log = open(&disk, &key).unwrap();
    log.shutdown();

    let covered = TlogProof::make(&storage(&disk), 40).unwrap();
    // The cosigner's word alone is enough: it says that it saw this log at this size.
    assert_eq!(covered.verify(None, Some(&cosigner)).unwrap().cosigned, Some(at));
    let both = covered.verify(Some(&key.verifier(&origin())), Some(&cosigner)).unwrap();
    assert_eq!((both.checkpoint.head.size, both.entry.seq), (41, 40));
    let later = TlogProof::make(&storage(&disk), 41).unwrap();
    assert!(later.verify(Some(&key.verifier(&origin())), None).is_ok());
    assert!(matches!(later.verify(None, Some(&cosigner)), Err(BadProof::NotCosigned(_))));
}

#[test]
fn a_record_that_was_changed_is_not_proven() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let disk = written(&key, 20);
    disk.alter("journal/00000000000000000000.log", |bytes| {
        let at = bytes.windows(9).position(|window| window == b"\"billing\"").unwrap();
        bytes[at + 1] ^= 1;
    });
    assert!(matches!(TlogProof::make(&storage(&disk), 1), Err(CannotProve::Damaged { .. })));
}
