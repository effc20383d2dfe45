//! A witness: what it cosigns, and every way of showing it two histories.

use super::*;
use crate::evidence::sequencer::CHECKPOINT;
use crate::evidence::storage::{FakeStorage, Fault, Operation};
use crate::evidence::tiles::{Edge, write_tile};

fn origin() -> Origin {
    "gate.example/log".parse().unwrap()
}

struct Log {
    disk: FakeStorage,
    key: EvidenceKey,
    edge: Edge,
}

impl Log {
    fn new(key: &EvidenceKey) -> Self {
        Self { disk: FakeStorage::new(), key: key.clone(), edge: Edge::default() }
    }

    fn grow(&mut self, until: u64, what: &[u8]) {
        while self.edge.size() < until {
            let disk = &self.disk;
            let entry = [what, &self.edge.size().to_be_bytes()].concat();
            self.edge.append(&entry, |tile, hashes| write_tile(disk, tile, hashes)).unwrap();
        }
        self.edge.partial().for_each(|(tile, hashes)| write_tile(&self.disk, tile, hashes).unwrap());
    }

    fn request(&self, old: u64) -> Request {
        let head = TreeHead { size: self.edge.size(), root: self.edge.root() };
        let note = Checkpoint { origin: origin(), head }.sign(&self.key).unwrap();
        Request::make(&self.disk, note, head.size, old).unwrap()
    }
}

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000)
}

fn witness(storage: &FakeStorage, key: &EvidenceKey, log: &EvidenceKey) -> Witness {
    let name = "witness.example/w1".parse().unwrap();
    Witness::new(Arc::new(storage.clone()), key.clone(), name, vec![log.verifier(&origin())])
}

fn refused(witness: &Witness, request: &Request, status: u16, why: &str) {
    let error = witness.add_checkpoint(request.body().as_bytes(), now()).unwrap_err();
    assert_eq!(error.status(), status, "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[test]
fn what_grows_is_cosigned_and_every_other_history_is_refused_by_name() {
    let (log_key, key) = (EvidenceKey::generate().unwrap().0, EvidenceKey::generate().unwrap().0);
    let memory = FakeStorage::new();
    let judge = witness(&memory, &key, &log_key);
    let mut log = Log::new(&log_key);
    log.grow(300, b"a");
    let first = log.request(0);
    let line = judge.add_checkpoint(first.body().as_bytes(), now()).unwrap();
    assert_eq!(judge.verifier().cosigned(&format!("{}{line}", first.note)), Some(now()));
    log.grow(700, b"a");
    judge.add_checkpoint(log.request(300).body().as_bytes(), now()).unwrap();
    // The same once more is no growth and no harm.
    judge.add_checkpoint(log.request(700).body().as_bytes(), now()).unwrap();

    // Power goes: what was said is known still.
    let judge = witness(&memory.reboot(Some(1)), &key, &log_key);
    refused(&judge, &log.request(0), 409, "has 700 records, and not 0");
    refused(&judge, &first, 409, "has 700 records");
    refused(&judge, &Request { old: 700, ..first.clone() }, 400, "shrunk");
    let mut fork = Log::new(&log_key);
    fork.grow(300, b"a");
    fork.grow(700, b"b");
    refused(&judge, &fork.request(700), 409, "forked");
    fork.grow(900, b"b");
    refused(&judge, &fork.request(700), 422, "forked");
    log.grow(900, b"a");
    refused(&judge, &Request { proof: Vec::new(), ..log.request(700) }, 422, "no proof");
    let other = Log { disk: log.disk.clone(), key: key.clone(), edge: log.edge.clone() };
    refused(&judge, &other.request(700), 403, "checkpoint");
    let stranger = Request { note: log.request(700).note.replace("gate.example", "else.example"), ..log.request(700) };
    refused(&judge, &stranger, 404, "no log of this name");
    for body in ["", "old 1", "old 01\n\nx", "old 1\nAAAA\n\nx", "new 1\n\nx", "old 700\n\nnot a note"] {
        assert_eq!(judge.add_checkpoint(body.as_bytes(), now()).unwrap_err().status(), 400, "{body}");
    }
    judge.add_checkpoint(log.request(700).body().as_bytes(), now()).unwrap();
}

#[test]
fn nothing_is_said_that_is_not_on_disk() {
    let (log_key, key) = (EvidenceKey::generate().unwrap().0, EvidenceKey::generate().unwrap().0);
    let memory = FakeStorage::new();
    let judge = witness(&memory, &key, &log_key);
    let mut log = Log::new(&log_key);
    log.grow(5, b"a");
    memory.fail(Operation::Write, 0, Fault::Error);
    refused(&judge, &log.request(0), 500, "cannot be read or written");
    memory.mend();
    let judge = witness(&memory.reboot(None), &key, &log_key);
    judge.add_checkpoint(log.request(0).body().as_bytes(), now()).unwrap();
    assert!(read_note(&memory, CHECKPOINT).unwrap().is_none());
}

#[test]
fn a_text_that_nobody_signed_is_not_cosigned() {
    let (log_key, key) = (EvidenceKey::generate().unwrap().0, EvidenceKey::generate().unwrap().0);
    let judge = witness(&FakeStorage::new(), &key, &log_key);
    let mut log = Log::new(&log_key);
    log.grow(5, b"a");
    let request = log.request(0);
    let text = format!("{}an extension\n", Checkpoint::read(request.note.as_bytes()).unwrap().text());
    let mut line = log_key.verifier(&origin()).id().to_vec();
    line.extend_from_slice(&log_key.sign_bytes(text.as_bytes()).unwrap());
    let note = format!("{text}\n\u{2014} {} {}\n", origin(), STANDARD.encode(line));
    assert!(Checkpoint::verify(note.as_bytes(), &log_key.verifier(&origin())).is_ok());
    refused(&judge, &Request { note, ..request.clone() }, 400, "extension lines");
    judge.add_checkpoint(request.body().as_bytes(), now()).unwrap();
}
