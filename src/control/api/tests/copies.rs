//! Copies of gateways' logs: written by whoever holds certificate and key, and by nobody else.

mod beginning;

use std::path::PathBuf;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::plane::Bench;
use crate::evidence::checkpoint::{Checkpoint, EvidenceKey, Origin};
use crate::evidence::entry::{Entry, Event, TokenRevoked, encode_body, encode_suffix};
use crate::evidence::journal::segment::frame_header;
use crate::evidence::statement::StatementKind;
use crate::evidence::tree::{CompactRange, TreeHead, leaf_hash};
use crate::evidence::verify::{VerifyOptions, verify};
use crate::wire::v1;
use v1::keep_message::Message as Sent;

/// A log of a gateway: records of tokens that were revoked.
struct Log {
    key: EvidenceKey,
    origin: Origin,
    records: Vec<Vec<u8>>,
}

impl Log {
    fn new(bench: &Bench, name: &str, jtis: &[&str]) -> Self {
        let origin: Origin = format!("portcullis/gateway/{name}").parse().unwrap();
        let record = |(seq, jti): (usize, &&str)| {
            let call = crate::domain::name::CallId::from_bits(9);
            let event = TokenRevoked { call, jti: (*jti).into(), by: "somebody".into() };
            let mut bytes = Vec::new();
            encode_body(&event, origin.as_str(), &mut bytes);
            encode_suffix(seq as u64, 1_800_000_000_000_000, &mut bytes);
            assert!(matches!(Entry::parse(&bytes).unwrap().event, Event::TokenRevoked(_)));
            bytes
        };
        let records = jtis.iter().enumerate().map(record).collect();
        Self { key: bench.evidence_key(name), origin, records }
    }

    fn head(&self, size: usize) -> TreeHead {
        let mut range = CompactRange::new();
        self.records[..size].iter().for_each(|record| range.append(leaf_hash(record)));
        TreeHead { size: range.size(), root: range.root() }
    }

    fn checkpoint(&self, size: usize) -> Sent {
        let checkpoint = Checkpoint { origin: self.origin.clone(), head: self.head(size) };
        Sent::Checkpoint(checkpoint.sign(&self.key).unwrap())
    }

    fn part(&self, from: usize, end: usize) -> Sent {
        let mut frames = Vec::new();
        for record in &self.records[from..end] {
            frames.extend_from_slice(&frame_header(record.len(), crc32c::crc32c(record)));
            frames.extend_from_slice(record);
        }
        Sent::Records(v1::KeepRecords { first: from as u64, frames })
    }
}

struct Keeping {
    up: mpsc::Sender<v1::KeepMessage>,
    down: Streaming<v1::Kept>,
    challenge: Vec<u8>,
}

impl Keeping {
    /// Opened, with what the control plane asks to be signed.
    async fn open(bench: &Bench, certificate: &str, log: &Log) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(16);
        let evidence_key = log.key.verifier(&log.origin).to_string();
        let open = v1::KeepMessage { message: Some(Sent::Open(v1::KeepOpen { evidence_key })) };
        up.send(open).await.unwrap();
        let mut client = v1::evidence_client::EvidenceClient::new(bench.as_gateway(certificate).await);
        let down = client.keep(ReceiverStream::new(messages)).await?.into_inner();
        let mut keeping = Self { up, down, challenge: Vec::new() };
        keeping.challenge = keeping.kept().await?.challenge;
        Ok(keeping)
    }

    async fn send(&self, message: Sent) {
        self.up.send(v1::KeepMessage { message: Some(message) }).await.unwrap();
    }

    async fn kept(&mut self) -> Result<v1::Kept, Status> {
        self.down.message().await?.ok_or_else(|| Status::cancelled("closed"))
    }

    async fn claim(&self, key: &EvidenceKey, log: &Log, head: TreeHead) {
        let (size, root) = (head.size, head.root.0.to_vec());
        let claim = v1::KeepClaim { challenge: self.challenge.clone(), log: log.origin.to_string(), size, root };
        let payload = claim.encode_to_vec();
        let signature = key.state(StatementKind::Copy, &payload).unwrap();
        self.send(Sent::Claim(v1::Signed { payload, signature })).await;
    }

    /// Goes on with the copy, as the log's holder does: how many records it has.
    async fn begin(&mut self, log: &Log) -> Result<u64, Status> {
        self.claim(&log.key, log, log.head(0)).await;
        let has = self.kept().await?.size;
        self.claim(&log.key, log, log.head(usize::try_from(has).unwrap().min(log.records.len()))).await;
        Ok(self.kept().await?.size)
    }

    async fn take(&mut self, message: Sent) -> Result<u64, Status> {
        self.send(message).await;
        Ok(self.kept().await?.size)
    }
}

