//! What a decision costs among a million grants, what a change costs, and what a grant weighs.
//!
//! Keys are drawn uniformly, hits and misses alike, so that caches help as little as they can. Figures are of this machine
//! in this run; the bare map beside it shows what part is memory and what part is ours.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a benchmark reads the clock and may stop at the first surprise"
)]

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use portcullis::decision::snapshot::{Snapshot, SnapshotBuilder};
use portcullis::decision::{Authority, Call, Credential, Decision, Now, decide};
use portcullis::domain::Timestamp;
use portcullis::domain::grant::{Grant, Limits, Lineage, Window};
use portcullis::domain::identity::{Authenticator, Identity, IdentityKind, IdentitySpec, IdentityState};
use portcullis::domain::name::GrantId;
use portcullis::domain::resource::{Resource, ResourceSpec, Sensitivity, Span};
use portcullis::domain::route::{Host, Route, RouteSpec};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IDENTITIES: u32 = 100_000;
const RESOURCES: u32 = 100;
const GRANTS: u32 = 1_000_000;
const CHANGES: u32 = 100_000;
const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

fn identity(at: u32) -> Identity {
    Identity {
        name: format!("identity-{at}").parse().unwrap(),
        spec: IdentitySpec {
            kind: IdentityKind::Service,
            owner: "team".parse().unwrap(),
            purpose: "bench".into(),
            environment: "test".into(),
            capabilities: Vec::new(),
            authenticate: vec![Authenticator::Token { issuer: "https://i".into(), subject: format!("s-{at}").into() }],
        },
        state: IdentityState::Active,
    }
}

fn route(at: u32) -> Route {
    let spec: RouteSpec = serde_json::from_value(serde_json::json!({
        "upstream": "http://127.0.0.1:9000",
        "resource": format!("api/r{at}"),
        "actions": [{"name": "read", "methods": ["GET"], "path": format!("/r{at}/{{item}}")}],
    }))
    .unwrap();
    Route { name: format!("r{at}").parse().unwrap(), spec }
}

/// Grant `at` of the million: ten per identity, spread over the resources.
fn grant(at: u32, id: u128) -> Grant {
    let identity = at % IDENTITIES;
    let resource = (at / IDENTITIES + identity) % RESOURCES;
    Grant {
        id: GrantId::from_bits(id),
        identity: format!("identity-{identity}").parse().unwrap(),
        resource: format!("api/r{resource}").parse().unwrap(),
        actions: vec!["read".parse().unwrap()],
        window: Window { starts: Timestamp::from_unix_seconds(0), ends: Timestamp::from_unix_seconds(4_000_000_000) },
        limits: Limits::default(),
        lineage: Lineage {
            created: NOW,
            created_by: "b".parse().unwrap(),
            reason: "b".into(),
            ticket: None,
            origin: None,
            exception: None,
            break_glass: None,
            until: Vec::new(),
        },
        revoked: None,
    }
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) % u64::from(limit)) as u32
    }
}

fn percentile(sorted: &[u64], share: f64) -> u64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn catalog() -> Snapshot {
    let mut builder = SnapshotBuilder::new();
    for at in 0..RESOURCES {
        builder.put_resource(&Resource {
            name: format!("api/r{at}").parse().unwrap(),
            spec: ResourceSpec {
                owner: "team".parse().unwrap(),
                sensitivity: Sensitivity::Normal,
                authority: Span::new(Duration::from_secs(300)),
            },
        });
        builder.put_route(route(at));
    }
    let identities: Vec<Identity> = (0..IDENTITIES).map(identity).collect();
    builder.put_identities(&identities);
    builder.build(1, 1).unwrap()
}

fn main() {
    let catalog = catalog();
    let before = resident_bytes();
    let start = Instant::now();
    let mut builder = catalog.edit();
    for at in 0..GRANTS {
        builder.put_grant(&grant(at, u128::from(at)));
    }
    let mut snapshot = builder.build(1, 2).unwrap();
    println!("load: {GRANTS} grants in {:.2?}", start.elapsed());
    report_decide(&snapshot);
    report_changes(&mut snapshot);
    let after = resident_bytes();
    println!(
        "memory: {} bytes resident per grant after {CHANGES} changes (goal 400)",
        (after.saturating_sub(before)) / GRANTS as usize
    );
    report_decide(&snapshot);
    report_crowd();
}

