//! Grants: making them, ending them, and noticing that they ended by themselves.
//!
//! Planning only, over the model. What a role gives is expanded and frozen here, so that editing it later widens nothing.

mod check;

pub(super) use check::parameters_of;

use std::time::Duration;

use super::authorize::Caller;
use super::catalog::expanded;
use super::model::Model;
use super::plan::{ChangeEvent, Context, Plan, Refused, checked_reason};
use super::record::{Change, GrantRecord, Record, RevokedToken};
use crate::domain::Timestamp;
use crate::domain::exception::{Exception, ExceptionRule};
use crate::domain::grant::{Grant, Limits, Lineage, Revocation, Window};
use crate::domain::name::{ActionName, GrantId, IdentityName, ResourceName, RoleName};
use crate::domain::role::Permission;
use crate::domain::ticket::Ticket;
use crate::token::verify::MAX_LEEWAY;

/// Records that end in one transaction: two operations each would be at the store's limit with half of them more.
const MAX_ENDINGS: usize = 100;
/// Bytes of them: with keys, seals and events it stays well within what a transaction of the store may be.
const MAX_ENDING_BYTES: usize = 400 * 1024;

/// What ends in one transaction.
#[derive(Debug, Default)]
pub(super) struct Endings {
    records: usize,
    bytes: usize,
}

