//! The policy to begin with, what is refused when a set is published, and that an error is a denial.

use super::super::model::Model;
use super::super::plan::Refused;
use super::super::sample::{NOW, carried_out, context};
use super::*;

fn rules(text: &str) -> Vec<PolicyFile> {
    vec![PolicyFile { name: "a.cedar".to_owned(), text: text.to_owned() }]
}

fn faults(text: &str) -> String {
    PolicySet::compile(&rules(text)).map(|_| ()).unwrap_err().join("\n")
}

const OPEN: &str = "@id(\"open\") @approvers(\"none\") permit (principal, action == Action::\"request\", resource)";

#[test]
fn the_policy_to_begin_with_is_valid_and_its_cases_hold() {
    let outcomes = check(&starter()).unwrap();
    assert!(outcomes.len() >= 12 && outcomes.iter().all(|outcome| outcome.wrong.is_empty()), "{outcomes:?}");
}

#[test]
fn what_does_not_say_what_its_author_means_is_refused() {
    for (text, told) in [
        ("permit (principal, action, resource", "a.cedar:1:"),
        ("permit (principal, action == Action::\"approve\", resource);", "without @id"),
        ("@id(\"a\") permit (principal, action == Action::\"request\", resource);", "@approvers is missing"),
        (
            "@id(\"a\") @approvers(\"bob\") permit (principal, action == Action::\"request\", resource);",
            "names no approvers",
        ),
        (
            "@id(\"a\") @aprovers(\"none\") permit (principal, action == Action::\"request\", resource);",
            "is not an annotation",
        ),
        ("@id(\"a\") @max_duration(\"8h\") forbid (principal, action, resource);", "are for rules that permit"),
        ("@id(\"a\") @approvers(\"none\") @quorum(\"2\") permit (principal, action, resource);", "@quorum goes with"),
        ("@id(\"a\") @approvers(\"none\") @stage(\"2\") permit (principal, action, resource);", "@stage goes with"),
        ("@id(\"a\") @approvers(\"group:a\") @stage(\"10\") permit (principal, action, resource);", "1 to 9"),
        (
            "@id(\"a\") @approvers(\"group:a\") @escalate(\"2h\") permit (principal, action, resource);",
            "who may answer then",
        ),
        (
            "@id(\"a\") @approvers(\"group:a\") @escalate(\"1s group:b\") permit (principal, action, resource);",
            "1m to 30d",
        ),
        (
            "@id(\"a\") @approvers(\"group:a\") @escalate(\"2h group:a\") permit (principal, action, resource);",
            "may answer already",
        ),
        (&format!("{OPEN};\n{OPEN};"), "another rule has that name"),
        // An attribute that may be missing, unguarded: Cedar would leave the rule out, and with it what it forbids.
        (
            &format!("{OPEN}; @id(\"b\") forbid (principal, action, resource) when {{ context.ticket == \"x\" }};"),
            "ticket",
        ),
        (&format!("{OPEN} when {{ context.tickett == \"x\" }};"), "tickett"),
        // A warning: it can never apply.
        (&format!("{OPEN} when {{ false }};"), "impossible"),
        ("", "there is no rule"),
    ] {
        let found = faults(text);
        assert!(found.contains(told), "{text}: {found}");
    }
}

#[test]
fn a_set_with_a_failing_case_or_a_rule_that_decides_none_is_not_published() {
    let publish = |files: &[PolicyFile]| plan_publish(&Model::default(), &context(NOW), files, None, "first");
    let refused = |files: &[PolicyFile]| match publish(files) {
        Err(Refused::Unfit(faults)) => faults.join("\n"),
        other => panic!("{other:?}"),
    };
    let mut files = starter();
    files[1].text = files[1].text.replacen("decision: grant", "decision: refuse", 1);
    assert!(refused(&files).contains("expected refuse, found grant"), "{}", refused(&files));
    let mut files = starter();
    files[0].text.push_str("@id(\"more\") @approvers(\"none\") permit (principal is Person, action == Action::\"request\", resource) when { principal in Group::\"x\" };");
    assert!(refused(&files).contains("rule more: no case is decided by it"));
    files.push(PolicyFile { name: "notes.txt".to_owned(), text: String::new() });
    assert!(refused(&files).contains("notes.txt"));
}

