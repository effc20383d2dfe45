//! A log of 10,000 records changed at random, again and again, beside a checkpoint that was remembered: every change is
//! found. `TAMPER_TRIALS=10000 ./test 'no_tampering'` runs as many as asked; the seed of one that is not found is told.

use std::borrow::Cow;
use std::sync::Arc;

use portcullis::clock::SystemClock;
use portcullis::domain::Timestamp;
use portcullis::domain::name::{CallId, GrantId};
use portcullis::evidence::checkpoint::{Checkpoint, EvidenceKey, Origin};
use portcullis::evidence::cosignature::{CosignerKey, cosign};
use portcullis::evidence::entry::{Basis, CredentialKind, CredentialOut, Decision, Ended, Ending, Intent, Parameters};
use portcullis::evidence::journal::{Durability, JournalOptions, Writer};
use portcullis::evidence::storage::{FakeStorage, Persist, Storage as _};
use portcullis::evidence::verify::{Failure, VerifyOptions, verify_in};
use portcullis::evidence::{COSIGNED, EvidenceLog};

const RECORDS: u64 = 10_000;
/// Where copies were made, and where a history parts from the true one.
const EARLIER: [u64; 5] = [1, 256, 2_500, 6_144, 9_990];
/// Of a run that asks for no number.
const TRIALS: u64 = 60;

type Files = Vec<(String, Vec<u8>)>;

fn origin() -> Origin {
    "gate.example/log".parse().unwrap()
}

fn open(disk: &FakeStorage, key: &EvidenceKey) -> EvidenceLog {
    let writer = Writer { program: "trials".into(), boot_id: "b".into() };
    let options =
        JournalOptions { durability: Durability::Process, segment_bytes: 1 << 20, ..JournalOptions::default() };
    let storage = Arc::new(disk.clone());
    EvidenceLog::open_in(storage, origin(), key.clone(), &writer, options, Arc::new(SystemClock)).unwrap().0
}

/// Goes on until there are `until` records; `who` tells one history from another.
fn write(log: &EvidenceLog, who: &str, until: u64) {
    let name = |text: &str| text.parse().unwrap();
    while log.journal().durable_seq() < until {
        let n = log.journal().durable_seq();
        let intent = Intent {
            call: CallId::from_bits(u128::from(n) + 1),
            decision: Decision::Allow,
            basis: Basis::Grant(GrantId::from_bits(7)),
            allotment: None,
            body: None,
            would_refuse: None,
            identity: Cow::Owned(who.parse().unwrap()),
            principal: "spiffe://example.org/billing".into(),
            credential: CredentialKind::Token,
            route: Cow::Owned("orders".parse().unwrap()),
            resource: Cow::Owned("api/orders".parse().unwrap()),
            action: Cow::Owned(name("read")),
            parameters: Parameters::default(),
            method: "GET".into(),
            host: "orders.internal".into(),
            path: "/v1/orders/8812".into(),
            query: None,
            peer: "10.1.2.3:45678".parse().unwrap(),
            epoch: 1,
            revision: 1,
            authority_age_ms: 1,
            upstream: "http://127.0.0.1:9000".into(),
            credential_out: CredentialOut::Mint,
        };
        let (_, room) = log.journal().intent(&intent).unwrap();
        room.record(Ending {
            ended: Ended::Completed,
            status: Some(200),
            reason: None,
            request_bytes: 0,
            response_bytes: 2,
            duration_us: 3,
            upstream_started: true,
        });
        log.journal().flush().unwrap();
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }

    fn of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }
}

struct World {
    /// The log as it is.
    disk: FakeStorage,
    /// As it was earlier.
    earlier: Vec<Files>,
    /// As the holder of its key writes it anew from there on, signed.
    forged: Vec<Files>,
    options: VerifyOptions,
    /// What is known besides of who cosigned it.
    cosigned: VerifyOptions,
}

impl World {
    fn made() -> Self {
        let (key, _) = EvidenceKey::generate().unwrap();
        let (plane, _) = EvidenceKey::generate().unwrap();
        let plane_name: Origin = "control.example/cosign".parse().unwrap();
        let disk = FakeStorage::new();
        let mut earlier = Vec::new();
        for until in EARLIER {
            let log = open(&disk, &key);
            write(&log, "billing", until);
            log.shutdown();
            earlier.push(disk.files());
        }
        let log = open(&disk, &key);
        write(&log, "billing", RECORDS);
        log.shutdown();
        let note = disk.files().into_iter().find(|(name, _)| name == "checkpoint").unwrap().1;
        let remembered = Checkpoint::verify(&note, &key.verifier(&origin())).unwrap();
        assert!(remembered.head.size >= RECORDS);
        let line = cosign(&remembered, &plane, &plane_name, Timestamp::from_unix_seconds(1_800_000_000)).unwrap();
        let cosigned = [&note[..], line.as_bytes()].concat();
        disk.write_file(COSIGNED, &cosigned, Persist::Now).unwrap();

        let forge = |files: &Files| {
            let forged = storage_of(files);
            let log = open(&forged, &key);
            write(&log, "nobody", remembered.head.size + 10);
            log.shutdown();
            forged.write_file(COSIGNED, &cosigned, Persist::Now).unwrap();
            forged.files()
        };
        let forged = earlier.iter().map(forge).collect();
        let key = Some(key.verifier(&origin()));
        let options = VerifyOptions { key: key.clone(), against: Some(remembered.head), cosigner: None };
        let cosigner = Some(CosignerKey::of(&plane, &plane_name));
        Self { disk, earlier, forged, options, cosigned: VerifyOptions { key, against: None, cosigner } }
    }

