//! Live grants that policy would not give any more.
//!
//! What was asked for under one policy and catalog is asked of them again when either changes: as whoever asked for it
//! stands now, for what the grant gives, with what is held now. Grants that were made by hand were never asked of a policy,
//! and what a program cannot read denies nothing that was granted: neither is looked at.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use super::analyse;
use super::approval::Subject;
use super::authorize::Caller;
use super::grant::plan_revoke_some;
use super::model::Model;
use super::plan::{Context, Plan, Refused, identity_author};
use super::policy::PolicySet;
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::GrantId;
use crate::domain::request::{Access, Ask, Requester};
use crate::domain::resource::Span;
use crate::domain::role::Permission;

/// Grants that one transaction ends: each is judged again while others wait for the writer.
pub(super) const MAX_AT_ONCE: usize = 20;
/// Longest ground that is told of one.
const MAX_WHY_CHARS: usize = 400;

/// Why the policy in force would not give a live grant any more. `None`: it would, or nothing is known.
pub(super) fn denied(model: &Model, now: Timestamp, grant: &Grant) -> Option<String> {
    let set = model.policy.as_ref().and_then(|policy| policy.set.as_ref().as_ref().ok())?;
    denied_by(model, now, set, grant)
}

/// The same of a set that may come into force.
pub(super) fn denied_by(model: &Model, now: Timestamp, set: &PolicySet, grant: &Grant) -> Option<String> {
    if grant.lineage.break_glass.is_some() {
        return super::breakglass::denied_by(model, now, set, grant)
            .map(|why| why.chars().take(MAX_WHY_CHARS).collect());
    }
    let origin = grant.lineage.origin.as_deref()?;
    let gone = |what: String| Some(format!("{what} is not there any more"));
    let Some(identity) = model.identities.get(&grant.identity) else {
        return gone(format!("identity {}", grant.identity));
    };
    let requester = match identity_author(&grant.identity) {
        Ok(own) if own == grant.lineage.created_by => Requester::Identity(grant.identity.clone()),
        _ => Requester::Person(grant.lineage.created_by.clone()),
    };
    let permission = Permission { resource: grant.resource.clone(), actions: grant.actions.clone() };
    let ask = Ask {
        identity: grant.identity.clone(),
        access: match &origin.role {
            Some(role) => Access::Role(role.clone()),
            None => Access::Resource(permission.clone()),
        },
        starts: None,
        duration: Span::new(grant.window.ends.saturating_since(grant.window.starts)),
        limits: grant.limits.clone(),
        reason: grant.lineage.reason.clone(),
        ticket: grant.lineage.ticket.clone(),
        until: Vec::new(),
    };
    let together: BTreeSet<String> = analyse::together(model, &identity.value.spec.owner);
    let permissions = [permission];
    let subject = Subject::new(model, now, set, (&requester, &ask), &permissions, &together);
    let subject = subject.begun(grant.window.starts, grant.lineage.created);
    let why = match subject.asked(&analyse::actor_of(model, &requester)) {
        Err(error) => Some(error.to_string()),
        Ok(answer) if !answer.allows => {
            let told = answer.findings.iter().filter(|finding| finding.code != "sensitive");
            Some(told.map(|finding| finding.text.as_str()).collect::<Vec<_>>().join("; "))
        }
        Ok(answer) if grant.is_unapproved() && !answer.approvers.is_empty() => {
            let named: Vec<String> = answer.approvers.keys().map(ToString::to_string).collect();
            Some(format!("nobody approved it, and it takes {}", named.join(" and ")))
        }
        Ok(_) => None,
    };
    why.map(|why| why.chars().take(MAX_WHY_CHARS).collect())
}

/// Those of the next grants before `from`, so many and the newest first, that policy would not give any more; the last one
/// that was judged, `None`: there are no others; and what is left of the model.
pub(super) fn judge(
    mut model: Model,
    now: Timestamp,
    from: Option<GrantId>,
    most: usize,
) -> (Vec<GrantId>, Option<GrantId>, Model) {
    let before = from.map_or(Unbounded, Excluded);
    let ids: Vec<GrantId> = model.grants.range((Unbounded, before)).rev().take(most).map(|(id, _)| *id).collect();
    let context = Context { caller: &Caller::System, now };
    let mut found = Vec::new();
    for id in &ids {
        let Some(grant) = model.grants.get(id).map(|kept| kept.value.clone()) else { continue };
        let Some(why) = denied(&model, now, &grant) else { continue };
        if let Ok(plan) = plan_revoke_some(&context, std::iter::once(grant.as_ref()), &why) {
            plan.changes.iter().for_each(|change| model.apply(change, model.revision));
        }
        found.push(*id);
    }
    (found, ids.last().copied(), model)
}

/// Ends those of these grants that policy would not give any more. The answer: which.
///
/// # Errors
/// As [`plan_revoke_some`] has them.
pub(super) fn plan_end_denied(
    model: &Model,
    context: &Context<'_>,
    ids: &[GrantId],
) -> Result<Plan<Vec<Grant>>, Refused> {
    let version = model.policy.as_ref().map_or(0, |policy| policy.record.version);
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: Vec::new() };
    let mut ids: Vec<GrantId> = ids.iter().take(MAX_AT_ONCE).copied().collect();
    ids.sort_unstable_by(|one, other| other.cmp(one));
    let mut left = model.clone();
    for id in &ids {
        let Some(grant) = left.grants.get(id).map(|kept| kept.value.clone()) else { continue };
        // It may be otherwise by now.
        let Some(why) = denied(&left, context.now, &grant) else { continue };
        let reason = format!("version {version} of the policy would not give it any more: {why}");
        let one = plan_revoke_some(context, std::iter::once(grant.as_ref()), &reason)?;
        one.changes.iter().for_each(|change| left.apply(change, left.revision));
        plan.changes.extend(one.changes);
        plan.events.extend(one.events);
        plan.answer.extend(one.answer);
    }
    Ok(plan)
}

#[cfg(test)]
mod tests;
