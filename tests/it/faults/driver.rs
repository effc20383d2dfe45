//! One gateway, its callers, its network and its faults: one trial after the other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::Random;
use super::ledger::{Ledger, Watched, get};
use super::link::Link;
pub(crate) use super::model::Report;
use super::model::{History, IN_FLIGHT};
use crate::dev::{Done, command};
use crate::world::{AUDIENCE, Fleet, Gate, ISSUER, Key, Process, free_address, plain_claims, with};

/// How long anything may take that is not a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between calls of a caller.
const PACE: Duration = Duration::from_millis(40);
/// Steps the wall clock of a process.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Of each gateway an identity, a sensitive resource for its trials, and one that shows whether it serves.
pub(crate) fn catalog(upstream: SocketAddr, gateways: usize) -> String {
    let of = |place: usize| {
        format!(
            "kind: Identity\nname: b{place}\nspec: {{ kind: service, owner: payments, purpose: tests, environment: test,\n  \
             authenticate: [ {{ issuer: \"{ISSUER}\", subject: b{place} }} ] }}\n\
             ---\nkind: Resource\nname: api/trial{place}\nspec: {{ owner: orders, authority: 5s }}\n\
             ---\nkind: Resource\nname: api/canary{place}\nspec: {{ owner: orders, authority: 5s }}\n\
             ---\nkind: Route\nname: trial{place}\nspec:\n  upstream: http://{upstream}\n  resource: api/trial{place}\n  \
             actions:\n    - {{ name: read, methods: [GET], path: \"/g{place}/**\" }}\n\
             ---\nkind: Route\nname: canary{place}\nspec:\n  upstream: http://{upstream}\n  resource: api/canary{place}\n  \
             actions:\n    - {{ name: read, methods: [GET], path: \"/c{place}/**\" }}\n"
        )
    };
    (0..gateways).map(of).collect::<Vec<_>>().join("---\n")
}

/// What the drivers share.
pub(crate) struct House {
    home: PathBuf,
    address: String,
    token: String,
    key: Key,
    ledger: Ledger,
    /// Gateways, their networks and where they listen.
    gates: Mutex<Vec<Option<Gate>>>,
    links: Vec<Link>,
    listens: Vec<SocketAddr>,
}

impl House {
    pub(crate) fn new(fleet: &Fleet, ledger: Ledger, gateways: usize) -> Self {
        let control: SocketAddr = fleet.address.trim_start_matches("https://").parse().unwrap();
        let links: Vec<Link> = (0..gateways).map(|_| Link::start(control)).collect();
        let listens: Vec<SocketAddr> = (0..gateways).map(|_| free_address()).collect();
        let gate = |place: usize| {
            let (link, listen): (&Link, SocketAddr) = (&links[place], listens[place]);
            fleet.gateway_of(&format!("g{place}"), |config| {
                config["control"]["address"] = format!("https://{}", link.address).into();
                config["listen"] = json!([{ "address": listen }]);
                config["limits"] = json!({ "hold": "500ms" });
            })
        };
        let gates = (0..gateways).map(|place| Some(gate(place))).collect();
        let token = std::fs::read_to_string(fleet.home.path().join("control/people/administrator")).unwrap();
        Self {
            home: fleet.home.path().to_owned(),
            address: fleet.address.clone(),
            token: token.trim().to_owned(),
            key: fleet.key.again(),
            ledger,
            gates: Mutex::new(gates),
            links,
            listens,
        }
    }

    /// The command line, towards the control plane without a fault of the network.
    fn cli(&self, arguments: &[&str]) -> Done {
        let mut command: Command = command(&self.home);
        command.env("PORTCULLIS_ADDRESS", &self.address).env("PORTCULLIS_TOKEN", &self.token);
        command.env("PORTCULLIS_CA", self.home.join("control/ca/ca.pem")).args(["-o", "json"]).args(arguments);
        Done::of(command.output().unwrap())
    }

    fn bearer(&self, place: usize) -> String {
        // Wrong clocks run ahead of it at most a minute.
        let claims =
            with(plain_claims(ISSUER, AUDIENCE, &format!("b{place}")), "exp", (crate::world::now() + 900).into());
        format!("Authorization: Bearer {}", self.key.sign(&claims))
    }

    fn grant(&self, kind: &str, place: usize, limits: &[&str]) -> Done {
        let (identity, resource) = (format!("b{place}"), format!("api/{kind}{place}"));
        let create = ["grant", "create", "--identity", &identity, "--resource", &resource, "--action", "read"];
        self.cli(&[&create[..], limits, &["--duration", "8h", "--reason", "trial"]].concat())
    }

