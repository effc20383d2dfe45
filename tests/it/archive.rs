//! Evidence elsewhere: a bucket through outages and kills, and a disk that keeps what is young.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::clients::clients;
use crate::dev::{START, curl, eventually, run, try_curl};
use crate::world::{Fleet, Gate, Upstream, free_address};

/// A server that speaks S3, written by others, with one bucket.
struct Bucket {
    server: Child,
    address: SocketAddr,
}

impl Bucket {
    fn start() -> Self {
        let address = free_address();
        let server = Command::new(clients().join("venv/bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto_server runs");
        let bucket = Self { server, address };
        eventually("the bucket is there", START, || {
            try_curl(&["-X", "PUT", &bucket.url("")]).stdout.starts_with("HTTP/1.1 200")
        });
        bucket
    }

    fn url(&self, object: &str) -> String {
        format!("http://{}/evidence/{object}", self.address)
    }

    fn objects(&self) -> Vec<String> {
        let listed = curl(&[&self.url("?list-type=2")]).is(200).body;
        listed.split("<Key>").skip(1).map(|rest| rest.split_once('<').unwrap().0.to_owned()).collect()
    }

    /// All that is below a prefix, as a stranger who may read it gets it.
    fn copy(&self, prefix: &str, to: &Path) {
        for object in self.objects() {
            let Some(path) = object.strip_prefix(prefix) else { continue };
            let file = to.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            let done = Command::new("curl")
                .args(["-sSf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "test:any", "-o"])
                .arg(&file)
                .arg(self.url(&object))
                .output()
                .unwrap();
            assert!(done.status.success(), "{object}: {done:?}");
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// The way to a server, which can be cut.
struct Line {
    address: SocketAddr,
    up: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Line {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self { address: listener.local_addr().unwrap(), up: Arc::new(true.into()), open: Arc::default() };
        let (up, open) = (line.up.clone(), line.open.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(server) else { continue };
                let mut held = open.lock().unwrap();
                // Asked with the lock held: whoever cuts it finds every stream that it let through.
                if !up.load(Ordering::SeqCst) {
                    continue;
                }
                for (mut from, mut to) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far.try_clone().unwrap(), near.try_clone().unwrap()),
                ] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
                held.extend([near, far]);
            }
        });
        line
    }

    fn cut(&self) {
        let mut open = self.open.lock().unwrap();
        self.up.store(false, Ordering::SeqCst);
        open.drain(..).for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
    }

    fn mend(&self) {
        self.up.store(true, Ordering::SeqCst);
    }
}

/// Many calls by one client: how many were answered with 200.
fn calls(fleet: &Fleet, gate: &Gate, number: usize) -> usize {
    let urls = format!("{}/v1/orders/[1-{number}]", gate.url);
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "300", "-o", "/dev/null", "-w", "%{http_code}\n", "-H", &fleet.bearer(), &urls]);
    String::from_utf8(curl.output().unwrap().stdout).unwrap().lines().filter(|line| *line == "200").count()
}

fn verified(home: &Path, directory: &Path, code: i32) -> Value {
    let done = run(home, &["-o", "json", "evidence", "verify", &directory.display().to_string()]).exits(code);
    if code == 0 { done.json() } else { done.error() }
}

