//! Which authorities are trusted for gateways and servers, and which one issues: how one takes the place of another.
//!
//! A new one is published beside the old one, then issues, and the old one is retired when every live gateway has a
//! certificate of the new one; or all at once, when its key is in wrong hands. Planning here; what follows from it for
//! listeners and files is `held`.

mod held;

use super::model::Model;
use super::plan::{Audience, ChangeEvent, Plan, Refused, checked_reason};
use super::record::{AuthorityRecord, AuthorityStanding, Change, Record, TrustRecord};
use crate::domain::Timestamp;

pub use held::TrustError;
pub(super) use held::{Held, StepError};

/// Authorities that are remembered, retired ones among them.
const MAX_AUTHORITIES: usize = 100;

/// A step of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new authority is trusted beside the one that issues.
    Publish,
    /// The one that was published issues, and what the other one issued stays good.
    Issue,
    /// What was issued before is good no more.
    Retire,
    /// A new authority takes the place of all others at once.
    Replace,
}

impl Step {
    /// As evidence writes it.
    const fn operation(self) -> &'static str {
        match self {
            Self::Publish => "ca.published",
            Self::Issue => "ca.issuing",
            Self::Retire => "ca.retired",
            Self::Replace => "ca.replaced",
        }
    }
}

/// Takes a step. `first` is the authority that issues while nothing is kept yet; `new` the one that was made for the step.
///
/// # Errors
/// [`Refused::Conflict`] when it is not the next step, [`Refused::Invalid`] without a reason.
pub(super) fn plan_step(
    model: &Model,
    now: Timestamp,
    step: Step,
    first: Option<&AuthorityRecord>,
    new: Option<&AuthorityRecord>,
    reason: &str,
) -> Result<Plan<TrustRecord>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let before = model.trust.as_ref().map(|kept| kept.value.as_ref().clone());
    let mut trust = before.clone().unwrap_or_else(|| TrustRecord { authorities: first.into_iter().cloned().collect() });
    check(&trust, step)?;
    for authority in &mut trust.authorities {
        if let Some(standing) = after(step, authority.standing) {
            (authority.standing, authority.since) = (standing, now);
        }
    }
    if let Some(new) = new {
        if trust.authorities.iter().any(|known| known.label == new.label) {
            return Err(Refused::Conflict(format!("an authority with the key `{}` came meanwhile", new.label)));
        }
        if trust.authorities.len() >= MAX_AUTHORITIES {
            trust.authorities.remove(0);
        }
        let standing = if step == Step::Replace { AuthorityStanding::Issuing } else { AuthorityStanding::Published };
        trust.authorities.push(AuthorityRecord { standing, since: now, ..new.clone() });
    }
    let change = Change::Put(Record::Trust(trust.clone()));
    let event = ChangeEvent::of(step.operation(), before.map(Record::Trust).as_ref(), &change, Some(&reason));
    Ok(Plan { changes: vec![change], events: vec![event], audience: Audience::Control, answer: trust })
}

/// Whether it is the next step.
fn check(trust: &TrustRecord, step: Step) -> Result<(), Refused> {
    let is_there = |standing| trust.of(standing).next().is_some();
    let conflict = |why: &str| Err(Refused::Conflict(why.to_owned()));
    match step {
        Step::Publish if is_there(AuthorityStanding::Published) => {
            conflict("a new authority is published already: `control ca issue` is next")
        }
        Step::Publish if is_there(AuthorityStanding::Trusted) => {
            conflict("the authority before is not retired yet: `control ca retire` is next")
        }
        Step::Issue if !is_there(AuthorityStanding::Published) => {
            conflict("no new authority is published: `control ca rotate` makes one")
        }
        Step::Retire if !is_there(AuthorityStanding::Trusted) => {
            conflict("there is no authority to retire: first another one issues (`control ca rotate`, then `issue`)")
        }
        Step::Publish | Step::Issue | Step::Retire | Step::Replace => Ok(()),
    }
}