    /// Ends every grant of a trial: what the gateways have to show, and when that was said.
    fn revoke(&self, place: usize, wait: Duration) -> (Vec<Value>, SystemTime) {
        let (identity, resource) = (format!("b{place}"), format!("api/trial{place}"));
        let wait = format!("{}ms", wait.as_millis().max(1));
        let revoke = ["grant", "revoke", "--identity", &identity, "--resource", &resource, "--reason", "over"];
        let arguments = [&revoke[..], &["--wait", &wait]].concat();
        let from = Instant::now();
        loop {
            let done = self.cli(&arguments);
            let at = SystemTime::now();
            // 7 is also what a control plane that is away comes to.
            if [0, 7].contains(&done.code) && !done.stdout.is_empty() {
                return (done.json()["gateways"].as_array().unwrap().clone(), at);
            }
            assert!(from.elapsed() < PATIENCE, "{done:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A grant on each gateway's canary.
    pub(crate) fn join(&self, drivers: &[Driver]) {
        for driver in drivers {
            self.grant("canary", driver.place, &[]).exits(0);
        }
        drivers.iter().for_each(|driver| assert!(driver.back() < PATIENCE));
    }
}

/// What is done to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Kill,
    Stop,
    Partition,
    PartitionUp,
    PartitionDown,
    Delay,
    Storm,
    ClockAhead,
    ClockBehind,
}

impl Fault {
    const ALL: [Self; 10] = [
        Self::None,
        Self::Kill,
        Self::Stop,
        Self::Partition,
        Self::PartitionUp,
        Self::PartitionDown,
        Self::Delay,
        Self::Storm,
        Self::ClockAhead,
        Self::ClockBehind,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kill => "kill -9",
            Self::Stop => "stop, cont",
            Self::Partition => "partition",
            Self::PartitionUp => "deaf",
            Self::PartitionDown => "mute",
            Self::Delay => "delay",
            Self::Storm => "storm",
            Self::ClockAhead => "clock ahead",
            Self::ClockBehind => "clock behind",
        }
    }
}

/// One gateway.
pub(crate) struct Driver {
    house: Arc<House>,
    place: usize,
    process: Process,
    clock: Option<PathBuf>,
}

impl Driver {
    pub(crate) fn start(house: Arc<House>, place: usize) -> Self {
        let gate = house.gates.lock().unwrap()[place].take().unwrap();
        let mut driver = Self { clock: None, place, process: gate.process, house };
        if std::path::Path::new(FAKETIME).exists() {
            driver.clock = Some(driver.house.home.join(format!("clock{place}")));
            driver.step("+0");
            driver.process.signal(Signal::TERM);
            let _ = driver.process.ended();
            driver.run();
        }
        driver
    }

    fn run(&mut self) {
        let mut environment = Vec::new();
        if let Some(clock) = &self.clock {
            let clock = clock.to_str().unwrap();
            environment = vec![
                ("LD_PRELOAD", FAKETIME),
                ("FAKETIME_TIMESTAMP_FILE", clock),
                ("FAKETIME_NO_CACHE", "1"),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ];
        }
        let file = format!("g{}.yaml", self.place);
        self.process = Process::spawn_with(&self.house.home, &["gateway", "run", "-c", &file], &environment);
    }

    fn step(&self, to: &str) {
        if let Some(clock) = &self.clock {
            std::fs::write(clock, to).unwrap();
        }
    }

    fn link(&self) -> &Link {
        &self.house.links[self.place]
    }

    fn listen(&self) -> SocketAddr {
        self.house.listens[self.place]
    }

