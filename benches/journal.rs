//! Durable records per second, CPU per record and added latency, beside plain `fdatasync` in the same directory.
//!
//! Each appender does what a call does: an intent, a wait until it is durable, an outcome. One worker thread with its
//! own runtime runs them all; journal and sequencer have their threads. CPU is of the whole process.

use std::borrow::Cow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis::clock::SystemClock;
use portcullis::domain::name::{CallId, GrantId, ParameterName};
use portcullis::evidence::EvidenceLog;
use portcullis::evidence::checkpoint::EvidenceKey;
use portcullis::evidence::entry::{Basis, CredentialKind, CredentialOut, Decision, Ended, Ending, Intent, Parameters};
use portcullis::evidence::journal::{Durability, JournalOptions, WorkerWaiters, Writer};
use rustix::time::{ClockId, clock_gettime};

const ROUND: Duration = Duration::from_millis(2500);
const PROBE: Duration = Duration::from_millis(1000);

fn clock(id: ClockId) -> Duration {
    let at = clock_gettime(id);
    Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0))
}

fn now() -> Duration {
    clock(ClockId::Monotonic)
}

fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let at = (sorted.len().saturating_sub(1)) as f64 * q;
    sorted.get(at as usize).copied().unwrap_or_default()
}

/// 4 KiB appended and synced, again and again.
fn raw(directory: &Path) -> Result<Vec<Duration>> {
    let file = std::fs::File::create(directory.join("raw"))?;
    let (mut took, begun, mut at) = (Vec::new(), now(), 0u64);
    while now() - begun < PROBE {
        let from = now();
        file.write_all_at(&[7; 4096], at)?;
        rustix::fs::fdatasync(&file)?;
        took.push(now() - from);
        at += 4096;
    }
    took.sort_unstable();
    Ok(took)
}

/// CPU time so far of the threads of this name (their kernel clocks, nanoseconds).
fn thread_cpu(name: &str) -> Duration {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            sum += read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0u64);
        }
    }
    Duration::from_nanos(sum)
}

struct Names {
    identity: portcullis::domain::name::IdentityName,
    route: portcullis::domain::name::RouteName,
    resource: portcullis::domain::name::ResourceName,
    action: portcullis::domain::name::ActionName,
    order: ParameterName,
    hashing: portcullis::evidence::keyed::HashKey,
}

impl Names {
    fn intent(&self, n: u128) -> Result<Intent<'_>> {
        Ok(Intent {
            call: CallId::from_bits(n),
            decision: Decision::Allow,
            basis: Basis::Grant(GrantId::from_bits(7)),
            allotment: None,
            body: None,
            would_refuse: None,
            identity: Cow::Borrowed(&self.identity),
            principal: "spiffe://example.org/ns/prod/sa/billing".into(),
            credential: CredentialKind::Token,
            route: Cow::Borrowed(&self.route),
            resource: Cow::Borrowed(&self.resource),
            action: Cow::Borrowed(&self.action),
            parameters: Parameters::new([(Cow::Borrowed(&self.order), "8812")], &self.hashing),
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
        })
    }
}

struct Row {
    records: u64,
    took: Duration,
    cpu: Duration,
    journal_cpu: Duration,
    sequencer_cpu: Duration,
    waits: Vec<Duration>,
    batches: u64,
    wakes: u64,
}

