//! Whether an exception says what its rule takes, and ends in time.

use std::time::Duration;

use super::super::super::model::Model;
use crate::domain::Timestamp;
use crate::domain::exception::{Exception, ExceptionRule, ExceptionSpec, MAX_BY_HAND_DAYS, MAX_EXCEPTION_DAYS};

/// What is wrong with one that is new or changed.
pub(super) fn shape(catalog: &Model, exception: &Exception, now: Timestamp, faults: &mut Vec<String>) {
    let mut fault = |text: String| faults.push(format!("Exception {}: {text}", exception.name));
    let spec = &exception.spec;
    super::text("reason", &spec.reason, &mut fault);
    let ExceptionSpec { rule, route, identity, policy_rule, expires, .. } = spec;
    let said = [("route", route.is_some()), ("identity", identity.is_some()), ("policy_rule", policy_rule.is_some())];
    let takes: &[&str] = match rule {
        ExceptionRule::Observe => &["route"],
        ExceptionRule::SeparationOfDuties => &["identity", "policy_rule"],
        ExceptionRule::NoGrantsByHand => &[],
    };
    for (field, is_said) in said {
        match (takes.contains(&field), is_said) {
            (true, false) if *rule == ExceptionRule::Observe => {
                fault("route: is missing: `observe` is of one route".to_owned());
            }
            (true, false) => fault(format!("{field}: is missing: `{}` is of one", rule.as_str())),
            (false, true) => fault(format!("{field}: `{}` is of no {}", rule.as_str(), field.replace('_', " "))),
            _ => {}
        }
    }
    if let Some(name) = policy_rule {
        parts_duties(catalog, name, &mut fault);
    }
    let days = match rule {
        ExceptionRule::Observe | ExceptionRule::SeparationOfDuties => MAX_EXCEPTION_DAYS,
        ExceptionRule::NoGrantsByHand => MAX_BY_HAND_DAYS,
    };
    if *expires <= now {
        fault(format!("expires: {expires} is over"));
    } else if *expires > now.saturating_add(Duration::from_secs(days * 86_400)) {
        fault(format!("expires: {expires} is more than {days} days ahead"));
    }
}

/// Only a rule that parts duties can be left, and it is there.
fn parts_duties(catalog: &Model, name: &str, fault: &mut impl FnMut(String)) {
    let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
    let Some(policy) = &catalog.policy else {
        return fault("rule: no policy is in force, so there is no rule to leave".to_owned());
    };
    match policy.set.as_ref() {
        Ok(set) if set.rules.get(name).is_some_and(|rule| rule.parts_duties()) => {}
        Ok(_) => fault(format!(
            "policy_rule: no rule `{shown}` of the policy in force forbids with @finding(\"separation_of_duties\")"
        )),
        Err(_) => fault("policy_rule: the policy in force cannot be read".to_owned()),
    }
}
