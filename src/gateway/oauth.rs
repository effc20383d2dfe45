//! The token endpoints below `/.portcullis/`: a credential in, a short-lived token of this gateway out; and its end.
//!
//! A token is issued by the same decision that calls go through, for what that decision allows, and never for longer.
//! It is recorded before it leaves. Knows no connection and no HTTP library: requests come as their parts.

mod issue;
mod metadata;
mod revoke;
mod tell;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle as Runtime;

use self::tell::Teller;
use crate::domain::Reason;
use crate::domain::name::CallId;
use crate::evidence::entry::{CredentialKind, Denial, Encode};
use crate::evidence::journal::{Journal, JournalError};
use crate::gateway::authority::AuthorityClock;
use crate::gateway::connection::ClientCertificate;
use crate::gateway::denials::{At, Course, DenialBudget};
use crate::gateway::live::Registry;
use crate::gateway::metrics::WorkerMetrics;
use crate::gateway::published::Published;
use crate::issuers::TokenVerifier;
use crate::settings::gateway::ControlEndpoint;
use crate::token::keys::SigningKey;
use crate::token::mint::GatewayIssuer;
use crate::token::oauth::{FORM_TYPE, OAuthError};

/// Where tokens are asked for.
pub(crate) const TOKEN_PATH: &str = "/.portcullis/token";
/// Where tokens are revoked.
pub(crate) const REVOKE_PATH: &str = "/.portcullis/revoke";
/// The public keys of the tokens that upstreams get.
pub(crate) const JWKS_PATH: &str = "/.portcullis/jwks.json";
/// RFC 8414.
pub(crate) const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";

/// What the endpoints work on.
#[derive(Debug)]
pub(crate) struct OauthParts {
    pub(crate) authority: Arc<AuthorityClock>,
    pub(crate) published: Arc<Published>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) verifier: Arc<TokenVerifier>,
    pub(crate) journal: Journal,
    pub(crate) denials: Arc<DenialBudget>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) issuer: GatewayIssuer,
    /// The audience of this gateway's own tokens.
    pub(crate) audience: String,
    pub(crate) access_key: Arc<SigningKey>,
    pub(crate) upstream_key: Arc<SigningKey>,
    /// Who tells the other gateways of a revoked token.
    pub(crate) control: ControlEndpoint,
    /// Longest wait for authority.
    pub(crate) hold: Duration,
    /// For what must not run on a worker.
    pub(crate) runtime: Runtime,
}

/// The endpoints.
#[derive(Debug)]
pub(crate) struct Oauth {
    parts: OauthParts,
    teller: Arc<Teller>,
    jwks: Bytes,
    metadata: Option<Bytes>,
}

/// A request.
pub(crate) struct Endpoint {
    pub(crate) call: CallId,
    pub(crate) method: String,
    /// Canonical, without the query.
    pub(crate) path: String,
    pub(crate) content_type: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Bytes,
    pub(crate) peer: SocketAddr,
    /// Of the connection.
    pub(crate) certificate: Option<ClientCertificate>,
}

/// Shows nothing of header and body, which hold credentials.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("call", &self.call).field("path", &self.path).finish_non_exhaustive()
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// Why a stranger was refused: to be counted. Refusals of verified callers are recorded already.
    pub(crate) refused: Option<Reason>,
}

/// Why a request is refused, and whether that is recorded already.
#[derive(Clone, Copy, Debug)]
enum Refused {
    /// Nobody is known: it is counted.
    Stranger(Reason),
    /// Recorded, or impossible to record.
    Recorded(Reason),
}

impl Oauth {
    pub(crate) fn new(parts: OauthParts) -> Arc<Self> {
        // The key of access tokens stays out: they are for this gateway alone, and verify nowhere else, however careless
        // the upstream.
        let jwks = SigningKey::public_jwks([parts.upstream_key.as_ref()]).to_string().into();
        let metadata = metadata::document(parts.issuer.access()).map(Into::into);
        let teller = Teller::start(parts.control.clone(), parts.authority.clone(), &parts.runtime);
        Arc::new(Self { parts, teller, jwks, metadata })
    }

