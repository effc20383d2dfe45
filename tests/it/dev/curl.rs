//! The system's curl, and what it got.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::Done;

/// What curl got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The first header of this name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Fails the test unless it has this status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Fails the test unless it is a refusal of the gate with this status and reason, and a call id.
    #[track_caller]
    pub(crate) fn refuses(self, status: u16, reason: &str) -> Self {
        let answer = self.is(status);
        assert_eq!(answer.json()["reason"], reason, "{answer:?}");
        answer
    }
}

/// Runs curl to its end; it must get an answer.
#[track_caller]
pub(crate) fn curl(arguments: &[&str]) -> Answer {
    let done = try_curl(arguments);
    assert_eq!(done.code, 0, "curl {arguments:?}: {}", done.stderr);
    let mut rest = done.stdout.as_str();
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {}", done.stdout));
        let mut lines = head.lines();
        let mut status_line = lines.next().unwrap_or_default().splitn(3, ' ');
        let version = status_line.next().unwrap_or_default().to_owned();
        let status: u16 = status_line.next().and_then(|code| code.parse().ok()).unwrap_or_default();
        if (100..200).contains(&status) {
            rest = body;
            continue;
        }
        let header =
            |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        return Answer { status, version, headers: lines.filter_map(header).collect(), body: body.to_owned() };
    }
}

/// Runs curl with `-i` to its end, whatever becomes of it.
#[track_caller]
pub(crate) fn try_curl(arguments: &[&str]) -> Done {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--max-time", "20"]).args(arguments).stdin(Stdio::null());
    Done::of(command.output().expect("curl is installed"))
}
