//! What a grant can end with: a ticket, an incident, a change, a deployment or a job of another system.
//!
//! That system tells us when it closes. How it says so is known elsewhere; here is what is named.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::{OwnerName, TicketSourceName};

/// Longest key of a ticket, with its source: what people write on a command line.
pub const MAX_TICKET_BYTES: usize = 128;
/// Tickets that one grant may end with.
pub const MAX_UNTIL: usize = 8;

/// A ticket of a source, written `SOURCE:KEY`.
///
/// | shape | keys |
/// |---|---|
/// | `jira` | `OPS-12` |
/// | `github` | `owner/repo#12` (issue or pull request), `owner/repo/job/ID`, `owner/repo/run/ID`, `owner/repo/deployment/ID` |
/// | `pagerduty` | `PT4KHLK`, the incident's id |
/// | `generic` | whatever its own system calls it |
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Ticket {
    /// Where it is kept.
    pub source: TicketSourceName,
    /// What it is called there.
    pub key: Arc<str>,
}

/// Why a text names no ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no ticket: SOURCE:KEY, at most {MAX_TICKET_BYTES} printable characters without spaces")]
pub struct TicketError(String);

impl Ticket {
    /// A ticket by its parts.
    ///
    /// # Errors
    /// When the key has none of the characters of one, or is too long.
    pub fn new(source: TicketSourceName, key: &str) -> Result<Self, TicketError> {
        let length = source.as_str().len().saturating_add(key.len()).saturating_add(1);
        if key.is_empty() || length > MAX_TICKET_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TicketError(key.chars().take(64).flat_map(char::escape_default).collect()));
        }
        Ok(Self { source, key: key.into() })
    }

    /// The same under the one name that its source's shape has for it: GitHub's owners and repositories have no case, and
    /// Jira's keys are upper case.
    pub fn of(self, shape: TicketShape) -> Self {
        let key = match shape {
            TicketShape::Jira => self.key.to_ascii_uppercase().into(),
            TicketShape::Github => self.key.to_ascii_lowercase().into(),
            TicketShape::Pagerduty | TicketShape::Generic => self.key,
        };
        Self { key, ..self }
    }

    /// Whether a source of this shape has such keys: one that it never has would never close.
    pub fn is_of(&self, shape: TicketShape) -> bool {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let word = |text: &str| {
            !text.is_empty()
                && !text.starts_with('.')
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        match shape {
            TicketShape::Jira => self.key.rsplit_once('-').is_some_and(|(project, id)| word(project) && number(id)),
            TicketShape::Pagerduty => self.key.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            TicketShape::Generic => true,
            TicketShape::Github => {
                let (path, issue) = match self.key.split_once('#') {
                    Some((path, issue)) => (path, Some(issue)),
                    None => (&*self.key, None),
                };
                let parts: Vec<&str> = path.split('/').collect();
                match (parts.as_slice(), issue) {
                    ([owner, repository], Some(issue)) => word(owner) && word(repository) && number(issue),
                    ([owner, repository, "job" | "run" | "deployment", id], None) => {
                        word(owner) && word(repository) && number(id)
                    }
                    _ => false,
                }
            }
        }
    }
}

impl FromStr for Ticket {
    type Err = TicketError;
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let bad = || TicketError(text.chars().take(64).flat_map(char::escape_default).collect());
        let (source, key) = text.split_once(':').ok_or_else(bad)?;
        Self::new(source.parse().map_err(|_| bad())?, key)
    }
}

impl TryFrom<String> for Ticket {
    type Error = TicketError;
    fn try_from(text: String) -> Result<Self, TicketError> {
        text.parse()
    }
}

impl From<Ticket> for String {
    fn from(ticket: Ticket) -> Self {
        ticket.to_string()
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)
    }
}

/// How a source speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TicketShape {
    /// Jira's webhooks, signed in `X-Hub-Signature`.
    Jira,
    /// GitHub's webhooks, signed in `X-Hub-Signature-256`: issues, pull requests, workflow jobs and runs, deployments.
    Github,
    /// PagerDuty's v3 webhooks, signed in `X-PagerDuty-Signature`.
    Pagerduty,
    /// Standard Webhooks 1.0, with `data.ticket` and `data.state`, `open` or `closed`.
    Generic,
}

