//! The cases of a set: each must get the answer that it expects, and each rule must decide one.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::evaluate::{Actor, Answer, Proof, Question, Step};
use super::set::PolicySet;
use crate::domain::identity::IdentitySpec;
use crate::domain::resource::{DEFAULT_AUTHORITY, Resource, ResourceSpec, Span};
use crate::settings::cases::{Case, CaseAction, CaseDecision};

/// How a case came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The case.
    pub name: String,
    /// What differs from what it expects; empty when nothing does.
    pub wrong: Vec<String>,
    /// The rules that decided.
    pub rules: BTreeSet<String>,
}

/// Asks every case.
pub(super) fn run(set: &PolicySet, cases: &[Case]) -> Vec<Outcome> {
    cases.iter().map(|case| outcome(set, case)).collect()
}

/// Rules that decide no case: nobody knows whether they do what they are for.
pub(super) fn undecided<'s>(set: &'s PolicySet, outcomes: &[Outcome]) -> Vec<&'s str> {
    let decided: BTreeSet<&str> = outcomes.iter().flat_map(|outcome| &outcome.rules).map(String::as_str).collect();
    set.rules.keys().map(String::as_str).filter(|rule| !decided.contains(rule)).collect()
}

fn outcome(set: &PolicySet, case: &Case) -> Outcome {
    let actor = match &case.person {
        Some(name) => Actor::Person {
            name: name.clone(),
            standing: case.standing.iter().cloned().collect(),
            groups: case.groups.iter().cloned().collect(),
        },
        None => Actor::Identity,
    };
    let identity = IdentitySpec {
        kind: case.identity.kind,
        owner: case.identity.owner.clone(),
        purpose: case.identity.purpose.clone(),
        environment: case.identity.environment.clone(),
        capabilities: Vec::new(),
        authenticate: Vec::new(),
    };
    let resource = Resource {
        name: case.resource.name.clone(),
        spec: ResourceSpec {
            owner: case.resource.owner.clone(),
            sensitivity: case.resource.sensitivity,
            authority: DEFAULT_AUTHORITY,
        },
    };
    let asked = case.actions.iter().map(|action| format!("{}:{action}", case.resource.name));
    let question = Question {
        step: match case.action {
            CaseAction::Request => Step::Request,
            CaseAction::Approve => Step::Approve,
            CaseAction::BreakGlass => Step::BreakGlass,
        },
        actor: &actor,
        identity: (&case.identity.name, &identity),
        resource: &resource,
        actions: &case.actions,
        roles: &case.roles.iter().cloned().collect(),
        duration: case.duration,
        ticket: case.ticket.as_deref(),
        lead: case.lead.unwrap_or(Span::new(std::time::Duration::ZERO)),
        counted: case.counted,
        together: &asked.chain(case.held.iter().cloned()).collect(),
        left: &BTreeSet::new(),
        proof: (case.action == CaseAction::BreakGlass).then(|| Proof {
            age: case.signed_in.unwrap_or(Span::new(std::time::Duration::ZERO)),
            acr: case.acr.as_deref(),
            amr: &case.amr,
        }),
    };
    let answer = set.ask(&question);
    Outcome { name: case.name.clone(), wrong: wrong(case, &answer), rules: answer.rules }
}

fn wrong(case: &Case, answer: &Answer) -> Vec<String> {
    let expect = &case.expect;
    let mut wrong = Vec::new();
    let decision = match (answer.allows, answer.approvers.is_empty()) {
        (false, _) => CaseDecision::Refuse,
        (true, true) => CaseDecision::Grant,
        (true, false) => CaseDecision::Approve,
    };
    let shown = |decision: CaseDecision| match decision {
        CaseDecision::Grant => "grant",
        CaseDecision::Approve => "approve",
        CaseDecision::Refuse => "refuse",
    };
    if decision != expect.decision {
        let why: Vec<&str> = answer.findings.iter().map(|finding| finding.text.as_str()).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
        wrong.push(format!("expected {}, found {}{why}", shown(expect.decision), shown(decision)));
    }
    if let Some(expected) = &expect.approvers {
        let found: BTreeSet<String> = answer.approvers.keys().map(ToString::to_string).collect();
        if found != expected.iter().cloned().collect() {
            let found: Vec<String> = found.into_iter().collect();
            wrong.push(format!("expected approvers {}, found {}", expected.join(", "), found.join(", ")));
        }
    }
    let quorum = answer.approvers.values().map(|need| need.quorum).max().unwrap_or(0);
    if expect.quorum.is_some_and(|expected| expected != quorum) {
        wrong.push(format!("found quorum {quorum}"));
    }
    if let Some(expected) = &expect.stages {
        let mut found: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for (approvers, need) in &answer.approvers {
            found.entry(need.order).or_default().insert(approvers.to_string());
        }
        let found: Vec<BTreeSet<String>> = found.into_values().collect();
        if found != expected.iter().map(|stage| stage.iter().cloned().collect()).collect::<Vec<BTreeSet<String>>>() {
            let told: Vec<String> =
                found.iter().map(|stage| Vec::from_iter(stage.iter().cloned()).join(", ")).collect();
            wrong.push(format!("found the stages {}", told.join("; then ")));
        }
    }
    if let Some(expected) = &expect.escalates {
        let to = answer.approvers.values().filter_map(|need| need.escalate.as_ref()).flat_map(|it| &it.to);
        let found: BTreeSet<String> = to.map(ToString::to_string).collect();
        if found != expected.iter().cloned().collect() {
            wrong.push(format!("found escalation to {}", Vec::from_iter(found).join(", ")));
        }
    }
    if expect.max_duration.is_some() && expect.max_duration != answer.longest {
        let found = answer.longest.map_or_else(|| "none".to_owned(), |span| span.to_string());
        wrong.push(format!("found max_duration {found}"));
    }
    if expect.unused.is_some() && expect.unused != answer.unused {
        let found = answer.unused.map_or_else(|| "none".to_owned(), |span| span.to_string());
        wrong.push(format!("found unused {found}"));
    }
    if let Some(code) = &expect.finding
        && !answer.findings.iter().any(|finding| finding.code == *code)
    {
        let found: Vec<&str> = answer.findings.iter().map(|finding| finding.code.as_str()).collect();
        wrong.push(format!("expected the finding {code}, found {}", found.join(", ")));
    }
    wrong
}