#[test]
fn a_bucket_gets_all_through_an_outage_and_a_kill_and_a_stranger_verifies_it() {
    let bucket = Bucket::start();
    let line = Line::to(bucket.address);
    let fleet = Fleet::start(Upstream::ok().address);
    let secret = |name: &str, text: &str| {
        let file = fleet.home.path().join(name);
        std::fs::File::create(&file).unwrap().write_all(text.as_bytes()).unwrap();
        file.display().to_string()
    };
    let (id, key) = (secret("archive.id", "test\n"), secret("archive.secret", "hunter2\n"));
    let edit = |config: &mut Value| {
        config["evidence"] = json!({ "archive": {
            "s3": { "bucket": "evidence", "prefix": "here", "endpoint": format!("http://{}", line.address),
                    "access_key_id_file": id, "secret_access_key_file": key },
            "every": "1s", "max_lag": { "records": 60 }, "past_max_lag": "refuse",
        } });
    };
    let gate = fleet.gateway(edit).ready();
    fleet.grant("--wait");
    assert_eq!(calls(&fleet, &gate, 20), 20);
    let archived =
        |gate: &Gate| eventually("all is archived", START, || gate.metric("portcullis_archive_lag_records") == 0.0);
    archived(&gate);

    // An outage: calls go on within the bound, and none beyond.
    line.cut();
    let allowed = calls(&fleet, &gate, 60);
    assert!((20..=34).contains(&allowed), "{allowed} calls of two records each within 60");
    let refused = gate.get(&fleet.bearer(), "/v1/orders/7").is(503);
    assert_eq!(refused.json()["reason"], "archive_behind");
    let ready = curl(&[&format!("{}/readyz", gate.admin)]).is(503).json();
    assert!(ready["checks"]["archive"]["failing"].as_str().unwrap().contains("records"), "{ready}");
    assert_eq!(gate.metric("portcullis_archive_past_max_lag"), 1.0);
    // Whoever starts anew in the outage knows how far behind it is.
    let mut gate = gate;
    gate.process.kill();
    let mut gate = fleet.gateway(edit);
    eventually("it still refuses", START, || gate.get(&fleet.bearer(), "/v1/orders/7").body.contains("archive_behind"));
    line.mend();
    eventually("it goes on", START, || gate.get(&fleet.bearer(), "/v1/orders/7").status == 200);

    // A kill in the middle of putting things there.
    assert!(calls(&fleet, &gate, 25) > 0);
    gate.process.kill();
    let mut gate = fleet.gateway(edit).ready();
    archived(&gate);

    gate.process.kill();
    let (home, log) = (fleet.home.path(), "here/portcullis/gateway/edge/");
    let (good, bad) = (home.join("good"), home.join("bad"));
    bucket.copy(log, &good);
    let there = verified(home, &good, 0);
    let local = verified(home, &home.join("edge/evidence"), 0)["records"].as_u64().unwrap();
    assert!((100..=local).contains(&there["records"].as_u64().unwrap()), "{there}");
    assert!(!gate.process.log().contains("hunter2"));

    // What somebody changes of it is found by whoever has a copy.
    let at = |bytes: &[u8]| bytes.windows(7).position(|window| window == b"billing");
    let read = |name: &str| std::fs::read(good.join(name.strip_prefix(log).unwrap())).unwrap();
    let bundles = bucket.objects().into_iter().filter(|name| name.contains("entries") && at(&read(name)).is_some());
    // Of the same records the widest: the others are left from before, and nobody reads them.
    let width = |name: &String| name.rsplit_once(".p/").map_or(256, |(_, width)| width.parse::<u32>().unwrap());
    let bundle = bundles.max_by_key(width).expect("billing called");
    let mut bytes = read(&bundle);
    let at = at(&bytes).unwrap();
    bytes[at] ^= 1;
    bucket.copy(log, &bad);
    std::fs::write(bad.join(bundle.strip_prefix(log).unwrap()), bytes).unwrap();
    verified(home, &bad, 8);
}

/// The files of a directory of an archive, its directories' left out.
fn tiles_of(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.is_file()).collect()
}

/// The positions of records, one a line.
fn records_of(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].clone()).collect()
}

