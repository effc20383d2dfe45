//! Control planes ask witnesses to cosign their log, and are witnesses to each other.

use std::path::Path;

use serde_json::{Value, json};

use crate::dev::{PATIENCE, curl, eventually, run};
use crate::world::{Fleet, Process, Upstream, free_address};

/// A control plane of its own home, to be started again with other settings.
struct Plane {
    fleet: Fleet,
    http: String,
    is_running: bool,
}

impl Plane {
    fn start() -> Self {
        Self { fleet: Fleet::start(Upstream::ok().address), http: String::new(), is_running: true }
    }

    fn home(&self) -> &Path {
        self.fleet.home.path()
    }

    /// The key of its own log.
    fn log_key(&self) -> String {
        let file = std::fs::read(self.home().join("control/evidence/log.json")).unwrap();
        serde_json::from_slice::<Value>(&file).unwrap()["vkey"].as_str().unwrap().to_owned()
    }

    /// The key that it cosigns with.
    fn witness_key(&self) -> String {
        std::fs::read_to_string(self.home().join("control/witness.vkey")).unwrap().trim().to_owned()
    }

    /// Ends it and starts it with these settings.
    fn with(&mut self, settings: &[(&str, Value)]) {
        if self.is_running {
            self.stop();
        }
        let path = self.home().join("control.yaml");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (key, value) in settings {
            config[*key] = value.clone();
        }
        config["grpc_address"] = self.fleet.address.trim_start_matches("https://").into();
        std::fs::write(&path, config.to_string()).unwrap();
        self.fleet.control = Process::spawn(self.home(), &["control", "run", "-c", "control.yaml"]);
        let ready = self.fleet.control.says("the control plane is ready");
        self.http = format!("http://{}", ready["http"].as_str().unwrap());
        self.is_running = true;
    }

    fn stop(&mut self) {
        self.fleet.control.signal(rustix::process::Signal::TERM);
        assert_eq!(self.fleet.control.ended(), Some(0));
        self.is_running = false;
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let text = curl(&[&format!("{}/metrics", self.http)]).is(200).body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// Records under the cosigned checkpoint, when this witness's cosignature on it holds.
    fn cosigned_by(&self, witness: &str) -> Option<u64> {
        let log = self.home().join("control/evidence").display().to_string();
        let done = run(self.home(), &["-o", "json", "evidence", "verify", &log, "--cosigner", witness]);
        assert!(done.code == 0 || done.code == 8, "{}", done.stderr);
        let note = std::fs::read_to_string(self.home().join("control/evidence/cosigned")).ok()?;
        (done.code == 0).then(|| note.lines().nth(1).unwrap().parse().unwrap())
    }
}

fn cosigning(witnesses: &[(&str, &str)]) -> Value {
    let witnesses: Vec<_> = witnesses.iter().map(|(url, vkey)| json!({ "url": url, "vkey": vkey })).collect();
    json!({ "every": "1s", "timeout": "2s", "witnesses": witnesses })
}

fn name_of(vkey: &str) -> &str {
    vkey.split('+').next().unwrap()
}

#[test]
fn two_control_planes_witness_each_other_and_one_that_was_put_back_is_an_alarm() {
    let (mut one, mut two) = (Plane::start(), Plane::start());
    let (at_one, at_two) = (free_address(), free_address());
    let witness = |at, name, logs: &[&str]| json!({ "address": at, "name": name, "logs": logs });
    one.with(&[("witness", witness(at_one, "one.example/witness", &[&two.log_key()]))]);
    two.with(&[("witness", witness(at_two, "two.example/witness", &[&one.log_key()]))]);
    let (key_one, key_two) = (one.witness_key(), two.witness_key());
    one.with(&[("cosigning", cosigning(&[(&format!("http://{at_two}"), &key_two)]))]);
    two.with(&[("cosigning", cosigning(&[(&format!("http://{at_one}/"), &key_one)]))]);
    eventually("each has the other's cosignature", PATIENCE, || {
        one.cosigned_by(&key_two).is_some() && two.cosigned_by(&key_one).is_some()
    });
    let before = one.cosigned_by(&key_two).unwrap();
    let older = one.home().join("older");
    let copy = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
    };
    one.stop();
    copy(&one.home().join("control"), &older);
    one.with(&[]);
    for n in 0..5 {
        let spec = format!("kind: Resource\nname: api/r{n}\nspec: {{ owner: orders, sensitivity: low }}\n");
        one.fleet.apply(&spec);
    }
    eventually("what came since is cosigned", PATIENCE, || {
        one.cosigned_by(&key_two).is_some_and(|size| size >= before + 5)
    });
    let ready = curl(&[&format!("{}/readyz", one.http)]).is(200).body;
    assert!(
        ready.starts_with("ready\n") && ready.contains(&format!("witness {}: cosigned ", name_of(&key_two))),
        "{ready}"
    );
    let age = format!("portcullis_control_witness_cosignature_age_seconds{{witness=\"{}\"}}", name_of(&key_two));
    assert!(one.metric(&age).unwrap() < 60.0);
    // What was kept of each is what the log must have grown from.
    let kept = one.home().join("control/cosignatures").join(name_of(&key_two).replace('/', "_"));
    let log = one.home().join("control/evidence").display().to_string();
    run(one.home(), &["evidence", "verify", &log, "--key", &one.log_key(), "--against", &kept.display().to_string()])
        .exits(0);

