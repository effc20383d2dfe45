//! A process of ours: what it says, signals to it, and its end.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::dev::{START, command, eventually};

/// A process of ours that logs JSON lines.
pub(crate) struct Process {
    pub(crate) child: Option<Child>,
    log: Arc<Mutex<String>>,
    lines: Receiver<Value>,
}

impl Process {
    #[track_caller]
    pub(crate) fn spawn(home: &Path, arguments: &[&str]) -> Self {
        Self::spawn_with(home, arguments, &[])
    }

    /// The same with variables of the environment.
    #[track_caller]
    pub(crate) fn spawn_with(home: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = command(home);
        command.envs(environment.iter().copied()).args(arguments);
        Self::of(command)
    }

    /// What this command starts.
    #[track_caller]
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let log: Arc<Mutex<String>> = Arc::default();
        let (kept, stderr) = (log.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
                drop(kept);
                if let Ok(value) = serde_json::from_str(&line) {
                    let _ = sender.send(value);
                }
            }
        });
        Self { child: Some(child), log, lines }
    }

    /// Waits for a log line with this message.
    #[track_caller]
    pub(crate) fn says(&self, message: &str) -> Value {
        loop {
            match self.lines.recv_timeout(START) {
                Ok(line) if line["message"].as_str().is_some_and(|text| text.contains(message)) => return line,
                Ok(_) => {}
                Err(_) => panic!("did not say `{message}`:\n{}", self.log()),
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().expect("it runs")), signal).unwrap();
    }

    /// The most memory that it ever had resident, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let pid = self.child.as_ref().expect("it runs").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until it has ended: its exit code.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let mut status = None;
        eventually("the process has ended", Duration::from_secs(30), || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log ---\n{}", self.log());
        }
        self.kill();
    }
}