#[test]
fn old_records_go_once_they_are_cosigned_and_archived_and_every_proof_stays() {
    let fleet = Fleet::start(Upstream::ok().address);
    let home = fleet.home.path();
    let root = home.join("archive").display().to_string();
    let edit = |config: &mut Value| {
        config["evidence"] = json!({
            "segment_bytes": "64KiB", "retention": { "size": "128KiB" },
            "archive": { "directory": root, "every": "1s" },
        });
    };
    let gate = fleet.gateway(edit).ready();
    fleet.grant("--wait");
    assert_eq!(calls(&fleet, &gate, 400), 400);
    let log: PathBuf = home.join("edge/evidence");
    let mut pruned = Value::Null;
    eventually("old records went", START, || {
        pruned = verified(home, &log, 0)["pruned"].clone();
        !pruned.is_null()
    });
    assert_eq!(pruned["policy"], "keep 128KiB");
    assert!(pruned["present_from"].as_u64().unwrap() > 100, "{pruned}");
    assert!(gate.metric("portcullis_evidence_pruned_before") > 0.0);
    // Killed and started again, it goes on and holds.
    let mut gate = gate;
    gate.process.kill();
    let mut gate = fleet.gateway(edit).ready();
    assert_eq!(calls(&fleet, &gate, 5), 5);
    let log_text = log.display().to_string();
    let ask = |arguments: &[&str]| run(home, &[&["-o", "json", "evidence"][..], arguments].concat());
    let found = ask(&["query", &log_text, "--kind", "pruned"]).exits(0);
    assert!(found.stderr.contains("were pruned under `keep 128KiB`"), "{found:?}");
    // Once or more often, by how fast the archive came after the calls.
    assert!(records_of(&found.stdout).contains(&pruned["record"]), "{found:?}");
    assert!(ask(&["query", &log_text, "--identity", "billing"]).exits(0).stdout.lines().count() > 50);
    assert_eq!(ask(&["tail", &log_text]).exits(0).stdout.lines().count(), 10);
    let gone = ask(&["prove", "3", &log_text, "--to", &root]).exits(4);
    assert!(gone.error().to_string().contains("were pruned under"), "{gone:?}");
    ask(&["prove", &pruned["record"].to_string(), &log_text, "--to", &home.display().to_string()]).exits(0);
    let dry = ask(&["prune", &log_text, "--keep", "90d", "--dry-run"]).exits(0).json();
    assert_eq!((&dry["dry_run"], dry.get("segments")), (&true.into(), None));
    // The archive has all, and proves it.
    let archive = home.join("archive/portcullis/gateway/edge");
    assert!(verified(home, &archive, 0)["pruned"].is_null());
    ask(&["export", &log_text, "--to", &home.join("export").display().to_string()]).exits(0);
    let exported = verified(home, &home.join("export"), 0)["pruned"]["record"].clone();
    let told = ask(&["query", &log_text, "--kind", "pruned"]).exits(0);
    assert!(records_of(&told.stdout).contains(&exported), "{exported} {told:?}");
    // By hand, with nobody writing.
    gate.process.kill();
    let signing = home.join("edge/evidence.key").display().to_string();
    let by_hand = ["prune", &log_text, "--keep-size", "64KiB", "--signing-key", &signing];
    // Not without a word about its archive, and not when what is archived is something else by now.
    ask(&by_hand).exits(2);
    let config = home.join("gateway.yaml").display().to_string();
    let by_hand = [&by_hand[..], &["--config", &config]].concat();
    let first = archive.join("tile/0/000");
    let good = std::fs::read(&first).unwrap();
    let tiles: Vec<PathBuf> = tiles_of(&archive.join("tile/0"));
    tiles.iter().for_each(|tile| std::fs::rename(tile, tile.with_extension("away")).unwrap());
    let kept = ask(&by_hand);
    assert!(kept.code != 0 || kept.json().get("segments").is_none(), "{kept:?}");
    tiles.iter().for_each(|tile| std::fs::rename(tile.with_extension("away"), tile).unwrap());
    assert_eq!(std::fs::read(&first).unwrap(), good);
    assert_eq!(ask(&by_hand).exits(0).json()["policy"], "keep 64KiB");
    verified(home, &log, 0);
    // A segment more is a segment too many.
    let mut segments: Vec<_> =
        std::fs::read_dir(log.join("journal")).unwrap().map(|file| file.unwrap().path()).collect();
    segments.sort();
    assert!(segments.len() > 1);
    std::fs::remove_file(&segments[0]).unwrap();
    assert!(verified(home, &log, 8).to_string().contains("are missing"));
}
