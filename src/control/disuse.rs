//! When a grant has ended of disuse, by what is known of its last use. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::grant::plan_revoke;
use super::model::Model;
use super::plan::{Context, Plan, Refused};
use super::record::GrantRecord;
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::{GatewayName, GrantId};

/// What is known of the last use of a grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastUse {
    /// When something was last recorded under it: a call that began or ended, a token that was given; `None`: none is.
    pub at: Option<Timestamp>,
    /// Whether a call runs.
    pub running: bool,
    /// Until when there may have been calls that nobody can tell of.
    pub unknown_until: Option<Timestamp>,
    /// Gateways that did not say, each with why: they may know of later ones.
    pub missing: BTreeMap<GatewayName, String>,
}

impl LastUse {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.missing.extend(other.missing);
        Self {
            at: self.at.max(other.at),
            running: self.running || other.running,
            unknown_until: self.unknown_until.max(other.unknown_until),
            missing: self.missing,
        }
    }
}

/// How long a call that runs may have ended before it is seen that none does any more, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Whether a grant can have lain unused for as long as it may: it lives for long enough.
pub fn may_be_due(grant: &Grant, now: Timestamp) -> bool {
    let Some(unused) = grant.limits.unused else { return false };
    grant.revoked.is_none() && begun(grant).saturating_add(unused.duration()) <= now
}

/// Before it began nobody could use it.
fn begun(grant: &Grant) -> Timestamp {
    grant.window.starts.max(grant.lineage.created)
}

/// Whether it ends now, and why, as far as every gateway has said.
///
/// # Errors
/// When to look again: it does not end before that.
pub fn ends(grant: &Grant, last: &LastUse, now: Timestamp) -> Result<String, Timestamp> {
    let Some(unused) = grant.limits.unused else { return Err(grant.window.ends) };
    if last.running {
        return Err(now.saturating_add(LOOK_AGAIN.min(unused.duration() / 5)));
    }
    let latest = [Some(begun(grant)), last.at, last.unknown_until].into_iter().flatten().max().unwrap_or(now);
    let due = latest.saturating_add(unused.duration());
    if now < due {
        return Err(due);
    }
    let told = last.at.map_or_else(|| "no call was ever made under it".to_owned(), |at| format!("last used {at}"));
    let unknown =
        last.unknown_until.map(|until| format!("; what a gateway that is away did until {until} is not known"));
    Ok(format!("unused for {unused}: {told}{}", unknown.unwrap_or_default()))
}

