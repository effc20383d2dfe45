//! Break-glass: access at once in an emergency, and the review that has to follow.
//!
//! Who may break glass, for how long, and whose word closes the review, is the control plane's business; here is what it *is*.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::name::{BreakGlassId, GrantId, OwnerName};
use super::request::{Ask, Finding, Settled};
use super::resource::Span;
use super::role::Permission;

/// That somebody signed in where people do, as their ID token says (OpenID Connect Core 1.0 section 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedIn {
    /// `iss`: where.
    pub issuer: String,
    /// `kid`: by which of its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// `auth_time`: when they proved who they are.
    pub at: Timestamp,
    /// `acr`: how strongly, in the provider's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// `amr`: by what (RFC 8176), for example `pwd` and `otp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
}

/// What a review comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReviewVerdict {
    /// It was an emergency, and what was done fits it.
    Justified,
    /// It was not, or more was done than it took.
    Unjustified,
}

impl ReviewVerdict {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Justified => "justified",
            Self::Unjustified => "unjustified",
        }
    }
}

/// A review that is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Review {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: OwnerName,
    /// What it came to.
    pub verdict: ReviewVerdict,
    /// What there is to say about it.
    pub comment: String,
}

/// Where a break-glass stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakGlassState {
    /// Its access lives.
    Open,
    /// Its access is over, and it waits for its review.
    Unreviewed,
    /// The same, for longer than it may.
    Overdue,
    /// The review is closed.
    Reviewed,
}

impl BreakGlassState {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Unreviewed => "unreviewed",
            Self::Overdue => "overdue",
            Self::Reviewed => "reviewed",
        }
    }
}

/// That somebody broke glass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BreakGlass {
    /// Its identifier.
    pub id: BreakGlassId,
    /// Who did it.
    pub opener: OwnerName,
    /// When they had proved who they are, and how.
    pub signed_in: SignedIn,
    /// For whom, to what, for how long, and why.
    pub ask: Ask,
    /// What it gave, a role expanded: one grant each.
    pub permissions: Vec<Permission>,
    /// The grants.
    pub grants: Vec<GrantId>,
    /// When it was opened.
    pub opened: Timestamp,
    /// When the access is over.
    pub ends: Timestamp,
    /// How the access was ended before its time, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Settled>,
    /// The longest that it could have been for.
    pub longest: Span,
    /// The policy's version.
    pub policy: u64,
    /// Rules of the policy that decided.
    #[serde(default)]
    pub rules: Vec<String>,
    /// What policy has to say of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// Who answered for the identity when it was opened: they have an interest, and do not review it.
    pub identity_owner: OwnerName,
    /// Who answered for any of the resources, or for the identity, when it was opened: all of them, whose word ends it. Of one
    /// from before this was kept, nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answering: Vec<OwnerName>,
    /// Whom it concerns, for people to be told of: who answers for the resources and the identity, and who watches over all
    /// access. The first ones, and nothing is decided by it.
    pub concerned: Vec<OwnerName>,
    /// How many others it concerns who are not named there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub concerned_besides: u64,
    /// Until when the review is to be closed.
    pub due: Timestamp,
    /// That it is overdue was told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overdue_noted: bool,
    /// Some of those who can close the review: the first ones by name, while it is open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reviewers: Vec<OwnerName>,
    /// The review, once it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl BreakGlass {
    /// Whom it concerns, in words.
    pub fn concerns(&self) -> String {
        let mut names: Vec<String> = self.concerned.iter().map(OwnerName::to_string).collect();
        if self.concerned_besides > 0 {
            names.push(format!("and {} more", self.concerned_besides));
        }
        names.join(", ")
    }

    /// Whether its review is missing.
    pub const fn is_unreviewed(&self) -> bool {
        self.review.is_none()
    }

    /// Whether its review is missing and should not be at `now`.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.is_unreviewed() && self.due <= now
    }

    /// Whether its access lives at `now`, as far as it was not ended otherwise.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.is_unreviewed() && self.closed.is_none() && now < self.ends
    }

    /// Where it stands at `now`.
    pub fn state(&self, now: Timestamp) -> BreakGlassState {
        if !self.is_unreviewed() {
            BreakGlassState::Reviewed
        } else if self.is_overdue(now) {
            BreakGlassState::Overdue
        } else if self.is_live(now) {
            BreakGlassState::Open
        } else {
            BreakGlassState::Unreviewed
        }
    }
}
