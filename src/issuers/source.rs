//! Fetching a key set: from a file, or over HTTP with every bound there is.
//!
//! No redirects, no proxies, no cookies, a bounded answer in bounded time. Knows nothing about issuers, ages and generations:
//! one call, one set or one fault.

use std::io;
use std::path::Path;
use std::time::Duration;

use reqwest::redirect;
use tokio::io::AsyncReadExt as _;

use super::settings::{JwksUrl, KeySource};
use crate::token::keys::{KeySet, KeySetError, MAX_KEY_SET_BYTES};

/// Why there is no key set. Never carries what was answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The file cannot be read.
    #[error("the key set file cannot be read: {0}")]
    File(io::ErrorKind),
    /// No HTTP client could be made, for want of root certificates for instance.
    #[error("no client to fetch keys with: {0}")]
    Client(String),
    /// The issuer could not be reached, or broke off.
    #[error("the key set could not be fetched: {0}")]
    Http(String),
    /// Another status than 200. Redirects are not followed.
    #[error("the key set's URL answered {0}")]
    Status(u16),
    /// It took too long.
    #[error("the key set did not arrive in time")]
    Timeout,
    /// It is no key set.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

#[derive(Debug)]
pub(super) struct Fetcher {
    place: Place,
    timeout: Duration,
}

#[derive(Debug)]
enum Place {
    File(std::path::PathBuf),
    Url(JwksUrl, reqwest::Client),
}

impl Fetcher {
    pub(super) fn new(source: KeySource, timeout: Duration) -> Result<Self, FetchError> {
        let place = match source {
            KeySource::File(path) => Place::File(path),
            KeySource::Url(url) => {
                let client = client(&url).map_err(|e| FetchError::Client(e.without_url().to_string()))?;
                Place::Url(url, client)
            }
        };
        Ok(Self { place, timeout })
    }

    pub(super) async fn fetch(&self) -> Result<KeySet, FetchError> {
        let document = async {
            match &self.place {
                Place::File(path) => read(path).await,
                Place::Url(url, client) => get(client, url).await,
            }
        };
        let document = tokio::time::timeout(self.timeout, document).await.map_err(|_| FetchError::Timeout)??;
        Ok(KeySet::parse(&document)?)
    }
}

fn client(url: &JwksUrl) -> reqwest::Result<reqwest::Client> {
    // A second call changes nothing: the process has one provider, and it is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(0)
        .https_only(url.is_tls());
    // Plain loopback needs no roots, and a bare machine has none.
    if url.is_tls() { builder.build() } else { builder.tls_certs_only([]).build() }
}

async fn read(path: &Path) -> Result<Vec<u8>, FetchError> {
    let failed = |error: io::Error| FetchError::File(error.kind());
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut document = Vec::new();
    file.take(MAX_KEY_SET_BYTES as u64 + 1).read_to_end(&mut document).await.map_err(failed)?;
    Ok(document)
}

async fn get(client: &reqwest::Client, url: &JwksUrl) -> Result<Vec<u8>, FetchError> {
    let failed = |error: reqwest::Error| FetchError::Http(error.without_url().to_string());
    let request = client.get(url.as_str()).header("accept", "application/jwk-set+json, application/json");
    let mut response = request.send().await.map_err(failed)?;
    if response.status() != 200 {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if document.len() + chunk.len() > MAX_KEY_SET_BYTES {
            return Err(KeySetError::TooLarge.into());
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}