impl Endings {
    /// Whether these too have room: at least one record has.
    pub(super) fn take(&mut self, changes: &[Change]) -> bool {
        let size = |change: &Change| change.record().json().map_or(0, |json| json.to_string().len());
        let bytes = changes.iter().map(size).sum::<usize>() + self.bytes;
        let records = self.records + changes.len();
        if self.records > 0 && (records > MAX_ENDINGS || bytes > MAX_ENDING_BYTES) {
            return false;
        }
        (self.records, self.bytes) = (records, bytes);
        true
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct GrantRequest {
    /// For whom.
    pub identity: IdentityName,
    /// To do what.
    pub access: Access,
    /// From when on; `None` for now.
    pub starts: Option<Timestamp>,
    /// For how long.
    pub duration: Duration,
    /// Within which limits.
    pub limits: Limits,
    /// Why.
    pub reason: String,
    /// The ticket that it belongs to.
    pub ticket: Option<String>,
    /// What it ends with besides.
    pub until: Vec<Ticket>,
}

/// What a request names.
#[derive(Clone, Debug)]
pub enum Access {
    /// All that a role gives, one grant per resource.
    Role(RoleName),
    /// These actions on this resource.
    Actions(ResourceName, Vec<ActionName>),
}

/// Makes grants. `id` draws identifiers.
///
/// # Errors
/// [`Refused::NotFound`] for what is not there, [`Refused::Conflict`] for an identity that is not active,
/// [`Refused::Invalid`] with every other fault.
pub fn plan_create(
    model: &Model,
    context: &Context<'_>,
    request: &GrantRequest,
    id: impl FnMut() -> GrantId,
) -> Result<Plan<Vec<Grant>>, Refused> {
    let exception = by_hand(model, context)?;
    let Checked { permissions, window, reason } = checked(model, context.now, request)?;
    if let Some(exception) = exception.filter(|exception| exception.spec.expires < window.ends) {
        let Exception { name, spec, .. } = exception;
        return Err(Refused::invalid(format!(
            "duration: a grant by hand ends with exception {name} at the latest, which is {}",
            spec.expires
        )));
    }
    let exception = exception.map(|exception| exception.name.clone());
    let lineage = Lineage {
        created: context.now,
        created_by: context.author()?,
        reason,
        ticket: request.ticket.clone(),
        until: super::tickets::bound_to(model, request.ticket.as_deref(), &request.until)?,
        origin: None,
        exception,
        break_glass: None,
    };
    Ok(issue(request, permissions, window, &lineage, id))
}

/// Whether a grant may be made by hand, and under which exception where a policy is in force: the one that lasts longest.
fn by_hand<'m>(model: &'m Model, context: &Context<'_>) -> Result<Option<&'m Exception>, Refused> {
    let (Some(policy), Caller::Person(_)) = (&model.policy, context.caller) else { return Ok(None) };
    let exceptions = model.exceptions.values().map(|kept| kept.value.as_ref());
    let live = exceptions
        .filter(|it| it.spec.rule == ExceptionRule::NoGrantsByHand && context.now < it.spec.expires)
        .max_by_key(|it| it.spec.expires);
    match live {
        Some(exception) => Ok(Some(exception)),
        None => Err(Refused::Denied(format!(
            "version {} of the policy is in force, so nobody makes grants by hand: ask for access with \
             `portcullis request create`",
            policy.record.version
        ))),
    }
}

/// A request of which every part can be granted.
pub(super) struct Checked {
    /// What it gives, a role expanded.
    pub(super) permissions: Vec<Permission>,
    /// From when on, and until when.
    pub(super) window: Window,
    /// Why, trimmed.
    pub(super) reason: String,
}

/// Whether it could be granted, policy aside.
///
/// # Errors
/// As [`plan_create`].
pub(super) fn checked(model: &Model, now: Timestamp, request: &GrantRequest) -> Result<Checked, Refused> {
    check::identity(model, &request.identity)?;
    let permissions = permissions(model, &request.access)?;
    let starts = request.starts.unwrap_or(now);
    let window = Window { starts, ends: starts.saturating_add(request.duration) };
    let reason = check::request(model, request, &permissions, window, now)?;
    Ok(Checked { permissions, window, reason })
}

/// The grants of a request that was found good: one per permission.
pub(super) fn issue(
    request: &GrantRequest,
    permissions: Vec<Permission>,
    window: Window,
    lineage: &Lineage,
    mut id: impl FnMut() -> GrantId,
) -> Plan<Vec<Grant>> {
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: Vec::new() };
    for permission in permissions {
        let grant = Grant {
            id: id(),
            identity: request.identity.clone(),
            resource: permission.resource,
            actions: permission.actions,
            window,
            limits: request.limits.clone(),
            lineage: lineage.clone(),
            revoked: None,
        };
        let change = Change::Put(Record::Grant(GrantRecord { grant: grant.clone(), expiry_noted: false }));
        plan.events.push(ChangeEvent::of("grant.created", None, &change, Some(&lineage.reason)));
        plan.changes.push(change);
        plan.answer.push(grant);
    }
    plan
}

/// What a request gives, a role expanded.
///
/// # Errors
/// [`Refused::NotFound`] for what is not there.
pub(super) fn permissions(model: &Model, access: &Access) -> Result<Vec<Permission>, Refused> {
    let mut permissions = match access {
        Access::Role(role) => match model.roles.get(role) {
            Some(_) => expanded(model, role),
            None => return Err(Refused::NotFound(format!("there is no role {role}"))),
        },
        Access::Actions(resource, actions) => {
            vec![Permission { resource: resource.clone(), actions: actions.clone() }]
        }
    };
    for permission in &mut permissions {
        if !model.resources.contains_key(&permission.resource) {
            return Err(Refused::NotFound(format!("there is no resource {}", permission.resource)));
        }
        permission.actions.sort();
        permission.actions.dedup();
    }
    Ok(permissions)
}

/// Ends a grant before its time. What has ended already stays as it is: `current` is the record as it stands.
///
/// # Errors
/// [`Refused::Invalid`] without a reason.
pub fn plan_revoke(context: &Context<'_>, current: &GrantRecord, reason: &str) -> Result<Plan<Grant>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    if current.has_ended() {
        return Ok(Plan::nothing(current.grant.clone()));
    }
    let mut grant = current.grant.clone();
    grant.revoked = Some(Revocation { at: context.now, by: context.author()?, reason: reason.clone() });
    let change = Change::Put(Record::Grant(GrantRecord { grant: grant.clone(), expiry_noted: false }));
    let before = Record::Grant(current.clone());
    let event = ChangeEvent::of("grant.revoked", Some(&before), &change, Some(&reason));
    Ok(Plan { changes: vec![change], events: vec![event], audience: Default::default(), answer: grant })
}

