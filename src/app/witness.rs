//! C2SP tlog-witness over HTTP: the server, and the client that asks one.
//!
//! What deserves a cosignature is judged in `evidence`; here requests and answers are carried.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{StatusCode, header};

use crate::clock::SystemClock;
use crate::domain::{Clock as _, Timestamp};
use crate::evidence::checkpoint::MAX_NOTE_BYTES;
use crate::evidence::cosignature::CosignerKey;
use crate::evidence::storage::Storage;
use crate::evidence::witness::{ADD_CHECKPOINT, MAX_REQUEST_BYTES, NotCosigned, Request, Witness};

/// Connections at the same time; the rest wait.
pub(crate) const MAX_CONNECTIONS: usize = 1_024;
/// Requests that are judged at once; the rest wait.
const AT_ONCE: usize = 32;
/// How long a request may take, its body included.
const PATIENCE: Duration = Duration::from_secs(10);
/// The type of an answer that says how many records were cosigned.
const SIZE_TYPE: &str = "text/x.tlog.size";

/// What a witness serves.
pub(crate) fn router(witness: Arc<Witness>) -> Router {
    let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    Router::new()
        .route(&format!("/{ADD_CHECKPOINT}"), post(add))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state((witness, places))
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
                NotCosigned::OtherSize { known, .. } => (status, text(SIZE_TYPE), format!("{known}\n")).into_response(),
                error => (status, text("text/plain; charset=utf-8"), format!("{error}\n")).into_response(),
            }
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Why a witness gave no cosignature.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It cannot be reached, or does not answer in time.
    #[error("{0}")]
    Unreachable(String),
    /// It knows more records than the log has.
    #[error("it cosigned {known} records, and the log has {size}: the log was cut, or an older copy of it put back")]
    Behind {
        /// What it cosigned.
        known: u64,
        /// What the log has.
        size: u64,
    },
    /// It has cosigned others.
    #[error("it answered {0}: {1}")]
    Forked(StatusCode, String),
    /// Anything else that it says.
    #[error("it answered {0}: {1}")]
    Refused(StatusCode, String),
    /// What it says is not signed by its key.
    #[error("the answer bears no cosignature of {0}")]
    Unsigned(String),
    /// The proof cannot be made.
    #[error("{0}")]
    Log(String),
}

/// A cosigned checkpoint.
#[derive(Debug)]
pub(crate) struct Cosigned {
    /// When, as the witness says.
    pub(crate) at: Timestamp,
    /// The lines that the witness added.
    pub(crate) lines: String,
}

/// The way to a witness, and how much it cosigned, as far as it said.
#[derive(Debug)]
pub(crate) struct Asked {
    url: String,
    key: CosignerKey,
    client: reqwest::Client,
    known: u64,
}

impl Asked {
    /// A witness at an address, with a key, that has so long for an answer.
    ///
    /// # Errors
    /// When there are no roots to trust.
    pub(crate) fn new(address: &str, key: CosignerKey, timeout: Duration) -> reqwest::Result<Self> {
        // A second call changes nothing: the process has one provider, and it is this one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(timeout);
        // Without TLS there is nothing to check a certificate against, and a bare machine has no roots.
        let is_tls = address.starts_with("https://");
        let client = if is_tls { builder.build() } else { builder.no_proxy().tls_certs_only([]).build() }?;
        Ok(Self { url: format!("{}/{ADD_CHECKPOINT}", address.trim_end_matches('/')), key, client, known: 0 })
    }

    /// Where it is asked.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The key that it must sign with.
    pub(crate) const fn key(&self) -> &CosignerKey {
        &self.key
    }

    /// Asks for a cosignature of the log's signed checkpoint `note`, of `size` records. When the witness last cosigned
    /// another size than was thought, which only it knows, it says so, and is asked from there once.
    pub(crate) async fn cosign(
        &mut self,
        storage: &Arc<dyn Storage>,
        note: &str,
        size: u64,
    ) -> Result<Cosigned, AskError> {
        for is_told in [false, true] {
            let (storage, sent, old) = (storage.clone(), note.to_owned(), self.known.min(size));
            let request = tokio::task::spawn_blocking(move || Request::make(&*storage, sent, size, old));
            let request = request.await.map_err(|error| AskError::Log(error.to_string()))?;
            let request = request.map_err(|error| AskError::Log(error.to_string()))?;
            let (status, is_size, text) = self.post(request.body()).await?;
            if status == StatusCode::OK {
                let at = self.key.cosigned(&format!("{note}{text}"));
                let at = at.ok_or_else(|| AskError::Unsigned(self.key.name().to_string()))?;
                self.known = size;
                return Ok(Cosigned { at, lines: text });
            }
            match text.trim_end().parse::<u64>() {
                Ok(known) if status == StatusCode::CONFLICT && is_size => {
                    self.known = known;
                    if known > size {
                        return Err(AskError::Behind { known, size });
                    }
                    if is_told {
                        return Err(AskError::Refused(
                            status,
                            "somebody else had it cosigned meanwhile; try again".into(),
                        ));
                    }
                }
                // As many records and others, or no proof from those that it said it cosigned.
                _ if matches!(status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY) => {
                    return Err(AskError::Forked(status, text.trim_end().to_owned()));
                }
                _ => return Err(AskError::Refused(status, text.trim_end().to_owned())),
            }
        }
        Err(AskError::Refused(StatusCode::CONFLICT, "it does not say how much it cosigned".into()))
    }

    async fn post(&self, body: String) -> Result<(StatusCode, bool, String), AskError> {
        let failed = |error: reqwest::Error| AskError::Unreachable(error.without_url().to_string());
        let mut answer = self.client.post(&self.url).body(body).send().await.map_err(failed)?;
        let is_size = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == SIZE_TYPE);
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_NOTE_BYTES {
                return Err(AskError::Unreachable(format!("an answer longer than {MAX_NOTE_BYTES} bytes")));
            }
        }
        Ok((status, is_size, String::from_utf8_lossy(&bytes).into_owned()))
    }
}