    // Everything of it is put back, and its own files tell nothing: the other one knows.
    one.stop();
    std::fs::remove_dir_all(one.home().join("control")).unwrap();
    copy(&older, &one.home().join("control"));
    one.with(&[]);
    let said = one.fleet.control.says("ALARM");
    assert!(said["error"].as_str().unwrap().contains("an older copy of it put back"), "{said}");
    let labels = format!("{{witness=\"{}\"}}", name_of(&key_two));
    assert_eq!(one.metric(&format!("portcullis_control_witness_alarm{labels}")), Some(1.0));
    let failures = |kind: &str| {
        format!("portcullis_control_witness_failures_total{{kind=\"{kind}\",witness=\"{}\"}}", name_of(&key_two))
    };
    assert!(one.metric(&failures("behind")).unwrap() >= 1.0);
    curl(&[&format!("{}/readyz", one.http)]).is(200);
}

#[test]
fn a_witness_that_is_away_holds_nobody_up_and_cosigns_when_it_is_back() {
    let mut plane = Plane::start();
    let at = free_address();
    let (key, log) = (plane.home().join("w.key"), plane.log_key());
    let serve = |home: &Path| {
        let at = at.to_string();
        let (key, state) = (key.display().to_string(), home.join("w").display().to_string());
        let arguments = ["-o", "json", "evidence", "witness", "--listen", &at, "--name", "away.example/w"];
        let more = ["--key", &key, "--state", &state, "--log", &log];
        let mut server = crate::dev::command(home);
        server.args([&arguments[..], &more].concat()).stdout(std::process::Stdio::piped());
        let mut server = server.spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.take().unwrap()), &mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        (server, said["key"].as_str().unwrap().to_owned())
    };
    let home = plane.home().to_owned();
    let (mut server, witness) = serve(&home);
    server.kill().unwrap();
    server.wait().unwrap();

    plane.with(&[("cosigning", cosigning(&[(&format!("http://{at}"), &witness)]))]);
    let unreachable = "portcullis_control_witness_failures_total{kind=\"unreachable\",witness=\"away.example/w\"}";
    eventually("it is missed", PATIENCE, || plane.metric(unreachable).is_some_and(|failures| failures >= 2.0));
    let ready = curl(&[&format!("{}/readyz", plane.http)]).is(200).body;
    assert!(ready.contains("witness away.example/w: has not cosigned since the start"), "{ready}");
    plane.fleet.grant("");
    assert_eq!(plane.cosigned_by(&witness), None);

    let (mut server, _) = serve(&home);
    eventually("it cosigns", PATIENCE, || plane.cosigned_by(&witness).is_some());
    // The control plane forgot how much was cosigned; the witness says so, and is asked from there.
    plane.with(&[]);
    plane.fleet.grant("");
    let age = "portcullis_control_witness_cosignature_age_seconds{witness=\"away.example/w\"}";
    eventually("it cosigns again", PATIENCE, || {
        curl(&[&format!("{}/readyz", plane.http)]).is(200).body.contains("away.example/w: cosigned ")
    });
    assert!(plane.metric(age).unwrap() < 60.0);
    assert_eq!(plane.metric(unreachable), None, "it was there all the time");
    server.kill().unwrap();
    server.wait().unwrap();
}
