//! Steps in any order, by anybody: none reaches an access that was not approved by another person.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Try {
    Apply { who: usize, what: Vec<usize>, prune: bool },
    Publish { who: usize, which: usize },
    Approve { who: usize, which: usize, fresh: bool },
    Deny { who: usize, which: usize },
    Cancel { who: usize, which: usize },
    Wait { hours: u64 },
}

fn tries() -> impl Strategy<Value = Vec<Try>> {
    let (who, which) = (0..ALL.len(), 0..6usize);
    let what = prop::collection::vec(0..documents().len(), 1..3);
    let one = prop_oneof![
        6 => (0..2usize, what, prop::bool::weighted(0.1)).prop_map(|(who, what, prune)| Try::Apply { who, what, prune }),
        1 => (0..2usize, 0..3usize).prop_map(|(who, which)| Try::Publish { who, which }),
        5 => (who.clone(), which.clone(), any::<bool>()).prop_map(|(who, which, fresh)| Try::Approve { who, which, fresh }),
        1 => (who.clone(), which.clone()).prop_map(|(who, which)| Try::Deny { who, which }),
        1 => (who, which).prop_map(|(who, which)| Try::Cancel { who, which }),
        1 => (1..100u64).prop_map(|hours| Try::Wait { hours }),
    ];
    prop::collection::vec(one, 1..30)
}

