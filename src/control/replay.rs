//! A policy that is not in force, asked about what was asked before.
//!
//! Pure. Both policies are asked on the catalog and the grants of now, by the code that analyses requests: what differs is
//! the policy and nothing else. It changes nothing, and says nothing of what people would have answered.

use std::sync::Arc;

use super::analyse::{Analysed, analyse};
use super::grant;
use super::model::Model;
use super::plan::Refused;
use super::policy::{InForce, PolicySet};
use super::record::{PolicyFile, PolicyRecord};
use super::request;
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::RequestId;
use crate::domain::request::{Access, Analysis, Ask, Request, Requester, Verdict};
use crate::domain::resource::Span;

/// Something that was asked for, or is held.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What it is, for example `request 01J…`.
    pub of: String,
    /// Who asked.
    pub requester: Requester,
    /// What for.
    pub ask: Ask,
    /// Calls that were recorded of it.
    pub calls: u64,
}

impl Asked {
    /// A request.
    pub fn request(asked: &Request) -> Self {
        // A window that is over would be refused for that: it is asked for now.
        let ask = Ask { starts: None, ..asked.ask.clone() };
        Self { of: format!("request {}", asked.id), requester: asked.requester.clone(), ask, calls: 0 }
    }

    /// What a grant gives, as it was asked for.
    pub fn grant(grant: &Grant, calls: u64) -> Self {
        let by = &grant.lineage.created_by;
        let requester = match by.as_str().strip_prefix("identity.") {
            Some(_) => Requester::Identity(grant.identity.clone()),
            None => Requester::Person(by.clone()),
        };
        let role = grant.lineage.origin.as_ref().and_then(|origin| origin.role.clone());
        let ask = Ask {
            identity: grant.identity.clone(),
            access: role.map_or_else(|| Access::of(grant.resource.clone(), grant.actions.clone()), Access::Role),
            starts: None,
            duration: Span::new(grant.window.ends.saturating_since(grant.window.starts)),
            limits: grant.limits.clone(),
            reason: grant.lineage.reason.clone(),
            ticket: grant.lineage.ticket.clone(),
            until: grant.lineage.until.clone(),
        };
        Self { of: format!("grant {}", grant.id), requester, ask, calls }
    }
}

/// What another policy would change for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shift {
    /// It would be refused.
    NewlyDenied,
    /// It would wait for people.
    NewlyNeedsApproval,
    /// It would be granted, or could be approved.
    NewlyGetsAccess,
    /// It would wait for other people.
    NeedsOthers,
}

impl Shift {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewlyDenied => "newly_denied",
            Self::NewlyNeedsApproval => "newly_needs_approval",
            Self::NewlyGetsAccess => "newly_gets_access",
            Self::NeedsOthers => "needs_others",
        }
    }
}

/// Something that would be otherwise.
#[derive(Clone, Debug)]
pub struct Row {
    /// How.
    pub shift: Shift,
    /// What it is of.
    pub asked: Asked,
    /// What the policy that is in force says.
    pub was: String,
    /// What the other one would.
    pub would: String,
    /// Why, where it would be refused.
    pub why: String,
}

/// The model as it would be under another policy.
///
/// # Errors
/// Everything that stands in the way of the policy.
pub fn under(model: &Model, now: Timestamp, files: Vec<PolicyFile>) -> Result<Model, Refused> {
    let set = PolicySet::compile(&files).map_err(Refused::Unfit)?;
    let version = model.policy.as_ref().map_or(0, |policy| policy.record.version).saturating_add(1);
    let by = super::authorize::SYSTEM.parse().map_err(|_| Refused::invalid("nobody"))?;
    let (reason, digest) = (String::new(), String::new());
    let record = PolicyRecord { version, published: now, by, reason, change: None, digest, files };
    let policy = Some(InForce { record: Arc::new(record), set: Arc::new(Ok(set)) });
    Ok(Model { policy, ..model.clone() })
}

/// What would be otherwise of one of them. `Err`: it cannot be asked any more, as what it names is gone.
pub fn replay(before: &Model, after: &Model, now: Timestamp, asked: &Asked) -> Result<Option<Row>, Refused> {
    let was = match before.policy {
        Some(_) => Some(analysed(before, now, asked)?),
        None => None,
    };
    let would = analysed(after, now, asked)?;
    // Without a policy, what is held was made by hand, and nothing else is.
    let verdict = was.as_ref().map_or(Verdict::Grant, |it| it.verdict);
    let shift = match (verdict, would.verdict) {
        (Verdict::Grant | Verdict::Approve, Verdict::Refuse) => Shift::NewlyDenied,
        (Verdict::Grant, Verdict::Approve) => Shift::NewlyNeedsApproval,
        (Verdict::Refuse, Verdict::Grant | Verdict::Approve) | (Verdict::Approve, Verdict::Grant) => {
            Shift::NewlyGetsAccess
        }
        (Verdict::Approve, Verdict::Approve) if was.as_ref().is_some_and(|it| it.stages != would.stages) => {
            Shift::NeedsOthers
        }
        (Verdict::Grant, Verdict::Grant)
        | (Verdict::Refuse, Verdict::Refuse)
        | (Verdict::Approve, Verdict::Approve) => {
            return Ok(None);
        }
    };
    let said = |it: &Analysis| match it.verdict {
        Verdict::Grant => "granted at once".to_owned(),
        Verdict::Refuse => "refused".to_owned(),
        Verdict::Approve => {
            format!("waits for {}", crate::domain::request::in_words(&it.stages))
        }
    };
    let why = would.findings.iter().filter(|it| it.code != "sensitive").map(|it| it.text.as_str());
    let why = if would.verdict == Verdict::Refuse { why.collect::<Vec<_>>().join("; ") } else { String::new() };
    let was = was.as_ref().map_or_else(|| "made by hand".to_owned(), said);
    Ok(Some(Row { shift, asked: asked.clone(), was, would: said(&would), why }))
}

fn analysed(model: &Model, now: Timestamp, asked: &Asked) -> Result<Analysis, Refused> {
    let permissions = grant::permissions(model, &request::grant_request(&asked.ask).access)?;
    let id = RequestId::from_bits(0);
    let Analysed { analysis, .. } = analyse(model, now, id, &asked.requester, &asked.ask, permissions)?;
    Ok(analysis)
}
