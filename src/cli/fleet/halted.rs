//! What `fleet halt` and `fleet resume` are about.

use clap::Args;

use super::super::failure::{Exit, Failure};
use crate::domain::halt::HaltScope;
use crate::domain::name::ResourceName;
use crate::domain::root::Root;

#[derive(Debug, Args)]
#[group(id = "scope", required = true, multiple = true)]
pub(in super::super) struct Scope {
    /// Every call on every gateway
    #[arg(long, group = "scope", conflicts_with_all = ["resource", "issuer", "key"])]
    all: bool,
    /// Every call on this resource
    #[arg(long, group = "scope", value_name = "NAME", conflicts_with_all = ["issuer", "key"])]
    resource: Option<ResourceName>,
    /// Every call by a token of this issuer, or by one of the gate's that was given for such a token
    #[arg(long, group = "scope", value_name = "URL")]
    issuer: Option<String>,
    /// With --issuer: only what this key of the issuer signed, by its `kid`. Alone: every call by a client certificate of
    /// this public key, or by a token that was given for one: the SHA-256 of its SubjectPublicKeyInfo, hexadecimal
    // A `kid` may well begin with a hyphen: those in base64url do, one in 64.
    #[arg(long, group = "scope", value_name = "KEY", allow_hyphen_values = true)]
    key: Option<String>,
}

impl Scope {
    pub(super) fn read(self) -> Result<HaltScope, Failure> {
        let text = match (self.resource, self.issuer, self.key) {
            (Some(name), ..) => return Ok(HaltScope::Resource(name)),
            (None, None, None) => return Ok(HaltScope::All),
            (None, Some(issuer), None) => format!("issuer/{issuer}"),
            (None, Some(issuer), Some(kid)) => format!("issuer/{issuer}#{kid}"),
            (None, None, Some(digest)) => format!("public-key/{}", digest.trim_start_matches("sha256:")),
        };
        let what =
            "an issuer's URL, its URL and a `kid`, or the SHA-256 of a public key: 64 digits of lower-case hexadecimal";
        Root::parse(&text)
            .map(HaltScope::Credential)
            .ok_or_else(|| Failure::new(Exit::Usage, format!("`{text}` is not {what}")))
    }
}