/// Ends it, if it still lives.
///
/// # Errors
/// [`Refused::Invalid`] without a reason.
pub fn plan_end(model: &Model, context: &Context<'_>, id: GrantId, why: &str) -> Result<Plan<Option<Grant>>, Refused> {
    let Some(kept) = model.grants.get(&id) else { return Ok(Plan::nothing(None)) };
    let record = GrantRecord { grant: kept.value.as_ref().clone(), expiry_noted: false };
    Ok(plan_revoke(context, &record, why)?.map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::authorize::Caller;
    use crate::control::grant::plan_create;
    use crate::control::policy;
    use crate::control::record::PolicyFile;
    use crate::control::request::plan_create as plan_request;
    use crate::control::sample::{NOW, carried_out, context, model, request};
    use crate::domain::grant::Limits;
    use crate::domain::request::{Access, Ask};
    use crate::domain::resource::Span;

    const DAY: Duration = Duration::from_secs(86_400);

    fn grant() -> Grant {
        let unused = Some(Span::new(DAY));
        let asked = crate::control::grant::GrantRequest {
            limits: Limits { unused, ..Limits::default() },
            duration: DAY * 30,
            ..request()
        };
        plan_create(&model(), &context(NOW), &asked, || GrantId::from_bits(1)).unwrap().answer.remove(0)
    }

    fn at(days: u32) -> Timestamp {
        NOW.saturating_add(DAY * days)
    }

    /// What policy asks of a grant is what it ends by, unless whoever asks wants it sooner.
    #[test]
    fn policy_says_how_long_a_grant_may_lie_unused_and_nobody_makes_it_longer() {
        let file = |name: &str, text: &str| PolicyFile { name: name.to_owned(), text: text.to_owned() };
        let rule =
            r#"@id("ask") @approvers("none") @unused("7d") permit (principal, action == Action::"request", resource);"#;
        let case = |unused: &str| {
            format!(
                "cases:\n  - name: one\n    identity: {{ name: billing, owner: alice }}\n    resource: {{ name: api/orders, owner: bob }}\n    \
                 actions: [read]\n    duration: 1m\n    expect: {{ decision: grant, unused: {unused} }}\n"
            )
        };
        let files = |unused: &str| [file("a.cedar", rule), file("c.yaml", &case(unused))];
        assert!(policy::check(&files("8d")).unwrap_err()[0].contains("found unused 7d"));
        let model = model();
        let model = carried_out(&model, &policy::plan_publish(&model, &context(NOW), &files("7d"), None, "x").unwrap());
        let caller = Caller::Identity("billing".parse().unwrap());
        for (asked, given) in [(None, 7), (Some(1), 1), (Some(30), 7)] {
            let limits = Limits { unused: asked.map(|days| Span::new(DAY * days)), ..Limits::default() };
            let ask = Ask {
                identity: "billing".parse().unwrap(),
                access: Access::of("api/orders".parse().unwrap(), vec!["read".parse().unwrap()]),
                starts: None,
                duration: Span::new(DAY * 30),
                limits,
                reason: "r".to_owned(),
                ticket: None,
                until: Vec::new(),
            };
            let mut drawn = 7u128 << 90;
            let draw = move || {
                drawn += 1;
                drawn
            };
            let plan = plan_request(&model, &Context { caller: &caller, now: NOW }, &ask, None, draw).unwrap();
            let after = carried_out(&model, &plan);
            let grant = &after.grants.values().next().unwrap().value;
            assert_eq!(grant.limits.unused, Some(Span::new(DAY * given)), "{asked:?}");
            assert_eq!(after.watched.len(), 1);
            let ended =
                plan_end(&after, &Context { caller: &Caller::System, now: at(8) }, grant.id, "unused for 7d").unwrap();
            let ended = carried_out(&after, &ended);
            assert!(ended.watched.is_empty() && ended.grants.is_empty());
        }
    }

    #[test]
    fn it_ends_a_span_after_its_last_use_and_what_nobody_knows_counts_as_use() {
        let grant = grant();
        let early = at(1).saturating_sub(Duration::from_secs(1));
        assert!(!may_be_due(&grant, early) && may_be_due(&grant, at(1)));
        let never = LastUse::default();
        assert_eq!(ends(&grant, &never, early), Err(at(1)));
        assert!(ends(&grant, &never, at(1)).unwrap().contains("no call was ever made"));
        let used = LastUse { at: Some(at(5)), ..LastUse::default() };
        assert_eq!(ends(&grant, &used, at(5)), Err(at(6)));
        assert!(ends(&grant, &used, at(6)).unwrap().contains("last used"));
        // A gateway that is away may have allowed calls until its authority lapsed.
        let away = LastUse { unknown_until: Some(at(7)), ..used.clone() };
        assert_eq!(ends(&grant, &away, at(7)), Err(at(8)));
        assert!(ends(&grant, &away, at(8)).unwrap().contains("is not known"));
        let running = LastUse { running: true, ..used.clone() };
        assert_eq!(ends(&grant, &running, at(20)), Err(at(20).saturating_add(LOOK_AGAIN)));
        // Whoever says most of several counts.
        let both = never.and(used.clone()).and(LastUse { at: Some(at(2)), ..LastUse::default() });
        assert_eq!(both, used);
    }
}
