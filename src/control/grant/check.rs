//! What a grant must be to be made: every fault at once.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::catalog::actions_of;
use super::super::model::Model;
use super::super::plan::{Refused, checked_reason};
use super::{GrantRequest, Window};
use crate::domain::Timestamp;
use crate::domain::grant::{
    Binding, Limits, MAX_GRANT_DAYS, MAX_NETWORKS, MAX_PARAMETER_VALUES, MAX_USES, UNUSED, USES_EVERY,
};
use crate::domain::identity::{Authenticator, IdentityState};
use crate::domain::name::{IdentityName, ParameterName};
use crate::domain::role::Permission;
use crate::domain::route::Segment;

/// Shortest life: less could be over before any gateway hears of it.
const MIN_DURATION: Duration = Duration::from_secs(1);
const MAX_DURATION: Duration = Duration::from_secs(MAX_GRANT_DAYS * 86_400);
/// How far back a start may lie: clocks differ, history is not rewritten.
const MAX_BACKDATING: Duration = Duration::from_secs(300);
const MAX_TICKET_BYTES: usize = 128;
/// Longest value of a parameter: a path segment of any sense.
const MAX_VALUE_BYTES: usize = 1024;
/// Values of all parameters of one grant: it is held in memory by every gateway.
const MAX_VALUES: usize = 1024;
/// Bytes of all of them: a request and its grants are kept and told whole.
const MAX_VALUES_BYTES: usize = 16 * 1024;

/// Grants are for identities that may act.
pub(super) fn identity(model: &Model, name: &IdentityName) -> Result<(), Refused> {
    let Some(kept) = model.identities.get(name) else {
        return Err(Refused::NotFound(format!("there is no identity {name}")));
    };
    match kept.value.state {
        IdentityState::Active => Ok(()),
        IdentityState::Quarantined => Err(Refused::Conflict(format!("{name} is quarantined"))),
        IdentityState::Offboarded => Err(Refused::Conflict(format!("{name} was offboarded"))),
    }
}

/// Everything else. The answer is the reason, trimmed.
pub(super) fn request(
    model: &Model,
    request: &GrantRequest,
    permissions: &[Permission],
    window: Window,
    now: Timestamp,
) -> Result<String, Refused> {
    let mut faults = Vec::new();
    let reason = checked_reason(&request.reason).unwrap_or_else(|fault| {
        faults.push(fault);
        String::new()
    });
    if let Some(ticket) = &request.ticket
        && (ticket.trim().is_empty() || ticket.len() > MAX_TICKET_BYTES || ticket.chars().any(char::is_control))
    {
        faults.push(format!("ticket: 1 to {MAX_TICKET_BYTES} printable bytes"));
    }
    times(request.duration, window, now, &mut faults);
    for permission in permissions {
        actions(model, permission, &mut faults);
        parameters(model, permission, &request.limits, &mut faults);
    }
    limits(&request.limits, &mut faults);
    binding(model, request, &mut faults);
    if faults.is_empty() { Ok(reason) } else { Err(Refused::Invalid(faults)) }
}

fn times(duration: Duration, window: Window, now: Timestamp, faults: &mut Vec<String>) {
    if !(MIN_DURATION..=MAX_DURATION).contains(&duration) {
        faults.push(format!("duration: 1 second to {MAX_GRANT_DAYS} days"));
    }
    if window.starts.saturating_add(MAX_BACKDATING) < now {
        faults.push(format!("starts: {} is in the past", window.starts));
    } else if window.starts > now.saturating_add(MAX_DURATION) {
        faults.push(format!("starts: {} is more than {MAX_GRANT_DAYS} days ahead", window.starts));
    } else if window.ends <= now {
        faults.push("duration: the grant would be over already".to_owned());
    }
}

fn actions(model: &Model, permission: &Permission, faults: &mut Vec<String>) {
    let resource = &permission.resource;
    if permission.actions.is_empty() {
        faults.push(format!("{resource}: no actions"));
    }
    let known = actions_of(model, resource);
    for action in permission.actions.iter().filter(|action| !known.contains(*action)) {
        faults.push(format!("no route of {resource} has an action {action}"));
    }
}

