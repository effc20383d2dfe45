//! The authorities that certify gateways, as they are kept.

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

/// What an authority is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityStanding {
    /// It is trusted, and issues nothing yet: everybody is to have its certificate first.
    Published,
    /// It is trusted, and issues.
    Issuing,
    /// It is trusted for what it issued.
    Trusted,
    /// Nothing that it issued, or issues, is good.
    Retired,
}

impl AuthorityStanding {
    /// As the API and messages write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Issuing => "issuing",
            Self::Trusted => "trusted",
            Self::Retired => "retired",
        }
    }
}

/// An authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// The label of its key, where keys of the CA are kept.
    pub label: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// What it is good for.
    pub standing: AuthorityStanding,
    /// Since when.
    pub since: Timestamp,
}

/// Every authority that there was, oldest first. Kept from the first rotation on; before it, the one in `ca_dir` issues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustRecord {
    /// They.
    pub authorities: Vec<AuthorityRecord>,
}

impl TrustRecord {
    /// Those of that standing.
    pub fn of(&self, standing: AuthorityStanding) -> impl Iterator<Item = &AuthorityRecord> {
        self.authorities.iter().filter(move |authority| authority.standing == standing)
    }

    /// What is to be trusted, PEM: whoever issues first.
    pub fn bundle(&self) -> String {
        use AuthorityStanding::{Issuing, Published, Trusted};
        let order = [Issuing, Published, Trusted];
        let certificates = order.into_iter().flat_map(|standing| self.of(standing)).map(|it| it.certificate.trim_end());
        let mut bundle = certificates.collect::<Vec<_>>().join("\n");
        bundle.push('\n');
        bundle
    }
}
