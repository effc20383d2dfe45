//! What a request would give, what it conflicts with, and what policy says of it.
//!
//! A pure function of the model and the request, so that whoever approves can be shown what was decided on, and it can be
//! asked again when they do. It changes nothing and knows no approvals.

use std::collections::BTreeSet;

use serde::Serialize;

use super::approval::{self, Eligible, Subject};
use super::catalog::ancestors;
use super::model::{Kept, Model};
use super::plan::Refused;
use super::policy::{Actor, InForce, Need, PolicySet};
use super::record::Digest;
use crate::domain::Timestamp;
use crate::domain::exception::Exception;
use crate::domain::grant::Limits;
use crate::domain::name::{ExceptionName, IdentityName, OwnerName, RequestId, ResourceName, RoleName};
use crate::domain::request::{Access, Analysis, Ask, Finding, Requester, Stage, Verdict, in_words};
use crate::domain::resource::Span;
use crate::domain::role::Permission;

/// Held permissions that an analysis lists. All of them are looked at.
const MAX_SHOWN: usize = 200;
/// How long a request waits where policy does not say.
pub const EXPIRES: Span = Span::new(std::time::Duration::from_secs(86_400));

/// An analysis, and what is not shown of it.
#[derive(Clone, Debug)]
pub struct Analysed {
    /// What is shown.
    pub analysis: Analysis,
    /// How long the request may wait.
    pub expires: Span,
    /// All that is asked for with all that is held.
    pub together: BTreeSet<String>,
}

/// Analyses a request of which every part can be granted; `permissions` is what it gives.
///
/// # Errors
/// [`Refused::Unfit`] without a policy, or with one that this program cannot read.
pub fn analyse(
    model: &Model,
    now: Timestamp,
    id: RequestId,
    requester: &Requester,
    ask: &Ask,
    permissions: Vec<Permission>,
) -> Result<Analysed, Refused> {
    let policy = in_force(model)?;
    let set = readable(policy)?;
    let identity = model.identities.get(&ask.identity);
    let identity = identity.ok_or_else(|| Refused::NotFound(format!("there is no identity {}", ask.identity)))?;
    let own = held(model, &ask.identity);
    let all = together(model, &identity.value.spec.owner);
    let asked: BTreeSet<String> = permissions.iter().flat_map(spelled).collect();
    let together: BTreeSet<String> = asked.union(&all).cloned().collect();
    let subject = Subject::new(model, now, set, (requester, ask), &permissions, &together);
    let mut merged = subject.asked(&actor_of(model, requester))?;
    let mut findings: BTreeSet<Finding> = merged.findings.into_iter().collect();
    let stages = merged.approvers.into_iter().map(|(approvers, need)| {
        let Need { quorum, order, escalate } = need;
        Stage { approvers, quorum, order, escalate }
    });
    let mut stages: Vec<Stage> = stages.collect();
    stages.sort_by_key(|stage| stage.order);
    let Eligible { people: eligible, all: is_all } = match merged.allows {
        true => approval::eligible(&subject, &stages),
        false => Eligible { people: Vec::new(), all: false },
    };
    let counts: Vec<BTreeSet<usize>> = eligible.iter().map(|(_, of)| of.clone()).collect();
    // Where not everybody was looked at, nobody knows that it is too few.
    if merged.allows && is_all && !approval::is_enough(&stages, &counts) {
        merged.allows = false;
        let text = format!("too few people may approve it: it takes {}", in_words(&stages));
        findings.insert(Finding { code: "nobody_may_approve".to_owned(), text });
    }
    let verdict = match (merged.allows && !permissions.is_empty(), stages.is_empty()) {
        (false, _) => Verdict::Refuse,
        (true, true) => Verdict::Grant,
        (true, false) => Verdict::Approve,
    };
    let findings: Vec<Finding> = findings.into_iter().collect();
    let version = policy.record.version;
    let seen = Seen {
        request: id,
        requester,
        ask,
        permissions: &permissions,
        limits: &ask.limits,
        starts: ask.starts,
        policy: (version, &policy.record.digest),
        roles: role_digests(model, &roles(model, ask)),
        routes: route_digests(model, &permissions),
        exceptions: exception_digests(model, &permissions),
        identity: digest(&identity.value.spec),
        findings: &findings,
        stages: &stages,
        unused: merged.unused,
    };
    let analysis = Analysis {
        verdict,
        adds: asked.difference(&own).cloned().collect(),
        held: all.into_iter().take(MAX_SHOWN).collect(),
        digest: digest(&seen),
        findings,
        rules: merged.rules.into_iter().collect(),
        policy: version,
        stages,
        eligible: eligible.into_iter().map(|(name, _)| name).take(approval::MAX_NAMED).collect(),
        longest: merged.longest,
        unused: merged.unused,
        permissions,
    };
    Ok(Analysed { analysis, expires: merged.expires.unwrap_or(EXPIRES), together })
}

/// Whether policy lets this be asked for, whoever has to approve it then. What cannot be asked cannot be asked for.
pub fn may_be_asked(model: &Model, now: Timestamp, requester: &Requester, ask: &Ask) -> bool {
    let asked = || {
        let set = readable(in_force(model)?)?;
        let access = super::request::grant_request(ask).access;
        let permissions = super::grant::permissions(model, &access)?;
        let identity = model.identities.get(&ask.identity);
        let owner = identity.map(|kept| kept.value.spec.owner.clone());
        let held = owner.map(|owner| together(model, &owner)).unwrap_or_default();
        let together: BTreeSet<String> = permissions.iter().flat_map(spelled).chain(held).collect();
        let subject = Subject::new(model, now, set, (requester, ask), &permissions, &together);
        Ok::<bool, Refused>(subject.asked(&actor_of(model, requester))?.allows)
    };
    asked().unwrap_or(false)
}

