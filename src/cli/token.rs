//! `portcullis token`: get one from a gateway, look into one, end one.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use zeroize::Zeroizing;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use super::time::both;
use crate::client::gateway::{self, Issued, Subject, TokenError, Wanted};
use crate::client::jwt::{self, Finding, Look};
use crate::client::target::{self, DevFile};
use crate::clock::SystemClock;
use crate::domain::name::{ActionName, IdentityName, ResourceName};
use crate::domain::{Clock as _, Timestamp};
use crate::wire::v1;

/// Largest token read from standard input.
const MAX_TOKEN_BYTES: u64 = 64 << 10;

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Get a token bound to a grant, for a token of a trusted issuer or a client certificate
    Exchange(Exchange),
    /// Show what a token says, without verifying it, and what a gate would refuse it for
    Inspect(Source),
    /// Declare a token dead on every gateway (administrators only)
    Revoke(Source),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("subject").required(true).args(["identity", "token_file", "cert_file"]))]
pub(super) struct Exchange {
    /// The resource that the token is for
    #[arg(long, value_name = "NAME")]
    resource: ResourceName,
    /// The action that it is for; may be repeated. Without any, everything that the grant gives
    #[arg(long, value_name = "NAME")]
    action: Vec<ActionName>,
    /// Be this identity of the dev directory
    #[arg(long, value_name = "NAME")]
    identity: Option<IdentityName>,
    /// File with the subject token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File with the client certificate
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// File with the client certificate's key
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The gateway, http(s)://HOST:PORT; the one of the dev directory if not given
    #[arg(long, value_name = "URL")]
    gateway: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["token", "token_file"]))]
pub(super) struct Source {
    /// The token; `-` reads it from standard input
    token: Option<String>,
    /// File with the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Inspection {
    verified: bool,
    #[serde(flatten)]
    look: Look,
}

#[derive(Serialize)]
struct Revocation {
    issuer: String,
    jti: String,
    revision: u64,
}

impl Token {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Exchange(command) => command.run(context).await,
            Self::Inspect(source) => inspect(context, &source),
            Self::Revoke(source) => revoke(context, &source).await,
        }
    }
}

impl Exchange {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let dir = context.dir();
        let subject = match (&self.identity, &self.token_file, &self.cert_file, &self.key_file) {
            (Some(name), ..) => {
                Subject::Token(target::client_token(&dir.join("identities").join(name.as_str()).join("token"))?)
            }
            (_, Some(file), ..) => Subject::Token(target::client_token(file)?),
            (_, _, Some(cert), Some(key)) => Subject::Certificate(target::client_certificate(cert, key)?),
            _ => return Err(Failure::usage("who asks? Name an identity, a token file or a certificate with its key")),
        };
        let base = match (&self.gateway, &subject) {
            (Some(url), _) => url.clone(),
            (None, Subject::Token(_)) => DevFile::read(&dir)?.gateway,
            (None, Subject::Certificate(_)) => DevFile::read(&dir)?.gateway_tls,
        };
        let ca_pem = if base.starts_with("https://") {
            let file = context.pointers.ca_file.clone().or_else(|| context.environment.ca.clone());
            target::read(&file.unwrap_or_else(|| dir.join("ca.pem")), "the CA certificate (--ca-file)")?
        } else {
            Vec::new()
        };
        let wanted =
            Wanted { audience: self.resource.to_string(), scope: self.action.into_iter().map(String::from).collect() };
        let issued = gateway::exchange(&base, &ca_pem, subject, &wanted).await?;
        let line = |issued: &Issued| vec![issued.access_token.clone()];
        context.output.answer(&issued, || Human::Lines(line(&issued)))?;
        Ok(Exit::Done)
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Unreachable { .. } => Self::new(Exit::Unavailable, error.to_string()),
            TokenError::InClear { .. } => Self::new(Exit::Usage, error.to_string()),
            TokenError::Answer { .. } => Self::new(Exit::Failed, error.to_string()),
            TokenError::Refused { status, reason, description } => {
                let exit = match (status, reason.as_str()) {
                    (401, _) => Exit::Unauthenticated,
                    (503 | 504 | 429, _) => Exit::Unavailable,
                    (_, "invalid_request" | "subject_token_invalid" | "invalid_client" | "invalid_grant") => {
                        Exit::Unauthenticated
                    }
                    (_, "token_request_invalid" | "token_grant_type_unsupported" | "unsupported_grant_type") => {
                        Exit::Usage
                    }
                    (400 | 403, _) => Exit::Denied,
                    _ => Exit::Failed,
                };
                Self::new(exit, description).with_reason(reason)
            }
        }
    }
}