    /// Waits until the gateway serves: how long that took.
    pub(crate) fn back(&self) -> Duration {
        let (from, bearer) = (Instant::now(), self.house.bearer(self.place));
        let path = format!("/c{}/x", self.place);
        while get(self.listen(), &bearer, &path, Duration::from_secs(5)) != 200 {
            assert!(from.elapsed() < PATIENCE, "g{} does not come back:\n{}", self.place, self.process.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        from.elapsed()
    }

    /// One grant, one fault, its end, and what must hold.
    pub(crate) fn trial(&mut self, seed: u64, report: &mut Report) {
        let mut random = Random::of(seed);
        let fault = Fault::ALL[random.below(Fault::ALL.len() as u64) as usize];
        let uses = (random.below(3) == 0).then(|| 1 + random.below(20) as usize);
        let trial = format!("t{seed:x}");
        let path = format!("/g{}/{trial}", self.place);
        self.back();
        self.give(uses);
        let bearer = self.house.bearer(self.place);
        let stream = uses.is_none().then(|| {
            let from = Instant::now();
            while get(self.listen(), &bearer, &format!("{path}/first"), PATIENCE) != 200 {
                assert!(from.elapsed() < PATIENCE, "the grant did not come:\n{}", self.process.log());
            }
            Watched::open(self.listen(), &bearer, &format!("{path}/events"))
        });
        let over = Arc::new(AtomicBool::new(false));
        // A grant that counts is used at two gateways.
        let other = (self.place + 1) % self.house.listens.len();
        let concerned: Vec<usize> = [Some(self.place), uses.map(|_| other)].into_iter().flatten().collect();
        let callers: Vec<_> = concerned
            .iter()
            .map(|place| {
                let gateway = self.house.listens[*place];
                let (over, bearer, path) = (over.clone(), bearer.clone(), path.clone());
                std::thread::spawn(move || {
                    while !over.load(SeqCst) {
                        get(gateway, &bearer, &format!("{path}/call"), Duration::from_secs(2));
                        std::thread::sleep(PACE);
                    }
                })
            })
            .collect();
        std::thread::sleep(random.millis(0..300));
        self.begin(fault, &mut random);
        std::thread::sleep(random.millis(0..600));
        let (receipts, answered) = self.house.revoke(self.place, random.millis(1..1_500));
        let (first, was_enforced) = self.limit(&concerned, &receipts, answered);
        // Some faults outlast authority.
        std::thread::sleep(if random.below(4) == 0 { random.millis(5_000..7_500) } else { random.millis(0..1_500) });
        let was_away = self.end(fault);
        let healed = self.back();
        let mut limits = vec![first];
        let from = Instant::now();
        loop {
            let (receipts, at) = self.house.revoke(self.place, Duration::from_secs(1));
            if let (limit, true) = self.limit(&concerned, &receipts, at) {
                limits.push(limit);
                break;
            }
            assert!(from.elapsed() < PATIENCE, "FAULTS_TRIAL={seed}: it is never enforced: {receipts:#?}");
        }
        std::thread::sleep(IN_FLIGHT * 2);
        over.store(true, SeqCst);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        let history = History {
            seed,
            fault: fault.name().to_owned(),
            uses,
            came: self.house.ledger.take(&trial),
            stream: stream.map(|stream| (stream.last(), stream.is_over())),
            limits,
        };
        history.check();
        report.take(fault.name(), &history, was_enforced, was_away.then_some(healed));
    }

    /// Makes the trial's grant, and no second one: where nobody knows whether it was made, it is ended first.
    fn give(&self, uses: Option<usize>) {
        let uses = uses.map(|uses| uses.to_string());
        let limits: Vec<&str> = uses.iter().flat_map(|uses| ["--uses", uses.as_str()]).collect();
        let from = Instant::now();
        while self.house.grant("trial", self.place, &limits).code != 0 {
            assert!(from.elapsed() < PATIENCE, "no grant can be made");
            self.house.revoke(self.place, Duration::from_secs(1));
        }
    }

    fn begin(&mut self, fault: Fault, random: &mut Random) {
        match fault {
            Fault::None => {}
            Fault::Kill => self.process.kill(),
            Fault::Stop => self.process.signal(Signal::STOP),
            Fault::Partition => self.link().hold(true, true),
            Fault::PartitionUp => self.link().hold(true, false),
            Fault::PartitionDown => self.link().hold(false, true),
            Fault::Delay => self.link().delay(random.millis(0..1_500), random.millis(0..1_500)),
            Fault::Storm => {
                for _ in 0..1 + random.below(5) {
                    self.link().cut();
                    std::thread::sleep(random.millis(0..200));
                }
            }
            Fault::ClockAhead => self.step("+40"),
            Fault::ClockBehind => self.step("-3600"),
        }
    }

    /// Heals it. Whether it kept the gateway from serving.
    fn end(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::None | Fault::Storm => return false,
            Fault::Kill => self.run(),
            Fault::Stop => self.process.signal(Signal::CONT),
            Fault::Partition | Fault::PartitionUp | Fault::PartitionDown | Fault::Delay => self.link().heal(),
            Fault::ClockAhead | Fault::ClockBehind => self.step("+0"),
        }
        true
    }

    /// From when on these gateways allow nothing under the grant any more, as their receipts say; whether all enforce it.
    fn limit(
        &self,
        gateways: &[usize],
        receipts: &[Value],
        answered: SystemTime,
    ) -> ((&'static str, SystemTime), bool) {
        let until = |receipt: &Value| {
            let text = receipt["stops_by"].as_str().unwrap_or_else(|| panic!("{receipt:#}"));
            let until = portcullis::domain::Timestamp::parse_rfc3339(text).unwrap();
            SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(until.unix_micros()).unwrap())
        };
        let of = |place: &usize| {
            let name = format!("g{place}");
            let receipt = receipts.iter().find(|receipt| receipt["gateway"] == name.as_str()).unwrap();
            match receipt["state"].as_str().unwrap() {
                "enforced" => ("enforced", answered),
                "lapsed" => ("lapsed", until(receipt).min(answered)),
                "pending" => ("pending", until(receipt)),
                other => panic!("{other}"),
            }
        };
        let limits: Vec<_> = gateways.iter().map(of).collect();
        let are_enforced = limits.iter().all(|(state, _)| *state == "enforced");
        (limits.into_iter().max_by_key(|(_, limit)| *limit).unwrap(), are_enforced)
    }
}
