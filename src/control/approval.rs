//! Approvals: who may give one, and whether those that were given are enough.
//!
//! Pure. Nobody approves what they asked for, and nobody counts for two: every place of every stage is another person's.

mod leave;
mod progress;
mod rights;

use std::collections::{BTreeMap, BTreeSet};

pub use progress::{Progress, Word, is_enough, progress};
pub use rights::{Right, answering, rights, words};

use super::model::Model;
use super::plan::Refused;
use super::policy::{Actor, Answer, PolicySet, Proof, Question, Step, needed};
use super::record::Person;
use crate::domain::Timestamp;
use crate::domain::breakglass::SignedIn;
use crate::domain::exception::Exception;
use crate::domain::identity::IdentitySpec;
use crate::domain::name::{IdentityName, OwnerName, RoleName};
use crate::domain::request::{Approvers, Ask, Escalated, Finding, Request, Requester, Stage};
use crate::domain::resource::{Resource, Sensitivity, Span};
use crate::domain::role::Permission;

/// People that an analysis names.
pub const MAX_NAMED: usize = 20;
/// Questions to policy, of people and resources, in looking for those whose word counts: it is done while others wait.
const MAX_ASKED: usize = 256;

/// What is to be decided on, as policy is asked about it.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    model: &'a Model,
    now: Timestamp,
    /// When access begins, or began.
    begins: Timestamp,
    /// When access that lives was given.
    given: Option<Timestamp>,
    lead: Span,
    set: &'a PolicySet,
    requester: &'a Requester,
    ask: &'a Ask,
    /// What is asked for, expanded.
    permissions: &'a [Permission],
    /// The role that is asked for, and those that it includes.
    roles: BTreeSet<RoleName>,
    /// All that is asked for with all that is held.
    together: &'a BTreeSet<String>,
    /// Stages that stayed silent for too long.
    escalated: &'a [Escalated],
}

impl<'a> Subject<'a> {
    /// A request as of `now`: who asks and what for, that expanded, and all of it with all that is held.
    pub fn new(
        model: &'a Model,
        now: Timestamp,
        set: &'a PolicySet,
        (requester, ask): (&'a Requester, &'a Ask),
        permissions: &'a [Permission],
        together: &'a BTreeSet<String>,
    ) -> Self {
        let lead = Span::new(ask.starts.map_or(std::time::Duration::ZERO, |starts| starts.saturating_since(now)));
        Self {
            model,
            now,
            begins: now.saturating_add(lead.duration()),
            given: None,
            lead,
            set,
            requester,
            ask,
            permissions,
            roles: super::analyse::roles(model, ask),
            together,
            escalated: &[],
        }
    }

    /// The same with stages that stayed silent for too long.
    pub fn with(self, escalated: &'a [Escalated]) -> Self {
        Self { escalated, ..self }
    }

    /// The same of access that was given already, and when: what others of the same owner have since been given by leave
    /// takes nothing from it.
    #[must_use]
    pub fn begun(self, begins: Timestamp, given: Timestamp) -> Self {
        Self { begins, given: Some(given), ..self }
    }