/// A machine with thousands of grants on one resource: a whole picture of them, and then one change after the other.
fn report_crowd() {
    const CROWD: u32 = 10_000;
    let mut builder = SnapshotBuilder::new();
    let start = Instant::now();
    (0..CROWD).for_each(|at| builder.put_grant(&grant(0, u128::from(at))));
    let mut snapshot = builder.build(1, 2).unwrap();
    let whole = start.elapsed();
    let start = Instant::now();
    for at in 0..100 {
        let kept = snapshot.clone();
        let mut builder = snapshot.edit();
        builder.remove_grant(GrantId::from_bits(at));
        snapshot = builder.build(1, snapshot.revision() + 1).unwrap();
        drop(kept);
    }
    println!(
        "crowd: {CROWD} grants of one identity on one resource in {whole:.2?}, a change {:?}",
        start.elapsed() / 100
    );
}

fn report_decide(snapshot: &Snapshot) {
    let hosts: Host = "gate".parse().unwrap();
    let paths: Vec<String> = (0..RESOURCES).map(|at| format!("/r{at}/7")).collect();
    let targets: Vec<_> = paths.iter().map(|path| snapshot.match_request(&hosts, "GET", path).unwrap()).collect();
    let places: Vec<_> = (0..IDENTITIES)
        .map(|at| snapshot.identity_place(&format!("identity-{at}").parse().unwrap()).unwrap())
        .collect();
    let now = Now { wall: NOW, authority: Authority::Age(Duration::from_secs(1)) };
    let mut bare: HashMap<(u32, u32), u64, ahash::RandomState> = HashMap::default();
    for at in 0..GRANTS {
        let identity = at % IDENTITIES;
        bare.insert((identity, (at / IDENTITIES + identity) % RESOURCES), u64::from(at));
    }
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    let samples = 2_000_000;
    let mut ours = Vec::with_capacity(samples);
    let mut map = Vec::with_capacity(samples);
    let mut allowed = 0;
    for sample in 0..samples {
        let identity = draw.below(IDENTITIES);
        // Half of the questions have an answer: ten resources of a hundred per identity.
        let resource = if sample % 2 == 0 { (draw.below(10) + identity) % RESOURCES } else { draw.below(RESOURCES) };
        let call = Call {
            identity: places[identity as usize],
            credential: Credential::Assumed,
            target: &targets[resource as usize],
            peer: None,
            used_up: &[],
        };
        let start = Instant::now();
        let decision = black_box(decide(black_box(&call), snapshot, &now));
        ours.push(start.elapsed().as_nanos() as u64);
        allowed += usize::from(matches!(decision, Decision::Allow(_)));
        let other = (draw.below(IDENTITIES), draw.below(RESOURCES));
        let start = Instant::now();
        black_box(bare.get(black_box(&other)));
        map.push(start.elapsed().as_nanos() as u64);
    }
    ours.sort_unstable();
    map.sort_unstable();
    let row = |name: &str, sorted: &[u64]| {
        println!(
            "{name:<40} p50 {:>5} ns   p99 {:>5} ns   p99.9 {:>6} ns",
            percentile(sorted, 0.5),
            percentile(sorted, 0.99),
            percentile(sorted, 0.999)
        );
    };
    row(&format!("decide, {:.0}% allowed", 100.0 * allowed as f64 / samples as f64), &ours);
    row("bare hash map of the same keys", &map);
}

fn report_changes(snapshot: &mut Snapshot) {
    for batch in [1u32, 64, 1024] {
        let mut draw = Draw(7 + u64::from(batch));
        let rounds = (CHANGES / 3 / batch).max(1);
        let grants: Vec<(Grant, GrantId)> = (0..rounds * batch)
            .map(|_| {
                let at = draw.below(GRANTS);
                (grant(at, u128::from(at)), GrantId::from_bits(u128::from(draw.below(GRANTS))))
            })
            .collect();
        let start = Instant::now();
        for chunk in grants.chunks(batch as usize) {
            let kept = snapshot.clone();
            let mut builder = snapshot.edit();
            for (put, _) in chunk {
                builder.put_grant(put);
            }
            *snapshot = builder.build(1, snapshot.revision() + 1).unwrap();
            drop(kept);
        }
        let each = start.elapsed() / (rounds * batch);
        println!("change: {each:?} each in batches of {batch} (goal under 100 us)");
    }
}
