//! Somebody who can write every file of a log, and may hold its key: what they change is found, given a checkpoint that was
//! kept elsewhere.

use super::*;
use crate::evidence::read::{JournalReader, Next};
use crate::evidence::storage::Persist;

/// Trials; `TAMPER_TRIALS` says more, `TAMPER_RECORDS` of a longer log, `TAMPER_SEED` which.
#[expect(clippy::disallowed_methods, reason = "whoever wants a longer run says so by the environment")]
fn asked(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

type Files = Vec<(String, Vec<u8>)>;

fn of(files: &Files) -> FakeStorage {
    let disk = FakeStorage::new();
    files.iter().for_each(|(path, bytes)| disk.write_file(path, bytes, Persist::Now).unwrap());
    disk
}

fn records_of(disk: &FakeStorage) -> Vec<Vec<u8>> {
    let mut reader = JournalReader::new(Arc::new(disk.clone()), 0);
    let mut records = Vec::new();
    while let Next::Record(record) = reader.next().unwrap() {
        records.push(record.bytes.to_vec());
    }
    records
}

/// The same log with one thing changed, and what that was.
fn tampered(files: &Files, older: &[Files], seed: &mut u64) -> (Files, String) {
    let mut changed = files.clone();
    let one = draw(seed, files.len());
    let path = files[one].0.clone();
    let length = files[one].1.len();
    let what = match draw(seed, 6) {
        0 if length > 0 => {
            let (at, bit) = (draw(seed, length), draw(seed, 8));
            changed[one].1[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} of {path}")
        }
        1 if length > 0 => {
            let left = draw(seed, length);
            changed[one].1.truncate(left);
            format!("{path} cut to {left} bytes")
        }
        2 => {
            changed.remove(one);
            format!("{path} dropped")
        }
        3 => {
            // Two files of a kind trade places.
            let kind = |path: &str| path.rsplit_once('/').map_or(String::new(), |(kind, _)| kind.to_owned());
            let others: Vec<usize> = (0..files.len()).filter(|n| kind(&files[*n].0) == kind(&path)).collect();
            let other = others[draw(seed, others.len())];
            (changed[one].1, changed[other].1) = (files[other].1.clone(), files[one].1.clone());
            format!("{path} and {} traded", files[other].0)
        }
        4 if length > 64 => {
            // Parts of a file trade places.
            let size = 1 + draw(seed, length / 4);
            let (from, to) = (draw(seed, length / 2 - size / 2), length / 2 + draw(seed, length / 2 - size + 1));
            if from + size <= to && to + size <= length {
                let (front, back) = changed[one].1.split_at_mut(to);
                front[from..from + size].swap_with_slice(&mut back[..size]);
            }
            format!("{size} bytes at {from} and {to} of {path} traded")
        }
        _ => {
            // Files as they were before, some or all of them.
            let before = &older[draw(seed, older.len())];
            let some = draw(seed, 3);
            let back = |path: &str, seed: &mut u64| match some {
                0 => true,
                1 => !path.contains("tile/"),
                _ => path.starts_with("journal/") && draw(seed, 2) == 0,
            };
            changed.retain(|(path, _)| before.iter().any(|(old, _)| old == path) || !back(path, seed));
            for (path, bytes) in &mut changed {
                if let Some((_, old)) = before.iter().find(|(old, _)| old == path)
                    && back(path, seed)
                {
                    bytes.clone_from(old);
                }
            }
            format!("an older state, {some}")
        }
    };
    (changed, what)
}

#[test]
fn whatever_is_done_to_the_files_of_a_log_is_found_or_changed_nothing() {
    let (trials, records) = (asked("TAMPER_TRIALS", 150), asked("TAMPER_RECORDS", 600));
    let der = key();
    let ours = EvidenceKey::from_pkcs8(&der).unwrap().verifier(&origin());
    let disk = FakeStorage::new();
    let mut older: Vec<Files> = Vec::new();
    for part in 0..4u64 {
        let log = open(&disk, &der).unwrap();
        calls(log.journal(), part * records / 8, records / 8);
        log.shutdown();
        older.push(disk.files());
    }
    let files = older.pop().unwrap();
    let whole = records_of(&disk);
    let check = |disk: &FakeStorage, against| {
        let options = VerifyOptions { key: Some(ours.clone()), against, cosigner: None };
        verify_in(Arc::new(disk.clone()), &options)
    };
    let head = check(&disk, None).unwrap().checkpoint;
    assert_eq!(head.size, whole.len() as u64, "the remembered checkpoint covers all of it");
    let mut seed = asked("TAMPER_SEED", 0x9E37_79B9_7F4A_7C15);
    let (mut found, mut harmless) = (0, 0);
    for trial in 0..trials {
        let begun = seed;
        let (changed, what) = tampered(&files, &older, &mut seed);
        let disk = of(&changed);
        match check(&disk, Some(head)) {
            Err(_) => found += 1,
            Ok(report) => {
                // A copy of a checkpoint, or a tile that nothing needs: not one record is another or gone.
                assert_eq!(report.checkpoint, head, "trial {trial} (TAMPER_SEED={begun}): {what}");
                assert_eq!(records_of(&disk), whole, "trial {trial} (TAMPER_SEED={begun}): {what}");
                harmless += 1;
            }
        }
    }
    println!("{trials} trials on {} records: {found} found, {harmless} changed nothing", whole.len());
    assert!(found > trials / 2, "{found} of {trials}");
}

#[test]
fn who_holds_the_key_and_rewrites_the_tail_is_found_by_what_was_kept() {
    let der = key();
    let ours = EvidenceKey::from_pkcs8(&der).unwrap().verifier(&origin());
    let disk = FakeStorage::new();
    let log = open(&disk, &der).unwrap();
    calls(log.journal(), 0, 200);
    log.shutdown();
    let early = disk.files();
    let log = open(&disk, &der).unwrap();
    calls(log.journal(), 200, 100);
    log.shutdown();
    let check = |disk: &FakeStorage, against| {
        let options = VerifyOptions { key: Some(ours.clone()), against, cosigner: None };
        verify_in(Arc::new(disk.clone()), &options)
    };
    let kept = check(&disk, None).unwrap().checkpoint;
    // The same key signs another history from an earlier state on: shorter, as long, and longer than what was kept.
    for more in [10, 100, 300] {
        let forged = of(&early);
        let log = open(&forged, &der).unwrap();
        calls(log.journal(), 5_000, more);
        log.shutdown();
        check(&forged, None).unwrap();
        assert!(check(&forged, Some(kept)).is_err(), "{more} other calls");
    }
}
