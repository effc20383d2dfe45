//! Stages of which nobody answers: after the time that policy says others may as well.
//!
//! They may from when it is recorded, and with it told. It takes as many words as before, and whoever asks, or answers for
//! whoever asks, is not brought in by it.
//!
//! Whose turn it is was worked out when somebody spoke last. It is another's when a word counts no more: its delegation has
//! ended, its speaker has left, or policy or catalog say something else by now. So each time that any of these changes,
//! every open request is looked at anew, some at once; what policy would refuse as of now, or cannot say, waits. So does
//! what needs nobody else's word: it is settled by a person, who is shown it.
//!
//! Grants that live, and time itself, change what policy says too, and nothing tells of that: so each is looked at again
//! after a while as well.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
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
use crate::domain::request::{Approvers, Escalated, Request, Stage, Verdict, in_words};
use crate::domain::resource::Resource;
use crate::domain::role::Role;
use crate::domain::route::Route;

/// Requests that are looked at in one transaction: each is analysed anew.
const MAX_AT_ONCE: usize = 20;
/// Permissions of them, of each of which policy is asked several times. One request is looked at, whatever it has.
const MAX_PERMISSIONS: usize = 200;
/// How long to wait before one is looked at again of which policy would refuse what is asked, or which waits for nobody.
const AGAIN: Duration = Duration::from_secs(60);
/// The same of one that was as it should be.
const LATER: Duration = Duration::from_secs(600);

/// Requests that were looked at. Kept by the writer, in memory alone: after a start all are.
#[derive(Debug, Default)]
pub struct Judged {
    ground: Option<Ground>,
    /// Those that were as they should be, as things stand, by when they were looked at.
    done: BTreeMap<RequestId, Timestamp>,
    /// Those that wait, whatever changes, by when they were looked at.
    held: BTreeMap<RequestId, Timestamp>,
    /// The last one of those whose time had come.
    last_due: Option<(Timestamp, RequestId)>,
    /// The last one of the others.
    last: Option<RequestId>,
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

/// A request to look at, with when its time came, where it has.
type Next = (Option<Timestamp>, RequestId);

impl Judged {
    /// Forgets what does not hold any more. What waits goes on waiting: otherwise whoever changes something again and again
    /// has the same ones looked at, and no others.
    fn follow(&mut self, model: &Model) {
        if !self.ground.as_ref().is_some_and(|ground| ground.is_of(model)) {
            (self.ground, self.done) = (Some(Ground::of(model)), BTreeMap::new());
        }
        for looked_at in [&mut self.done, &mut self.held] {
            if looked_at.len() > model.requests.len() {
                looked_at.retain(|id, _| model.requests.contains_key(id));
            }
        }
    }

    /// Requests to look at: by turns one whose time has come, and one whose turn may be another's by now. Of both it goes on
    /// behind the last one.
    fn next(&self, model: &Model, now: Timestamp) -> Vec<Next> {
        let within = |looked_at: &BTreeMap<RequestId, Timestamp>, id: &RequestId, wait: Duration| {
            looked_at.get(id).is_some_and(|at| now < at.saturating_add(wait))
        };
        let is_held = |id: &RequestId| within(&self.held, id, AGAIN);
        let silences = &model.request_silences;
        let behind = silences.range((self.last_due.map_or(Unbounded, Excluded), Unbounded));
        let before = self.last_due.map(|last| silences.range((Unbounded, Included(last))));
        let come = |it: &&(Timestamp, RequestId)| it.0 <= now;
        let due = behind.take_while(come).chain(before.into_iter().flatten().take_while(come));
        let mut due = due.filter(|(_, id)| !is_held(id)).map(|(at, id)| (Some(*at), *id));
        let set = model.policy.as_ref().and_then(|policy| policy.set.as_ref().as_ref().ok());
        let any = set.is_some_and(PolicySet::escalates);
        let bears = |request: &Request| any || request.analysis.stages.iter().any(|stage| stage.escalate.is_some());
        let behind = model.requests.range((self.last.map_or(Unbounded, Excluded), Unbounded));
        let before = self.last.map(|last| model.requests.range((Unbounded, Included(last))));
        let other = behind.chain(before.into_iter().flatten());
        let is_new = |id: &RequestId| !is_held(id) && !within(&self.done, id, LATER);
        let mut other = other.filter(|(id, kept)| is_new(id) && bears(&kept.value)).map(|(id, _)| (None, *id));
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        while found.len() <= MAX_AT_ONCE {
            let two = [due.next(), other.next()];
            if two.iter().all(Option::is_none) {
                break;
            }
            found.extend(two.into_iter().flatten().filter(|(_, id)| seen.insert(*id)));
        }
        found
    }

    /// It was looked at: what comes next is behind it.
    fn passed(&mut self, (due, id): Next) {
        match due {
            Some(at) => self.last_due = Some((at, id)),
            None => self.last = Some(id),
        }
    }
}

/// What looking at a request came to.
enum Looked {
    /// It is as it was.
    Same,
    /// It waits: as of now policy would not have it, or it takes nobody's word any more.
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
    let (mut endings, mut permissions) = (Endings::default(), 0usize);
    let next = judged.next(model, now);
    plan.answer = next.len() > MAX_AT_ONCE;
    for (place, (due, id)) in next.into_iter().take(MAX_AT_ONCE).enumerate() {
        let kept = model.requests.get(&id).filter(|kept| kept.value.expires > now);
        permissions = permissions.saturating_add(kept.map_or(0, |kept| approve::asked_of(model, &kept.value)));
        if place > 0 && permissions > MAX_PERMISSIONS {
            plan.answer = true;
            break;
        }
        match kept.map_or(Looked::Held, |kept| look(model, now, &kept.value)) {
            Looked::Same => {
                judged.done.insert(id, now);
            }
            Looked::Held => {
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
        judged.passed((due, id));
    }
    plan
}

/// The request as it is now, with its silent stages noted.
fn look(model: &Model, now: Timestamp, before: &Request) -> Looked {
    let fresh = approve::progressed_by(model, now, before).ok();
    let fresh = fresh.filter(|(it, open)| it.analysis.verdict == Verdict::Approve && open.is_some());
    let Some((mut request, _)) = fresh else { return Looked::Held };
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
    let plan = match told.is_empty() {
        // It is another's turn by now, whose time has not come.
        true => {
            let waits = in_words(&request.open_stages());
            put("request.turned", Some(before), request, Some(&format!("it takes {waits} by now")))
        }
        false => put("request.escalated", Some(before), request, Some(&told.join("; "))),
    };
    Looked::Other(Box::new(plan))
}
