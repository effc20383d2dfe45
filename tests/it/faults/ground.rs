//! Where a fault test stands: network namespaces with a network of ours between them, small disks, and clocks that step.
//!
//! `ground.py` carries the packets and mounts the disks; `clock.c` is preloaded into processes. Both end with the value.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::dev::BINARY;

/// What the network does to packets one way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// Carries them.
    Open,
    /// Loses them.
    Cut,
    /// Takes so long for each, drawn for itself, so that they overtake each other; some percent arrive twice.
    Slow { least: Duration, most: Duration, twice: u64 },
}

/// The namespaces and disks.
#[derive(Debug)]
pub(crate) struct Ground {
    child: Child,
    home: PathBuf,
    /// Where the kernel shows each namespace.
    namespaces: HashMap<String, String>,
    line: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Ground {
    /// Namespaces by these names and addresses, and a disk of this size (as `mount` writes it) at each of these directories.
    pub(crate) fn start(home: &Path, seed: u64, names: &[(String, Ipv4Addr)], disks: &[(PathBuf, &str)]) -> Self {
        disks.iter().for_each(|(path, _)| std::fs::create_dir_all(path).unwrap());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/faults");
        let plan = json!({
            "names": names.iter().map(|(name, address)| (name, address.to_string())).collect::<HashMap<_, _>>(),
            "disks": disks.iter().map(|(path, size)| (path.display().to_string(), size)).collect::<HashMap<_, _>>(),
        });
        let mut command = Command::new("python3");
        command.arg(source.join("ground.py")).args([seed.to_string(), plan.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        let first: Value = serde_json::from_str(&first)
            .unwrap_or_else(|_| panic!("this test makes network namespaces and mounts disks: it must run as root"));
        let pid = first["pid"].as_u64().unwrap();
        let shown = |(name, place): (&String, &Value)| (name.clone(), format!("/proc/{pid}/fd/{place}"));
        let namespaces = first["namespaces"].as_object().unwrap().iter().map(shown).collect();
        let line = Mutex::new((child.stdin.take().unwrap(), said));
        compile(&source.join("clock.c"), home);
        Self { child, home: home.to_owned(), namespaces, line }
    }

    fn say(&self, command: &Value) {
        let mut line = self.line.lock().unwrap();
        line.0.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        line.1.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "ok", "{command}");
    }

    /// From now on packets from one namespace to another fare so.
    pub(crate) fn set(&self, from: &str, to: &str, way: Way) {
        self.say(&match way {
            Way::Open => json!({ "from": from, "to": to }),
            Way::Cut => json!({ "from": from, "to": to, "drop": true }),
            Way::Slow { least, most, twice } => {
                json!({ "from": from, "to": to, "delay": [least.as_millis(), most.as_millis()], "twice": twice })
            }
        });
    }

    /// No byte more fits on a disk, or as many as before.
    pub(crate) fn fill(&self, disk: &Path, is_full: bool) {
        self.say(&json!({ "disk": disk.display().to_string(), "full": is_full }));
    }

    /// What processes there see at this path, seen from here.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.child.id()));
        root.join(path.strip_prefix("/").unwrap())
    }

    /// Moves this thread, and those that it begins, into a namespace.
    pub(crate) fn enter(&self, name: &str) {
        let namespace = std::fs::File::open(&self.namespaces[name]).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// The program, to be run in a namespace, with the disks.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.env_clear().env("HOME", &self.home).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").stdin(Stdio::null());
        command.current_dir(&self.home).arg(format!("--net={}", self.namespaces[name]));
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.child.id()));
        // Entering leads to the root directory.
        command.args(["sh", "-c", "cd \"$HOME\" && exec \"$0\" \"$@\"", BINARY]).args(arguments);
        command
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn compile(source: &Path, home: &Path) {
    // The page that stands for the system's own is read as the system's are: one piece, and nothing to be relocated.
    let page = ["-DPAGE", "-nostdlib", "-Wl,--hash-style=both", "-Wl,-z,norelro", "-Wl,-z,noseparate-code"];
    for (name, more) in [("clock.so", &[][..]), ("page.so", &page[..])] {
        let mut command = Command::new("cc");
        command.args(["-O1", "-fPIC", "-shared"]).args(more).arg("-o").arg(home.join(name)).arg(source).arg("-ldl");
        assert!(command.status().expect("cc").success());
    }
}

/// The clocks of one process, which a test sets.
#[derive(Debug)]
pub(crate) struct Clocks {
    file: PathBuf,
    home: PathBuf,
    /// How far the clock that runs through suspends is ahead, in seconds. It never goes back.
    boot: i64,
}

impl Clocks {
    pub(crate) fn new(home: &Path, name: &str) -> Self {
        let mut clocks = Self { file: home.join(format!("{name}.clock")), home: home.to_owned(), boot: 0 };
        clocks.step(0, 0);
        clocks
    }

    /// The wall clock to so many seconds ahead of the true time, and the other so many further.
    pub(crate) fn step(&mut self, wall: i64, boot: i64) {
        self.boot += boot;
        let bytes = [wall, self.boot].map(|seconds| (seconds * 1_000_000_000).to_ne_bytes()).concat();
        // In place: processes have it mapped.
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).truncate(false).write(true).open(&self.file).unwrap();
        file.write_all(&bytes).unwrap();
    }

    /// A process that this command starts goes by them.
    pub(crate) fn given_to(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.home.join("clock.so")).env("FAULTS_PAGE", self.home.join("page.so"));
        command.env("FAULTS_CLOCK", &self.file);
    }
}
