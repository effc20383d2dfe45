//! Who joins as what, once, and is forgotten when.

use super::super::super::sample::{NOW, carried_out, model};
use super::*;
use crate::domain::scope::Scope;
use crate::evidence::checkpoint::{EvidenceKey, Origin};
use crate::settings::control::AttestedWho;

fn template(most: usize) -> TemplateSettings {
    TemplateSettings {
        name: "edge".parse().unwrap(),
        who: AttestedWho::Spiffe("spiffe://prod.example/gate".into()),
        scope: Scope::default(),
        hosts: Vec::new(),
        gone_after: Duration::from_secs(600),
        most,
    }
}

fn pod(uid: &str, token: &str) -> Attested {
    Attested {
        subject: "https://cluster system:serviceaccount:orders:gate".into(),
        instance: Some(uid.into()),
        proof: Some((Digest::of(token), NOW.saturating_add(Duration::from_secs(3_600)))),
        templates: vec!["edge".parse().unwrap()],
    }
}

fn join(model: &Model, most: usize, who: &Attested, key: &str) -> Result<(Model, GatewayName), Refused> {
    let name = replica_name("edge", key.as_bytes());
    let origin: Origin = format!("portcullis/gateway/{name}").parse().unwrap();
    let evidence = EvidenceKey::generate().unwrap().0.verifier(&origin).to_string();
    let plan = plan_join(model, NOW, &template(most), who, key.as_bytes(), &evidence)?;
    let name = plan.answer.clone();
    let (plan, _) = plan.take_answer();
    Ok((carried_out(model, &plan), name))
}

#[test]
fn a_token_joins_once_and_its_pod_has_one_gateway() {
    let (one, first) = join(&model(), 9, &pod("uid-1", "t1"), "key 1").unwrap();
    for key in ["key 1", "key 2"] {
        let again = join(&one, 9, &pod("uid-1", "t1"), key);
        assert!(matches!(again, Err(Refused::Conflict(why)) if why.contains("good once")));
    }
    // Nor from another pod, whatever it says.
    assert!(matches!(join(&one, 9, &pod("uid-2", "t1"), "key 3"), Err(Refused::Conflict(_))));
    let (two, second) = join(&one, 9, &pod("uid-1", "t2"), "key 2").unwrap();
    assert!(!two.gateways.contains_key(&first) && !two.logs.contains_key(&first), "its place is taken");
    assert!(two.gateways.contains_key(&second));
}

#[test]
fn there_are_no_more_than_the_template_says_and_who_was_expelled_does_not_come_back() {
    let (one, first) = join(&model(), 1, &pod("uid-1", "t1"), "key 1").unwrap();
    assert!(matches!(join(&one, 1, &pod("uid-2", "t2"), "key 2"), Err(Refused::TooMuch(_))));
    let expelled = carried_out(&one, &registry::plan_expel(&one, &first, "stolen").unwrap());
    let back = join(&expelled, 9, &pod("uid-1", "t3"), "key 1");
    assert!(matches!(back, Err(Refused::Conflict(why)) if why.contains("expelled")));
    let stranger = Attested { templates: vec!["other".parse().unwrap()], ..pod("uid-3", "t4") };
    assert!(matches!(join(&one, 9, &stranger, "key 4"), Err(Refused::Denied(_))));
}

#[test]
fn who_is_away_for_too_long_is_let_go_and_not_before_its_token_ended() {
    let (one, first) = join(&model(), 9, &pod("uid-1", "t1"), "key 1").unwrap();
    let gone = [Gone { gateway: first.clone(), heard: NOW }];
    let at = |seconds| NOW.saturating_add(Duration::from_secs(seconds));
    for early in [0, 599, 3_599] {
        assert!(plan_gone(&one, at(early), &[template(9)], &gone).is_empty(), "{early}");
    }
    let (plan, _) = plan_gone(&one, at(3_600), &[template(9)], &gone).take_answer();
    let after = carried_out(&one, &plan);
    assert!(!after.gateways.contains_key(&first) && !after.logs.contains_key(&first));
    assert_eq!(plan.events[0].operation, "gateway.let_go");
    assert!(plan.events[0].reason.as_ref().unwrap().contains("records cosigned"));
}