fn documents() -> Vec<Document> {
    let reader = |actions: &str| {
        document(
            "Role",
            "orders-reader",
            &format!(r#"{{"permissions":[{{"resource":"api/orders","actions":[{actions}]}}]}}"#),
        )
    };
    vec![
        reader(r#""read""#),
        reader(r#""read","write""#),
        document("Role", "both", r#"{"parents":["orders-reader"]}"#),
        identity("payments", OWN),
        identity("payments", ""),
        identity("orders", OWN),
        resource("orders", "high", "10s"),
        resource("orders", "low", "5m"),
        resource("payments", "normal", "5s"),
        route(&format!("{READ},{WRITE}"), ""),
        route(READ, ""),
        document("Group", "orders", r#"{"members":["bob"]}"#),
        document("Group", "orders", r#"{"members":["root"]}"#),
        document("Group", "orders", "{}"),
        document("Group", "payments", r#"{"groups":["orders"]}"#),
        exception(r#""rule":"observe","route":"orders""#, 20),
        exception(r#""rule":"observe","route":"orders""#, 40),
        exception(r#""rule":"no_grants_by_hand""#, 40),
    ]
}

/// All that anybody may do by the catalog, worked out apart from the code that looks for what widens it.
fn power(model: &Model) -> BTreeSet<String> {
    let mut power = BTreeSet::new();
    for kept in model.identities.values() {
        let (name, spec) = (&kept.value.name, &kept.value.spec);
        power.insert(format!("{} answers for identity {name}", spec.owner));
        power.extend(spec.authenticate.iter().map(|it| format!("{} is {name}", it.principal())));
    }
    for kept in model.resources.values() {
        let (name, spec) = (&kept.value.name, &kept.value.spec);
        power.insert(format!("{} answers for resource {name}", spec.owner));
        let seconds = spec.authority.duration().as_secs();
        power.extend((1..=seconds).map(|second| format!("{name} for {second} s without the control plane")));
        let harmless = 3 - spec.sensitivity as u64;
        power.extend((1..=harmless).map(|degree| format!("{name} is harmless to degree {degree}")));
    }
    for kept in model.routes.values() {
        power.insert(format!("route {} is {}", kept.value.name, serde_json::to_string(&kept.value.spec).unwrap()));
    }
    for name in model.roles.keys() {
        let mut looking = vec![name.clone()];
        while let Some(role) = looking.pop() {
            let Some(kept) = model.roles.get(&role) else { continue };
            looking.extend(kept.value.spec.parents.iter().cloned());
            for permission in &kept.value.spec.permissions {
                power.extend(
                    permission.actions.iter().map(|action| format!("{name} gives {action} on {}", permission.resource)),
                );
            }
        }
    }
    for name in model.people.keys() {
        power.extend(model.groups_of(name).into_iter().map(|group| format!("{name} is of {group}")));
    }
    for kept in model.exceptions.values() {
        let spec = &kept.value.spec;
        let hours = spec.expires.saturating_since(NOW).as_secs() / 3600;
        power.extend((1..=hours).map(|hour| format!("{:?} {:?} in hour {hour}", spec.rule, spec.route)));
    }
    power.insert(format!("policy {}", model.policy.as_ref().map_or(0, |policy| policy.record.version)));
    power
}

fn set(which: usize) -> Vec<PolicyFile> {
    let mut files = starter();
    files[0].text.push_str(&format!("\n// The {which}th.\n"));
    files
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_steps_widens_access_without_another_persons_word(steps in tries()) {
        let (mut model, mut now) = (governed(&ALL), NOW);
        let mut from = ChangeId::new(NOW, 0).bits();
        for step in steps {
            from += 1_000;
            let which = |which: usize| {
                let ids: Vec<ChangeId> = model.proposals.keys().copied().collect();
                (!ids.is_empty()).then(|| model.proposals[&ids[which % ids.len()]].value.as_ref().clone())
            };
            let by = |who: usize| person(ALL[who]);
            let (plan, approver): (Result<Plan<Option<Proposal>>, Refused>, _) = match &step {
                Try::Apply { who, what, prune } => {
                    let all = documents();
                    let wanted = Wanted { prune: *prune, ..wanted(&what.iter().map(|it| all[*it].clone()).collect::<Vec<_>>()) };
                    let caller = by(*who);
                    let plan = plan_apply(&model, &Context { caller: &caller, now }, &wanted, drawing(from));
                    (plan.map(|plan| plan.map(|outcome| outcome.parts().1)), None)
                }
                Try::Publish { who, which } => {
                    let caller = by(*who);
                    let plan = plan_publish(&model, &Context { caller: &caller, now }, &set(*which), None, "x", drawing(from));
                    (plan.map(|plan| plan.map(|outcome| outcome.parts().1)), None)
                }
                Try::Approve { who, which: it, fresh } => {
                    let Some(proposal) = which(*it) else { continue };
                    let digest = if *fresh { seen(&model, now, &proposal).digest } else { proposal.digest.clone() };
                    let caller = by(*who);
                    let at = Context { caller: &caller, now };
                    let plan = plan_approve(&model, &at, proposal.id, &digest, None, drawing(from));
                    (plan.map(|plan| plan.map(Some)), Some((ALL[*who], proposal)))
                }
                Try::Deny { who, which: it } => {
                    let Some(proposal) = which(*it) else { continue };
                    let caller = by(*who);
                    (plan_deny(&model, &Context { caller: &caller, now }, proposal.id, "x").map(|plan| plan.map(Some)), None)
                }
                Try::Cancel { who, which: it } => {
                    let Some(proposal) = which(*it) else { continue };
                    let caller = by(*who);
                    (plan_cancel(&model, &Context { caller: &caller, now }, proposal.id, "x").map(|plan| plan.map(Some)), None)
                }
                Try::Wait { hours } => {
                    now = now.saturating_add(Duration::from_secs(hours * 3600));
                    model = carried_out(&model, &plan_expiry(&model, now));
                    continue;
                }
            };
            let Ok(plan) = plan else { continue };
            let after = carried_out(&model, &plan);
            let (had, has) = (power(&model), power(&after));
            let gained: Vec<&String> = has.difference(&had).collect();
            if !gained.is_empty() {
                let Some((who, proposal)) = approver else {
                    return Err(TestCaseError::fail(format!("{step:?} gains {gained:?} by itself")));
                };
                prop_assert!(proposal.is_open(), "{gained:?} by what was settled");
                prop_assert!(now < proposal.expires);
                prop_assert_ne!(who, proposal.author.as_str());
                let settled = &after.proposals[&proposal.id].value;
                prop_assert_eq!(settled.state, ProposalState::Applied);
                let word = settled.approvals.first().expect("a word");
                prop_assert_eq!((word.by.as_str(), &word.digest), (who, &settled.digest));
                let owns = |group: &str| model.groups_of(&who.parse().unwrap()).contains(&group.parse().unwrap());
                let watches = ["second", "root", "carol"].contains(&who);
                prop_assert!(watches || owns("orders") || owns("payments"), "{} decided", who);
            }
            for (id, kept) in &model.proposals {
                let is_now = &after.proposals[id].value;
                prop_assert!(kept.value.is_open() || kept.value == *is_now, "what is settled stays so");
            }
            model = after;
        }
    }
}
