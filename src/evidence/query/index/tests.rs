//! The index beside reading everything.

use super::*;
use crate::domain::name::{CallId, GrantId};
use crate::evidence::EvidenceLog;
use crate::evidence::checkpoint::EvidenceKey;
use crate::evidence::journal::tests::{clock, completed, intent, origin, small, writer};
use crate::evidence::query::Query;
use crate::evidence::query::search::Search;
use crate::evidence::tree::Hash;

fn write(directory: &Path, key: &EvidenceKey, calls: std::ops::Range<u64>) {
    let (log, _) = EvidenceLog::open(directory, origin(), key.clone(), &writer(), small(), clock()).unwrap();
    let mut running = Vec::new();
    for n in calls {
        let mut it = intent(n);
        let identity = if n % 1000 == 3 { "rare" } else { "billing" };
        it.identity = std::borrow::Cow::Owned(identity.parse().unwrap());
        it.basis = crate::evidence::entry::Basis::Grant(GrantId::from_bits(u128::from(n % 7)));
        running.push(log.journal().intent(&it).unwrap().1);
        // Many are running at once, so that outcomes stand far from their intents.
        if running.len() > 300 {
            running.drain(..150).for_each(|room| room.record(completed()));
            log.journal().flush().unwrap();
        }
    }
    running.into_iter().for_each(|room| room.record(completed()));
    log.journal().flush().unwrap();
    log.shutdown();
}

fn searched(directory: &Path, filter: &Filter) -> Vec<u64> {
    let mut search = Search::new(Arc::new(Index::open(directory).unwrap()), filter.clone()).unwrap();
    std::iter::from_fn(|| search.next().unwrap()).map(|found| found.entry.seq).collect()
}

fn scanned(directory: &Path, filter: &Filter) -> Vec<u64> {
    let mut query = Query::new(Arc::new(DiskStorage::read_only(directory)), 0, filter.clone());
    std::iter::from_fn(|| query.next().unwrap()).map(|found| found.entry.seq).collect()
}

fn filters() -> Vec<Filter> {
    let any = Filter::default;
    vec![
        Filter { identity: Some("rare".parse().unwrap()), ..any() },
        Filter { identity: Some("nobody".parse().unwrap()), ..any() },
        Filter { grant: Some(GrantId::from_bits(3)), identity: Some("rare".parse().unwrap()), ..any() },
        Filter { call: Some(CallId::from_bits(3003)), ..any() },
        Filter { call: Some(CallId::from_bits(4190)), ..any() },
        Filter { identity: Some("rare".parse().unwrap()), kind: Some(crate::evidence::entry::Kind::Outcome), ..any() },
        Filter { kind: Some(crate::evidence::entry::Kind::LogOpened), ..any() },
        Filter { resource: Some("api/orders".parse().unwrap()), grant: Some(GrantId::from_bits(1)), ..any() },
    ]
}

#[test]
fn what_the_index_finds_is_what_reading_everything_finds() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let (key, _) = EvidenceKey::generate().unwrap();
    write(&log, &key, 0..4200);
    assert_eq!(Index::open(&log).unwrap().records(), CHUNK);
    for filter in filters() {
        assert_eq!(searched(&log, &filter), scanned(&log, &filter), "{filter:?}");
    }
    // It goes on where it ended, also behind a write that was torn.
    write(&log, &key, 4200..8300);
    let file = OpenOptions::new().write(true).open(log.join(DIRECTORY).join(FILE)).unwrap();
    file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    assert_eq!(Index::open(&log).unwrap().records(), 2 * CHUNK);
    let filter = filters().remove(0);
    let found = scanned(&log, &filter);
    assert_eq!(searched(&log, &filter), found);
    // Whoever removes it loses nothing but time.
    std::fs::remove_dir_all(log.join(DIRECTORY)).unwrap();
    assert_eq!(searched(&log, &filter), found);
    crate::evidence::verify::verify(&log, &crate::evidence::verify::VerifyOptions::default()).unwrap();
}

#[test]
fn the_index_of_a_log_that_was_replaced_is_not_this_logs() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    write(&log, &EvidenceKey::generate().unwrap().0, 0..4200);
    assert_eq!(Index::open(&log).unwrap().records(), CHUNK);
    let index = home.path().join("index");
    std::fs::rename(log.join(DIRECTORY), &index).unwrap();
    std::fs::remove_dir_all(&log).unwrap();
    write(&log, &EvidenceKey::generate().unwrap().0, 0..50);
    std::fs::rename(&index, log.join(DIRECTORY)).unwrap();
    for _ in 0..2 {
        assert_eq!(Index::open(&log).unwrap().records(), 0);
        assert_eq!(searched(&log, &filters()[0]), scanned(&log, &filters()[0]));
    }
}