async fn started(bench: &Bench, log: &Log) -> Result<(Keeping, u64), Status> {
    let mut keeping = Keeping::open(bench, "one", log).await?;
    let has = keeping.begin(log).await?;
    Ok((keeping, has))
}

fn copies(bench: &Bench, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(bench.dir.path().join("state/copies").join(name));
    entries.map_or_else(|_| Vec::new(), |entries| entries.map(|entry| entry.unwrap().path()).collect())
}

fn refused(bench: &Bench) -> usize {
    bench.sink.told.lock().unwrap().iter().filter(|told| told.event.operation == "log.refused").count()
}

const JTIS: [&str; 4] = ["a", "b", "c", "d"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_where_it_ended_and_every_other_way_is_refused_by_name() {
    let mut bench = Bench::start_with("evidence_copies: {max_size_per_gateway: 64KiB}\n").await;
    let log = Log::new(&bench, "one", &JTIS);
    let (mut keeping, has) = started(&bench, &log).await.unwrap();
    assert_eq!(has, 0);
    assert_eq!(keeping.take(log.part(0, 2)).await.unwrap(), 2);
    assert_eq!(keeping.take(log.checkpoint(2)).await.unwrap(), 2);
    assert_eq!(keeping.take(log.part(2, 3)).await.unwrap(), 3);
    let [copy] = &copies(&bench, "one")[..] else { panic!("one copy") };
    assert_eq!(verify(copy, &VerifyOptions::default()).unwrap().records, 3);

    for (message, code) in [(log.part(3, 4), ""), (log.part(0, 1), "rewrite"), (log.part(2, 3), "rewrite")] {
        let (mut keeping, has) = started(&bench, &log).await.unwrap();
        assert!(has >= 3);
        match (keeping.take(message).await, code) {
            (Ok(size), "") => assert_eq!(size, 4),
            (Err(status), code) => {
                assert_eq!(status.code(), Code::FailedPrecondition);
                assert!(status.message().contains(code), "{status}");
            }
            (taken, code) => panic!("{code}: {taken:?}"),
        }
    }
    // Ahead of it, in two ways.
    let longer = Log::new(&bench, "one", &["a", "b", "c", "d", "e", "f"]);
    let (mut keeping, _) = started(&bench, &longer).await.unwrap();
    let gap = keeping.take(longer.part(5, 6)).await.unwrap_err();
    assert!(gap.message().contains("a gap: records from 5 on"), "{gap}");
    let (mut keeping, _) = started(&bench, &longer).await.unwrap();
    keeping.take(longer.checkpoint(6)).await.unwrap_err();
    // Another history, and a shorter one, of the same key.
    let fork = Log::new(&bench, "one", &["a", "b", "x", "d", "e"]);
    let status = started(&bench, &fork).await.map(drop).unwrap_err();
    assert!(status.message().contains("a fork: the first 4 records"), "{status}");
    let short = Log::new(&bench, "one", &["a", "b"]);
    let status = started(&bench, &short).await.map(drop).unwrap_err();
    assert!(status.message().contains("cut: the log has 2 records, and its copy 4"), "{status}");
    // One that claims the right root and goes on otherwise is found by what it signs.
    let (mut keeping, _) = started(&bench, &log).await.unwrap();
    let other = Log::new(&bench, "one", &["a", "b", "x", "d", "e"]);
    assert_eq!(keeping.take(other.part(4, 5)).await.unwrap(), 5);
    let status = keeping.take(other.checkpoint(5)).await.unwrap_err();
    assert!(status.message().contains("a fork: the first 5"), "{status}");
    // Too much.
    let many = ["a", "b", "c", "d", "e"].into_iter().chain(std::iter::repeat_n("x", 500));
    let large = Log::new(&bench, "one", &many.collect::<Vec<_>>());
    let (mut keeping, _) = started(&bench, &large).await.unwrap();
    keeping.take(large.part(5, 6)).await.unwrap();
    let status = keeping.take(large.part(6, 505)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("and may have 65536"), "{status}");
    bench.stop().await;
    assert_eq!(refused(&bench), 5, "rewrites, forks and the cut are told");
    assert_eq!(verify(copy, &VerifyOptions::default()).unwrap().records, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_writes_a_gateways_copy_nor_ends_its_stream() {
    let bench = Bench::start_with("evidence_copies: {}\n").await;
    let log = Log::new(&bench, "one", &JTIS);
    let (mut keeping, _) = started(&bench, &log).await.unwrap();
    keeping.take(log.part(0, 2)).await.unwrap();
    // Another gateway, with its own certificate: for that log, and for one of that name with its own key.
    let of_two = Log { key: bench.evidence_key("two"), ..Log::new(&bench, "one", &JTIS) };
    for log in [&log, &of_two] {
        let status = Keeping::open(&bench, "two", log).await.map(drop).unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
    // Whoever has the certificate and another key, or none and says what was said before.
    let stolen = Log { key: EvidenceKey::generate().unwrap().0, ..Log::new(&bench, "one", &JTIS) };
    assert!(Keeping::open(&bench, "one", &stolen).await.is_err(), "it is not the key that is known");
    let mut thief = Keeping::open(&bench, "one", &log).await.unwrap();
    thief.claim(&stolen.key, &log, log.head(2)).await;
    assert_eq!(thief.kept().await.unwrap_err().code(), Code::PermissionDenied);
    let mut thief = Keeping::open(&bench, "one", &log).await.unwrap();
    thief.challenge.clone_from(&keeping.challenge);
    thief.claim(&log.key, &log, log.head(2)).await;
    assert_eq!(thief.kept().await.unwrap_err().code(), Code::PermissionDenied, "of another stream");
    // Its own goes on meanwhile.
    assert_eq!(keeping.take(log.part(2, 3)).await.unwrap(), 3);
    assert_eq!((copies(&bench, "one").len(), copies(&bench, "two").len()), (1, 0));
    // People keep nothing here.
    let channel = bench.as_person("admin").await;
    let mut person = v1::evidence_client::EvidenceClient::new(channel);
    let status = person.keep(tokio_stream::empty()).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    // The gateway's next stream takes the place of this one; one that was expelled has none.
    let (mut next, has) = started(&bench, &log).await.unwrap();
    assert_eq!(has, 3);
    assert_eq!(keeping.kept().await.unwrap_err().code(), Code::Aborted);
    bench
        .handle()
        .expel(&super::super::super::authorize::Caller::System, "one".parse().unwrap(), "x".into())
        .await
        .unwrap();
    assert_eq!(next.take(log.part(3, 4)).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(Keeping::open(&bench, "one", &log).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_over_a_restart_of_the_control_plane_and_answers_for_a_gateway_that_is_away() {
    let mut bench = Bench::start_with("evidence_copies: {}\n").await;
    let log = Log::new(&bench, "one", &JTIS);
    let (mut keeping, _) = started(&bench, &log).await.unwrap();
    keeping.take(log.part(0, 3)).await.unwrap();
    bench.stop().await;
    assert!(keeping.kept().await.is_err());
    bench.resume().await;
    let (_keeping, has) = started(&bench, &log).await.unwrap();
    assert_eq!(has, 3);
    let mut client = v1::evidence_client::EvidenceClient::new(bench.as_person("carol").await);
    let mut answers = client.query(v1::QueryEvidenceRequest::default()).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        all.push(answer);
    }
    all.sort_by(|one, other| one.gateway.cmp(&other.gateway));
    let [one, two] = &all[..] else { panic!("two gateways") };
    assert!(one.copy && one.missing.is_empty(), "{one:?}");
    assert_eq!((one.records.clone(), one.reached, one.size), (log.records[..3].to_vec(), 3, 3));
    assert!(two.missing.contains("not connected") && !two.copy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_checkpoints_writes_nothing_and_a_message_of_nothing_is_refused() {
    let bench = Bench::start_with("evidence_copies: {}\n").await;
    let log = Log::new(&bench, "one", &JTIS);
    let (mut keeping, _) = started(&bench, &log).await.unwrap();
    keeping.take(log.part(0, 2)).await.unwrap();
    keeping.take(log.checkpoint(2)).await.unwrap();
    let [copy] = &copies(&bench, "one")[..] else { panic!("one copy") };
    let written = || std::fs::metadata(copy.join("signed")).unwrap().modified().unwrap();
    let before = written();
    for _ in 0..300 {
        keeping.send(log.checkpoint(2)).await;
    }
    keeping.send(log.part(2, 3)).await;
    while keeping.kept().await.unwrap().size < 3 {}
    assert_eq!(written(), before);
    let nothing = Sent::Records(v1::KeepRecords { first: 3, frames: Vec::new() });
    assert_eq!(keeping.take(nothing).await.unwrap_err().code(), Code::InvalidArgument);
    // What is no checkpoint at all is refused before anything else is gathered.
    let (mut keeping, has) = started(&bench, &log).await.unwrap();
    assert_eq!(has, 3);
    let long = Sent::Checkpoint("x".repeat(crate::evidence::checkpoint::MAX_NOTE_BYTES + 1));
    assert_eq!(keeping.take(long).await.unwrap_err().code(), Code::InvalidArgument);
}