    /// Changes something at random: what it was, for whom it concerns, and the log after it.
    fn tampered(&self, random: &mut Random) -> (String, FakeStorage) {
        let files = self.disk.files();
        // One without records is none that anybody misses.
        let holds = |(name, bytes): &&(String, Vec<u8>)| name.starts_with("journal/") && frames(bytes).len() > 1;
        let journal: Vec<&(String, Vec<u8>)> = files.iter().filter(holds).collect();
        let full: Vec<&(String, Vec<u8>)> =
            files.iter().filter(|(name, bytes)| name.starts_with("tile/") && bytes.len() == 8192).collect();
        match random.below(8) {
            0 | 1 => {
                let (name, bytes) = random.of(&files);
                let (at, bit) = (random.below(bytes.len()), random.below(8));
                (format!("bit {bit} of byte {at} of {name} flipped"), self.altered(name, |bytes| bytes[at] ^= 1 << bit))
            }
            2 => {
                let (name, bytes) = *random.of(&journal);
                let at = random.below(bytes.len());
                (format!("{name} cut at {at}"), self.altered(name, |bytes| bytes.truncate(at)))
            }
            3 => {
                let (name, bytes) = *random.of(&journal);
                let frames = frames(bytes);
                let (one, other) = (random.below(frames.len() - 1), random.below(frames.len()));
                let (one, other) = (one.min(other), one.max(other).max(one.min(other) + 1));
                let (one, other) = (frames[one].clone(), frames[other].clone());
                let swapped = [
                    &bytes[..one.start],
                    &bytes[other.clone()],
                    &bytes[one.end..other.start],
                    &bytes[one.clone()],
                    &bytes[other.end..],
                ]
                .concat();
                (format!("{one:?} and {other:?} of {name} swapped"), self.altered(name, |bytes| *bytes = swapped))
            }
            4 => {
                let (name, bytes) = *random.of(&journal);
                let frames = frames(bytes);
                let first = random.below(frames.len());
                let last = (first + random.below(20)).min(frames.len() - 1);
                let gone = frames[first].start..frames[last].end;
                (format!("{gone:?} of {name} dropped"), self.altered(name, |bytes| drop(bytes.drain(gone))))
            }
            5 => {
                let (name, _) = *random.of(&[&journal[..], &full[..]].concat());
                let copy = storage_of(&files);
                copy.steal(name);
                (format!("{name} removed"), copy)
            }
            6 => {
                let (one, other) = (*random.of(&full), *random.of(&full));
                if one.1 == other.1 {
                    return self.tampered(random);
                }
                (
                    format!("{} put in the place of {}", one.0, other.0),
                    self.altered(&other.0, |bytes| bytes.clone_from(&one.1)),
                )
            }
            _ => {
                let which = random.below(self.earlier.len());
                (format!("rolled back to {} records", EARLIER[which]), storage_of(&self.earlier[which]))
            }
        }
    }

    fn altered(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> FakeStorage {
        let copy = self.disk.reboot(None);
        copy.alter(name, change);
        copy
    }
}

fn storage_of(files: &Files) -> FakeStorage {
    let storage = FakeStorage::new();
    files.iter().for_each(|(name, bytes)| storage.write_file(name, bytes, Persist::Now).unwrap());
    storage
}

/// The frames of records in a segment.
fn frames(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let number = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let mut start = 30 + number(28) + 4;
    let mut frames = Vec::new();
    while start < bytes.len() {
        let end = start + super::tamper::FRAME_HEADER + number(start);
        if bytes[start + super::tamper::FRAME_HEADER] == b'{' {
            frames.push(start..end);
        }
        start = end;
    }
    frames
}

fn check(disk: &FakeStorage, options: &VerifyOptions) -> Result<(), Failure> {
    verify_in(Arc::new(disk.clone()), options).map(drop)
}

#[test]
fn no_tampering_goes_unnoticed_beside_a_remembered_checkpoint() {
    let world = World::made();
    check(&world.disk, &world.options).unwrap();
    check(&world.disk, &world.cosigned).unwrap();
    let trials = std::env::var("TAMPER_TRIALS").ok().map_or(TRIALS, |trials| trials.parse().unwrap());
    let mut unnamed = 0;
    for seed in 0..trials {
        let (what, disk) = world.tampered(&mut Random(seed));
        let found = check(&disk, &world.options);
        let Err(failure) = found else { panic!("seed {seed}: {what} was not found") };
        unnamed += u64::from(failure.record().is_none());
    }
    println!(
        "{trials} changes of a log of {RECORDS} records: all found, {} of them with their record",
        trials - unnamed
    );
}

#[test]
fn what_the_holder_of_the_key_rewrites_behind_the_cosigned_checkpoint_is_found() {
    let world = World::made();
    for (files, from) in world.forged.iter().zip(EARLIER) {
        let forged = storage_of(files);
        // By its own key alone it is a good log: that is why somebody else has to cosign it.
        let alone = VerifyOptions { key: world.options.key.clone(), ..VerifyOptions::default() };
        let found = check(&forged, &world.cosigned).unwrap_err();
        assert!(matches!(found, Failure::Root { .. }), "from record {from}: {found}");
        assert!(matches!(check(&forged, &world.options), Err(Failure::Root { .. })), "from record {from}");
        forged.steal(COSIGNED);
        check(&forged, &alone).unwrap();
        assert!(matches!(check(&forged, &world.cosigned), Err(Failure::NotCosigned)));
    }
}