/// What an approval is bound to.
#[derive(Serialize)]
struct Seen<'a> {
    request: RequestId,
    requester: &'a Requester,
    ask: &'a Ask,
    permissions: &'a [Permission],
    limits: &'a Limits,
    starts: Option<Timestamp>,
    policy: (u64, &'a str),
    roles: Vec<(RoleName, String)>,
    routes: Vec<(ResourceName, String, String)>,
    exceptions: Vec<(ExceptionName, String)>,
    identity: String,
    findings: &'a [Finding],
    stages: &'a [Stage],
    #[serde(skip_serializing_if = "Option::is_none")]
    unused: Option<Span>,
}

fn digest(value: &impl Serialize) -> String {
    // Structs and sorted maps of strings and numbers: the same value is the same text, and it is always one.
    Digest::of(serde_json::to_vec(value).unwrap_or_default()).hex()
}

fn role_digests(model: &Model, roles: &BTreeSet<RoleName>) -> Vec<(RoleName, String)> {
    let of = |name: &RoleName| model.roles.get(name).map(|kept| digest(&kept.value.spec)).unwrap_or_default();
    roles.iter().map(|name| (name.clone(), of(name))).collect()
}

/// Each resource with its document and every route that leads to it.
fn route_digests(model: &Model, permissions: &[Permission]) -> Vec<(ResourceName, String, String)> {
    let of = |permission: &Permission| {
        let name = &permission.resource;
        let resource = model.resources.get(name).map(|kept| digest(&kept.value.spec)).unwrap_or_default();
        let routes = model.routes.values().filter(|kept| kept.value.spec.resource == *name);
        let routes: Vec<_> = routes.map(|kept| (kept.value.name.clone(), &kept.value.spec)).collect();
        (name.clone(), resource, digest(&routes))
    };
    permissions.iter().map(of).collect()
}

/// Every leave from a rule on a route that leads to one of the resources.
fn exception_digests(model: &Model, permissions: &[Permission]) -> Vec<(ExceptionName, String)> {
    let leads = |kept: &&Kept<Exception>| {
        let route = kept.value.spec.route.as_ref().and_then(|route| model.routes.get(route));
        route.is_some_and(|route| permissions.iter().any(|it| it.resource == route.value.spec.resource))
    };
    let found = model.exceptions.values().filter(leads);
    found.map(|kept| (kept.value.name.clone(), digest(&kept.value.spec))).collect()
}

/// The policy that is in force.
///
/// # Errors
/// When there is none.
pub fn in_force(model: &Model) -> Result<&InForce, Refused> {
    let none = "no policy is in force: an administrator publishes one (`portcullis policy publish --starter`)";
    model.policy.as_ref().ok_or_else(|| Refused::Unfit(vec![none.to_owned()]))
}

/// The same, compiled.
///
/// # Errors
/// When this program cannot read it.
pub fn readable(policy: &InForce) -> Result<&PolicySet, Refused> {
    policy.set.as_ref().as_ref().map_err(|_| {
        let version = policy.record.version;
        Refused::Unfit(vec![format!("version {version} of the policy cannot be read by this program: publish another")])
    })
}

/// The role that is asked for, and those that it includes.
pub fn roles(model: &Model, ask: &Ask) -> BTreeSet<RoleName> {
    match &ask.access {
        Access::Role(role) => ancestors(model, role),
        Access::Resource(_) => BTreeSet::new(),
    }
}

pub(super) fn actor_of(model: &Model, requester: &Requester) -> Actor {
    match requester {
        Requester::Identity(_) => Actor::Identity,
        Requester::Person(name) => match model.people.get(name) {
            Some(person) => approval::actor(model, &person.value),
            None => Actor::Person { name: name.clone(), standing: BTreeSet::new(), groups: model.groups_of(name) },
        },
    }
}

/// Every owner that somebody who answers for `owner` answers for too: two agents of one person are one person, whether they
/// own them, a group that they are in does, however nested, or an owner that they speak for.
pub(super) fn of_one_person(model: &Model, owner: &OwnerName) -> BTreeSet<OwnerName> {
    let mut people = model.members_of(owner);
    people.insert(owner.clone());
    let mut groups = model.within(owner);
    for person in &people {
        let spoken = model.people.get(person).map(|kept| kept.value.speaks_for.as_slice()).unwrap_or_default();
        groups.extend(spoken.iter().cloned());
    }
    // Whom they speak for are they, too: what is above a person is above those who speak for them.
    let both: BTreeSet<OwnerName> = people.union(&groups).cloned().collect();
    let mut owners = model.above(&both, &groups);
    owners.extend(both);
    owners
}

/// Everything that is held by the identities of whoever answers for `owner`, `resource:action` each.
pub(super) fn together(model: &Model, owner: &OwnerName) -> BTreeSet<String> {
    let owners = of_one_person(model, owner);
    let theirs = owners.iter().flat_map(|owner| model.held.of(owner));
    theirs.map(|(resource, action)| format!("{resource}:{action}")).collect()
}

fn held(model: &Model, identity: &IdentityName) -> BTreeSet<String> {
    let grants = model.grants_of.get(identity).into_iter().flatten().filter_map(|id| model.grants.get(id));
    grants
        .flat_map(|kept| kept.value.actions.iter().map(|action| format!("{}:{action}", kept.value.resource)))
        .collect()
}

pub(super) fn spelled(permission: &Permission) -> Vec<String> {
    permission.actions.iter().map(|action| format!("{}:{action}", permission.resource)).collect()
}