#[test]
fn rows_of_a_table_of_any_size_are_found_however_their_hashes_are_spread() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("table");
    let spreads: [fn(u64) -> u64; 3] =
        [|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15), |n| n / 3, |n| u64::MAX - (n % 5) * 1000];
    for spread in spreads {
        for rows in [0, 1, 63, 64, 65, 128, 200, 1000, 5000u64] {
            let mut table: Vec<(u64, u32)> = (0..rows).map(|n| (spread(n), n as u32)).collect();
            table.sort_unstable();
            let bytes: Vec<u8> =
                table.iter().flat_map(|(hash, n)| [&hash.to_le_bytes()[..], &n.to_le_bytes()].concat()).collect();
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            let table_at = BODY_HEADER + PLACES * 16;
            let body = [&vec![0; table_at][..], &bytes, &[7; 4096]].concat();
            file.write_all_at(&sealed(&Hash([0; 32]), &body).unwrap(), 0).unwrap();
            let storage = Arc::new(DiskStorage::read_only(home.path()));
            let chunk = Chunk::open(&file, 0, PLACES).unwrap();
            let index = Index { storage, file: Some(file), chunks: Vec::new(), segments: Vec::new(), gone: None };
            let mut asked: Vec<u64> = table.iter().map(|(hash, _)| *hash).collect();
            asked.extend([0, 1, u64::MAX, u64::MAX / 2, 77]);
            for hash in asked {
                let found = index.rows::<CALL>(&chunk, table_at, table.len(), hash).unwrap();
                let found: Vec<u32> = found.iter().map(|row| u32::from_le_bytes(number(row, 8).unwrap())).collect();
                let expected: Vec<u32> = table.iter().filter(|(it, _)| *it == hash).map(|(_, n)| *n).collect();
                assert_eq!(found, expected, "{rows} rows, {hash}");
            }
        }
    }
}

#[test]
fn what_a_superseded_segment_still_holds_is_no_record() {
    use crate::evidence::journal::segment::{FRAME_HEADER_BYTES, Frame, SegmentHeader, frame_header, path};
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    write(&log, &EvidenceKey::generate().unwrap().0, 0..4200);
    let index = Index::open(&log).unwrap();
    // In the middle of a stride and of a segment: looked for from a record before it, in the same file.
    let found = (100..4000).map(|seq| index.record(seq).unwrap()).find(|found| {
        let (at, segment, _) = index.place(found.entry.seq).unwrap().unwrap();
        at + 3 < found.entry.seq && segment + 5 < at && found.place.segment == path(segment).into()
    });
    let found = found.unwrap();
    let (seq, file) = (found.entry.seq, log.join(&*found.place.segment));
    let bytes = std::fs::read(&file).unwrap();
    let (header, _) = SegmentHeader::decode(&bytes).unwrap();
    // Its disk failed there, and the writer went on before it in a new segment: what it had written stays behind.
    let rest = &bytes[usize::try_from(found.place.offset).unwrap()..];
    let next = [SegmentHeader { first: seq, ..header }.encode(), rest.to_vec()].concat();
    let put = |path: &Path, bytes: &[u8]| {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    };
    put(&log.join(path(seq)), &next);
    let mut stale = bytes.clone();
    let Frame::Entry(payload) = Frame::read(rest) else { panic!("a record") };
    let at = usize::try_from(found.place.offset).unwrap();
    let other = String::from_utf8(payload.to_vec()).unwrap().replace("gate.example", "gate.forged0"[..12].as_ref());
    assert_ne!(other.as_bytes(), payload);
    stale[at..at + FRAME_HEADER_BYTES].copy_from_slice(&frame_header(other.len(), crc32c::crc32c(other.as_bytes())));
    stale[at + FRAME_HEADER_BYTES..at + FRAME_HEADER_BYTES + other.len()].copy_from_slice(other.as_bytes());
    put(&file, &stale);
    let again = Index::open(&log).unwrap().record(seq).unwrap();
    assert_eq!((again.bytes, again.place.segment), (found.bytes, path(seq).into()));
}

/// A byte of a file, changed.
fn change(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_damaged_chunk_hides_nothing_wherever_it_stands() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    write(&log, &EvidenceKey::generate().unwrap().0, 0..8300);
    let index = Index::open(&log).unwrap();
    assert_eq!(index.records(), 2 * CHUNK);
    let path = log.join(DIRECTORY).join(FILE);
    let (first, second) = (index.chunks[0].end(), index.chunks[1].end());
    let filters = [filters().remove(0), filters().remove(3)];
    let expected: Vec<_> = filters.iter().map(|filter| scanned(&log, filter)).collect();
    let whole = std::fs::read(&path).unwrap();
    for at in
        [0, FILE_HEADER + 4, FILE_HEADER + 9_000, first / 2, first - 1, first + 3, (first + second) / 2, second - 1]
    {
        change(&path, at);
        for (filter, expected) in filters.iter().zip(&expected) {
            assert_eq!(&searched(&log, filter), expected, "byte {at}: {filter:?}");
        }
        let file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        file.write_all_at(&whole, 0).unwrap();
    }
}

#[test]
fn the_index_of_another_history_of_this_log_is_made_anew() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let (key, _) = EvidenceKey::generate().unwrap();
    write(&log, &key, 0..2500);
    let copy = home.path().join("copy");
    assert!(std::process::Command::new("cp").arg("-r").arg(&log).arg(&copy).status().unwrap().success());
    write(&log, &key, 2500..8300);
    assert_eq!(Index::open(&log).unwrap().records(), 2 * CHUNK);
    // Put back, and written on with other calls: the first chunk speaks in part of records that never were.
    std::fs::rename(log.join(DIRECTORY), copy.join(DIRECTORY)).unwrap();
    write(&copy, &key, 50_502..56_000);
    for filter in filters() {
        assert_eq!(searched(&copy, &filter), scanned(&copy, &filter), "{filter:?}");
    }
    assert_eq!(Index::open(&copy).unwrap().records(), CHUNK);
}

#[test]
fn of_too_many_open_calls_the_newest_are_remembered() {
    let mut open = Open::new();
    let last = MAX_OPEN as u64 + 500;
    (0..last).for_each(|seq| remember(&mut open, seq, Vec::new()));
    assert_eq!((open.len(), open.first_key_value().unwrap().0), (MAX_OPEN, &500));
    assert!(
        MAX_OPEN as u64 > CHUNK && open.contains_key(&(last - CHUNK)),
        "what is looked up is of a chunk that is made"
    );
}
