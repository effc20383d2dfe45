//! Halting and letting go on. Planning only.

use super::model::Model;
use super::plan::{Audience, ChangeEvent, Context, Plan, Refused, checked_reason};
use super::record::{Change, Record};
use crate::domain::halt::{Halt, HaltScope};
use crate::domain::root::Root;

/// Halts in force at once.
const MAX_HALTS: usize = 1_000;

/// Whether what vouched for a credential was halted: such a credential is nobody's here either.
pub fn stops(model: &Model, root: &Root) -> bool {
    let is_halted = |root: &Root| model.halts.contains_key(&HaltScope::Credential(root.clone()));
    !model.halts.is_empty() && (is_halted(root) || root.wider().is_some_and(|wider| is_halted(&wider)))
}

/// Has everything in a scope stand still. Again it changes nothing.
///
/// # Errors
/// [`Refused::NotFound`] for a resource that is not there.
pub fn plan_halt(model: &Model, context: &Context<'_>, scope: &HaltScope, reason: &str) -> Result<Plan<()>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    if let HaltScope::Resource(name) = scope
        && !model.resources.contains_key(name)
    {
        return Err(Refused::NotFound(format!("there is no resource {name}")));
    }
    if model.halts.contains_key(scope) {
        return Ok(Plan::nothing(()));
    }
    // Every call looks its credential up among them.
    if model.halts.len() >= MAX_HALTS {
        return Err(Refused::TooMuch(format!("{MAX_HALTS} halts are in force already: resume some, or halt all")));
    }
    let halt = Halt { scope: scope.clone(), reason: reason.clone(), by: context.author()?, since: context.now };
    let change = Change::Put(Record::Halt(halt));
    let event = ChangeEvent::of("halt.begun", None, &change, Some(&reason));
    Ok(Plan { changes: vec![change], events: vec![event], audience: Audience::Gateways, answer: () })
}

/// Lets everything in a scope go on.
///
/// # Errors
/// [`Refused::NotFound`] when it does not stand still.
pub fn plan_resume(model: &Model, scope: &HaltScope, reason: &str) -> Result<Plan<()>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let Some(kept) = model.halts.get(scope) else {
        return Err(Refused::NotFound(format!("`{scope}` is not halted")));
    };
    let record = Record::Halt(kept.value.as_ref().clone());
    let change = Change::Delete(record.clone());
    let event = ChangeEvent::of("halt.ended", Some(&record), &change, Some(&reason));
    Ok(Plan { changes: vec![change], events: vec![event], audience: Audience::Gateways, answer: () })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{NOW, carried_out, context, model};
    use super::*;

    #[test]
    fn a_halt_is_begun_once_and_ended_once_each_with_its_reason() {
        let (mut model, context) = (model(), context(NOW));
        let orders: HaltScope = "resource/api/orders".parse().unwrap();
        for scope in [HaltScope::All, orders.clone()] {
            assert!(matches!(plan_resume(&model, &scope, "why"), Err(Refused::NotFound(_))));
            assert!(matches!(plan_halt(&model, &context, &scope, ""), Err(Refused::Invalid(_))));
            let plan = plan_halt(&model, &context, &scope, "leak").unwrap();
            assert_eq!((plan.audience, plan.events[0].operation.as_str()), (Audience::Gateways, "halt.begun"));
            model = carried_out(&model, &plan);
            assert!(plan_halt(&model, &context, &scope, "again").unwrap().is_empty());
        }
        assert_eq!(model.halts[&orders].value.reason, "leak");
        let plan = plan_resume(&model, &orders, "it was nothing").unwrap();
        assert_eq!(plan.events[0].reason.as_deref(), Some("it was nothing"));
        model = carried_out(&model, &plan);
        assert_eq!(model.halts.keys().collect::<Vec<_>>(), [&HaltScope::All]);
        let gone: HaltScope = "resource/api/none".parse().unwrap();
        assert!(matches!(plan_halt(&model, &context, &gone, "x"), Err(Refused::NotFound(_))));
    }
}
