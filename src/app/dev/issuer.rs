//! The issuer of `dev`: tokens for the sample identities, as an identity provider would give them.
//!
//! A key of its own, which survives restarts; its public half stands in a file that the gateway reads as it would any
//! issuer's. Tokens live for seven days and are renewed at each start and long before their end.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::directory::Directory;
use crate::app::AppError;
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::domain::name::OwnerName;
use crate::files;
use crate::token::keys::{KeyAlgorithm, SigningKey};
use crate::token::mint::{self, PlainToken, plain_token};

/// The `iss` of its tokens.
pub(super) const ISSUER: &str = "https://issuer.dev.portcullis.local";
/// The `iss` of ID tokens: where people sign in.
pub(super) const PROVIDER: &str = "https://people.dev.portcullis.local";
/// What the command line is registered as there.
pub(super) const CLIENT: &str = "portcullis";
/// Life of an ID token.
const ID_TOKEN_LIFE: Duration = Duration::from_secs(3_600);
/// Life of a token.
pub(super) const TOKEN_DAYS: u64 = 7;
/// Age at which tokens are written again: what is read from a file has five days to go.
const RENEW_AFTER: Duration = Duration::from_secs(2 * 86_400);
/// How often their age is looked at. Timers stand still while a machine sleeps, the clock does not.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// Largest key file read.
const MAX_KEY_BYTES: u64 = 16 << 10;

/// The issuer and the identities that it has tokens for.
pub(super) struct Issuer {
    key: SigningKey,
    audience: String,
    subjects: Vec<String>,
}

impl Issuer {
    /// Opens the issuer of the directory, or makes one, and writes every token anew.
    pub(super) fn open(directory: &Directory, audience: &str, subjects: &[&str]) -> Result<Self, AppError> {
        let issuer = Self {
            key: signing_key(directory)?,
            audience: audience.to_owned(),
            subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        };
        let jwks = format!("{:#}\n", SigningKey::public_jwks([&issuer.key]));
        directory.write("issuer/jwks.json", jwks.as_bytes(), files::PUBLIC)?;
        issuer.write_tokens(directory)?;
        Ok(issuer)
    }

    fn write_tokens(&self, directory: &Directory) -> Result<(), AppError> {
        let now = SystemClock.now();
        for subject in &self.subjects {
            let mut random = [0; 16];
            rand::fill(&mut random).map_err(|_| part("no random bytes"))?;
            let expires = now.saturating_add(Duration::from_secs(TOKEN_DAYS * 86_400));
            let token = PlainToken { issuer: ISSUER, subject, audience: &self.audience, expires, random };
            let minted = plain_token(&self.key, &token, now).map_err(part)?;
            let text = format!("{}\n", minted.token);
            directory.write(format!("identities/{subject}/token"), text.as_bytes(), files::PRIVATE)?;
        }
        Ok(())
    }

    /// Keeps the tokens fresh until the task is aborted.
    pub(super) fn keep(self, directory: std::sync::Arc<Directory>) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut written = SystemClock.now();
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let now = SystemClock.now();
                if now.saturating_since(written) < RENEW_AFTER {
                    continue;
                }
                match self.write_tokens(&directory) {
                    Ok(()) => written = now,
                    Err(error) => tracing::warn!(%error, "the sample identities' tokens could not be renewed"),
                }
            }
        })
    }
}

/// An ID token for one of the people of a running `dev`, who proves who they are now by reading the provider's key.
///
/// # Errors
/// When nobody of that name is there, or the key cannot be read.
pub(super) fn id_token(dir: &Path, person: &OwnerName) -> Result<Zeroizing<String>, AppError> {
    if !dir.join("people").join(person.as_str()).is_file() {
        return Err(AppError::Usage(format!("`{person}` is none of the people in {}/people", dir.display())));
    }
    let key = read_key(&dir.join("issuer/key.pem"))?;
    let now = SystemClock.now();
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| part("no random bytes"))?;
    let expires = now.saturating_add(ID_TOKEN_LIFE);
    let token = PlainToken { issuer: PROVIDER, subject: person.as_str(), audience: CLIENT, expires, random };
    Ok(Zeroizing::new(mint::id_token(&key, &token, now, now).map_err(part)?.token))
}

fn part(why: impl std::fmt::Display) -> AppError {
    AppError::Part { part: "dev issuer", why: why.to_string() }
}

fn signing_key(directory: &Directory) -> Result<SigningKey, AppError> {
    let path = directory.at("issuer/key.pem");
    if path.exists() {
        return read_key(&path);
    }
    let key = SigningKey::generate(KeyAlgorithm::Es256).map_err(part)?;
    directory.write("issuer/key.pem", key.to_pkcs8_pem().map_err(part)?.as_bytes(), files::PRIVATE)?;
    Ok(key)
}

fn read_key(path: &Path) -> Result<SigningKey, AppError> {
    let bytes =
        files::read_private(path, MAX_KEY_BYTES).map_err(AppError::io(format!("cannot read {}", path.display())))?;
    SigningKey::from_pkcs8_pem(&String::from_utf8_lossy(&bytes)).map_err(part)
}
