//! Documents against a model: every fault, every rule.

use std::time::Duration;

use super::super::grant::{GrantRequest, plan_create};
use super::super::sample::{NOW, carried_out, context, document, documents, model, request};
use super::*;
use crate::domain::name::GrantId;

fn unfit(documents: &[Document]) -> Vec<String> {
    match plan_apply(&model(), &context(NOW), documents) {
        Err(Refused::Unfit(faults)) => faults,
        other => panic!("{other:?}"),
    }
}

fn identity(name: &str, authenticate: &str) -> Document {
    let spec = r#"{"kind":"agent","owner":"o","purpose":"p","environment":"e","authenticate":["#.to_owned();
    document("Identity", name, &(spec + authenticate + "]}"))
}

fn route(name: &str, resource: &str, path: &str) -> Document {
    let action = format!(r#"[{{"name":"read","methods":["GET"],"path":"{path}"}}]"#);
    document("Route", name, &format!(r#"{{"upstream":"http://u","resource":"{resource}","actions":{action}}}"#))
}

#[test]
fn every_fault_of_every_document_is_told_at_once() {
    let documents = [
        document("Identity", "UPPER", "{}"),
        document("Resource", "api/a", r#"{"owner":"o","colour":"red"}"#),
        document("Route", "r", "{"),
        document("Robot", "x", "{}"),
        document("Role", "twice", r#"{"permissions":[]}"#),
        document("Role", "twice", r#"{"permissions":[]}"#),
    ];
    let Err(Refused::Invalid(faults)) = plan_apply(&Model::default(), &context(NOW), &documents) else { panic!() };
    let told = faults.join("\n");
    for part in ["UPPER", "colour", "Route r", "`Robot` is not a kind", "Role twice: stands twice"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let model = model();
    let plan = plan_apply(&model, &context(NOW), &documents()).unwrap();
    assert!(plan.is_empty());
    assert!(plan.answer.iter().all(|diff| diff.change() == "unchanged"));
    // Another spelling of the same: defaults written out.
    let spelled =
        document("Resource", "api/orders", r#"{"authority":"10000ms","sensitivity":"high","owner":"orders"}"#);
    assert!(plan_apply(&model, &context(NOW), &[spelled]).unwrap().is_empty());
}

#[test]
fn a_change_is_told_with_before_and_after() {
    let changed = document("Resource", "api/orders", r#"{"owner":"orders","authority":"1m"}"#);
    let plan = plan_apply(&model(), &context(NOW), &[changed]).unwrap();
    let diff = &plan.answer[0];
    assert_eq!((diff.change(), &diff.before.as_ref().unwrap()["authority"]), ("changed", &"10s".into()));
    assert_eq!(diff.after.as_ref().unwrap()["authority"], "1m");
    let event = &plan.events[0];
    assert_eq!((event.operation.as_str(), event.object.as_str()), ("resource.changed", "resource/api/orders"));
    assert!(event.before.is_some() && event.after.is_some());
}

#[test]
fn one_credential_belongs_to_one_identity() {
    let taken = identity("other", r#"{"spiffe":"spiffe://example.org/sa/billing"}"#);
    assert!(unfit(&[taken])[0].contains("belongs to billing already"));
    let token = r#"{"issuer":"https://i","subject":"s"}"#;
    assert!(unfit(&[identity("a", token), identity("b", token)])[0].contains("belongs to a already"));
    assert!(unfit(&[identity("a", &format!("{token},{token}"))])[0].contains("twice"));
}

#[test]
fn a_workload_cannot_have_a_gateways_name() {
    let posing = identity("posing", r#"{"spiffe":"spiffe://example.org/gateway/one"}"#);
    assert!(unfit(&[posing])[0].contains("gateways' own"));
}

#[test]
fn what_is_named_must_be_there_and_fit() {
    assert!(unfit(&[route("r", "api/none", "/x")])[0].contains("there is no api/none"));
    assert!(unfit(&[route("r", "api/orders", "/v1/orders/**")])[0].contains("neither is more specific"));
    let role = |permissions: &str| document("Role", "r", &format!(r#"{{"permissions":[{permissions}]}}"#));
    assert!(unfit(&[role(r#"{"resource":"api/none","actions":["read"]}"#)])[0].contains("no resource api/none"));
    assert!(unfit(&[role(r#"{"resource":"api/orders","actions":["fly"]}"#)])[0].contains("no route of api/orders"));
    assert!(unfit(&[role(r#"{"resource":"api/orders","actions":[]}"#)])[0].contains("no actions"));
    assert!(unfit(&[role("")])[0].contains("permissions: 1 to"));
    let resource =
        |authority: &str| document("Resource", "api/x", &format!(r#"{{"owner":"o","authority":"{authority}"}}"#));
    assert!(unfit(&[resource("4s")])[0].contains("not between 5s and 1d"));
    assert!(unfit(&[resource("2d")])[0].contains("not between 5s and 1d"));
}

#[test]
fn exceptions_end_within_ninety_days() {
    let exception = |route: &str, days: u64| {
        let expires = NOW.saturating_add(Duration::from_secs(days * 86_400));
        let spec =
            format!(r#"{{"rule":"observe","route":"{route}","owner":"o","reason":"migration","expires":"{expires}"}}"#);
        document("Exception", "e", &spec)
    };
    assert!(plan_apply(&model(), &context(NOW), &[exception("orders", 90)]).is_ok());
    assert!(unfit(&[exception("orders", 91)])[0].contains("more than 90 days"));
    assert!(unfit(&[exception("orders", 0)])[0].contains("is over"));
    assert!(unfit(&[exception("none", 1)])[0].contains("there is no none"));
    // One that has ended since does not stand in the way of anything else.
    let model = model();
    let model = carried_out(&model, &plan_apply(&model, &context(NOW), &[exception("orders", 1)]).unwrap());
    let later = NOW.saturating_add(Duration::from_secs(10 * 86_400));
    assert!(plan_apply(&model, &context(later), &[identity("new", "")]).is_ok());
}

#[test]
fn more_than_a_transaction_holds_is_refused_whole() {
    let many: Vec<Document> = (0..=MAX_CHANGES).map(|n| identity(&format!("i{n}"), "")).collect();
    assert!(matches!(plan_apply(&model(), &context(NOW), &many), Err(Refused::TooMuch(_))));
    assert_eq!(plan_apply(&model(), &context(NOW), &many[1..]).unwrap().changes.len(), MAX_CHANGES);
}

/// A source of tickets goes as anything else, and takes with it what would have ended by its word.
#[test]
fn a_source_of_tickets_is_removed_with_what_waits_on_it_or_not_at_all() {
    let source = |name: &str| {
        document("TicketSource", name, &format!(r#"{{"shape":"generic","owner":"orders","secret_file":"{name}"}}"#))
    };
    let applied = plan_apply(&model(), &context(NOW), &[source("own"), source("other")]).unwrap();
    let mut model = carried_out(&model(), &applied);
    for (n, ticket) in [(1, "own:INC-1"), (2, "other:INC-1"), (3, "CHG-7")] {
        let asked = GrantRequest { ticket: Some(ticket.to_owned()), ..request() };
        let plan = plan_create(&model, &context(NOW), &asked, || GrantId::from_bits(n)).unwrap();
        model = carried_out(&model, &plan);
    }
    let wanted = |end_grants| Wanted {
        documents: [documents(), vec![source("other")]].concat(),
        prune: true,
        end_grants,
        reason: String::new(),
    };
    let refused = plan_wanted(&model, &context(NOW), &wanted(false)).unwrap_err().to_string();
    assert!(refused.contains("TicketSource own: has 1 live grants") && !refused.contains("other"), "{refused}");
    let plan = plan_wanted(&model, &context(NOW), &wanted(true)).unwrap();
    let told: Vec<&str> = plan.events.iter().map(|event| event.operation.as_str()).collect();
    assert_eq!(told, ["ticketsource.removed", "grant.revoked"]);
    let after = carried_out(&model, &plan);
    assert_eq!((after.grants.len(), after.ticket_sources.len()), (2, 1));
    assert!(!widenings_of(&model, &plan.changes).is_empty(), "it is another person's to allow");
}
