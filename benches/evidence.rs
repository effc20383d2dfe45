//! Records verified and searched per second: a log of `RECORDS` records (1,000,000 unless the environment says more),
//! written by the journal, verified whole, queried by identity through the index and without it.
//!
//! CPU is of the whole process: what a machine with other work on it leaves comparable.
#![allow(clippy::disallowed_methods, reason = "a benchmark is told its size by the environment")]

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use portcullis::clock::SystemClock;
use portcullis::domain::name::{CallId, GrantId, IdentityName, ParameterName};
use portcullis::evidence::EvidenceLog;
use portcullis::evidence::checkpoint::EvidenceKey;
use portcullis::evidence::entry::{Basis, CredentialKind, CredentialOut, Decision, Ended, Ending, Intent, Parameters};
use portcullis::evidence::journal::{Durability, JournalOptions, Writer};
use portcullis::evidence::keyed::HashKey;
use portcullis::evidence::query::index::Index;
use portcullis::evidence::query::search::Search;
use portcullis::evidence::query::{Filter, Query};
use portcullis::evidence::storage::DiskStorage;
use portcullis::evidence::verify::{VerifyOptions, verify};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of which one is rare: it makes one call in 10,000.
const IDENTITIES: u64 = 50;
const RARE: u64 = 10_000;

fn clock(id: ClockId) -> Duration {
    let at = clock_gettime(id);
    Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0))
}

fn timed<T>(what: &str, count: u64, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let (wall, cpu) = (clock(ClockId::Monotonic), clock(ClockId::ProcessCPUTime));
    let done = run()?;
    let (wall, cpu) = (clock(ClockId::Monotonic) - wall, clock(ClockId::ProcessCPUTime) - cpu);
    println!(
        "{what:<44} {:>9.1} ms wall, {:>8.0} records/s, CPU {:.2} us a record",
        wall.as_secs_f64() * 1e3,
        count as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
    );
    Ok(done)
}

fn write(directory: &Path, calls: u64) -> Result<u64> {
    let (key, _) = EvidenceKey::generate()?;
    let writer = Writer { program: "bench".into(), boot_id: "bench".into() };
    let options = JournalOptions { durability: Durability::Process, ..JournalOptions::default() };
    let origin = "bench.example/log".parse()?;
    let (log, _) = EvidenceLog::open(directory, origin, key, &writer, options, Arc::new(SystemClock))?;
    let identities =
        (0..IDENTITIES).map(|n| format!("service-{n}").parse()).collect::<Result<Vec<IdentityName>, _>>()?;
    let rare: IdentityName = "rare".parse()?;
    let (route, resource, action) = ("orders".parse()?, "api/orders".parse()?, "read".parse()?);
    let order: ParameterName = "order".parse()?;
    let hashing = HashKey::generate()?;
    for n in 0..calls {
        let identity = if n % RARE == 77 { &rare } else { identities.get((n % IDENTITIES) as usize).unwrap_or(&rare) };
        let intent = Intent {
            call: CallId::from_bits(u128::from(n) + 1),
            decision: Decision::Allow,
            basis: Basis::Grant(GrantId::from_bits(u128::from(n % 1000))),
            allotment: None,
            body: None,
            would_refuse: None,
            identity: Cow::Borrowed(identity),
            principal: "spiffe://example.org/ns/prod/sa/billing".into(),
            credential: CredentialKind::Token,
            route: Cow::Borrowed(&route),
            resource: Cow::Borrowed(&resource),
            action: Cow::Borrowed(&action),
            parameters: Parameters::new([(Cow::Borrowed(&order), "8812")], &hashing),
            method: "GET".into(),
            host: "orders.internal".into(),
            path: "/v1/orders/8812".into(),
            query: None,
            peer: "10.1.2.3:45678".parse()?,
            epoch: 1,
            revision: 4711,
            authority_age_ms: 1500,
            upstream: "http://127.0.0.1:9000".into(),
            credential_out: CredentialOut::Mint,
        };
        let (_, room) = log.journal().intent(&intent)?;
        room.record(Ending {
            ended: Ended::Completed,
            status: Some(200),
            reason: None,
            request_bytes: 0,
            response_bytes: 512,
            duration_us: 900,
            upstream_started: true,
        });
        if n % 500 == 0 {
            log.journal().flush()?;
        }
    }
    log.journal().flush()?;
    log.checkpoint_now();
    let records = log.journal().durable_seq();
    log.shutdown();
    Ok(records)
}

fn search(log: &Path, filter: Filter) -> Result<Vec<u64>> {
    let mut search = Search::new(Arc::new(Index::open(log)?), filter)?;
    let mut found = Vec::new();
    while let Some(record) = search.next()? {
        found.push(record.entry.seq);
    }
    Ok(found)
}

fn bytes(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { bytes(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}

fn main() -> Result<()> {
    let records = std::env::var("RECORDS").ok().map_or(Ok(1_000_000), |text| text.parse::<u64>())?;
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let log = home.path().join("log");
    let records = timed("written (not synced)", records, || write(&log, records / 2))?;
    println!(
        "{records} records: {:.0} bytes a record in the journal, {:.0} in tiles",
        bytes(&log.join("journal"))? as f64 / records as f64,
        bytes(&log.join("tile"))? as f64 / records as f64
    );
    let report = timed("verified", records, || Ok(verify(&log, &VerifyOptions::default())?))?;
    anyhow::ensure!(report.records == records, "all of it");
    let filter = Filter { identity: Some("rare".parse()?), ..Filter::default() };
    let storage = || Arc::new(DiskStorage::read_only(&log));
    let scan = timed("query by identity, every record read", records, || {
        let mut query = Query::new(storage(), 0, filter.clone());
        let mut found = Vec::new();
        while let Some(record) = query.next()? {
            found.push(record.entry.seq);
        }
        Ok(found)
    })?;
    println!("found {} records", scan.len());
    timed("index made, once", records, || Ok(Index::open(&log)?))?;
    println!("{:.1} bytes a record in the index", bytes(&log.join("index"))? as f64 / records as f64);
    for round in ["query by identity, through the index", "the same again"] {
        let found = timed(round, records, || search(&log, filter.clone()))?;
        anyhow::ensure!(found == scan, "the same records");
    }
    let call = Filter { call: Some(CallId::from_bits(4711)), ..Filter::default() };
    let found = timed("query by call, through the index", records, || search(&log, call))?;
    anyhow::ensure!(found.len() == 2, "intent and outcome");
    println!("goal: at least 500,000 records/s verified; under 50 ms by identity in 10,000,000 records");
    Ok(())
}