impl Source {
    fn read(&self) -> Result<Zeroizing<String>, Failure> {
        match (&self.token, &self.token_file) {
            (Some(token), _) if token == "-" => {
                let mut text = Zeroizing::new(String::new());
                std::io::stdin().lock().take(MAX_TOKEN_BYTES).read_to_string(&mut text)?;
                Ok(Zeroizing::new(text.trim().to_owned()))
            }
            (Some(token), _) => Ok(Zeroizing::new(token.trim().to_owned())),
            (None, Some(file)) => Ok(target::client_token(file)?),
            (None, None) => Err(Failure::usage("which token?")),
        }
    }
}

fn inspect(context: &Context, source: &Source) -> Result<Exit, Failure> {
    let now = SystemClock.now();
    let look = jwt::look(&source.read()?, now).map_err(|e| Failure::usage(e.to_string()))?;
    let inspection = Inspection { verified: false, look };
    context.output.answer(&inspection, || shown(&inspection.look, now))?;
    Ok(Exit::Done)
}

fn shown(look: &Look, now: Timestamp) -> Human {
    let pairs = |map: &serde_json::Map<String, serde_json::Value>| {
        let row = |(name, value): (&String, &serde_json::Value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let text = match jwt::time(map, name).filter(|_| matches!(name.as_str(), "exp" | "nbf" | "iat")) {
                Some(at) => both(at, now),
                None => text,
            };
            vec![name.clone(), text]
        };
        map.iter().map(row).collect()
    };
    let finding = |finding: &Finding| vec![finding.reason.to_string(), finding.detail.clone()];
    Human::Parts(vec![
        Human::Lines(vec!["NOT VERIFIED: anybody can write a token that says this.".to_owned()]),
        Human::Table { headers: &["HEADER", "VALUE"], rows: pairs(&look.header), empty: "" },
        Human::Table { headers: &["CLAIM", "VALUE"], rows: pairs(&look.claims), empty: "" },
        Human::Table {
            headers: &["WOULD BE REFUSED", "BECAUSE"],
            rows: look.findings.iter().map(finding).collect(),
            empty: "Nothing in the token itself speaks against it. Whether its signature, issuer, audience and grant hold \
                    is for the gate to say.",
        },
    ])
}

async fn revoke(context: &Context, source: &Source) -> Result<Exit, Failure> {
    let look = jwt::look(&source.read()?, SystemClock.now()).map_err(|e| Failure::usage(e.to_string()))?;
    let claim = |name: &str| match look.claims.get(name).and_then(serde_json::Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => {
            Err(Failure::usage(format!("the token has no `{name}`: it cannot be named, so it cannot be revoked alone")))
        }
    };
    let (issuer, jti) = (claim("iss")?, claim("jti")?);
    let expires = jwt::time(&look.claims, "exp")
        .ok_or_else(|| Failure::usage("the token has no `exp`: a gate refuses it as it is"))?;
    let request =
        v1::RevokeTokenRequest { issuer: issuer.clone(), jti: jti.clone(), expires_unix_us: expires.unix_micros() };
    let revision = context.client().await?.revoke_token(request).await?;
    let answer = Revocation { issuer, jti, revision };
    let line = format!("token {} of {} revoked in revision {revision}", answer.jti, answer.issuer);
    context.output.answer(&answer, || Human::Lines(vec![line]))?;
    Ok(Exit::Done)
}
