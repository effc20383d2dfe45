//! Break-glass in a story: what it gave leads to it, and it to what it gave and to its review.

use serde_json::Value;

use super::super::entry::{Change, Event, Kind};
use super::super::query::{Filter, QueryError};
use super::{Log, Story, Ties, walk};
use crate::domain::name::GrantId;

/// A grant leads to the break-glass that it came of, and that to its grants and to the policy that let it be.
pub(super) fn tie(control: &Log, ties: &mut Ties) -> Result<(), QueryError> {
    let changes = || Filter { kind: Some(Kind::Change), ..Filter::default() };
    if ties.broken.is_none() && !ties.grants.is_empty() {
        walk(control, changes(), |found| {
            let Event::Change(change) = &found.entry.event else { return };
            if change.object_kind == "grant" && ties.grants.iter().any(|id| change.object == id.to_string()) {
                let named = change.after.as_deref().and_then(|after| after.pointer("/grant/lineage/break_glass"));
                ties.broken = named.and_then(Value::as_str).and_then(|id| id.parse().ok()).or(ties.broken);
            }
        })?;
    }
    let Some(broken) = ties.broken.map(|id| id.to_string()) else { return Ok(()) };
    walk(control, changes(), |found| {
        let Event::Change(change) = &found.entry.event else { return };
        if change.object_kind == "breakglass" && change.object == broken {
            let Some(after) = change.after.as_deref() else { return };
            let grants = after.get("grants").and_then(Value::as_array).into_iter().flatten();
            ties.grants.extend(grants.filter_map(|id| id.as_str()?.parse::<GrantId>().ok()));
            ties.policy = after.get("policy").and_then(Value::as_u64).or(ties.policy);
        }
    })
}

/// Whether a change is of the story's break-glass; what it tells of it is taken in.
pub(super) fn take(change: &Change<'_>, ties: &Ties, story: &mut Story) -> bool {
    let is_ours = ties.broken.is_some_and(|id| change.object == id.to_string());
    if is_ours && let Some(after) = change.after.as_deref().filter(|after| after.get("opener").is_some()) {
        story.break_glass = Some(after.clone());
    }
    is_ours
}

/// What was opened, in words.
pub(super) fn words(change: &Change<'_>) -> String {
    let text = |pointer: &str| {
        let found = change.after.as_deref().and_then(|after| after.pointer(pointer)).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    format!(" for {}, by {} who signed in at {}", text("/ask/identity"), text("/opener"), text("/signed_in/at"))
}
