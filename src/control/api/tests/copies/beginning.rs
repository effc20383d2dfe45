//! Copies that begin behind pruned records: what was there stays until the other one is whole, and binds it.

use std::sync::Arc;

use super::*;
use crate::domain::Clock as _;
use crate::evidence::journal::tests::{clock, note, small, writer};
use crate::evidence::read::{JournalReader, Next};
use crate::evidence::retention::{Bounds, PRUNED, Policy};
use crate::evidence::storage::{DiskStorage, Storage, read_file};
use crate::evidence::tiles::{self, TILE_WIDTH, TileId};
use crate::evidence::{EvidenceLog, proof};

/// A log on disk of which records were pruned, and what it was before in memory.
struct Pruned {
    _home: tempfile::TempDir,
    storage: Arc<dyn Storage>,
    log: EvidenceLog,
    before: u64,
    told: Log,
}

fn pruned(bench: &Bench) -> Pruned {
    let home = tempfile::tempdir().unwrap();
    let (key, origin) = (bench.evidence_key("one"), "portcullis/gateway/one".parse::<Origin>().unwrap());
    let (log, _) = EvidenceLog::open(home.path(), origin.clone(), key.clone(), &writer(), small(), clock()).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::read_only(home.path()));
    let mut told = Log { key, origin, records: Vec::new() };
    let more = |batches: u64, told: &mut Log| {
        for batch in 0..batches {
            for n in 0..20 {
                let _ = log.journal().append(&note(batch * 20 + n)).unwrap();
            }
            log.journal().flush().unwrap();
        }
        log.checkpoint_now().unwrap();
        let mut reader = JournalReader::new(storage.clone(), told.records.len() as u64);
        while let Next::Record(record) = reader.next().unwrap() {
            told.records.push(record.bytes.to_vec());
        }
    };
    more(40, &mut told);
    let (_, checkpoint) = log.checkpoint().unwrap();
    log.keep_cosigned(&checkpoint).unwrap();
    let policy = Policy { age: None, bytes: Some(16 << 10) };
    let plan = log.prune(policy, Bounds::default(), clock().now(), |_| Ok(())).unwrap().unwrap();
    more(1, &mut told);
    assert_eq!(log.checkpoint().unwrap().0, told.head(told.records.len()));
    Pruned { _home: home, storage, before: plan.before, log, told }
}

impl Pruned {
    fn begins(&self, has: u64) -> Sent {
        let (head, checkpoint) = self.log.checkpoint().unwrap();
        let pruned = read_file(&*self.storage, PRUNED, 4096).unwrap();
        let bytes = |hashes: Vec<crate::evidence::tree::Hash>| hashes.iter().flat_map(|hash| hash.0).collect();
        let seq = Entry::place(&pruned).unwrap().0;
        Sent::Begin(v1::KeepBegin {
            first: self.before,
            inclusion: bytes(proof::inclusion(&*self.storage, seq, head.size).unwrap()),
            extends: bytes(proof::consistency(&*self.storage, has, head.size).unwrap()),
            consistency: bytes(proof::consistency(&*self.storage, self.before, head.size).unwrap()),
            pruned,
            checkpoint,
        })
    }

    fn hashes(&self, tiles: std::ops::Range<u64>) -> Sent {
        let tile = |index| {
            let hashes = tiles::read_tile(&*self.storage, TileId { level: 0, index }, TILE_WIDTH).unwrap();
            tiles::encode(&hashes.unwrap())
        };
        Sent::Leaves(v1::KeepLeaves { hashes: tiles.flat_map(tile).collect() })
    }
}

/// What is answered for the gateway while it is away.
async fn asked(bench: &Bench) -> v1::GatewayEvidence {
    let mut client = v1::evidence_client::EvidenceClient::new(bench.as_person("carol").await);
    let question = v1::QueryEvidenceRequest { gateways: vec!["one".into()], ..v1::QueryEvidenceRequest::default() };
    client.query(question).await.unwrap().into_inner().message().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beginning_ends_for_the_next_stream_and_what_was_there_stays_until_another_is_whole() {
    let bench = Bench::start_with("evidence_copies: {}\n").await;
    let pruned = pruned(&bench);
    let (log, before) = (&pruned.told, pruned.before);
    assert!(before >= 512, "{before}");
    let (mut keeping, _) = started(&bench, log).await.unwrap();
    assert_eq!(keeping.take(log.part(0, 100)).await.unwrap(), 100);
    // One that never ends holds nobody up.
    let (mut endless, has) = started(&bench, log).await.unwrap();
    assert_eq!(has, 100);
    endless.send(pruned.begins(100)).await;
    assert_eq!(endless.take(pruned.hashes(0..1)).await.unwrap(), 0);
    assert_eq!(copies(&bench, "one").len(), 2, "beside what was there");
    let there = asked(&bench).await;
    assert_eq!((there.copy, there.size, there.present_from), (true, 100, None), "{}", there.missing);
    let shorter = Log { records: log.records[..50].to_vec(), ..Log::new(&bench, "one", &[]) };
    let cut = started(&bench, &shorter).await.map(drop).unwrap_err();
    assert!(cut.message().contains("cut: the log has 50 records, and its copy 100"), "{cut}");
    assert_eq!(endless.kept().await.unwrap_err().code(), Code::Aborted);
    // And one that is whole takes its place.
    let (mut keeping, has) = started(&bench, log).await.unwrap();
    assert_eq!(has, 100);
    keeping.send(pruned.begins(100)).await;
    assert_eq!(keeping.take(pruned.hashes(0..before / 256)).await.unwrap(), before);
    let there = asked(&bench).await;
    assert_eq!((there.size, there.present_from), (before, Some(before)), "{}", there.missing);
    drop(keeping);
    let (mut keeping, has) = started(&bench, log).await.unwrap();
    assert_eq!(has, before, "it is not begun again");
    let size = log.records.len();
    let from = usize::try_from(before).unwrap();
    assert_eq!(keeping.take(log.part(from, size)).await.unwrap(), size as u64);
    keeping.take(log.checkpoint(size)).await.unwrap();
    let mut all = copies(&bench, "one");
    all.sort();
    let [copy, aside] = &all[..] else { panic!("two: {all:?}") };
    assert!(aside.to_str().unwrap().ends_with(".until-100"));
    assert_eq!(verify(copy, &VerifyOptions::default()).unwrap().records, size as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_behind_what_was_cosigned_begins_no_copy() {
    let bench = Bench::start_with("evidence_copies: {}\n").await;
    let pruned = pruned(&bench);
    let log = &pruned.told;
    let size = log.records.len() as u64;
    // A stream that was told to go on before that is not held to it: it may be on its way.
    let (mut early, _) = started(&bench, log).await.unwrap();
    let head = TreeHead { size: size + 1, root: crate::evidence::tree::Hash([7; 32]) };
    let checkpoint = Checkpoint { origin: log.origin.clone(), head };
    bench.handle().answer("one".parse().unwrap(), Some((0, checkpoint)), None).await.unwrap();
    early.send(pruned.begins(0)).await;
    assert_eq!(early.take(pruned.hashes(0..1)).await.unwrap(), 0);
    let (mut keeping, has) = started(&bench, log).await.unwrap();
    assert_eq!(has, 0, "the other one did not begin");
    let cut = keeping.take(pruned.begins(0)).await.unwrap_err();
    assert!(cut.message().contains("cut: the log has"), "{cut}");
    assert_eq!(cut.code(), Code::FailedPrecondition);
}