#[test]
fn rules_can_bound_how_far_ahead_access_begins() {
    let set = PolicySet::compile(&rules(&format!("{OPEN} when {{ context.lead <= duration(\"1h\") }};"))).unwrap();
    let case = |lead: &str, decision: &str| {
        format!(
            "cases: [{{ name: x, person: alice, identity: {{ name: a, owner: alice }}, resource: {{ name: r, owner: bob }}, \
             actions: [read], duration: 1m, {lead} expect: {{ decision: {decision} }} }}]"
        )
    };
    for (lead, decision) in [("", "grant"), ("lead: 1h,", "grant"), ("lead: 2h,", "refuse")] {
        let cases = crate::settings::cases::read("c.yaml", &case(lead, decision)).unwrap();
        let outcomes = super::cases::run(&set, &cases);
        assert!(outcomes[0].wrong.is_empty(), "{outcomes:?}");
    }
}

#[test]
fn a_set_that_is_too_large_is_not_read() {
    let large = PolicyFile { name: "cases.yaml".to_owned(), text: "[".repeat(MAX_BYTES + 1) };
    let faults = check(&[large]).unwrap_err();
    assert!(faults.len() == 1 && faults[0].contains("bytes in all"), "{faults:?}");
}

#[test]
fn a_first_version_is_compared_with_none() {
    let empty = Model::default();
    let first = plan_publish(&empty, &context(NOW), &starter(), Some(0), "first").unwrap();
    let model = carried_out(&empty, &first);
    let mut other = starter();
    other[0].text.push_str("\n// Another first one.\n");
    assert!(matches!(plan_publish(&model, &context(NOW), &other, Some(0), "first"), Err(Refused::Conflict(_))));
}

#[test]
fn versions_count_and_the_same_again_is_no_version() {
    let empty = Model::default();
    let first = plan_publish(&empty, &context(NOW), &starter(), None, "first").unwrap();
    assert_eq!((first.answer.version, first.events[0].operation.as_str()), (1, "policy.published"));
    let model = carried_out(&empty, &first);
    assert!(plan_publish(&model, &context(NOW), &starter(), None, "again").unwrap().is_empty());
    let mut other = starter();
    other[0].text.push_str("\n// A note.\n");
    let stale = plan_publish(&model, &context(NOW), &other, Some(7), "second");
    assert!(matches!(stale, Err(Refused::Conflict(_))), "{stale:?}");
    assert_eq!(plan_publish(&model, &context(NOW), &other, Some(1), "second").unwrap().answer.version, 2);
    assert!(plan_publish(&model, &context(NOW), &other, None, " ").is_err());
}

#[test]
fn an_evaluation_with_an_error_denies_whatever_else_permits() {
    // Past validation, as a program with a bug might: the rule that forbids errs, and Cedar would leave it out.
    let text = format!("{OPEN}; @id(\"b\") forbid (principal, action, resource) when {{ context.ticket == \"x\" }};");
    let policies: cedar_policy::PolicySet = text.parse().unwrap();
    let set = PolicySet { policies, rules: std::collections::BTreeMap::new() };
    let case = crate::settings::cases::read(
        "c.yaml",
        "cases: [{ name: x, person: alice, identity: { name: a, owner: alice }, resource: { name: r, owner: bob }, \
         actions: [read], duration: 1m, expect: { decision: refuse, finding: policy_error } }]",
    );
    let outcomes = super::cases::run(&set, &case.unwrap());
    assert!(outcomes[0].wrong.is_empty(), "{outcomes:?}");
}

#[test]
fn a_rule_that_permits_says_what_approvers_are_to_see() {
    let found = |annotations: &str, code: &str| {
        let set = PolicySet::compile(&rules(&format!("{annotations} {OPEN};"))).unwrap();
        let case = crate::settings::cases::read(
            "c.yaml",
            &format!(
                "cases: [{{ name: x, person: alice, identity: {{ name: a, owner: alice }}, \
                 resource: {{ name: r, owner: bob }}, actions: [read], duration: 1m, \
                 expect: {{ decision: grant, finding: {code} }} }}]"
            ),
        );
        super::cases::run(&set, &case.unwrap()).remove(0).wrong
    };
    assert!(found("@finding(\"odd\") @says(\"not its purpose\")", "odd").is_empty());
    assert!(found("@says(\"not its purpose\")", "noted").is_empty());
    assert!(!found("", "noted").is_empty(), "what says nothing is no finding");
}