/// Which live grants are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of this identity.
    pub identity: Option<IdentityName>,
    /// On this resource.
    pub resource: Option<ResourceName>,
}

impl Selection {
    /// The live grants that it names.
    fn of<'m>(&'m self, model: &'m Model) -> impl Iterator<Item = &'m Grant> {
        let theirs = self.identity.as_ref().map(|name| model.grants_of.get(name).into_iter().flatten());
        let all = self.identity.is_none().then(|| model.grants.values());
        let theirs = theirs.into_iter().flatten().filter_map(|id| model.grants.get(id));
        let either = theirs.chain(all.into_iter().flatten()).map(|kept| kept.value.as_ref());
        either.filter(|grant| self.resource.as_ref().is_none_or(|name| *name == grant.resource))
    }
}

/// Ends the selected grants, a bounded number at once. The answer: those that it ends.
///
/// # Errors
/// [`Refused::Invalid`] without a reason, [`Refused::NotFound`] for an identity or a resource that is not there.
pub fn plan_revoke_selected(
    model: &Model,
    context: &Context<'_>,
    selection: &Selection,
    reason: &str,
) -> Result<Plan<Vec<Grant>>, Refused> {
    checked_reason(reason).map_err(Refused::invalid)?;
    if let Some(name) = selection.identity.as_ref().filter(|name| !model.identities.contains_key(*name)) {
        return Err(Refused::NotFound(format!("there is no identity {name}")));
    }
    if let Some(name) = selection.resource.as_ref().filter(|name| !model.resources.contains_key(*name)) {
        return Err(Refused::NotFound(format!("there is no resource {name}")));
    }
    plan_revoke_some(context, selection.of(model), reason)
}

/// Ends as many of these live grants as one transaction holds. The answer: those that it ends.
///
/// # Errors
/// [`Refused::Invalid`] without a reason.
pub(super) fn plan_revoke_some<'m>(
    context: &Context<'_>,
    grants: impl Iterator<Item = &'m Grant>,
    reason: &str,
) -> Result<Plan<Vec<Grant>>, Refused> {
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: Vec::new() };
    let mut endings = Endings::default();
    for grant in grants {
        let record = GrantRecord { grant: grant.clone(), expiry_noted: false };
        let one = plan_revoke(context, &record, reason)?;
        if !endings.take(&one.changes) {
            break;
        }
        plan.changes.extend(one.changes);
        plan.events.extend(one.events);
        plan.answer.push(one.answer);
    }
    Ok(plan)
}

/// Records the end of grants whose window has closed, a bounded number at once. The answer: whether there may be more.
pub fn plan_expiry(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: false };
    let mut endings = Endings::default();
    for (ends, id) in &model.ends {
        if *ends > now {
            break;
        }
        let Some(kept) = model.grants.get(id) else { continue };
        let before = Record::Grant(GrantRecord { grant: kept.value.as_ref().clone(), expiry_noted: false });
        let after = GrantRecord { grant: kept.value.as_ref().clone(), expiry_noted: true };
        let change = Change::Put(Record::Grant(after));
        if !endings.take(std::slice::from_ref(&change)) {
            plan.answer = true;
            break;
        }
        // What the grant was is told where it was made.
        plan.events.push(ChangeEvent::of("grant.expired", Some(&before), &change, None).digested());
        plan.changes.push(change);
    }
    plan
}

