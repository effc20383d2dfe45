//! `portcullis evidence witness` and `cosign`: C2SP tlog-witness, its server and its client.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use clap::Args;
use http::{StatusCode, header};
use serde::Serialize;
use tokio::sync::watch;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::super::time::both;
use super::{Log, remote};
use crate::clock::SystemClock;
use crate::domain::{Clock as _, Timestamp};
use crate::evidence::checkpoint::{Checkpoint, EvidenceKey, MAX_NOTE_BYTES, Origin, VerifierKey};
use crate::evidence::cosignature::CosignerKey;
use crate::evidence::storage::DiskStorage;
use crate::evidence::witness::{ADD_CHECKPOINT, MAX_REQUEST_BYTES, NotCosigned, Request, Witness};
use crate::files;
use crate::serve::{Listener, serve};

/// Connections at the same time; the rest wait.
const MAX_CONNECTIONS: usize = 1_024;
/// Requests that are judged at once; the rest wait.
const AT_ONCE: usize = 32;
/// How long a request may take, its body included.
const PATIENCE: Duration = Duration::from_secs(10);

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
        let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let router = Router::new()
            .route(&format!("/{ADD_CHECKPOINT}"), post(add))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state((witness, places));
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            // Without a handler for it the process ends at once, which harms nothing that was said.
            drop(tokio::signal::ctrl_c().await);
            stop.send_replace(true);
        });
        serve(listener, None, router, stopped).await;
        Ok(Exit::Done)
    }
}

type Shared = (Arc<Witness>, Arc<tokio::sync::Semaphore>);

async fn add(State((witness, places)): State<Shared>, request: axum::extract::Request) -> Response {
    let body = tokio::time::timeout(PATIENCE, axum::body::to_bytes(request.into_body(), MAX_REQUEST_BYTES)).await;
    let body = match body {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    // One that is slow to send what is to be judged keeps nobody waiting.
    let Ok(_place) = places.acquire().await else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let judged = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body, SystemClock.now())).await;
    let text = |kind: &'static str| [(header::CONTENT_TYPE, kind)];
    match judged {
        Ok(Ok(line)) => (text("text/plain; charset=utf-8"), line).into_response(),
        Ok(Err(error)) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            tracing::warn!(%error, %status, "witness: not cosigned");
            match error {
                NotCosigned::OtherSize { known, .. } => {
                    (status, text("text/x.tlog.size"), format!("{known}\n")).into_response()
                }
                error => (status, text("text/plain; charset=utf-8"), format!("{error}\n")).into_response(),
            }
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
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
        let url = format!("{}/{ADD_CHECKPOINT}", self.witness.trim_end_matches('/'));
        let client = remote::client(&url).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        // Nobody but the witness knows what it cosigned last: it says so when it is asked from nothing.
        let mut old = 0;
        for _ in 0..2 {
            let request = Request::make(&*storage, note.clone(), size, old);
            let request = request.map_err(|error| Failure::new(Exit::Conflict, format!("{url}: {error}")))?;
            let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Unavailable, format!("{url}: {error}"));
            let sent = client.post(&url).body(request.body()).send().await;
            let answer = sent.map_err(|error| failed(&error.without_url()))?;
            let status = answer.status();
            let is_size = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/x.tlog.size");
            let text = remote::body(answer, MAX_NOTE_BYTES).await.map_err(|error| failed(&error))?;
            let text = String::from_utf8_lossy(&text).into_owned();
            if status == StatusCode::OK {
                return self.keep(context, &checkpoint, &format!("{note}{text}"));
            }
            match text.trim_end().parse() {
                Ok(known) if status == StatusCode::CONFLICT && is_size && old == 0 => old = known,
                _ => {
                    let text = super::super::output::escaped(text.trim_end());
                    return Err(Failure::new(Exit::Conflict, format!("{url} answered {status}: {text}")));
                }
            }
        }
        Err(Failure::new(Exit::Conflict, format!("{url}: somebody else had it cosigned meanwhile; try again")))
    }

    fn keep(&self, context: &Context, checkpoint: &Checkpoint, note: &str) -> Result<Exit, Failure> {
        let at = self.cosigner.cosigned(note).ok_or_else(|| {
            Failure::new(
                Exit::VerificationFailed,
                format!("the answer bears no cosignature of {}", self.cosigner.name()),
            )
        })?;
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
