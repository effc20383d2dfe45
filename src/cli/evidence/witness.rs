//! `portcullis evidence witness` and `cosign`: C2SP tlog-witness, its server and its client.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::sync::watch;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::super::time::both;
use super::Log;
use crate::app::witness::{AskError, Asked, MAX_CONNECTIONS, router};
use crate::clock::SystemClock;
use crate::domain::{Clock as _, Timestamp};
use crate::evidence::checkpoint::{Checkpoint, EvidenceKey, Origin, VerifierKey};
use crate::evidence::cosignature::CosignerKey;
use crate::evidence::storage::DiskStorage;
use crate::evidence::witness::Witness;
use crate::files;
use crate::serve::{Listener, serve};

/// How long a witness may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(in super::super) struct Serve {
    /// Address to listen on; put TLS before it where it is not the loopback
    #[arg(long, default_value = "127.0.0.1:7090", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The witness's name: a URL without scheme
    #[arg(long, value_name = "NAME")]
    name: Origin,
    /// Its private key; made where there is none
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where it remembers what it cosigned. Whoever puts an older copy back lets it cosign two histories
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// A log that it watches, NAME+ID+BASE64; as often as there are logs
    #[arg(long = "log", value_name = "KEY", required = true)]
    logs: Vec<VerifierKey>,
}

#[derive(Serialize)]
struct Serving {
    address: SocketAddr,
    key: String,
}

impl Serve {
    pub(in super::super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let failed =
            |what: String, error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{what}: {error}"));
        let key =
            EvidenceKey::load_or_create(&self.key).map_err(|error| failed(self.key.display().to_string(), &error))?;
        let storage =
            DiskStorage::open(&self.state).map_err(|error| failed(self.state.display().to_string(), &error))?;
        let witness = Arc::new(Witness::new(Arc::new(storage), key, self.name, self.logs));
        let connections = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
        let listener = Listener::bind(self.listen, connections).await;
        let listener = listener.map_err(|error| failed(self.listen.to_string(), &error))?;
        let address = listener.address();
        let serving = Serving { address, key: witness.verifier().to_string() };
        context.output.element(&serving, || format!("witness {} on http://{address}/", serving.key))?;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            // Without a handler for it the process ends at once, which harms nothing that was said.
            drop(tokio::signal::ctrl_c().await);
            stop.send_replace(true);
        });
        serve(listener, None, router(witness), stopped).await;
        Ok(Exit::Done)
    }
}

#[derive(Debug, Args)]
pub(in super::super) struct Cosign {
    #[command(flatten)]
    log: Log,
    /// The witness's address
    #[arg(long, value_name = "URL")]
    witness: String,
    /// The witness's key, NAME+ID+BASE64
    #[arg(long, value_name = "KEY")]
    cosigner: CosignerKey,
    /// Where the checkpoint with its cosignature goes: keep it, and give it to `evidence verify --against`
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

#[derive(Serialize)]
struct Cosigned {
    log: String,
    size: u64,
    witness: String,
    cosigned: Timestamp,
    file: PathBuf,
}

impl Cosign {
    pub(in super::super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let storage = self.log.storage(context)?;
        let (checkpoint, note) = crate::evidence::signed_checkpoint(&*storage)
            .map_err(|error| Failure::new(Exit::VerificationFailed, error.to_string()))?
            .ok_or_else(|| Failure::new(Exit::Unavailable, "there is no signed checkpoint"))?;
        let size = checkpoint.head.size;
        let asked = Asked::new(&self.witness, self.cosigner.clone(), PATIENCE);
        let mut asked = asked.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        match asked.cosign(&storage, &note, size).await {
            Ok(cosigned) => self.keep(context, &checkpoint, cosigned.at, &format!("{note}{}", cosigned.lines)),
            Err(error) => {
                let exit = match error {
                    AskError::Unreachable(_) => Exit::Unavailable,
                    AskError::Unsigned(_) => Exit::VerificationFailed,
                    AskError::Behind { .. } | AskError::Forked(..) | AskError::Refused(..) | AskError::Log(_) => {
                        Exit::Conflict
                    }
                };
                let text = super::super::output::escaped(&error.to_string());
                Err(Failure::new(exit, format!("{}: {text}", asked.url())))
            }
        }
    }

    fn keep(&self, context: &Context, checkpoint: &Checkpoint, at: Timestamp, note: &str) -> Result<Exit, Failure> {
        files::write(&self.to, note.as_bytes(), files::PUBLIC)
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", self.to.display())))?;
        let cosigned = Cosigned {
            log: checkpoint.origin.to_string(),
            size: checkpoint.head.size,
            witness: self.cosigner.name().to_string(),
            cosigned: at,
            file: self.to.clone(),
        };
        context.output.answer(&cosigned, || {
            Human::Lines(vec![format!(
                "{} cosigned {} records of {}, {}: {}",
                cosigned.witness,
                cosigned.size,
                cosigned.log,
                both(at, SystemClock.now()),
                cosigned.file.display()
            )])
        })?;
        Ok(Exit::Done)
    }
}
