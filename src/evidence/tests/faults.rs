//! Every durable step of a log, failed in every way, one after the other; and disks that lie.
//!
//! | step | fails and is not there | fails and is there | here, by the storage fake | the real program, by the kernel |
//! |---|---|---|---|---|
//! | create a segment (its header, room, rename, directory) | refused, tried again | replaced by the next try | `whichever_step_fails_…` | `durability::steps`: rename, fsync of file and directory, fallocate |
//! | append | refused; new segment | what was written counts for nobody | the same | `durability::steps`: pwrite64, EIO and ENOSPC |
//! | a short write | the same | the same | the same (`Half`) | `durability::disk`: a disk of 8 MiB |
//! | `fdatasync` | refused; new segment | the same: a second `fdatasync` would lie | the same (`Error`, `Done`, `Lost`) | `durability::disk`: two tests |
//! | reserve room | refused as full | room is not used | the same | `durability::steps`: fallocate |
//! | cut a torn end, give back room | the next opening does it | the same | the same (`Cut`) | `durability::killed`, `tests/soak` |
//! | tile | derived again | the same | the same | `durability::steps`: rename |
//! | `signed` | not published; signed again | published by the next opening | the same | `durability::steps`: rename, fsync |
//! | `checkpoint` | published later | the same | the same | `durability::steps`: rename |
//! | `cosigned` | the last one stands | the new one stands | the same | `durability::steps`: rename |
//! | `log.json` | the log does not open; the next try makes it | the same | the same | – |
//! | index | read past, or made anew | the same | – | `query::index::tests` |
//! | `highest.json` (what a gateway remembers of authority) | nothing is acknowledged until it is written | the same | `files::slots::tests` | `durability::steps`: pwrite64, fdatasync |
//! | a segment deleted, replaced or cut while it is written | every call is refused, and no restart covers it up | | `journal::tests::a_segment_that_is_…`, `tests::a_deleted_segment_…`, `a_segment_that_was_cut_…` | `durability::disk` |
//! | a directory that cannot be written | the gateway does not start | | – | `durability::steps` |
//! | two writers | the second does not start; after `kill -9` of the first it does | | `tests::a_log_that_is_being_written_…` | `durability::steps` |
//! | loss of power | nothing promised is lost | | the same, `journal::tests::no_promised_record_…` | – |
//! | a disk that says `synced` and is not | what was signed and is gone is found | | `what_a_lying_disk_loses_…` | – (nothing here can take back what the kernel has) |

use super::*;
use crate::domain::Timestamp;
use crate::evidence::checkpoint::{Checkpoint, VerifierKey};
use crate::evidence::cosignature::cosign;
use crate::evidence::entry::Entry;
use crate::evidence::journal::tests::entries;
use crate::evidence::read::{JournalReader, Next};
use crate::evidence::sequencer::read_note;

const FAULTS: [Fault; 5] = [Fault::Error, Fault::Full, Fault::Half, Fault::Done, Fault::Lost];
/// Of a log that is there: the next tile fills while the faults come.
const BEFORE: u64 = 125;
const CALLS: u64 = 6;

/// What callers and others were promised.
#[derive(Clone, Debug, Default)]
struct Promised {
    /// Calls, and where their intents stand.
    intents: Vec<(u64, CallId)>,
    signed: Option<TreeHead>,
    cosigned: u64,
}

struct House {
    der: Vec<u8>,
    plane: EvidenceKey,
    verifier: VerifierKey,
    /// Before any fault.
    disk: FakeStorage,
}

impl House {
    fn new() -> Self {
        let der = key();
        let verifier = EvidenceKey::from_pkcs8(&der).unwrap().verifier(&origin());
        let house = Self { verifier, plane: EvidenceKey::generate().unwrap().0, disk: FakeStorage::new(), der };
        let log = open(&house.disk, &house.der).unwrap();
        calls(log.journal(), 10_000, BEFORE);
        log.shutdown();
        house
    }

    /// Calls, checkpoints and cosignatures, and what was promised by them.
    fn run(&self, log: &EvidenceLog, from: u64, count: u64, promised: &mut Promised) {
        for n in from..from + count {
            if let Ok((ticket, room)) = log.journal().intent(&intent(n))
                && log.journal().durable_blocking(ticket).is_ok()
            {
                promised.intents.push((ticket.seq, CallId::from_bits(n.into())));
                room.record(completed());
            }
            if n % 3 == 2
                && let Some((head, note)) = log.checkpoint_now()
            {
                promised.signed = Some(head);
                let checkpoint = Checkpoint { origin: origin(), head };
                let name = "control.example/cosign".parse().unwrap();
                let line = cosign(&checkpoint, &self.plane, &name, Timestamp::from_unix_seconds(1)).unwrap();
                if log.keep_cosigned(&format!("{note}{line}")).is_ok() {
                    promised.cosigned = head.size;
                }
            }
        }
    }

    fn verify(&self, disk: &FakeStorage, signed: Option<TreeHead>) -> Result<Report, Failure> {
        let options = VerifyOptions { key: Some(self.verifier.clone()), against: signed, cosigner: None };
        verify_in(Arc::new(disk.clone()), &options)
    }

