//! A log that is served as static files, copied to be verified: what its server says is believed in nothing.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::super::failure::{Exit, Failure};
use crate::evidence::COSIGNED;
use crate::evidence::checkpoint::{Checkpoint, MAX_NOTE_BYTES, VerifierKey};
use crate::evidence::export::{File, files};
use crate::evidence::key::{LOG_FILE, MAX_LOG_FILE_BYTES, read_log_file};
use crate::evidence::retention::{PRUNED, told};
use crate::evidence::sequencer::CHECKPOINT;
use crate::evidence::storage::{DiskStorage, Persist, Storage as _};

/// Files that are asked for at once.
const AT_ONCE: usize = 16;
/// For one file, of whatever length.
const PATIENCE: Duration = Duration::from_secs(60);
/// The whole log: a server must not fill the disk. A larger one is copied by other means, and verified as a directory.
const MAX_LOG_BYTES: u64 = 64 << 30;

/// Whether it names a server and not a file.
pub(super) fn is_address(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

struct Server {
    client: reqwest::Client,
    address: String,
    copy: DiskStorage,
}

/// Copies what the log's checkpoint covers into a directory that goes with what is returned. How much that is says the key
/// that must have signed, or the log's own where none is known: nobody else makes a disk full.
pub(super) async fn copy(address: &str, key: Option<&VerifierKey>) -> Result<tempfile::TempDir, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("no copy can be made: {error}"));
    let directory = tempfile::tempdir().map_err(|error| failed(&error))?;
    let client = client(address).map_err(|error| failed(&error))?;
    let copy = DiskStorage::open(directory.path()).map_err(|error| failed(&error))?;
    let server = Server { client, address: address.trim_end_matches('/').to_owned(), copy };
    // Before the checkpoint, which in an export that goes on is the first of both to change.
    server.small(COSIGNED, MAX_NOTE_BYTES).await?;
    let note = server.small(CHECKPOINT, MAX_NOTE_BYTES).await?;
    let note = note.ok_or_else(|| Failure::new(Exit::NotFound, format!("{address} serves no checkpoint")))?;
    server.small(LOG_FILE, MAX_LOG_FILE_BYTES).await?;
    let unverified = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::VerificationFailed, format!("verification failed: checkpoint: {error}"))
    };
    let own = read_log_file(&server.copy);
    let key = match key {
        Some(key) => key,
        None => own.as_ref().map_err(|error| unverified(error))?,
    };
    let size = Checkpoint::verify(&note, key).map_err(|error| unverified(&error))?.head.size;
    let server = &server;
    server.small(PRUNED, MAX_NOTE_BYTES).await?;
    let begins = told(&server.copy).ok().flatten().map_or(0, |horizon| horizon.before);
    let wanted = files(size).filter(|file| !file.is_bundle() || file.first >= begins);
    let copied = futures_util::stream::iter(wanted).map(|file| async move { server.copy(&file).await });
    let all = copied.buffer_unordered(AT_ONCE).try_fold(0u64, |sum, bytes| async move {
        let sum = sum.saturating_add(bytes);
        if sum <= MAX_LOG_BYTES { Ok(sum) } else { Err(Failure::new(Exit::Failed, "the log is longer than 64 GiB")) }
    });
    all.await?;
    Ok(directory)
}

/// For one server.
pub(super) fn client(address: &str) -> reqwest::Result<reqwest::Client> {
    // A second call changes nothing: the process has one provider, and it is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE);
    // Without TLS there is nothing to check a certificate against, and a bare machine has no roots.
    if address.starts_with("https://") { builder.build() } else { builder.no_proxy().tls_certs_only([]).build() }
}

impl Server {
    /// A file beside the tiles, if there is one.
    async fn small(&self, path: &str, max: usize) -> Result<Option<Vec<u8>>, Failure> {
        let Some(bytes) = self.fetch(path, max).await? else { return Ok(None) };
        self.keep(path, &bytes)?;
        Ok(Some(bytes))
    }

    /// A tile or bundle. Says how many bytes it has.
    async fn copy(&self, file: &File) -> Result<u64, Failure> {
        let mut path = &file.path;
        let mut bytes = self.fetch(path, *file.bytes.end()).await?;
        if let (None, Some(full)) = (&bytes, &file.full) {
            // A partial one may go when the full one is there.
            path = full;
            bytes = self.fetch(path, *file.bytes.end()).await?;
        }
        let Some(bytes) = bytes.filter(|bytes| file.bytes.contains(&bytes.len())) else {
            // The first that is not there is the last that is asked for.
            let why =
                format!("verification failed: at record {}: {}/{path} is missing or cut", file.first, self.address);
            return Err(Failure::new(Exit::VerificationFailed, why));
        };
        self.keep(path, &bytes)?;
        Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    fn keep(&self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        let kept = self.copy.write_file(path, bytes, Persist::Later);
        kept.map_err(|error| Failure::new(Exit::Failed, format!("no copy can be made: {error}")))
    }

    async fn fetch(&self, path: &str, max: usize) -> Result<Option<Vec<u8>>, Failure> {
        let url = format!("{}/{path}", self.address);
        let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Unavailable, format!("{url}: {error}"));
        let sent = self.client.get(&url).send().await;
        let answer = sent.map_err(|error| failed(&error.without_url()))?;
        if answer.status() == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if answer.status() != http::StatusCode::OK {
            return Err(failed(&format_args!("answered {}", answer.status())));
        }
        Ok(Some(body(answer, max).await.map_err(|error| failed(&error))?))
    }
}

/// The body of an answer, of bounded length.
pub(super) async fn body(mut answer: reqwest::Response, max: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > max {
            return Err(format!("longer than {max} bytes"));
        }
    }
    Ok(bytes)
}
