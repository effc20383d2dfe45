//! Stages of which nobody answers: after the time that policy says others may as well.
//!
//! They may from when it is recorded, and with it told. It takes as many words as before, and whoever asks, or answers for
//! whoever asks, is not brought in by it.
//!
//! Whose turn it is was worked out when somebody spoke last. It is another's when a word counts no more: its delegation has
//! ended, its speaker has left, or policy or catalog say something else by now. So each time that any of these changes,
//! every open request is looked at anew, some at once; what policy would refuse as of now, or cannot say, waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imbl::OrdMap;

use super::super::grant::Endings;
use super::super::model::{Delegations, Kept, Model};
use super::super::plan::Plan;
use super::super::policy::PolicySet;
use super::super::record::Person;
use super::{approve, put};
use crate::domain::Timestamp;
use crate::domain::directory::Group;
use crate::domain::exception::Exception;
use crate::domain::identity::Identity;
use crate::domain::name::{ExceptionName, IdentityName, OwnerName, RequestId, ResourceName, RoleName, RouteName};
use crate::domain::request::{Approvers, Escalated, Request, Stage, Verdict};
use crate::domain::resource::Resource;
use crate::domain::role::Role;
use crate::domain::route::Route;

/// Requests that are looked at in one transaction: each is analysed anew.
const MAX_AT_ONCE: usize = 20;
/// How long to wait before one is looked at again whose time has come, and of which policy would refuse what is asked.
const AGAIN: Duration = Duration::from_secs(60);

/// Requests that were looked at, as things stand. Kept by the writer, in memory alone: after a start all are.
#[derive(Debug, Default)]
pub struct Judged {
    ground: Option<Ground>,
    done: BTreeSet<RequestId>,
    /// Those whose time has come and that wait, by when they were looked at.
    held: BTreeMap<RequestId, Timestamp>,
}

/// All that says whose word counts, and for what. The maps are shared until one of them changes.
#[derive(Debug)]
struct Ground {
    policy: Option<u64>,
    identities: OrdMap<IdentityName, Kept<Identity>>,
    resources: OrdMap<ResourceName, Kept<Resource>>,
    routes: OrdMap<RouteName, Kept<Route>>,
    roles: OrdMap<RoleName, Kept<Role>>,
    exceptions: OrdMap<ExceptionName, Kept<Exception>>,
    people: OrdMap<OwnerName, Kept<Person>>,
    groups: OrdMap<OwnerName, Kept<Group>>,
    delegations: Delegations,
}

impl Ground {
    fn of(model: &Model) -> Self {
        Self {
            policy: model.policy.as_ref().map(|policy| policy.record.version),
            identities: model.identities.clone(),
            resources: model.resources.clone(),
            routes: model.routes.clone(),
            roles: model.roles.clone(),
            exceptions: model.exceptions.clone(),
            people: model.people.clone(),
            groups: model.groups.clone(),
            delegations: model.delegations.clone(),
        }
    }

    fn is_of(&self, model: &Model) -> bool {
        self.policy == model.policy.as_ref().map(|policy| policy.record.version)
            && self.identities.ptr_eq(&model.identities)
            && self.resources.ptr_eq(&model.resources)
            && self.routes.ptr_eq(&model.routes)
            && self.roles.ptr_eq(&model.roles)
            && self.exceptions.ptr_eq(&model.exceptions)
            && self.people.ptr_eq(&model.people)
            && self.groups.ptr_eq(&model.groups)
            && self.delegations.is_same(&model.delegations)
    }
}

impl Judged {
    /// Forgets what does not hold any more.
    fn follow(&mut self, model: &Model) {
        if !self.ground.as_ref().is_some_and(|ground| ground.is_of(model)) {
            *self = Self { ground: Some(Ground::of(model)), ..Self::default() };
        }
        if self.done.len() > model.requests.len() {
            self.done.retain(|id| model.requests.contains_key(id));
        }
        self.held.retain(|id, _| model.requests.contains_key(id));
    }

    /// Requests to look at: those whose time has come, then those whose turn may be another's by now.
    fn next(&self, model: &Model, now: Timestamp) -> Vec<RequestId> {
        let is_held = |id: &RequestId| self.held.get(id).is_some_and(|at| now < at.saturating_add(AGAIN));
        let due = model.request_silences.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id);
        let due: Vec<RequestId> = due.filter(|id| !is_held(id)).take(MAX_AT_ONCE + 1).collect();
        let set = model.policy.as_ref().and_then(|policy| policy.set.as_ref().as_ref().ok());
        let any = set.is_some_and(PolicySet::escalates);
        let bears = |request: &Request| any || request.analysis.stages.iter().any(|stage| stage.escalate.is_some());
        let new = model.requests.iter().filter(|(id, kept)| !self.done.contains(*id) && bears(&kept.value));
        let new = new.map(|(id, _)| *id).filter(|id| !due.contains(id) && !is_held(id));
        due.iter().copied().chain(new).take(MAX_AT_ONCE + 1).collect()
    }
}

/// What looking at a request came to.
enum Looked {
    /// It is as it was.
    Same,
    /// It waits: as of now policy would not have it.
    Held,
    /// Its turn is another's, or somebody was silent for too long.
    Other(Box<Plan<Request>>),
}

/// Records the stages that were silent for too long, and whose turn it is where that has changed. The answer: whether there
/// may be more.
pub fn plan_silence(model: &Model, now: Timestamp, judged: &mut Judged) -> Plan<bool> {
    let mut plan = Plan::nothing(false);
    plan.audience = Default::default();
    judged.follow(model);
    let mut endings = Endings::default();
    let next = judged.next(model, now);
    plan.answer = next.len() > MAX_AT_ONCE;
    for id in next.into_iter().take(MAX_AT_ONCE) {
        let kept = model.requests.get(&id).filter(|kept| kept.value.expires > now);
        match kept.map_or(Looked::Held, |kept| look(model, now, &kept.value)) {
            Looked::Same => {
                judged.done.insert(id);
            }
            Looked::Held => {
                judged.done.insert(id);
                judged.held.insert(id, now);
            }
            // It is looked at once more when it is stored.
            Looked::Other(one) if endings.take(&one.changes) => {
                plan.changes.extend(one.changes);
                plan.events.extend(one.events);
            }
            Looked::Other(_) => {
                plan.answer = true;
                break;
            }
        }
    }
    plan
}

/// The request as it is now, with its silent stages noted.
fn look(model: &Model, now: Timestamp, before: &Request) -> Looked {
    let fresh = approve::analysed(model, now, before).ok().filter(|it| it.analysis.verdict == Verdict::Approve);
    let Some(mut request) = fresh else { return Looked::Held };
    let is_same = request.turn() == before.turn() && request.analysis.stages == before.analysis.stages;
    let silent: Vec<Stage> = request.silent().filter(|(at, _)| *at <= now).map(|(_, stage)| stage.clone()).collect();
    if is_same && silent.is_empty() {
        return Looked::Same;
    }
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
        // It is another's turn by now, whose time has not come.
        plan.events.clear();
    }
    Looked::Other(Box::new(plan))
}