    /// Nothing promised is lost, doubled or in another place, and the log is good.
    fn check(&self, disk: &FakeStorage, promised: &Promised, context: &str) {
        let found = entries(disk);
        let mut seen = std::collections::HashSet::new();
        let mut ended = std::collections::HashSet::new();
        for (seq, entry) in found.iter().enumerate() {
            assert_eq!(entry.seq, seq as u64, "{context}");
            match &entry.event {
                Event::Intent(it) => assert!(seen.insert(it.call), "{context}: {} is doubled", it.call),
                Event::Outcome(it) => assert!(ended.insert(it.call), "{context}: the end of {} is doubled", it.call),
                _ => {}
            }
        }
        for (seq, call) in &promised.intents {
            let there = found.get(*seq as usize).map(|entry| &entry.event);
            assert!(
                matches!(there, Some(Event::Intent(it)) if it.call == *call),
                "{context}: {call} at {seq}: {there:?}"
            );
        }
        self.verify(disk, promised.signed).unwrap_or_else(|failure| panic!("{context}: {failure}"));
        let note = read_note(disk, COSIGNED).unwrap();
        let cosigned = note.map_or(0, |note| Checkpoint::verify(&note, &self.verifier).unwrap().head.size);
        assert!(cosigned >= promised.cosigned, "{context}: cosigned up to {cosigned} of {}", promised.cosigned);
    }

    /// Opens what is left as the next process does, goes on, and holds it to everything that was promised.
    fn recovers(&self, disk: &FakeStorage, promised: &Promised, context: &str) {
        let log = open(disk, &self.der).unwrap_or_else(|error| panic!("{context}: {error}"));
        let mut promised = promised.clone();
        let before = promised.intents.len();
        self.run(&log, 500, 3, &mut promised);
        assert_eq!(promised.intents.len(), before + 3, "{context}: the log takes calls again");
        log.shutdown();
        self.check(disk, &promised, context);
    }
}

#[test]
fn whichever_step_fails_nothing_promised_is_lost_doubled_or_reordered() {
    let house = House::new();
    let clean = house.disk.kill();
    let log = open(&clean, &house.der).unwrap();
    house.run(&log, 0, CALLS, &mut Promised::default());
    log.shutdown();
    let steps = clean.operations();
    assert!(steps > 25, "{steps}");
    let mut refused = 0;
    for step in 0..=steps {
        for (place, fault) in FAULTS.into_iter().enumerate() {
            let context = format!("step {step} {fault:?}");
            let disk = house.disk.kill();
            disk.fail_after(step, fault);
            let mut promised = Promised::default();
            match open(&disk, &house.der) {
                Ok(log) => {
                    house.run(&log, 0, CALLS, &mut promised);
                    refused += CALLS as usize - promised.intents.len();
                    let lost = disk.reboot(if place % 2 == 0 { None } else { Some(step) });
                    let killed = disk.kill();
                    let then = promised.clone();
                    eventually(&context, || log.journal().status().broken.is_none());
                    // It goes on by itself, and what it owes it writes.
                    house.run(&log, 100, 3, &mut promised);
                    log.shutdown();
                    assert_eq!(log.journal().status().outcomes_lost, 0, "{context}");
                    house.check(&disk, &promised, &format!("{context}, gone on"));
                    let ends = entries(&disk).iter().filter(|it| matches!(it.event, Event::Outcome(_))).count();
                    let all = entries(&disk).iter().filter(|it| matches!(it.event, Event::Intent(_))).count();
                    assert_eq!(ends, all, "{context}: what was allowed has its outcome");
                    house.recovers(&lost, &then, &format!("{context}, power lost"));
                    if place == 0 {
                        house.recovers(&killed, &then, &format!("{context}, killed"));
                    }
                }
                Err(_) => {
                    disk.mend();
                    refused += 1;
                    house.recovers(&disk.kill(), &promised, &format!("{context}, opened again"));
                    house.recovers(&disk.reboot(None), &promised, &format!("{context}, opened after a loss of power"));
                }
            }
        }
    }
    assert!(refused > 50, "faults that nobody noticed show nothing: {refused}");
}

/// The call at a position, if the log can be read so far.
fn at(disk: &FakeStorage, seq: u64) -> Option<Entry> {
    let mut reader = JournalReader::new(Arc::new(disk.clone()), seq);
    match reader.next() {
        Ok(Next::Record(record)) if record.place.seq == seq => Entry::parse(record.bytes).ok(),
        _ => None,
    }
}

#[test]
fn what_a_lying_disk_loses_of_what_was_signed_is_found() {
    let house = House::new();
    let (mut lost, mut kept) = (0, 0);
    for step in 0..40 {
        for for_ever in [false, true] {
            let disk = house.disk.kill();
            if for_ever {
                disk.fail_everything(Fault::Lie);
            } else {
                disk.fail_after(step, Fault::Lie);
            }
            let mut promised = Promised::default();
            let log = open(&disk, &house.der).unwrap();
            house.run(&log, 0, if for_ever { 1 + step % CALLS } else { CALLS }, &mut promised);
            let after = disk.reboot((step % 2 == 1).then_some(step));
            disk.mend();
            log.shutdown();
            let signed = promised.signed.map_or(0, |head| head.size);
            let is_short = signed > 0 && at(&after, signed - 1).is_none();
            let missing = is_short || promised.intents.iter().filter(|(seq, _)| *seq < signed).any(|(seq, call)| {
                !matches!(at(&after, *seq).map(|entry| entry.event), Some(Event::Intent(it)) if it.call == *call)
            });
            let context = format!("step {step}, for ever: {for_ever}");
            // Whoever remembers the checkpoint, as the control plane does, finds it; with the records all there, it is good
            // or refuses to open, and never says that another log is this one.
            let verdict = open(&after, &house.der).map(|log| log.shutdown());
            let found = house.verify(&after, promised.signed);
            if missing {
                assert!(found.is_err(), "{context}: what was signed is gone, and nobody says so: {verdict:?}");
                lost += 1;
            } else if verdict.is_ok() {
                found.unwrap_or_else(|failure| panic!("{context}: {failure}"));
                kept += 1;
            }
        }
    }
    assert!(lost > 5 && kept > 5, "{lost} logs lost something, {kept} did not");
}
