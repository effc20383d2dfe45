//! Steps in any order, tried on the model alone: what no order of them may reach.

use proptest::prelude::*;

use super::*;
use crate::domain::name::IdentityName;

/// What anybody may try, in any order.
#[derive(Clone, Debug)]
enum Try {
    Create { who: usize, identity: usize, access: usize, hours: u64 },
    Approve { who: usize, which: usize, fresh: bool },
    Deny { who: usize, which: usize },
    Cancel { who: usize, which: usize },
    Wait { minutes: u64 },
    Role { wide: bool },
}

fn tries() -> impl Strategy<Value = Vec<Try>> {
    let which = 0..4usize;
    let one = prop_oneof![
        3 => (0..7usize, 0..3usize, 0..5usize, prop_oneof![Just(0), Just(1), Just(4), Just(30)])
            .prop_map(|(who, identity, access, hours)| Try::Create { who, identity, access, hours }),
        6 => (0..7usize, which.clone(), any::<bool>()).prop_map(|(who, which, fresh)| Try::Approve { who, which, fresh }),
        1 => (0..7usize, which.clone()).prop_map(|(who, which)| Try::Deny { who, which }),
        1 => (0..7usize, which).prop_map(|(who, which)| Try::Cancel { who, which }),
        1 => (1..3000u64).prop_map(|minutes| Try::Wait { minutes }),
        1 => any::<bool>().prop_map(|wide| Try::Role { wide }),
    ];
    prop::collection::vec(one, 1..40)
}

const IDENTITIES: [&str; 3] = ["billing", "preparer", "releaser"];

fn caller(who: usize) -> Caller {
    match PEOPLE.get(who) {
        Some((name, _)) => person(name),
        None => Caller::Identity(IDENTITIES[who % IDENTITIES.len()].parse().unwrap()),
    }
}

fn access(which: usize) -> Access {
    match which {
        0 => role("reader"),
        1 => role("writer"),
        2 => actions("api/orders", &["write"]),
        3 => actions("deployments", &["prepare"]),
        _ => actions("deployments", &["release"]),
    }
}

