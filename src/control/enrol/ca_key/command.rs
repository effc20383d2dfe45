//! Keys outside of the process: a command asks whoever keeps them, a KMS, an HSM or an agent.
//!
//! `COMMAND… public-key LABEL` writes the public half, PEM or DER, and ends with 3 where there is no such key.
//! `COMMAND… sign LABEL ALGORITHM` reads the bytes from its input and writes the signature, as certificates have it. Keys
//! are made and destroyed where they are kept, never from here.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{CaAlgorithm, CaKeyError, CaKeys};
use crate::settings::control::CaSignerSettings;

/// Largest public key or signature that is read: of RSA with 8192 bits, 1 KiB and little more.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;
/// Of what it says when it fails.
const MAX_SAID_BYTES: u64 = 1024;
/// Exit code for a key that is not there.
const NO_SUCH_KEY: i32 = 3;

/// The keys that a command signs with.
#[derive(Debug)]
pub(super) struct CommandKeys {
    command: Vec<String>,
    timeout: Duration,
}

impl CommandKeys {
    pub(super) fn of(settings: &CaSignerSettings) -> Self {
        Self { command: settings.command.clone(), timeout: settings.timeout }
    }

    /// What it answers to these arguments; `None`: it says that there is no such key.
    async fn ask(&self, label: &str, arguments: &[&str], input: &[u8]) -> Result<Option<Vec<u8>>, CaKeyError> {
        use std::os::unix::process::CommandExt as _;
        let refused = |why: String| CaKeyError::Refused { label: label.to_owned(), why };
        let Some((program, first)) = self.command.split_first() else {
            return Err(refused("no command is named".to_owned()));
        };
        let mut command = Command::new(program);
        // A group of its own: what it started ends with it.
        command.args(first).args(arguments).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| refused(format!("{program}: {error}")))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let input = input.to_vec();
        let answering = tokio::task::spawn_blocking(move || answer(child, &input));
        match tokio::time::timeout(self.timeout, answering).await {
            Ok(Ok(Ok(answer))) => answer.checked().map_err(|why| refused(format!("{program}: {why}"))),
            Ok(Ok(Err(error))) => Err(refused(format!("{program}: {error}"))),
            Ok(Err(_)) => Err(refused(format!("{program}: could not be asked"))),
            Err(_) => {
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                Err(refused(format!("{program}: no answer in {:?}", self.timeout)))
            }
        }
    }
}

struct Answer {
    code: Option<i32>,
    output: Vec<u8>,
    said: Vec<u8>,
}

impl Answer {
    fn checked(self) -> Result<Option<Vec<u8>>, String> {
        // However it ended: nobody reads on.
        if u64::try_from(self.output.len()).is_ok_and(|length| length > MAX_ANSWER_BYTES) {
            return Err(format!("said more than {MAX_ANSWER_BYTES} bytes"));
        }
        match self.code {
            Some(0) if self.output.is_empty() => Err("said nothing".to_owned()),
            Some(0) => Ok(Some(self.output)),
            Some(NO_SUCH_KEY) => Ok(None),
            code => {
                let said = String::from_utf8_lossy(&self.said);
                let said: String = said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                let code = code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
                Err(format!("ended with {code}: {said}"))
            }
        }
    }
}

fn answer(mut child: std::process::Child, input: &[u8]) -> std::io::Result<Answer> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut output, mut said) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // One that ends without reading says why by its exit code.
            drop(stdin.map(|mut stdin| stdin.write_all(input)));
        });
        scope.spawn(|| drop(stderr.map(|stderr| stderr.take(MAX_SAID_BYTES).read_to_end(&mut said))));
        // Beyond the limit it writes into nothing, and ends.
        stdout.map(|stdout| stdout.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut output)).transpose()
    })?;
    Ok(Answer { code: child.wait()?.code(), output, said })
}

#[async_trait]
impl CaKeys for CommandKeys {
    async fn public_key(&self, label: &str) -> Result<Option<Vec<u8>>, CaKeyError> {
        self.ask(label, &["public-key", label], &[]).await
    }

    async fn sign(&self, label: &str, algorithm: CaAlgorithm, message: &[u8]) -> Result<Vec<u8>, CaKeyError> {
        let signed = self.ask(label, &["sign", label, algorithm.as_str()], message).await?;
        let why = "there is no such key".to_owned();
        signed.ok_or_else(|| CaKeyError::Refused { label: label.to_owned(), why })
    }

    async fn make(&self, label: &str) -> Result<(), CaKeyError> {
        match self.public_key(label).await? {
            Some(_) => Ok(()),
            None => {
                let why = "there is no such key where keys are kept: make it there first".to_owned();
                Err(CaKeyError::Refused { label: label.to_owned(), why })
            }
        }
    }

    async fn destroy(&self, label: &str) -> Result<(), CaKeyError> {
        tracing::warn!(key = label, "this key of the CA signs nothing any more: destroy it where it is kept");
        Ok(())
    }
}