    /// Whose access it would be.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn identity(&self) -> Result<&'a IdentitySpec, Refused> {
        let found = self.model.identities.get(&self.ask.identity).map(|kept| &kept.value.spec);
        found.ok_or_else(|| Refused::NotFound(format!("there is no identity {}", self.ask.identity)))
    }

    /// To what.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn resource(&self, permission: &Permission) -> Result<&'a Resource, Refused> {
        let found = self.model.resources.get(&permission.resource).map(|kept| &*kept.value);
        found.ok_or_else(|| Refused::NotFound(format!("there is no resource {}", permission.resource)))
    }

    /// What policy says of somebody who does `step` about one of the permissions.
    ///
    /// # Errors
    /// [`Refused::NotFound`] when the identity or the resource is not there any more.
    pub fn answer(&self, step: Step, actor: &Actor, permission: &Permission) -> Result<Answer, Refused> {
        self.proven_answer(step, actor, permission, None)
    }

    fn proven_answer(
        &self,
        step: Step,
        actor: &Actor,
        permission: &Permission,
        proof: Option<Proof<'_>>,
    ) -> Result<Answer, Refused> {
        let question = |together: &BTreeSet<String>, left: &BTreeSet<String>| {
            Ok::<Answer, Refused>(self.set.ask(&Question {
                step,
                actor,
                identity: (&self.ask.identity, self.identity()?),
                resource: self.resource(permission)?,
                actions: &permission.actions,
                roles: &self.roles,
                duration: self.ask.duration,
                ticket: self.ask.ticket.as_deref(),
                lead: self.lead,
                counted: self.ask.limits.is_counted(),
                together,
                left,
                proof,
            }))
        };
        let own = leave::own(self);
        let mut left: BTreeSet<String> = own.keys().map(|rule| (*rule).to_owned()).collect();
        for (rule, without) in leave::of_others(self) {
            // Without what they were given by leave it would not forbid this: it is not for this that it does.
            if !left.contains(rule) && !question(&without, &left)?.rules.contains(rule) {
                left.insert(rule.to_owned());
            }
        }
        Ok(self.bounded(question(self.together, &left)?, &own))
    }

    /// What is given by leave is told to whoever approves, and lasts no longer than the leave.
    fn bounded(&self, mut answer: Answer, exceptions: &BTreeMap<&str, &Exception>) -> Answer {
        for (rule, it) in answer.left.iter().filter_map(|rule| exceptions.get(rule.as_str()).map(|it| (rule, it))) {
            let (name, owner, expires) = (&it.name, &it.spec.owner, it.spec.expires);
            let text =
                format!("the rule {rule} forbids it, and exception {name} of {owner} is leave from it until {expires}");
            answer.findings.push(Finding { code: "excepted".to_owned(), text });
            let most = Span::new(expires.saturating_since(self.begins));
            if self.ask.duration > most {
                answer.allows = false;
                let text = format!("it would last longer than exception {name}, which ends {expires}");
                answer.findings.push(Finding { code: "too_long".to_owned(), text });
            }
        }
        answer
    }

    /// What policy says of somebody who breaks glass, having signed in like this, of all permissions together.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn emergency(&self, actor: &Actor, signed_in: &SignedIn, now: Timestamp) -> Result<Answer, Refused> {
        let age = Span::new(now.saturating_since(signed_in.at));
        let proof = Proof { age, acr: signed_in.acr.as_deref(), amr: &signed_in.amr };
        let mut merged = Answer { allows: !self.permissions.is_empty(), ..Answer::default() };
        for permission in self.permissions {
            let answer = self.proven_answer(Step::BreakGlass, actor, permission, Some(proof))?;
            merged.allows &= answer.allows;
            merged.rules.extend(answer.rules);
            merged.findings.extend(answer.findings);
            merged.longest = shorter(merged.longest, answer.longest);
        }
        Ok(merged)
    }

    /// What policy says of whoever asks, of all permissions together: the strictest of each. Stages name owners, not what
    /// they own.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn asked(&self, actor: &Actor) -> Result<Answer, Refused> {
        let owner = &self.identity()?.owner;
        let mut merged = Answer { allows: true, ..Answer::default() };
        for permission in self.permissions {
            let answer = self.answer(Step::Request, actor, permission)?;
            let spec = &self.resource(permission)?.spec;
            if spec.sensitivity == Sensitivity::High {
                let text = format!("{} can do much harm", permission.resource);
                merged.findings.push(Finding { code: "sensitive".to_owned(), text });
            }
            let known = |approvers: Approvers| match approvers {
                Approvers::ResourceOwner => Approvers::Owner(spec.owner.clone()),
                Approvers::IdentityOwner => Approvers::Owner(owner.clone()),
                other => other,
            };
            for (approvers, mut need) in answer.approvers {
                if let Some(escalation) = &mut need.escalate {
                    escalation.to = std::mem::take(&mut escalation.to).into_iter().map(known).collect();
                }
                needed(&mut merged.approvers, known(approvers), need);
            }
            merged.allows &= answer.allows;
            merged.rules.extend(answer.rules);
            merged.findings.extend(answer.findings);
            merged.longest = shorter(merged.longest, answer.longest);
            merged.unused = shorter(merged.unused, answer.unused);
            merged.expires = shorter(merged.expires, answer.expires);
        }
        Ok(merged)
    }
}

fn shorter(one: Option<Span>, other: Option<Span>) -> Option<Span> {
    [one, other].into_iter().flatten().min()
}

/// A person as policy sees them.
pub fn actor(model: &Model, person: &Person) -> Actor {
    let groups = model.groups_of(&person.name);
    let standing = person.roles.iter().map(|role| role.as_str().to_owned()).collect();
    Actor::Person { name: person.name.clone(), standing, groups }
}

/// For which stages somebody's own word counts; none when they may not approve at all.
pub fn counts_for(subject: &Subject<'_>, stages: &[Stage], name: &OwnerName) -> BTreeSet<usize> {
    let about = (subject.requester, &subject.ask.identity, subject.escalated);
    match named(subject.model, about, stages, name) {
        Some((actor, of)) if policy_lets(subject, &actor) => of,
        _ => BTreeSet::new(),
    }
}

/// Who asks, whose access it would be, and the stages that stayed silent for too long.
type About<'a> = (&'a Requester, &'a IdentityName, &'a [Escalated]);

