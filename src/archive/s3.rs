//! A bucket that speaks S3 as an archive.
//!
//! Objects are made with `If-None-Match: *` and replaced with `If-Match`, so that nothing there is written over by
//! accident, and each is read back before it counts.

use std::io;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{Certificate, ClientOptions};
use object_store::path::Path;
use object_store::{
    Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
};
use tokio::runtime::{Builder, Runtime};

use crate::evidence::archive::{Outgoing, Place, Version, is_same, other};
use crate::settings::{S3Settings, read_secret};

/// Objects that are put or read at once.
const AT_ONCE: usize = 16;
/// For one request, its body included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Tries of one request: beyond, the whole step is tried again.
const RETRIES: usize = 2;

/// An archive in a bucket.
#[derive(Debug)]
pub(super) struct S3Place {
    store: AmazonS3,
    prefix: Path,
    /// Its own: whoever waits here must not depend on who waits elsewhere. None when it is being dropped.
    runtime: Option<Runtime>,
}

impl Drop for S3Place {
    fn drop(&mut self) {
        // Nothing is under way; and it may be dropped where nobody may wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl S3Place {
    /// Of the log with this name.
    pub(super) fn new(settings: &S3Settings, name: &str) -> io::Result<Self> {
        // A second call changes nothing: the process has one provider, and it is this one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let mut client = ClientOptions::new().with_timeout(PATIENCE).with_allow_http(plain);
        if let Some(file) = &settings.ca_file {
            let failed = |error: &dyn std::fmt::Display| invalid(format!("{}: {error}", file.display()));
            let pem = std::fs::read(file).map_err(|error| failed(&error))?;
            for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| failed(&error))? {
                client = client.with_root_certificate(certificate);
            }
        }
        if plain {
            // Plain loopback needs no roots, and a bare machine has none.
            client = client.with_no_system_certificates(true);
        }
        let mut builder = match &settings.key_files {
            None => AmazonS3Builder::from_env(),
            Some((id, secret)) => {
                let text = |file: &std::path::Path| -> io::Result<String> {
                    let bytes = read_secret(file).map_err(|error| invalid(error.to_string()))?;
                    String::from_utf8(bytes.to_vec()).map_err(|_| invalid(format!("{}: not a text", file.display())))
                };
                AmazonS3Builder::new().with_access_key_id(text(id)?).with_secret_access_key(text(secret)?)
            }
        };
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: PATIENCE, ..RetryConfig::default() };
        let store = builder
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_client_options(client)
            .with_retry(retry)
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        let prefix = Path::parse(format!("{}/{name}", settings.prefix).trim_start_matches('/'))
            .map_err(|error| invalid(error.to_string()))?;
        let runtime = Some(Builder::new_current_thread().enable_all().build()?);
        Ok(Self { store, prefix, runtime })
    }

    /// Waits for what is asked of the bucket. On a thread that may be blocked.
    fn wait<T>(&self, asked: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(asked),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn at(&self, path: &str) -> Path {
        Path::from(format!("{}/{path}", self.prefix))
    }

    async fn put_one(&self, file: &Outgoing) -> io::Result<()> {
        let options = PutOptions::from(PutMode::Create);
        let put = self.store.put_opts(&self.at(&file.path), PutPayload::from(file.bytes.clone()), options).await;
        match put {
            Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Err(error) => return Err(failed(&error)),
        }
        match self.get(&file.path, file.bytes.len()).await? {
            Some((there, _)) if is_same(&file.bytes, &there) => Ok(()),
            Some(_) | None => Err(other(&file.path)),
        }
    }

    async fn get(&self, path: &str, max: usize) -> io::Result<Option<(Vec<u8>, Version)>> {
        let found = match self.store.get(&self.at(path)).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|error| failed(&error))?,
        };
        if found.meta.size > u64::try_from(max).unwrap_or(u64::MAX) {
            return Err(other(path));
        }
        let version = Version(found.meta.e_tag.clone().unwrap_or_default());
        let bytes = found.bytes().await.map_err(|error| failed(&error))?;
        Ok(Some((bytes.to_vec(), version)))
    }
}

/// What the service says, without what it was asked: that has keys in it at times.
fn failed(error: &Error) -> io::Error {
    io::Error::other(format!("the bucket: {error}"))
}

impl Place for S3Place {
    fn put(&self, files: &[Outgoing]) -> io::Result<()> {
        let all = async {
            let puts = futures_util::stream::iter(files).map(|file| self.put_one(file));
            puts.buffer_unordered(AT_ONCE).try_for_each(|()| std::future::ready(Ok(()))).await
        };
        self.wait(all)
    }

    fn read(&self, path: &str, max: usize) -> io::Result<Option<(Vec<u8>, Version)>> {
        self.wait(self.get(path, max))
    }

    fn replace(&self, path: &str, bytes: &[u8], before: Option<&Version>) -> io::Result<()> {
        let mode = match before {
            Some(Version(e_tag)) => PutMode::Update(UpdateVersion { e_tag: Some(e_tag.clone()), version: None }),
            None => PutMode::Create,
        };
        let at = self.at(path);
        let put = self.store.put_opts(&at, PutPayload::from(bytes.to_vec()), PutOptions::from(mode));
        self.wait(async {
            match put.await {
                Ok(_) => Ok(()),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    let why = format!("{path}: somebody else archives there");
                    Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
                }
                Err(error) => Err(failed(&error)),
            }
        })
    }

    fn forget(&self, directory: &str) -> io::Result<()> {
        let all = async {
            let mut listed = self.store.list(Some(&self.at(directory)));
            while let Some(object) = listed.try_next().await? {
                self.store.delete(&object.location).await?;
            }
            Ok(())
        };
        self.wait(async { all.await.map_err(|error: Error| failed(&error)) })
    }
}