/// Parameters that calls of these actions may have.
pub(in super::super) fn parameters_of<'m>(model: &'m Model, permission: &Permission) -> BTreeSet<&'m ParameterName> {
    let routes = model.routes.values().filter(|k| k.value.spec.resource == permission.resource);
    let rules = routes.flat_map(|k| k.value.spec.actions.iter()).filter(|rule| permission.actions.contains(&rule.name));
    let segments = rules.flat_map(|rule| rule.path.segments().iter());
    let named = segments.filter_map(|segment| match segment {
        Segment::Parameter(name) => Some(name),
        Segment::Literal(_) => None,
    });
    named.collect()
}

/// A limit on a parameter that no granted action has would make a grant that never opens: a slip of the pen.
fn parameters(model: &Model, permission: &Permission, limits: &Limits, faults: &mut Vec<String>) {
    if limits.parameters.is_empty() {
        return;
    }
    let known = parameters_of(model, permission);
    for name in limits.parameters.keys().filter(|name| !known.contains(name)) {
        faults.push(format!("no granted action of {} has a parameter {name}", permission.resource));
    }
}

fn limits(limits: &Limits, faults: &mut Vec<String>) {
    let (mut values, mut bytes) = (0usize, 0usize);
    for (name, accepted) in &limits.parameters {
        values = values.saturating_add(accepted.len());
        bytes = accepted
            .iter()
            .fold(bytes.saturating_add(name.as_str().len()), |sum, value| sum.saturating_add(value.len()));
        if accepted.is_empty() || accepted.len() > MAX_PARAMETER_VALUES {
            faults.push(format!("parameter {name}: 1 to {MAX_PARAMETER_VALUES} values"));
        }
        if accepted.iter().any(|v| v.is_empty() || v.len() > MAX_VALUE_BYTES || v.chars().any(char::is_control)) {
            faults.push(format!("parameter {name}: values are 1 to {MAX_VALUE_BYTES} printable bytes"));
        }
    }
    if values > MAX_VALUES {
        faults.push(format!("parameters: {values} values; at most {MAX_VALUES}"));
    }
    if bytes > MAX_VALUES_BYTES {
        faults.push(format!("parameters: {bytes} bytes; at most {MAX_VALUES_BYTES}"));
    }
    if limits.uses.is_some_and(|uses| !(1..=MAX_USES).contains(&uses)) {
        faults.push(format!("uses: 1 to {MAX_USES}"));
    }
    if let Some(per) = limits.uses_per {
        if !(1..=MAX_USES).contains(&per.uses) {
            faults.push(format!("uses_per: 1 to {MAX_USES} uses"));
        }
        if !USES_EVERY.contains(&per.every.duration()) {
            faults.push("uses_per: in each second to 366 days".to_owned());
        }
    }
    if limits.unused.is_some_and(|span| !UNUSED.contains(&span.duration())) {
        faults.push("unused: 5 seconds to 366 days".to_owned());
    }
    if limits.networks.len() > MAX_NETWORKS {
        faults.push(format!("networks: at most {MAX_NETWORKS}"));
    }
}

/// A grant can be bound to a credential that its identity has, nobody else's.
fn binding(model: &Model, request: &GrantRequest, faults: &mut Vec<String>) {
    let Some(identity) = model.identities.get(&request.identity) else { return };
    let credentials = &identity.value.spec.authenticate;
    let (has, shown) = match &request.limits.binding {
        None | Some(Binding::Certificate(_)) => return,
        Some(Binding::Spiffe(wanted)) => (
            credentials.iter().any(|c| matches!(c, Authenticator::Spiffe { spiffe } if spiffe == wanted)),
            wanted.as_str(),
        ),
        Some(Binding::Issuer(wanted)) => (
            credentials.iter().any(|c| matches!(c, Authenticator::Token { issuer, .. } if **issuer == **wanted)),
            wanted.as_str(),
        ),
    };
    if !has {
        faults.push(format!("binding: {} has no credential of {shown}", request.identity));
    }
}
