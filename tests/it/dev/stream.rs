//! A command whose output is read while it runs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use super::{PATIENCE, eventually};

/// Lines of a reader, as they come.
pub(crate) fn lines_of(reader: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A command whose output is read while it runs.
pub(crate) struct Stream {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Stream {
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        Self { child, lines, errors }
    }

    /// The next line that holds `part`.
    #[track_caller]
    pub(crate) fn line(&self, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("no line with `{part}` within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let errors: Vec<_> = self.errors.iter().collect();
                    panic!("ended before a line with `{part}`: {errors:?}")
                }
            }
        }
    }

    /// Waits until it has ended by itself: its exit code, and what it wrote to standard error.
    #[track_caller]
    pub(crate) fn ended(mut self) -> (i32, String) {
        let mut status = None;
        eventually("the command has ended", PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let errors: Vec<_> = self.errors.iter().collect();
        (status.and_then(|status| status.code()).unwrap_or(-1), errors.join("\n"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