fn round(directory: &Path, appenders: usize, durability: Durability) -> Result<Row> {
    let (key, _) = EvidenceKey::generate()?;
    let writer = Writer { program: "bench".into(), boot_id: "bench".into() };
    let options = JournalOptions { durability, ..JournalOptions::default() };
    let origin = "bench.example/log".parse()?;
    let (log, _) = EvidenceLog::open(directory, origin, key, &writer, options, Arc::new(SystemClock))?;
    let names = Rc::new(Names {
        identity: "billing".parse()?,
        route: "orders".parse()?,
        resource: "api/orders".parse()?,
        action: "read".parse()?,
        order: "order".parse()?,
        hashing: portcullis::evidence::keyed::HashKey::generate()?,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let local = tokio::task::LocalSet::new();
    let (waiters, driver) = WorkerWaiters::new(log.journal());
    let (begun, cpu, before) = (now(), clock(ClockId::ProcessCPUTime), log.journal().status());
    let waits = local.block_on(&runtime, async {
        tokio::task::spawn_local(driver);
        let tasks: Vec<_> = (0..appenders)
            .map(|task| {
                let (waiters, names) = (waiters.clone(), names.clone());
                tokio::task::spawn_local(async move {
                    let mut waits = Vec::new();
                    let mut n = (task as u128) << 64;
                    while now() - begun < ROUND {
                        n += 1;
                        let from = now();
                        let (ticket, room) = waiters.journal().intent(&names.intent(n)?)?;
                        waiters.durable(ticket).await?;
                        waits.push(now() - from);
                        room.record(Ending {
                            ended: Ended::Completed,
                            status: Some(200),
                            reason: None,
                            request_bytes: 0,
                            response_bytes: 512,
                            duration_us: 900,
                            upstream_started: true,
                        });
                    }
                    anyhow::Ok(waits)
                })
            })
            .collect();
        let mut waits = Vec::new();
        for task in tasks {
            waits.extend(task.await.context("an appender panicked")??);
        }
        anyhow::Ok(waits)
    })?;
    log.journal().flush()?;
    log.checkpoint_now();
    let (took, cpu) = (now() - begun, clock(ClockId::ProcessCPUTime) - cpu);
    let (journal_cpu, sequencer_cpu) = (thread_cpu("journal"), thread_cpu("sequencer"));
    let after = log.journal().status();
    let mut waits = waits;
    waits.sort_unstable();
    log.shutdown();
    Ok(Row {
        records: after.durable - before.durable,
        took,
        cpu,
        journal_cpu,
        sequencer_cpu,
        waits,
        batches: after.batches - before.batches,
        wakes: waiters.wakes(),
    })
}

/// What the disk does alone just before or behind a round: it is not the same from one second to the next.
struct Raw {
    p50: Duration,
    p99: Duration,
    per_second: f64,
}

impl Raw {
    fn of(directory: &Path) -> Result<Self> {
        let took = raw(directory)?;
        let per_second = took.len() as f64 / took.iter().sum::<Duration>().as_secs_f64();
        Ok(Self { p50: quantile(&took, 0.5), p99: quantile(&took, 0.99), per_second })
    }

    /// What may be added to a call at most, of a hundred all but one.
    fn goal(&self) -> Duration {
        self.p99 * 2 + Duration::from_micros(500)
    }
}

fn millis(of: Duration) -> f64 {
    of.as_secs_f64() * 1e3
}

fn main() -> Result<()> {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    println!(
        "{:<8} {:>7} {:>10} {:>8} {:>7} {:>9} {:>9} {:>6} {:>9} {:>9} | {:>9} {:>9} {:>8} | {:>8} {:>8} {:>9}",
        "durable",
        "callers",
        "records/s",
        "CPU us",
        "journal",
        "sequencer",
        "per batch",
        "wakes",
        "p50 ms",
        "p99 ms",
        "raw p50",
        "raw p99",
        "raw /s",
        "p50:raw",
        "p99:goal",
        "rec/s:raw"
    );
    let rounds = [1, 64, 512, 4096].map(|n| (n, Durability::Disk)).into_iter();
    for (appenders, durability) in rounds.chain([(64, Durability::Process), (4096, Durability::Process)]) {
        let directory = home.path().join(format!("{appenders}-{durability:?}"));
        let before = Raw::of(home.path())?;
        let row = round(&directory, appenders, durability)?;
        let behind = Raw::of(home.path())?;
        let raw = if before.p99 < behind.p99 { before } else { behind };
        let per_second = row.records as f64 / row.took.as_secs_f64();
        let of_record = |time: Duration| time.as_secs_f64() * 1e6 / row.records as f64;
        let (p50, p99) = (quantile(&row.waits, 0.5), quantile(&row.waits, 0.99));
        println!(
            "{:<8} {:>7} {:>10.0} {:>8.2} {:>7.2} {:>9.2} {:>9.1} {:>6} {:>9.3} {:>9.3} | {:>9.3} {:>9.3} {:>8.0} | {:>8.2} {:>8.2} {:>9.2}",
            format!("{durability:?}"),
            appenders,
            per_second,
            of_record(row.cpu),
            of_record(row.journal_cpu),
            of_record(row.sequencer_cpu),
            row.records as f64 / row.batches as f64,
            row.wakes,
            millis(p50),
            millis(p99),
            millis(raw.p50),
            millis(raw.p99),
            raw.per_second,
            p50.as_secs_f64() / raw.p50.as_secs_f64(),
            p99.as_secs_f64() / raw.goal().as_secs_f64(),
            per_second / raw.per_second,
        );
        std::fs::remove_dir_all(&directory)?;
    }
    println!(
        "raw: 4 KiB appended and fdatasync, before and behind each round, the better of the two. goal: 30,000 records/s on 2\n\
         cores; p99 at most twice the p99 of fdatasync + 0.5 ms (p99:goal at most 1). CPU: of the whole process, for a record."
    );
    Ok(())
}
