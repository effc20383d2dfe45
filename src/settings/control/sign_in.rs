//! Where people sign in, as the settings of a control plane name it: a provider of OpenID Connect.
//!
//! Whose ID tokens are taken, and which claim says who somebody is. What they may do is not said here, but for those who have
//! no account: nobody signs in to more than is written down on this machine.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::issuer::{self, IssuerSettings, KeySource};
use super::super::parts::{Check, FilePath};

/// How far a provider's clock may be off.
const LEEWAY: Duration = Duration::from_secs(5);
/// Longest life of an ID token.
const MAX_LIFETIME: Duration = Duration::from_secs(86_400);
/// How often the provider's keys are read again.
const REFRESH: Duration = Duration::from_secs(300);
/// How long they are used after they could last be read: nobody signs in by a provider that has been away for longer.
const MAX_STALE: Duration = Duration::from_secs(3_600);

/// Where people sign in.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSignIn {
    /// The provider: the `iss` claim of its ID tokens, exactly.
    issuer: String,
    /// What this control plane's command line is registered as there, a public client: the one `aud` of its ID tokens.
    client_id: String,
    /// A file with the provider's keys, a JWK set. Either this or `jwks_url`.
    #[serde(default)]
    jwks_file: Option<FilePath>,
    /// Where its keys are fetched: `https:`, or `http:` on loopback. Either this or `jwks_file`.
    #[serde(default)]
    jwks_url: Option<String>,
    /// The claim that says who somebody is. Default: preferred_username.
    #[serde(default)]
    person: PersonClaim,
    /// Whether people who have a `Person` document and no account here are let in, as developers. Default: false.
    #[serde(default)]
    documented: bool,
}

/// The claim of an ID token that says which person it is (OpenID Connect Core 1.0 section 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PersonClaim {
    /// Their name here. Only with a provider that never gives one to somebody else.
    #[default]
    PreferredUsername,
    /// The `email` of their `Person` document, where the provider says that it is verified.
    Email,
    /// Their name here is the provider's name for them.
    Sub,
}

impl PersonClaim {
    /// The claim's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreferredUsername => "preferred_username",
            Self::Email => "email",
            Self::Sub => "sub",
        }
    }
}

/// Where people sign in, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInSettings {
    /// The provider, its keys, and what this control plane is called there.
    pub issuer: IssuerSettings,
    /// What the command line is registered as.
    pub client_id: String,
    /// The claim that says who somebody is.
    pub person: PersonClaim,
    /// Whether people with a document and no account are let in, as developers.
    pub documented: bool,
}

/// The sign-in of a file, beside the issuers of machines' tokens.
pub(super) fn sign_in(check: &mut Check<'_>, raw: &RawSignIn, machines: &[IssuerSettings]) -> Option<SignInSettings> {
    let name = check.text("/sign_in/issuer", &raw.issuer);
    if machines.iter().any(|machine| machine.issuer == name) {
        check.fault(
            "/sign_in/issuer",
            format!("`{name}` stands in `issuers` too: who signs in there would be a machine as well as a person"),
        );
    }
    let keys = match (&raw.jwks_file, &raw.jwks_url) {
        (Some(file), None) => KeySource::File(check.path(file)),
        (None, Some(url)) => {
            if !issuer::fetchable(url) {
                check.fault("/sign_in/jwks_url", "an https:// URL is expected (http:// on loopback only)");
            }
            KeySource::Url(url.clone())
        }
        (Some(_), Some(_)) | (None, None) => {
            check.fault("/sign_in", "exactly one of `jwks_file` and `jwks_url` is expected");
            return None;
        }
    };
    let client_id = check.text("/sign_in/client_id", &raw.client_id);
    Some(SignInSettings {
        issuer: IssuerSettings {
            issuer: name,
            keys,
            audiences: vec![client_id.clone()],
            leeway: LEEWAY,
            max_lifetime: MAX_LIFETIME,
            refresh: REFRESH,
            max_stale: MAX_STALE,
        },
        client_id,
        person: raw.person,
        documented: raw.documented,
    })
}
