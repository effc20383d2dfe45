//! A control plane and its witnesses: its own log is shown to them from time to time, and it is a witness to others.
//!
//! Nothing waits for a cosignature: a witness that is away costs nobody their access. One that remembers another log than
//! this one is an alarm.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::part;
use crate::app::AppError;
use crate::app::witness::{AskError, Asked, MAX_CONNECTIONS, router};
use crate::control::witnessed::{NoCosignature, Witnessed};
use crate::evidence::checkpoint::{EvidenceKey, Origin, VerifierKey};
use crate::evidence::storage::{DiskStorage, Storage};
use crate::evidence::witness::Witness;
use crate::evidence::{EvidenceLog, signed_checkpoint};
use crate::files;
use crate::serve::{Listener, serve};
use crate::settings::ControlSettings;
use crate::settings::control::{CosigningSettings, WitnessingSettings};

/// The witness's private key, in the state directory.
const WITNESS_KEY: &str = "witness.key";
/// Its public one, beside it: what others put into their settings.
const WITNESS_VKEY: &str = "witness.vkey";
/// What it cosigned, in the state directory. Whoever puts an older copy back lets it cosign two histories.
const WITNESS_STATE: &str = "witness";
/// The last checkpoint that each witness cosigned, in the state directory: what `evidence verify --against` takes.
const COSIGNATURES: &str = "cosignatures";

/// What runs beside the control plane, until stopped.
pub(super) struct Witnessing {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Witnessing {
    /// Starts what the settings say.
    pub(super) async fn start(
        settings: &ControlSettings,
        log: &Arc<EvidenceLog>,
        storage: &Arc<dyn Storage>,
        witnessed: &Arc<Witnessed>,
    ) -> Result<Self, AppError> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        if let Some(witness) = &settings.witness {
            tasks.spawn(server(&settings.state_dir, witness, stopped.clone()).await?);
        }
        if let Some(cosigning) = &settings.cosigning {
            let round = Round::new(&settings.state_dir, cosigning, (log, storage), witnessed)?;
            tasks.spawn(round.run(cosigning.every, stopped));
        }
        Ok(Self { tasks, stop })
    }

    /// Ends it.
    pub(super) async fn end(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn server(
    state: &Path,
    settings: &WitnessingSettings,
    stopped: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + Send + 'static, AppError> {
    let key = EvidenceKey::load_or_create(&state.join(WITNESS_KEY)).map_err(part)?;
    let name: Origin = settings.name.parse().map_err(|error| part(format!("witness: name: {error}")))?;
    let logs = settings.logs.iter().map(|log| log.parse::<VerifierKey>());
    let logs = logs.collect::<Result<Vec<_>, _>>().map_err(|error| part(format!("witness: logs: {error}")))?;
    let remembered = DiskStorage::open(&state.join(WITNESS_STATE)).map_err(part)?;
    let witness = Arc::new(Witness::new(Arc::new(remembered), key, name, logs));
    let vkey = witness.verifier().to_string();
    let file = state.join(WITNESS_VKEY);
    files::write(&file, format!("{vkey}\n").as_bytes(), files::PUBLIC).map_err(part)?;
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let listener = Listener::bind(settings.address, places).await;
    let listener = listener.map_err(|error| part(format!("witness: {}: {error}", settings.address)))?;
    tracing::info!(address = %listener.address(), key = vkey, "others' logs are witnessed");
    Ok(serve(listener, None, router(witness), stopped))
}

/// What a round of questions needs.
struct Round {
    log: Arc<EvidenceLog>,
    storage: Arc<dyn Storage>,
    kept: PathBuf,
    witnesses: Vec<Asked>,
    witnessed: Arc<Witnessed>,
}

impl Round {
    fn new(
        state: &Path,
        settings: &CosigningSettings,
        (log, storage): (&Arc<EvidenceLog>, &Arc<dyn Storage>),
        witnessed: &Arc<Witnessed>,
    ) -> Result<Self, AppError> {
        let mut witnesses = Vec::new();
        for witness in &settings.witnesses {
            let key = witness.vkey.parse().map_err(|error| part(format!("cosigning: {}: {error}", witness.vkey)))?;
            witnesses.push(Asked::new(&witness.url, key, settings.timeout).map_err(part)?);
        }
        let kept = state.join(COSIGNATURES);
        files::private_dir(&kept).map_err(part)?;
        let (log, storage) = (log.clone(), storage.clone());
        Ok(Self { log, storage, kept, witnesses, witnessed: witnessed.clone() })
    }

    async fn run(mut self, every: Duration, mut stopped: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = crate::serve::stopped(&mut stopped) => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = crate::serve::stopped(&mut stopped) => return,
                () = self.ask() => {}
            }
        }
    }

    /// Shows the latest checkpoint to every witness at once, and keeps what they signed.
    async fn ask(&mut self) {
        let (reader, log) = (self.storage.clone(), self.log.clone());
        let latest = tokio::task::spawn_blocking(move || {
            // Everything until now under one checkpoint, which is on disk with its tiles.
            log.checkpoint_now();
            signed_checkpoint(&*reader).map_err(|error| error.to_string())
        });
        let latest = latest.await.map_err(|error| error.to_string()).flatten();
        let (checkpoint, note) = match latest {
            Ok(Some(latest)) => latest,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the log cannot be shown to its witnesses");
                self.witnesses
                    .iter()
                    .for_each(|it| self.witnessed.failed(it.key().name().as_str(), NoCosignature::Log));
                return;
            }
        };
        let size = checkpoint.head.size;
        let asked = self.witnesses.iter_mut().map(async |witness| {
            let answer = witness.cosign(&self.storage, &note, size).await;
            (witness.key().name().to_string(), witness.url().to_owned(), answer)
        });
        let mut all = note.clone();
        for (name, url, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok(cosigned) => {
                    self.witnessed.cosigned(&name, cosigned.at);
                    tracing::debug!(witness = name, size, "the log is cosigned");
                    let file = self.kept.join(name.replace('/', "_"));
                    let own = format!("{note}{}", cosigned.lines);
                    if let Err(error) = files::write(&file, own.as_bytes(), files::PUBLIC) {
                        tracing::warn!(%error, witness = name, "a cosigned checkpoint could not be kept");
                    }
                    all.push_str(&cosigned.lines);
                }
                Err(error) => self.tell(&name, &url, &error),
            }
        }
        if all.len() > note.len() {
            let log = self.log.clone();
            match tokio::task::spawn_blocking(move || log.keep_cosigned(&all)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a cosigned checkpoint could not be kept"),
                Err(error) => tracing::warn!(%error, "a cosigned checkpoint could not be kept"),
            }
        }
    }

    fn tell(&self, name: &str, url: &str, error: &AskError) {
        let why = match error {
            AskError::Unreachable(_) => NoCosignature::Unreachable,
            AskError::Behind { .. } => NoCosignature::Behind,
            AskError::Forked(..) => NoCosignature::Forked,
            AskError::Refused(..) => NoCosignature::Refused,
            AskError::Unsigned(_) => NoCosignature::Unsigned,
            AskError::Log(_) => NoCosignature::Log,
        };
        self.witnessed.failed(name, why);
        if why.is_alarm() {
            tracing::error!(
                witness = name,
                url,
                %error,
                "ALARM: a witness remembers another log than this one: the control plane's evidence was put back, cut or \
                 forked, or its key is in other hands"
            );
        } else {
            tracing::warn!(witness = name, url, %error, "a witness did not cosign the log");
        }
    }
}