/// What must hold of a grant, worked out from the request and who said yes, apart from the code that made it.
fn is_earned(before: &Model, request: &Request, grant: &crate::domain::grant::Grant, now: Timestamp) {
    let origin = grant.lineage.origin.as_ref().expect("a grant has its request");
    assert_eq!(origin.request, request.id);
    assert!(grant.window.ends > grant.window.starts);
    let asked = request.ask.duration.duration();
    assert!(grant.window.ends.saturating_since(grant.window.starts) <= asked, "longer than asked for");
    assert!(asked <= Duration::from_secs(8 * 3600), "longer than policy ever allows");
    assert!(grant.window.ends <= now.saturating_add(asked));
    let sure: BTreeSet<&str> = request
        .approvals
        .iter()
        .filter(|approval| approval.digest == request.analysis.digest)
        .map(|approval| approval.by.as_str())
        .collect();
    assert!(!sure.contains("alice") && !sure.contains("mallory"), "{sure:?}");
    let writes = grant.actions.iter().any(|action| action.as_str() != "read");
    let short = asked <= Duration::from_secs(900);
    if writes || !short {
        assert!(sure.contains("bob"), "without its owner: {sure:?}");
    }
    if writes && grant.resource.as_str() == "api/orders" {
        assert!(sure.contains("carol") || sure.contains("dave"), "without security: {sure:?}");
        assert!(asked <= Duration::from_secs(3600));
    }
    let given: Vec<String> = grant.actions.iter().map(ToString::to_string).collect();
    let seen = request.analysis.permissions.iter().find(|permission| permission.resource == grant.resource).unwrap();
    assert_eq!(given, seen.actions.iter().map(ToString::to_string).collect::<Vec<_>>(), "other than what was seen");
    let held: BTreeSet<String> = before
        .grants
        .values()
        .flat_map(|kept| kept.value.actions.iter().map(|action| format!("{}:{action}", kept.value.resource)))
        .chain(given.iter().map(|action| format!("{}:{action}", grant.resource)))
        .collect();
    assert!(
        !(held.contains("deployments:prepare") && held.contains("deployments:release")),
        "a toxic combination in two steps"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_steps_reaches_a_grant_that_is_not_earned(steps in tries()) {
        let mut model = world();
        let mut now = NOW;
        let mut made: Vec<Request> = Vec::new();
        let mut from = RequestId::new(NOW, 0).bits();
        for step in steps {
            from += 1_000_000;
            let request = |which: usize| (!made.is_empty()).then(|| made[which % made.len()].clone());
            let (plan, caller) = match &step {
                Try::Create { who, identity, access: what, hours } => {
                    let caller = caller(*who);
                    let seconds = if *hours == 0 { 900 } else { hours * 3600 };
                    let asked = Ask {
                        identity: IDENTITIES[*identity].parse::<IdentityName>().unwrap(),
                        duration: Span::new(Duration::from_secs(seconds)),
                        ..ask(access(*what), 1)
                    };
                    let plan = plan_create(&model, &at(&caller, now), &asked, None, drawing(from));
                    (plan.map(|plan| plan.map(|created| match created {
                        Created::Request(request) => *request,
                        Created::Known(_) => unreachable!("no key was given"),
                    })), caller)
                }
                Try::Approve { who, which, fresh } => {
                    let Some(request) = request(*which) else { continue };
                    let caller = caller(*who);
                    let digest = match again(&model, now, &request, &"bob".parse().unwrap()) {
                        Ok((found, _)) if *fresh => found.analysis.digest,
                        _ => request.analysis.digest.clone(),
                    };
                    (plan_approve(&model, &at(&caller, now), request.id, &digest, None, drawing(from)), caller)
                }
                Try::Deny { who, which } => {
                    let Some(request) = request(*which) else { continue };
                    let caller = caller(*who);
                    (plan_deny(&model, &at(&caller, now), request.id, "no"), caller)
                }
                Try::Cancel { who, which } => {
                    let Some(request) = request(*which) else { continue };
                    let caller = caller(*who);
                    (plan_cancel(&model, &at(&caller, now), request.id, "no"), caller)
                }
                Try::Wait { minutes } => {
                    now = now.saturating_add(Duration::from_secs(minutes * 60));
                    for _ in 0..8 {
                        let plan = plan_expiry(&model, now);
                        model = carried_out(&model, &plan);
                        let plan = grant::plan_expiry(&model, now);
                        model = carried_out(&model, &plan);
                    }
                    continue;
                }
                Try::Role { wide } => {
                    let actions = if *wide { r#"["read","write"]"# } else { r#"["read"]"# };
                    let spec = format!(r#"{{"permissions":[{{"resource":"api/orders","actions":{actions}}}]}}"#);
                    let before: Vec<_> = model.grants.values().map(|kept| kept.value.clone()).collect();
                    let plan = plan_apply(&model, &context(now), &[document("Role", "reader", &spec)]).unwrap();
                    model = carried_out(&model, &plan);
                    let after: Vec<_> = model.grants.values().map(|kept| kept.value.clone()).collect();
                    prop_assert_eq!(before, after, "a role widens no live grant");
                    continue;
                }
            };
            let Ok(plan) = plan else { continue };
            let after = carried_out(&model, &plan);
            let new: Vec<_> = after.grants.iter().filter(|(id, _)| !model.grants.contains_key(*id)).collect();
            if !new.is_empty() {
                prop_assert_eq!(plan.answer.state, State::Granted);
                prop_assert_eq!(plan.answer.grants.len(), new.len());
                prop_assert_ne!(caller.to_string(), "mallory");
            }
            for (_, grant) in new {
                is_earned(&model, &plan.answer, &grant.value, now);
            }
            if let Some(known) = made.iter_mut().find(|known| known.id == plan.answer.id) {
                prop_assert!(known.is_open() || *known == plan.answer, "what is settled stays so");
                *known = plan.answer.clone();
            } else {
                made.push(plan.answer.clone());
            }
            model = after;
        }
    }
}
