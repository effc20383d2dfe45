//! Stages of which nobody answers: after the time that policy says others may as well.
//!
//! They may from when it is recorded, and with it told. It takes as many words as before, and whoever asks, or answers for
//! whoever asks, is not brought in by it.

use super::super::grant::Endings;
use super::super::model::Model;
use super::super::plan::Plan;
use super::{approve, put};
use crate::domain::Timestamp;
use crate::domain::request::{Approvers, Escalated, Request, Stage, Verdict};

/// Requests that are looked at in one transaction: each is analysed anew.
const MAX_AT_ONCE: usize = 20;

/// Records the stages that were silent for too long. The answer: whether there may be more.
pub fn plan_silence(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan::nothing(false);
    plan.audience = Default::default();
    let mut endings = Endings::default();
    let due = model.request_silences.iter().take_while(|(at, _)| *at <= now);
    let due = due.filter_map(|(_, id)| model.requests.get(id)).filter(|kept| kept.value.expires > now);
    for kept in due {
        let one = broken(model, now, &kept.value);
        if plan.changes.len() == MAX_AT_ONCE || !endings.take(&one.changes) {
            plan.answer = true;
            break;
        }
        plan.changes.extend(one.changes);
        plan.events.extend(one.events);
    }
    plan
}

/// The request as it is now, with its silent stages noted.
fn broken(model: &Model, now: Timestamp, before: &Request) -> Plan<Request> {
    // What policy would refuse, or cannot say, waits as it was shown last.
    let fresh = approve::analysed(model, now, before).ok().filter(|it| it.analysis.verdict == Verdict::Approve);
    let mut request = fresh.unwrap_or_else(|| before.clone());
    let silent: Vec<Stage> = request.silent().filter(|(at, _)| *at <= now).map(|(_, stage)| stage.clone()).collect();
    let told: Vec<String> = silent
        .iter()
        .filter_map(|stage| Some((stage, stage.escalate.as_ref()?)))
        .map(|(stage, it)| {
            let to: Vec<String> = it.to.iter().map(Approvers::to_string).collect();
            format!("nobody of {} answered within {}: {} may as well", stage.approvers, it.after, to.join(", "))
        })
        .collect();
    let stages = &request.analysis.stages;
    request.escalated.retain(|it| stages.contains(&it.stage));
    request.escalated.extend(silent.into_iter().map(|stage| Escalated { stage, at: now }));
    // Those who may answer by now are told of.
    let by_now = approve::analysed(model, now, &request).ok();
    if let Some(by_now) = by_now.filter(|it| it.analysis.digest == request.analysis.digest) {
        request.analysis.eligible = by_now.analysis.eligible;
    }
    let mut plan = put("request.escalated", Some(before), request, Some(&told.join("; ")));
    if told.is_empty() {
        // It is another request by now, whose time has not come.
        plan.events.clear();
    }
    plan
}
