//! Exceptions as those who answer for them see them: by age, and put off by somebody else's word.
//!
//! Planning only. What an exception is, and how a change waits for another person, is known in `catalog` and `change`.

use super::authorize::Caller;
use super::catalog::{Diff, Document, Wanted};
use super::change::{self, Outcome};
use super::model::{Kept, Model};
use super::plan::{Context, Plan, Refused, checked_reason};
use super::record::PersonRole;
use crate::domain::Timestamp;
use crate::domain::exception::{Exception, ExceptionSpec};
use crate::domain::name::ExceptionName;

/// Every exception, the oldest first; those of which nobody knows since when before all others.
pub fn by_age(model: &Model) -> Vec<&Kept<Exception>> {
    let mut all: Vec<&Kept<Exception>> = model.exceptions.values().collect();
    all.sort_by_key(|kept| (kept.value.since.unwrap_or(Timestamp::UNIX_EPOCH), kept.value.name.clone()));
    all
}

/// Asks that an exception end later: a change that waits for another person.
///
/// # Errors
/// [`Refused::NotFound`]; [`Refused::Invalid`] for an end that is no later, or without a reason; [`Refused::Denied`] for who
/// is no administrator while no policy is in force, since nobody else would look; for the rest as [`change::plan_apply`].
pub fn plan_renew(
    model: &Model,
    context: &Context<'_>,
    name: &ExceptionName,
    expires: Timestamp,
    reason: &str,
    draw: impl FnMut() -> u128,
) -> Result<Plan<Outcome<Vec<Diff>>>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let none = || Refused::NotFound(format!("there is no exception {name}"));
    let known = model.exceptions.get(name).ok_or_else(none)?.value.clone();
    if expires <= known.spec.expires {
        return Err(Refused::invalid(format!("expires: it ends {}, which is no sooner", known.spec.expires)));
    }
    let is_administrator =
        matches!(context.caller, Caller::Person(person) if person.roles.contains(&PersonRole::Administrator));
    if model.policy.is_none() && !is_administrator {
        return Err(Refused::Denied("no policy is in force: until then administrators alone put it off".to_owned()));
    }
    let spec = ExceptionSpec { expires, ..known.spec.clone() };
    let spec_json = serde_json::to_string(&spec).map_err(|error| Refused::invalid(error.to_string()))?;
    let document = Document { kind: "Exception".to_owned(), name: name.to_string(), spec_json };
    let wanted = Wanted { documents: vec![document], reason, ..Wanted::default() };
    change::plan_apply(model, context, &wanted, draw)
}

#[cfg(test)]
mod tests;