/// Somebody whom stages name, before policy is asked, and which of them do.
fn named(
    model: &Model,
    (requester, identity, escalated): About<'_>,
    stages: &[Stage],
    name: &OwnerName,
) -> Option<(Actor, BTreeSet<usize>)> {
    // INVARIANT: nobody approves their own request, whatever policy says and under whatever name.
    if is_requester(model, requester, name) {
        return None;
    }
    let actor = actor(model, &model.people.get(name)?.value);
    // INVARIANT: silence brings nobody in who answers for whoever asks.
    let theirs = model.identities.get(identity).is_none_or(|kept| actor.is_owner(&kept.value.spec.owner));
    let stands_in = |stage: &Stage| {
        let silent = !theirs && escalated.iter().any(|it| it.stage == *stage);
        let to = stage.escalate.iter().filter(|_| silent).flat_map(|it| &it.to);
        to.into_iter().any(|approvers| is_one(&actor, approvers))
    };
    let counts = |stage: &Stage| is_one(&actor, &stage.approvers) || stands_in(stage);
    let of: BTreeSet<usize> =
        stages.iter().enumerate().filter(|(_, stage)| counts(stage)).map(|(index, _)| index).collect();
    if of.is_empty() { None } else { Some((actor, of)) }
}

/// Whether somebody is who asks, under whatever name.
pub fn is_requester(model: &Model, requester: &Requester, name: &OwnerName) -> bool {
    matches!(requester, Requester::Person(asking) if model.are_one(asking, name))
}

/// Whether the stages of a request, as it was stored, name somebody: enough for a no, which does not wait for policy to be
/// in order.
pub fn is_named(model: &Model, request: &Request, name: &OwnerName) -> bool {
    let about = (&request.requester, &request.ask.identity, request.escalated.as_slice());
    named(model, about, &request.analysis.stages, name).is_some()
}

fn is_one(actor: &Actor, approvers: &Approvers) -> bool {
    let Actor::Person { standing, groups, .. } = actor else { return false };
    match approvers {
        Approvers::Owner(owner) => actor.is_owner(owner),
        Approvers::Group(group) => groups.contains(group),
        Approvers::Standing(name) => standing.contains(name),
        // An analysis says who they are.
        Approvers::ResourceOwner | Approvers::IdentityOwner => false,
    }
}

fn policy_lets(subject: &Subject<'_>, actor: &Actor) -> bool {
    let lets = |permission| subject.answer(Step::Approve, actor, permission).is_ok_and(|answer| answer.allows);
    subject.permissions.iter().all(lets)
}

/// People whose word counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eligible {
    /// By name, with the stages that their word counts for.
    pub people: Vec<(OwnerName, BTreeSet<usize>)>,
    /// Whether there are no others.
    pub all: bool,
}

/// People whose word counts: all of them, as many as are named where those are enough, or those that were found when
/// policy had been asked as often as it may be.
pub fn eligible(subject: &Subject<'_>, stages: &[Stage]) -> Eligible {
    let mut found: Vec<(OwnerName, BTreeSet<usize>)> = Vec::new();
    let mut asked = 0usize;
    for name in candidates(subject, stages) {
        if asked >= MAX_ASKED {
            return Eligible { people: found, all: false };
        }
        asked = asked.saturating_add(subject.permissions.len().max(1));
        let of = counts_for(subject, stages, name);
        if !of.is_empty() {
            found.push((name.clone(), of));
        }
        if found.len() >= MAX_NAMED {
            let counts: Vec<BTreeSet<usize>> = found.iter().map(|(_, of)| of.clone()).collect();
            if is_enough(stages, &counts) {
                return Eligible { people: found, all: false };
            }
        }
    }
    Eligible { people: found, all: true }
}

/// Whoever may be one of those that the stages name, before policy is asked: asking it of everybody would take too long.
fn candidates<'m>(subject: &Subject<'m>, stages: &[Stage]) -> impl Iterator<Item = &'m OwnerName> + use<'m> {
    let silent = |stage: &&Stage| subject.escalated.iter().any(|it| it.stage == **stage);
    let besides = stages.iter().filter(silent).filter_map(|stage| stage.escalate.as_ref()).flat_map(|it| &it.to);
    let all: Vec<&Approvers> = stages.iter().map(|stage| &stage.approvers).chain(besides).collect();
    let (mut owners, mut standings): (BTreeSet<OwnerName>, BTreeSet<String>) = Default::default();
    for approvers in all {
        match approvers {
            Approvers::Owner(owner) | Approvers::Group(owner) => drop(owners.insert(owner.clone())),
            Approvers::Standing(standing) => drop(standings.insert(standing.clone())),
            Approvers::ResourceOwner | Approvers::IdentityOwner => {}
        }
    }
    let members: BTreeSet<OwnerName> = owners.iter().flat_map(|owner| subject.model.members_of(owner)).collect();
    subject.model.people.values().map(|kept| kept.value.as_ref()).filter_map(move |person| {
        let by_standing = person.roles.iter().any(|role| standings.contains(role.as_str()));
        let by_name = members.contains(&person.name)
            || owners.contains(&person.name)
            || person.speaks_for.iter().any(|owner| owners.contains(owner));
        (by_standing || by_name).then_some(&person.name)
    })
}
