//! What an identifier leads to: from a call to its grant, from a grant to its request, and on to policy and change.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Line, Log, Subject, call_line, emergency, line, walk};
use crate::domain::name::{ApprovalId, BreakGlassId, CallId, ChangeId, GrantId, RequestId};
use crate::evidence::entry::{Basis, Event};
use crate::evidence::query::{Filter, QueryError};

/// What an identifier leads to.
#[derive(Debug, Default)]
pub(super) struct Ties {
    pub(super) request: Option<RequestId>,
    pub(super) change: Option<ChangeId>,
    pub(super) broken: Option<BreakGlassId>,
    /// The revision in which the change came true: what it put in place is told there.
    pub(super) applied: Option<u64>,
    pub(super) grants: BTreeSet<GrantId>,
    pub(super) policy: Option<u64>,
}

/// What the identifier is, and the request and grants that belong to it; lines of a call that belongs to none.
pub(super) fn ties(
    id: u128,
    control: &Log,
    gateways: &[Log],
) -> Result<Option<(Subject, Ties, Vec<Line>)>, QueryError> {
    let mut ties = Ties::default();
    let (call, alone) = of_call(id, gateways, &mut ties)?;
    let named = named(id, control, &mut ties)?;
    let Some(subject) = named.or(call) else { return Ok(None) };
    of_change(control, &mut ties)?;
    of_grants(control, &mut ties)?;
    of_request(control, &mut ties)?;
    emergency::tie(control, &mut ties)?;
    Ok(Some((subject, ties, alone)))
}

fn changes() -> Filter {
    Filter { kind: Some(crate::evidence::entry::Kind::Change), ..Filter::default() }
}

/// A call leads to its grant; one that has none is told by itself.
fn of_call(id: u128, gateways: &[Log], ties: &mut Ties) -> Result<(Option<Subject>, Vec<Line>), QueryError> {
    let (mut subject, mut alone) = (None, Vec::new());
    for log in gateways {
        let filter = Filter { call: Some(CallId::from_bits(id)), ..Filter::default() };
        walk(log, filter, |found| match &found.entry.event {
            Event::Intent(intent) => {
                subject = Some(Subject::Call);
                match &intent.basis {
                    Basis::Grant(id) => drop(ties.grants.insert(*id)),
                    Basis::Exception(_) => alone.push(call_line(log, found, intent)),
                }
            }
            Event::Denial(denial) => {
                subject = Some(Subject::Call);
                let who = denial.identity.as_ref().map(ToString::to_string);
                let who = who.or_else(|| denial.principal.as_ref().map(ToString::to_string)).unwrap_or_default();
                let text = format!("{} {} refused: {}", denial.method, denial.path, denial.reason);
                alone.push(line(log, found, &who, "call.denied", &text));
            }
            Event::Denials(denials) => {
                subject = Some(Subject::Call);
                let who = denials.identity.as_ref().map(ToString::to_string).unwrap_or_default();
                let text = format!("refused: {}, one of those that are counted together", denials.reason);
                alone.push(line(log, found, &who, "call.denied", &text));
            }
            _ => {}
        })?;
    }
    Ok((subject, alone))
}

/// What the control plane's log calls by this identifier: an object of its own, or an approval in one.
fn named(id: u128, control: &Log, ties: &mut Ties) -> Result<Option<Subject>, QueryError> {
    let (grant, request, approval) = (GrantId::from_bits(id), RequestId::from_bits(id), ApprovalId::from_bits(id));
    let (change_id, broken) = (ChangeId::from_bits(id), BreakGlassId::from_bits(id));
    let mut subject = None;
    walk(control, changes(), |found| {
        let Event::Change(change) = &found.entry.event else { return };
        let Some(after) = change.after.as_deref() else { return };
        match &*change.object_kind {
            "request" if change.object == request.to_string() => subject = Some(Subject::Request),
            "grant" if change.object == grant.to_string() => {
                subject = Some(Subject::Grant);
                ties.grants.insert(grant);
            }
            "change" if change.object == change_id.to_string() => subject = Some(Subject::Change),
            "breakglass" if change.object == broken.to_string() => {
                subject = Some(Subject::BreakGlass);
                ties.broken = Some(broken);
            }
            kind @ ("request" | "change") => {
                let approvals = after.get("approvals").and_then(Value::as_array);
                let names = |given: &Value| given.get("id").and_then(Value::as_str) == Some(&approval.to_string());
                if approvals.is_some_and(|approvals| approvals.iter().any(names)) {
                    subject = Some(Subject::Approval);
                    if kind == "request" {
                        ties.request = change.object.parse().ok();
                    } else {
                        ties.change = change.object.parse().ok();
                    }
                }
            }
            _ => {}
        }
    })?;
    if subject == Some(Subject::Request) {
        ties.request = Some(request);
    }
    if subject == Some(Subject::Change) {
        ties.change = Some(change_id);
    }
    Ok(subject)
}

/// A grant leads to its request.
fn of_grants(control: &Log, ties: &mut Ties) -> Result<(), QueryError> {
    walk(control, changes(), |found| {
        let Event::Change(change) = &found.entry.event else { return };
        let Some(after) = change.after.as_deref() else { return };
        let is_ours = |id: &GrantId| change.object == id.to_string();
        if change.object_kind == "grant" && ties.grants.iter().any(is_ours) {
            let origin = after.pointer("/grant/lineage/origin");
            let named = origin.and_then(|origin| origin.get("request")).and_then(Value::as_str);
            ties.request = named.and_then(|id| id.parse().ok()).or(ties.request);
        }
    })
}

/// A request leads to its grants and its policy.
fn of_request(control: &Log, ties: &mut Ties) -> Result<(), QueryError> {
    let Some(request) = ties.request.map(|id| id.to_string()) else { return Ok(()) };
    walk(control, changes(), |found| {
        let Event::Change(change) = &found.entry.event else { return };
        let Some(after) = change.after.as_deref() else { return };
        if change.object_kind == "request" && change.object == request {
            let grants = after.get("grants").and_then(Value::as_array).into_iter().flatten();
            ties.grants.extend(grants.filter_map(|id| id.as_str()?.parse::<GrantId>().ok()));
            ties.policy = after.pointer("/analysis/policy").and_then(Value::as_u64).or(ties.policy);
        }
    })
}

/// A change leads to the revision in which it came true, and to the version of the policy that it brought; so does a
/// change that brought the version which decided.
fn of_change(control: &Log, ties: &mut Ties) -> Result<(), QueryError> {
    let Some(id) = ties.change.map(|id| id.to_string()) else { return Ok(()) };
    walk(control, changes(), |found| {
        let Event::Change(change) = &found.entry.event else { return };
        if change.object_kind == "change" && change.object == id && change.operation == "change.approved" {
            ties.applied = Some(change.revision);
            let version = change.after.as_deref().and_then(|after| after.get("version")).and_then(Value::as_u64);
            ties.policy = version.or(ties.policy);
        }
    })
}