    /// Answers a request to one of the endpoints.
    pub(crate) async fn handle(&self, request: Endpoint) -> Answer {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        match path {
            TOKEN_PATH if method == "POST" => answer_of(self.token(&request).await),
            REVOKE_PATH if method == "POST" => answer_of(self.revoke(&request).await),
            JWKS_PATH if method == "GET" => document("application/jwk-set+json", self.jwks.clone()),
            METADATA_PATH if method == "GET" => match &self.metadata {
                Some(metadata) => document("application/json", metadata.clone()),
                None => refusal(Refused::Stranger(Reason::RouteUnknown)).status(404),
            },
            TOKEN_PATH | REVOKE_PATH => refusal(Refused::Stranger(Reason::MethodNotAllowed)).with("allow", "POST"),
            JWKS_PATH | METADATA_PATH => refusal(Refused::Stranger(Reason::MethodNotAllowed)).with("allow", "GET"),
            _ => refusal(Refused::Stranger(Reason::RouteUnknown)).status(404),
        }
    }

    /// What every request with a form must have: the one media type, and no second way to say who asks.
    fn form<'r>(&self, request: &'r Endpoint) -> Result<&'r [u8], Refused> {
        let kind = request.content_type.as_deref().and_then(|text| text.split(';').next()).unwrap_or_default();
        if !kind.trim().eq_ignore_ascii_case(FORM_TYPE) || request.authorization.is_some() {
            return Err(Refused::Stranger(Reason::TokenRequestInvalid));
        }
        Ok(&request.body)
    }

    async fn write(&self, record: &impl Encode) -> Result<(), JournalError> {
        let ticket = self.parts.journal.append(record)?;
        self.parts.journal.durable(ticket).await
    }

    /// Records a denial before it is answered.
    async fn deny(&self, request: &Endpoint, who: &Who<'_>, reason: Reason) -> Refused {
        use std::borrow::Cow;
        let snapshot = self.parts.published.load();
        let record = Denial {
            call: request.call,
            reason,
            identity: who.identity.as_ref().map(Cow::Borrowed),
            principal: Some(who.principal.into()),
            credential: Some(who.credential),
            route: None,
            resource: who.resource.map(Cow::Borrowed),
            action: None,
            method: request.method.as_str().into(),
            host: "".into(),
            path: request.path.as_str().into(),
            query: None,
            peer: request.peer,
            epoch: snapshot.epoch(),
            revision: snapshot.revision(),
        };
        self.parts.metrics.denied(reason);
        let at = At { since_boot: self.parts.authority.since_boot(), wall: self.parts.authority.wall() };
        let written = match self.parts.denials.take(&self.parts.journal, &record, at) {
            Ok(Course::Alone) => self.write(&record).await,
            Ok(course) => {
                self.parts.metrics.denial_counted();
                match course {
                    Course::Counted(ticket) => self.parts.journal.durable(ticket).await,
                    Course::Alone | Course::CountedAlready => Ok(()),
                }
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => Refused::Recorded(reason),
            Err(error) => Refused::Recorded(error.reason()),
        }
    }
}

/// A verified caller, as far as known, for the record of a denial.
struct Who<'a> {
    identity: Option<crate::domain::name::IdentityName>,
    principal: &'a str,
    credential: CredentialKind,
    resource: Option<&'a crate::domain::name::ResourceName>,
}

impl Answer {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}

fn answer_of(result: Result<Answer, Refused>) -> Answer {
    result.unwrap_or_else(refusal)
}

/// A public document. Keys change with a restart at most; a minute of an old answer harms nobody.
fn document(kind: &str, body: Bytes) -> Answer {
    let answer = Answer { status: 200, headers: Vec::new(), body, refused: None };
    answer.with("content-type", kind).with("cache-control", "max-age=60")
}

/// What holds a credential, or is about one, is never kept (RFC 6749 section 5.1).
fn private(status: u16, body: Bytes) -> Answer {
    let answer = Answer { status, headers: Vec::new(), body, refused: None };
    answer.with("content-type", "application/json").with("cache-control", "no-store").with("pragma", "no-cache")
}

fn refusal(refused: Refused) -> Answer {
    let (reason, counted) = match refused {
        Refused::Stranger(reason) => (reason, Some(reason)),
        Refused::Recorded(reason) => (reason, None),
    };
    let error = OAuthError::of(reason);
    let mut answer = private(error.status, error.to_json().into());
    answer.refused = counted;
    match error.status {
        // RFC 6750 section 3: the challenge of a 401.
        401 => answer.with("www-authenticate", "Bearer"),
        503 => answer.with("retry-after", "1"),
        _ => answer,
    }
}
