//! Signing in: OpenID Connect for people at a command line.
//!
//! The way of a native app (RFC 8252: the user's browser, and an answer on loopback, with PKCE) or of one without a browser
//! (RFC 8628: a code to type in elsewhere). What comes back is kept for its owner alone and refreshed when it is due.
//! Whether an ID token is good is the control plane's to say: here it is only looked at. Prints nothing.

mod kept;
mod loopback;
mod provider;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::jwt;
use crate::domain::Timestamp;
use kept::Kept;
use loopback::Loopback;
use provider::{Provider, Tokens};

/// What a token is refreshed before: the time that a command may take.
const SPARE: Duration = Duration::from_secs(60);

/// Where somebody signs in, as their context says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The provider's issuer: `https:`, or `http:` on loopback.
    pub issuer: String,
    /// What the command line is registered as there: a public client.
    pub client_id: String,
    /// The authority that the provider's certificate must come from, PEM. Default: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Scopes that are asked for besides `openid`. Default: `profile email offline_access`.
    pub scopes: Option<Vec<String>>,
}

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// They have not signed in, or it is over.
    #[error("not signed in at {issuer}: {why}. Run `portcullis login`")]
    NotSignedIn {
        /// The provider.
        issuer: String,
        /// What is missing.
        why: String,
    },
    /// The provider said no, or what is no answer.
    #[error("{issuer}: {why}")]
    Provider {
        /// The provider.
        issuer: String,
        /// What it said.
        why: String,
    },
    /// The provider did not answer.
    #[error("{issuer} does not answer: {why}")]
    Unreachable {
        /// The provider.
        issuer: String,
        /// What went wrong.
        why: String,
    },
    /// Nobody came back from the browser.
    #[error("nobody signed in within five minutes")]
    Late,
    /// What is kept cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Somebody who signs in at a provider, and where it is kept that they did.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// Where.
    pub at: SignIn,
    /// The file, its owner's alone.
    pub file: PathBuf,
}

/// What somebody has to do to sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Open an address on this machine.
    Open {
        /// The address.
        url: String,
    },
    /// Open an address anywhere, and type in a code.
    Enter {
        /// The address.
        url: String,
        /// The code.
        code: String,
    },
}

/// That somebody signed in.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Who it is, to the control plane.
    pub token: Zeroizing<String>,
    /// When that ends; until then, and longer where the provider refreshes, nobody has to sign in again.
    pub expires: Option<Timestamp>,
    /// Whether the provider refreshes it.
    pub renewable: bool,
}

impl SignedIn {
    /// Signs somebody in: `tell` is told what they have to do. With `device`, by a code that is typed in elsewhere; with
    /// `fresh`, they prove anew who they are, and the token says when that was.
    ///
    /// # Errors
    /// When the provider says no, is not there, or nobody comes.
    pub async fn sign_in(&self, device: bool, fresh: bool, tell: impl FnOnce(&Errand)) -> Result<Signed, SignInError> {
        let provider = Provider::discover(&self.at).await?;
        let tokens = if device {
            let code = provider.device_code(fresh).await?;
            tell(&code.errand());
            provider.device_tokens(&code).await?
        } else {
            let loopback = Loopback::bind().await.map_err(|error| provider.fault(&error))?;
            let redirect = loopback.address();
            let (url, expected) = provider.authorize(&redirect, fresh)?;
            tell(&Errand::Open { url });
            let code = loopback.code(&provider, &expected).await?;
            provider.tokens(code, expected, &redirect).await?
        };
        let says_when = |token: &str| {
            let look = jwt::look(token, Timestamp::default());
            look.is_ok_and(|look| look.claims.get("auth_time").is_some_and(serde_json::Value::is_number))
        };
        if fresh && !says_when(&tokens.id_token) {
            return Err(
                provider.fault(&"its ID token does not say when you signed in (`auth_time`), which was asked for")
            );
        }
        let kept = Kept::of(&self.at, tokens);
        kept.write(&self.file)?;
        Ok(kept.signed())
    }

    /// The token of who signed in, refreshed when it is due at `now`.
    ///
    /// # Errors
    /// When nobody is signed in any more, or the provider is not there to refresh it.
    pub async fn token(&self, now: Timestamp) -> Result<Zeroizing<String>, SignInError> {
        let kept = Kept::read(&self.file, &self.at)?;
        if kept.is_fresh(now) {
            return Ok(kept.id_token);
        }
        // One at a time: a provider takes a refresh token once, and the second would end what the first got.
        let _lock = kept::lock(&self.file).await?;
        let kept = Kept::read(&self.file, &self.at)?;
        if kept.is_fresh(now) {
            return Ok(kept.id_token);
        }
        let Some(refresh) = &kept.refresh_token else { return Err(self.at.not_signed_in("it is over")) };
        let provider = Provider::discover(&self.at).await?;
        let tokens = provider.refreshed(refresh).await?;
        // OpenID Connect Core 1.0 section 12.2: a refreshed ID token is of who signed in. Nothing of another's is kept.
        if subject(&tokens.id_token).is_none() || subject(&tokens.id_token) != subject(&kept.id_token) {
            return Err(provider.fault(&"it refreshed the token of who signed in with one of somebody else (`sub`)"));
        }
        let refresh_token = tokens.refresh_token.clone().or_else(|| kept.refresh_token.clone());
        let kept = Kept::of(&self.at, Tokens { refresh_token, ..tokens });
        // A crash here leaves a refresh token that is spent: signing in again mends it.
        kept.write(&self.file)?;
        Ok(kept.id_token)
    }

    /// Forgets who signed in, and has the provider forget it. Whether somebody was.
    ///
    /// # Errors
    /// When the file cannot be removed. A provider that is not there keeps nobody from signing out.
    pub async fn sign_out(&self) -> Result<bool, SignInError> {
        let kept = Kept::read(&self.file, &self.at).ok();
        let there = kept::remove(&self.file)?;
        if let Some(refresh) = kept.and_then(|kept| kept.refresh_token)
            && let Ok(provider) = Provider::discover(&self.at).await
        {
            provider.revoke(&refresh).await;
        }
        Ok(there)
    }
}

/// Whose an ID token is.
fn subject(token: &str) -> Option<String> {
    let look = jwt::look(token, Timestamp::default()).ok()?;
    look.claims.get("sub")?.as_str().map(str::to_owned)
}

impl SignIn {
    fn not_signed_in(&self, why: impl Into<String>) -> SignInError {
        SignInError::NotSignedIn { issuer: self.issuer.clone(), why: why.into() }
    }

    /// What its holder can see of an ID token: whether it is of this provider, for this client, and an answer to `nonce`.
    fn look(&self, token: &str, nonce: Option<&str>) -> Result<(), &'static str> {
        let look = jwt::look(token, Timestamp::default()).map_err(|_| "its ID token is no signed JSON web token")?;
        let text = |name: &str| look.claims.get(name).and_then(serde_json::Value::as_str);
        if text("iss") != Some(self.issuer.as_str()) {
            return Err("its ID token is another issuer's");
        }
        let ours = |value: &serde_json::Value| value.as_str() == Some(self.client_id.as_str());
        let audience = look.claims.get("aud");
        if !audience.is_some_and(|aud| ours(aud) || aud.as_array().is_some_and(|all| all.iter().any(ours))) {
            return Err("its ID token is for somebody else");
        }
        if nonce.is_some() && text("nonce") != nonce {
            return Err("its ID token answers another request");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