/// What an authority comes to by a step; `None`: it stays as it is.
const fn after(step: Step, standing: AuthorityStanding) -> Option<AuthorityStanding> {
    use AuthorityStanding::{Issuing, Published, Retired, Trusted};
    match (step, standing) {
        (Step::Issue, Issuing) => Some(Trusted),
        (Step::Issue, Published) => Some(Issuing),
        (Step::Retire, Trusted) | (Step::Replace, Published | Issuing | Trusted) => Some(Retired),
        (Step::Publish | Step::Issue | Step::Retire | Step::Replace, _) => None,
    }
}

/// The label of the next authority's key.
pub(super) fn next_label(trust: Option<&TrustRecord>) -> String {
    let number = |label: &str| label.strip_prefix("ca-")?.parse::<u64>().ok();
    let known = trust.into_iter().flat_map(|trust| &trust.authorities).filter_map(|it| number(&it.label)).max();
    format!("ca-{}", known.unwrap_or(1) + 1)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{NOW, carried_out, model};
    use super::*;

    fn authority(label: &str) -> AuthorityRecord {
        let standing = AuthorityStanding::Issuing;
        AuthorityRecord { label: label.into(), certificate: format!("pem of {label}\n"), standing, since: NOW }
    }

    fn standings(model: &Model) -> Vec<(String, &'static str)> {
        let trust = model.trust.as_ref().unwrap();
        trust.value.authorities.iter().map(|it| (it.label.clone(), it.standing.as_str())).collect()
    }

    #[test]
    fn an_authority_takes_the_place_of_another_step_by_step_and_no_step_is_left_out() {
        let mut model = model();
        let (first, second) = (authority("ca"), authority("ca-2"));
        let step =
            |model: &Model, step, new: Option<&AuthorityRecord>| plan_step(model, NOW, step, Some(&first), new, "why");
        for early in [Step::Issue, Step::Retire] {
            assert!(matches!(step(&model, early, None), Err(Refused::Conflict(_))), "{early:?}");
        }
        assert!(matches!(
            plan_step(&model, NOW, Step::Publish, Some(&first), Some(&second), ""),
            Err(Refused::Invalid(_))
        ));
        model = carried_out(&model, &step(&model, Step::Publish, Some(&second)).unwrap());
        assert_eq!(standings(&model), [("ca".into(), "issuing"), ("ca-2".into(), "published")]);
        assert_eq!(model.trust.as_ref().unwrap().value.bundle(), "pem of ca\npem of ca-2\n");
        for early in [Step::Publish, Step::Retire] {
            assert!(matches!(step(&model, early, Some(&authority("ca-3"))), Err(Refused::Conflict(_))), "{early:?}");
        }
        model = carried_out(&model, &step(&model, Step::Issue, None).unwrap());
        assert_eq!(standings(&model), [("ca".into(), "trusted"), ("ca-2".into(), "issuing")]);
        assert!(matches!(step(&model, Step::Publish, Some(&authority("ca-3"))), Err(Refused::Conflict(_))));
        let plan = step(&model, Step::Retire, None).unwrap();
        assert_eq!((plan.events[0].operation.as_str(), plan.events[0].reason.as_deref()), ("ca.retired", Some("why")));
        model = carried_out(&model, &plan);
        assert_eq!(standings(&model), [("ca".into(), "retired"), ("ca-2".into(), "issuing")]);
        assert_eq!(model.trust.as_ref().unwrap().value.bundle(), "pem of ca-2\n");
        assert_eq!(next_label(model.trust.as_ref().map(|kept| kept.value.as_ref())), "ca-3");
    }

    #[test]
    fn replaced_at_once_nothing_of_before_is_left_from_wherever_a_rotation_stood() {
        let (first, second, third) = (authority("ca"), authority("ca-2"), authority("ca-3"));
        let mut at = model();
        for way in [&[][..], &[Step::Publish], &[Step::Issue], &[Step::Retire]] {
            for step in way {
                let new = (*step == Step::Publish).then_some(&second);
                at = carried_out(&at, &plan_step(&at, NOW, *step, Some(&first), new, "why").unwrap());
            }
            let plan = plan_step(&at, NOW, Step::Replace, Some(&first), Some(&third), "stolen").unwrap();
            assert_eq!(plan.answer.bundle(), "pem of ca-3\n");
            assert_eq!(plan.answer.of(AuthorityStanding::Issuing).count(), 1);
        }
    }
}