impl TicketShape {
    /// What its keys look like.
    pub const fn keys(self) -> &'static str {
        match self {
            Self::Jira => "keys of Jira are like OPS-12",
            Self::Github => {
                "keys of GitHub are owner/repo#12, owner/repo/job/ID, owner/repo/run/ID, owner/repo/deployment/ID"
            }
            Self::Pagerduty => "keys of PagerDuty are ids of incidents, like PT4KHLK",
            Self::Generic => "keys are printable characters without spaces",
        }
    }
}

/// The `spec` of a `TicketSource` document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketSourceSpec {
    /// How it speaks.
    pub shape: TicketShape,
    /// Who answers for it.
    pub owner: OwnerName,
    /// What its webhooks are signed with: the name of a file in `secrets` under the control plane's state directory, one
    /// secret a line, any of which may have signed. Without it a webhook is but a hint, and the ticket is read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<SecretFileName>,
    /// Where a ticket is read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<TicketReadSpec>,
}

/// Where a ticket is read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketReadSpec {
    /// The API's address: `https://api.github.com`, `https://example.atlassian.net`, `https://api.pagerduty.com`. Of shape
    /// `generic` all of it, with `{key}` in its place; it answers `{"state": "open"}` or `{"state": "closed"}`. http on
    /// loopback only.
    pub url: String,
    /// The bearer token that it takes: the name of a file in `secrets` under the control plane's state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<SecretFileName>,
}

/// The name of a file in the directory of secrets: a document leads nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct SecretFileName(Arc<str>);

impl SecretFileName {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SecretFileName {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.bytes().all(good) {
            return Err(
                "the name of a file in `secrets` under the state directory: letters, digits and . _ -, no path",
            );
        }
        Ok(Self(text.into()))
    }
}

impl From<SecretFileName> for String {
    fn from(name: SecretFileName) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// A source of tickets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketSource {
    /// Its name, the last part of the webhooks' address.
    pub name: TicketSourceName,
    /// What its document says.
    pub spec: TicketSourceSpec,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_a_source_and_a_key_and_nothing_else() {
        for good in ["jira:OPS-12", "gh:acme/shop#7", "gh:acme/shop/job/29679449526", "own:a:b"] {
            assert_eq!(good.parse::<Ticket>().unwrap().to_string(), good);
        }
        let long = format!("jira:{}", "x".repeat(MAX_TICKET_BYTES));
        for bad in ["CHG-7", "jira:", ":OPS-1", "Jira:OPS-1", "jira:OPS 1", "jira:OPS\n1", "jira:Ä", &long] {
            assert!(bad.parse::<Ticket>().is_err(), "{bad}");
        }
        let of = |text: &str, shape| text.parse::<Ticket>().unwrap().of(shape).to_string();
        assert_eq!(of("gh:Acme/Shop#7", TicketShape::Github), "gh:acme/shop#7");
        assert_eq!(of("jira:ops-7", TicketShape::Jira), "jira:OPS-7");
        assert_eq!(of("own:Ops-7", TicketShape::Generic), "own:Ops-7");
    }

    #[test]
    fn a_key_that_its_source_never_has_is_none_of_it() {
        let is = |text: &str, shape| text.parse::<Ticket>().unwrap().is_of(shape);
        for good in ["gh:a/b#7", "gh:a/b.c/job/7", "gh:a/b/run/7", "gh:a/b/deployment/7"] {
            assert!(is(good, TicketShape::Github), "{good}");
        }
        for bad in [
            "gh:7",
            "gh:a/b",
            "gh:a/b#",
            "gh:a/b#x",
            "gh:a/b/c#7",
            "gh:../b#7",
            "gh:a/b/job/",
            "gh:a/b/jobs/7",
            "gh:a/b?/run/7",
        ] {
            assert!(!is(bad, TicketShape::Github), "{bad}");
        }
        assert!(
            is("j:OPS-7", TicketShape::Jira) && !is("j:OPS7", TicketShape::Jira) && !is("j:O/S-7", TicketShape::Jira)
        );
        assert!(is("p:PT4KHLK", TicketShape::Pagerduty) && !is("p:PT4/..", TicketShape::Pagerduty));
    }

    #[test]
    fn a_secret_is_a_file_of_its_directory() {
        for bad in ["", ".", "..", "../seal.key", "/etc/passwd", "a/b", ".hidden", "a\0b"] {
            assert!(SecretFileName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(SecretFileName::try_from("jira.secret".to_owned()).is_ok());
    }
}
