//! A control plane that is full: `GRANTS` live grants (100,000 unless the environment says more) of `IDENTITIES` identities
//! (a tenth of that), over SQLite. How long it takes to start, what it holds in memory, and what a question costs: `can-i`
//! and the analysis of a request over HTTP, beside a call that asks for nothing.
#![allow(clippy::disallowed_methods, reason = "a benchmark is told its size by the environment")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use portcullis::clock::SystemClock;
use portcullis::control::authorize::Caller;
use portcullis::control::catalog::Document;
use portcullis::control::enrol::{self, PersonSpec};
use portcullis::control::grant::{Access, GrantRequest};
use portcullis::control::outbox::{Reached, Sink, SinkError, Told};
use portcullis::control::record::PersonRole;
use portcullis::control::{ControlHandle, ControlPlane, policy};
use portcullis::settings::ControlSettings;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RESOURCES: u64 = 100;
/// Documents in one transaction.
const APPLIED_AT_ONCE: u64 = 120;
/// Commands on their way at once.
const AT_ONCE: usize = 512;
const QUESTIONS: u64 = 2_000;

/// Takes the evidence and keeps none of it: what it costs is measured elsewhere.
#[derive(Debug, Default)]
struct Nowhere(AtomicU64, AtomicU64);

#[async_trait]
impl Sink for Nowhere {
    async fn reached(&self) -> Result<Reached, SinkError> {
        let events = usize::try_from(self.1.load(Ordering::SeqCst)).unwrap_or(0);
        Ok(Reached { revision: self.0.load(Ordering::SeqCst), events })
    }

    async fn append(&self, told: &[Told]) -> Result<(), SinkError> {
        for one in told {
            let before = self.0.swap(one.revision, Ordering::SeqCst);
            self.1.store(if before == one.revision { self.1.load(Ordering::SeqCst) + 1 } else { 1 }, Ordering::SeqCst);
        }
        Ok(())
    }
}

fn now() -> Duration {
    let at = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0))
}

fn resident_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse::<u64>()? / 1024)
}

fn number(name: &str, default: u64) -> Result<u64> {
    Ok(std::env::var(name).ok().map_or(Ok(default), |text| text.parse())?)
}

fn document(kind: &str, name: String, spec: &serde_json::Value) -> Document {
    Document { kind: kind.to_owned(), name, spec_json: spec.to_string() }
}

async fn fill(handle: &ControlHandle, identities: u64, grants: u64) -> Result<()> {
    let resources = (0..RESOURCES).flat_map(|n| {
        let resource = format!("api/r{n}");
        let action = |name: &str, method: &str| json!({ "name": name, "methods": [method], "path": "/v1/{id}" });
        let route = json!({ "upstream": "http://127.0.0.1:9000", "host": format!("r{n}"), "resource": resource,
                            "actions": [action("read", "GET"), action("write", "POST")] });
        [document("Resource", resource, &json!({ "owner": "bob" })), document("Route", format!("r{n}"), &route)]
    });
    let identity = json!({ "kind": "service", "owner": "alice", "purpose": "bench", "environment": "test" });
    let all: Vec<Document> =
        resources.chain((0..identities).map(|n| document("Identity", format!("i{n}"), &identity))).collect();
    for part in all.chunks(usize::try_from(APPLIED_AT_ONCE)?) {
        handle.apply(&Caller::System, part.to_vec(), false).await?;
    }
    let mut making = tokio::task::JoinSet::new();
    for n in 0..grants {
        let request = GrantRequest {
            identity: format!("i{}", n % identities).parse()?,
            access: Access::Actions(format!("api/r{}", n / identities % RESOURCES).parse()?, vec!["read".parse()?]),
            starts: None,
            duration: Duration::from_secs(30 * 86_400),
            limits: Default::default(),
            reason: "bench".into(),
            ticket: None,
            until: Vec::new(),
        };
        while making.len() >= AT_ONCE {
            making.join_next().await.context("none")???;
        }
        let handle = handle.clone();
        making.spawn(async move { handle.create_grants(&Caller::System, request).await.map(drop) });
    }
    while let Some(done) = making.join_next().await {
        done??;
    }
    handle.publish_policy(&Caller::System, policy::starter(), None, "bench".to_owned()).await?;
    Ok(())
}

