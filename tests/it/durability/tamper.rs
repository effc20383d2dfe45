//! Changing, cutting and moving what is in the evidence: `evidence verify` ends with 8 and names the record.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Caller, Upstream, verified};
use crate::dev::{Dev, run};

const ALLOWED: usize = 130;
const DENIED: usize = 10;
/// Hashes in a full tile, and bytes of one.
const TILE: u64 = 256;
const HASH: usize = 32;
/// Of a frame before its payload: length, its inverse, checksum.
pub(super) const FRAME_HEADER: usize = 8;

/// A frame of a segment: its bytes, and the record in it; of a mark, the record that comes next.
#[derive(Clone, Copy)]
struct Frame {
    start: usize,
    end: usize,
    record: u64,
    mark: bool,
}

/// A log that nobody writes to any more.
struct Log {
    dev: Dev,
    directory: PathBuf,
    segment: PathBuf,
    frames: Vec<Frame>,
    records: u64,
}

impl Log {
    fn made() -> Self {
        let upstream = Upstream::start(Duration::ZERO);
        let mut dev = Dev::start_with(&["--upstream", &upstream.url]);
        dev.grant("billing", "api/upstream", &["read"]);
        let mut caller = Caller::of(&dev, "billing");
        (0..ALLOWED).for_each(|n| assert_eq!(caller.get(&format!("/{n}")).unwrap().status, 200));
        let mut caller = Caller::of(&dev, "helper");
        (0..DENIED).for_each(|n| assert_eq!(caller.get(&format!("/{n}")).unwrap().status, 403));
        assert!(dev.stop().success());
        let directory = PathBuf::from(&dev.addresses.evidence);
        let segment = directory.join("journal/00000000000000000000.log");
        let frames = frames(&std::fs::read(&segment).unwrap());
        let report = verified(&dev, &dev.addresses.evidence);
        let records = frames.iter().filter(|frame| !frame.mark).count() as u64;
        assert_eq!(report["records"], records, "the test reads what is there");
        assert_eq!(report["past_checkpoint"], 0, "an orderly end signs everything");
        assert!(records > TILE + 8, "a full tile and one that is not: {records}");
        Self { dev, directory, segment, frames, records }
    }

    fn frame(&self, record: u64) -> Frame {
        *self.frames.iter().find(|frame| frame.record == record && !frame.mark).unwrap()
    }

    /// Changes a file, verifies, and puts it back: what verification said.
    #[track_caller]
    fn tampered(&self, file: &Path, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let before = std::fs::read(file).unwrap();
        let mut bytes = before.clone();
        change(&mut bytes);
        assert_ne!(bytes, before, "nothing was changed");
        std::fs::write(file, bytes).unwrap();
        let done = run(self.dev.home.path(), &["evidence", "verify", &self.directory.display().to_string()]);
        std::fs::write(file, before).unwrap();
        done.exits(8).stderr
    }

    /// As [`tampered`](Self::tampered), and the record must be named.
    #[track_caller]
    fn names(&self, record: u64, file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let said = self.tampered(file, change);
        assert!(said.contains(&format!("at record {record}:")), "record {record} is not named: {said}");
    }

    fn tile(&self, path: &str) -> PathBuf {
        self.directory.join("tile").join(path)
    }
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let number = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    // magic 8, version 4, incarnation 8, first 8, origin length 2, origin, checksum 4
    let mut start = 30 + number(28) + 4;
    let mut record = 0;
    let mut frames = Vec::new();
    while start < bytes.len() {
        let end = start + FRAME_HEADER + number(start);
        let mark = bytes[start + FRAME_HEADER] != b'{';
        frames.push(Frame { start, end, record, mark });
        record += u64::from(!mark);
        start = end;
    }
    frames
}

