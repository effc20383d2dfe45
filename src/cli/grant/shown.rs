//! Grants as people read them.

use super::super::limits::shown_limits;
use super::super::output::Human;
use super::super::time::{both, relative};
use crate::client::answers::{LastUse, ShownGrant};
use crate::domain::Timestamp;
use crate::domain::grant::GrantState;

/// One line per grant.
pub(super) fn table(grants: &[ShownGrant], now: Timestamp) -> Human {
    let row = |shown: &ShownGrant| {
        let grant = &shown.record.grant;
        vec![
            grant.id.to_string(),
            grant.identity.to_string(),
            grant.resource.to_string(),
            grant.actions.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            state(shown),
            relative(grant.revoked.as_ref().map_or(grant.window.ends, |revoked| revoked.at), now),
            grant.lineage.reason.clone(),
        ]
    };
    Human::Table {
        headers: &["ID", "IDENTITY", "RESOURCE", "ACTIONS", "STATE", "ENDS", "REASON"],
        rows: grants.iter().map(row).collect(),
        empty: "no grants",
    }
}

fn state(shown: &ShownGrant) -> String {
    match shown.state {
        GrantState::Scheduled => "scheduled",
        GrantState::Active => "active",
        GrantState::Expired => "expired",
        GrantState::Revoked => "revoked",
    }
    .to_owned()
}

/// When the last call was made under a grant, and who could not say.
fn last_use(it: &LastUse, now: Timestamp) -> String {
    let at = match (it.running, it.at) {
        (true, _) => "now: a call is running".to_owned(),
        (false, Some(at)) => both(at, now),
        (false, None) => "none is known of".to_owned(),
    };
    let missing: Vec<String> = it.missing.iter().map(|(gateway, why)| format!("{gateway}: {why}")).collect();
    if missing.is_empty() { at } else { format!("{at} (not said by {})", missing.join("; ")) }
}

pub(super) fn details(shown: &ShownGrant, now: Timestamp) -> Human {
    let grant = &shown.record.grant;
    let listed = |items: Vec<String>| items.join(", ");
    let [parameters, networks, bound, uses, uses_per, unused] = shown_limits(&grant.limits);
    let revoked = grant.revoked.as_ref().map(|r| format!("{} by {}: {}", both(r.at, now), r.by, r.reason));
    Human::Details(vec![
        ("id", grant.id.to_string()),
        ("identity", grant.identity.to_string()),
        ("resource", grant.resource.to_string()),
        ("actions", listed(grant.actions.iter().map(ToString::to_string).collect())),
        ("state", state(shown)),
        ("starts", both(grant.window.starts, now)),
        ("ends", both(grant.window.ends, now)),
        parameters,
        networks,
        bound,
        uses,
        uses_per,
        unused,
        ("last use", shown.record.last_use.as_ref().map(|it| last_use(it, now)).unwrap_or_default()),
        ("given out", shown.record.uses_given.map(|given| given.to_string()).unwrap_or_default()),
        ("reason", grant.lineage.reason.clone()),
        ("ticket", grant.lineage.ticket.clone().unwrap_or_default()),
        ("until", listed(grant.lineage.until.iter().map(ToString::to_string).collect())),
        ("request", grant.lineage.origin.as_ref().map(|origin| origin.request.to_string()).unwrap_or_default()),
        ("break-glass", grant.lineage.break_glass.map(|id| id.to_string()).unwrap_or_default()),
        ("policy", grant.lineage.origin.as_ref().map(|it| format!("version {}", it.policy)).unwrap_or_default()),
        ("created", format!("{} by {}", both(grant.lineage.created, now), grant.lineage.created_by)),
        ("revoked", revoked.unwrap_or_default()),
        ("revision", shown.record.revision.to_string()),
    ])
}