/// p50 and p99 of a call over HTTP, milliseconds.
async fn asked(what: &str, ask: impl AsyncFn(u64) -> Result<reqwest::Response>) -> Result<()> {
    let mut took = Vec::new();
    for n in 0..QUESTIONS {
        let begun = now();
        let answer = ask(n).await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        took.push(now() - begun);
        anyhow::ensure!(status.is_success(), "{what}: {status}: {}", String::from_utf8_lossy(&body));
    }
    took.sort_unstable();
    let at = |share: usize| took.get(took.len() * share / 100).map_or(0.0, |it| it.as_secs_f64() * 1e3);
    println!("{what:<44} p50 {:>7.3} ms, p99 {:>7.3} ms", at(50), at(99));
    Ok(())
}

async fn questions(plane: &ControlPlane, token: &str, identities: u64) -> Result<()> {
    let base = format!("http://{}", plane.http_address());
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
    asked("GET /v1/me", async |_| Ok(client.get(format!("{base}/v1/me")).bearer_auth(token).send().await?)).await?;
    let post = |path: &str, body: serde_json::Value| {
        let request = client.post(format!("{base}{path}")).bearer_auth(token);
        request.header("content-type", "application/json").body(body.to_string()).send()
    };
    asked("POST /v1/can-i", async |n| {
        let identity = format!("i{}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % identities);
        let question = json!({ "identity": identity, "action": "read", "resource": "api/r0" });
        Ok(post("/v1/can-i", question).await?)
    })
    .await?;
    let ask =
        json!({ "identity": "i7", "resource": "api/r1", "actions": ["write"], "duration": "30m", "reason": "bench" });
    let made: serde_json::Value = serde_json::from_slice(&post("/v1/requests", ask).await?.bytes().await?)?;
    let id = made.pointer("/request/id").and_then(serde_json::Value::as_str).context("no request")?.to_owned();
    let stages = made.pointer("/request/analysis/stages").and_then(serde_json::Value::as_array).map_or(0, Vec::len);
    // Looks are limited to 1,200 a minute.
    let mut took = Vec::new();
    for _ in 0..500 {
        let begun = now();
        let answer = client.get(format!("{base}/v1/requests/{id}")).bearer_auth(token).send().await?;
        anyhow::ensure!(answer.status().is_success(), "{}", answer.status());
        answer.bytes().await?;
        took.push(now() - begun);
    }
    took.sort_unstable();
    let at = |share: usize| took.get(took.len() * share / 100).map_or(0.0, |it| it.as_secs_f64() * 1e3);
    println!(
        "{:<44} p50 {:>7.3} ms, p99 {:>7.3} ms ({stages} stages)",
        "GET /v1/requests/ID: analysed anew",
        at(50),
        at(99)
    );
    Ok(())
}

async fn settings(home: &Path) -> Result<ControlSettings> {
    let pki = home.join("pki");
    enrol::init(&pki, "bench.example", &[], &SystemClock).await?;
    let text = format!(
        "role: control\ntrust_domain: bench.example\nstate_dir: {}\ngrpc_address: 127.0.0.1:0\nhttp_address: 127.0.0.1:0\n\
         tls: {{certificate_file: {pki}/control.pem, key_file: {pki}/control.key, client_ca_file: {pki}/ca.pem}}\n",
        home.join("state").display(),
        pki = pki.display(),
    );
    Ok(ControlSettings::parse("control.yaml", &text)?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let grants = number("GRANTS", 100_000)?;
    let identities = number("IDENTITIES", grants / 10)?.max(10);
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let settings = settings(home.path()).await?;
    let sink: Arc<dyn Sink> = Arc::new(Nowhere::default());
    let clock = Arc::new(SystemClock);
    let before = resident_mib()?;
    let plane = ControlPlane::start(&settings, clock.clone(), sink.clone()).await?;
    for (name, role) in [("alice", PersonRole::Developer), ("bob", PersonRole::Owner), ("carol", PersonRole::Security)]
    {
        let person = PersonSpec { name: name.parse()?, roles: vec![role], speaks_for: Vec::new() };
        enrol::ensure_person(plane.handle(), person, &home.path().join(name)).await?;
    }
    let begun = now();
    fill(plane.handle(), identities, grants).await?;
    let took = (now() - begun).as_secs_f64();
    println!("{identities} identities, {grants} grants made in {took:.1} s: {:.0}/s, durable", grants as f64 / took);
    plane.shutdown().await;
    let begun = now();
    let plane = ControlPlane::start(&settings, clock, sink).await?;
    println!("started again in {:.1} s", (now() - begun).as_secs_f64());
    println!("resident memory: {} MiB, of which {before} before anything", resident_mib()?);
    let token = std::fs::read_to_string(home.path().join("alice"))?;
    questions(&plane, &token, identities).await?;
    plane.shutdown().await;
    println!("goal: can-i under 5 ms, an analysis under 10 ms, with 1,000,000 grants and 100,000 identities");
    Ok(())
}