#[test]
fn what_is_changed_after_the_fact_is_found_and_named() {
    let log = Log::made();
    let last = log.records - 1;

    // One bit of a record: its first byte, its middle, its end; one of its frame's length and checksum.
    for record in [0, 1, 100, TILE - 1, TILE, last] {
        let frame = log.frame(record);
        let middle = frame.start.midpoint(frame.end);
        for at in [frame.start + FRAME_HEADER, middle, frame.end - 1, frame.start, frame.start + 2, frame.start + 5] {
            log.names(record, &log.segment, |bytes| bytes[at] ^= 1);
        }
    }
    // A mark is no record; what it stands before is named.
    let mark = *log.frames.iter().rfind(|frame| frame.mark && frame.record < TILE).unwrap();
    log.names(mark.record, &log.segment, |bytes| bytes[mark.end - 1] ^= 1);

    // A record that was written anew, as long and with a checksum that holds: only its hash tells.
    let text = std::fs::read(&log.segment).unwrap();
    let named = |frame: &Frame| text[frame.start..frame.end].windows(9).position(|window| window == b"\"billing\"");
    let frame = *log.frames.iter().find(|frame| frame.record >= 100 && named(frame).is_some()).unwrap();
    let at = frame.start + named(&frame).unwrap();
    log.names(frame.record, &log.segment, |bytes| {
        bytes[at + 1..at + 8].copy_from_slice(b"nobody1");
        let payload = &bytes[frame.start + FRAME_HEADER..frame.end];
        let checksum = crc32c::crc32c(payload).to_le_bytes();
        bytes[frame.start + 4..frame.start + FRAME_HEADER].copy_from_slice(&checksum);
    });

    // A hash of a tile, full and not.
    log.names(7, &log.tile("0/000"), |bytes| bytes[7 * HASH + 3] ^= 0x80);
    let partial = format!("0/001.p/{}", log.records - TILE);
    log.names(TILE + 2, &log.tile(&partial), |bytes| bytes[2 * HASH] ^= 1);
    log.names(0, &log.tile("1/000.p/1"), |bytes| bytes[HASH - 1] ^= 1);

    // Any line of the signed checkpoint.
    let checkpoint = log.directory.join("checkpoint");
    let text = std::fs::read(&checkpoint).unwrap();
    let starts = std::iter::once(0).chain((1..text.len()).filter(|at| text[at - 1] == b'\n' && text[*at] != b'\n'));
    for at in starts {
        let said = log.tampered(&checkpoint, |bytes| bytes[at] ^= 1);
        assert!(said.contains("checkpoint"), "{said}");
    }
    let said = log.tampered(&checkpoint, |bytes| {
        let at = bytes.len() - 10;
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    });
    assert!(said.contains("checkpoint"), "{said}");
    verified(&log.dev, &log.dev.addresses.evidence);
}

#[test]
fn what_is_cut_or_moved_is_found_and_named() {
    let log = Log::made();
    let last = log.records - 1;

    // The tail behind a signature: whole records, half of one, half of the log, all of it.
    for record in [last, last - 1, TILE, 1] {
        let frame = log.frame(record);
        log.names(record, &log.segment, |bytes| bytes.truncate(frame.start));
        log.names(record, &log.segment, |bytes| bytes.truncate(frame.start.midpoint(frame.end)));
        log.names(record, &log.segment, |bytes| bytes[frame.start..].fill(0));
    }

    // One taken out of the middle; two swapped, near and far.
    for record in [3, 200, last - 2] {
        let frame = log.frame(record);
        log.names(record, &log.segment, |bytes| drop(bytes.drain(frame.start..frame.end)));
    }
    for (one, other) in [(3, 4), (100, 200), (10, last)] {
        let (one, other) = (log.frame(one), log.frame(other));
        log.names(one.record, &log.segment, |bytes| {
            let swapped = [
                &bytes[..one.start],
                &bytes[other.start..other.end],
                &bytes[one.end..other.start],
                &bytes[one.start..one.end],
                &bytes[other.end..],
            ]
            .concat();
            *bytes = swapped;
        });
    }
    verified(&log.dev, &log.dev.addresses.evidence);
}