/// Longest `jti` that is kept.
const MAX_JTI_BYTES: usize = 256;
/// Longest issuer that is kept.
const MAX_ISSUER_BYTES: usize = 512;
/// Our own tokens end by themselves within minutes; those of other issuers live as long as settings may allow, and
/// nothing that claims to live longer is remembered.
const MAX_TOKEN_LIFE: Duration = Duration::from_secs(366 * 86_400);
/// Gateways tell of tokens of their own alone, which live five minutes; the rest is for clocks and leeway.
const MAX_GATEWAY_TOKEN_LIFE: Duration = Duration::from_secs(600);
/// Of one gateway's, so that one that is somebody else's leaves room for the others. All gateways together have half of
/// the room: the other half is people's, who may have to revoke most when a gateway does.
const MAX_PER_GATEWAY: usize = 10_000;
/// Revoked tokens remembered at once, so that revoking cannot grow the store without end.
const MAX_REVOKED_TOKENS: usize = 100_000;

/// Declares a token dead, until no gate would take it any more. Doing it twice, or after that, changes nothing.
///
/// # Errors
/// [`Refused::Invalid`] when it is not a token that could be remembered, [`Refused::TooMuch`] when too many are.
pub fn plan_revoke_token(model: &Model, context: &Context<'_>, token: &RevokedToken) -> Result<Plan<()>, Refused> {
    let bad = |text: &str, most: usize| text.is_empty() || text.len() > most || text.chars().any(char::is_control);
    let mut faults = Vec::new();
    if bad(&token.issuer, MAX_ISSUER_BYTES) {
        faults.push(format!("issuer: 1 to {MAX_ISSUER_BYTES} printable bytes"));
    }
    if bad(&token.jti, MAX_JTI_BYTES) {
        faults.push(format!("jti: 1 to {MAX_JTI_BYTES} printable bytes"));
    }
    match context.caller {
        Caller::Gateway(_) if token.expires > context.now.saturating_add(MAX_GATEWAY_TOKEN_LIFE) => {
            faults.push("expires: more than 10 minutes ahead, which no token of a gateway lives".to_owned());
        }
        _ if token.expires > context.now.saturating_add(MAX_TOKEN_LIFE) => {
            faults.push("expires: more than 366 days ahead".to_owned());
        }
        _ => {}
    }
    if !faults.is_empty() {
        return Err(Refused::Invalid(faults));
    }
    // A gate may take it for its issuer's leeway longer than it says.
    let by = match context.caller {
        Caller::Gateway(name) => Some(name.clone()),
        Caller::Person(_) | Caller::Joining(..) | Caller::Attested(_) | Caller::Identity(_) | Caller::System => None,
    };
    let token = RevokedToken { expires: token.expires.saturating_add(MAX_LEEWAY), by, ..token.clone() };
    let key = (token.issuer.clone(), token.jti.clone());
    if token.expires <= context.now || model.tokens.contains_key(&key) {
        return Ok(Plan::nothing(()));
    }
    if let Some(by) = &token.by {
        let all: usize = model.tokens_by.values().sum();
        if model.tokens_by.get(by).is_some_and(|count| *count >= MAX_PER_GATEWAY) || all >= MAX_REVOKED_TOKENS / 2 {
            return Err(Refused::TooMuch("as many tokens as gateways may revoke are remembered already".to_owned()));
        }
    }
    if model.tokens.len() >= MAX_REVOKED_TOKENS {
        return Err(Refused::TooMuch(format!("{MAX_REVOKED_TOKENS} revoked tokens are remembered already")));
    }
    let change = Change::Put(Record::Token(token));
    let event = ChangeEvent::of("token.revoked", None, &change, None);
    Ok(Plan { changes: vec![change], events: vec![event], audience: Default::default(), answer: () })
}

/// Forgets revoked tokens that have ended by themselves. No evidence: nothing changes for anybody.
pub fn plan_forget_tokens(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan::nothing(false);
    for (expires, issuer, jti) in &model.token_ends {
        if *expires > now {
            break;
        }
        if plan.changes.len() == MAX_ENDINGS {
            plan.answer = true;
            break;
        }
        let token = RevokedToken { issuer: issuer.clone(), jti: jti.clone(), expires: *expires, by: None };
        plan.changes.push(Change::Delete(Record::Token(token)));
    }
    plan
}

#[cfg(test)]
mod tests;
