//! One question to a set: allowed or not, by which rules, under which obligations.
//!
//! Cedar leaves out a rule that errs, one that forbids too. So an evaluation with any error is a denial, whatever it says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, Request,
    RestrictedExpression,
};

use super::set::{PolicySet, Rule, RuleOf, schema};
use crate::domain::identity::{IdentityKind, IdentitySpec};
use crate::domain::name::{ActionName, IdentityName, OwnerName, RoleName};
use crate::domain::request::{Approvers, Escalation, Finding};
use crate::domain::resource::{Resource, Sensitivity, Span};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Asking.
    Request,
    /// Approving.
    Approve,
    /// Breaking glass.
    BreakGlass,
}

/// When and how somebody who breaks glass proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof<'a> {
    /// How long ago.
    pub age: Span,
    /// How strongly, in the provider's words.
    pub acr: Option<&'a str>,
    /// By what.
    pub amr: &'a [String],
}

/// Who does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A person, with their standing and groups.
    Person {
        /// Their name.
        name: OwnerName,
        /// `developer` and so on.
        standing: BTreeSet<String>,
        /// By way of others too.
        groups: BTreeSet<OwnerName>,
    },
    /// The identity itself.
    Identity,
}

impl Actor {
    /// Whether what `owner` owns is theirs.
    pub fn is_owner(&self, owner: &OwnerName) -> bool {
        matches!(self, Self::Person { name, groups, .. } if name == owner || groups.contains(owner))
    }
}

/// What is asked of a set.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// What is done.
    pub step: Step,
    /// Who does it.
    pub actor: &'a Actor,
    /// Whose access it would be.
    pub identity: (&'a IdentityName, &'a IdentitySpec),
    /// To what.
    pub resource: &'a Resource,
    /// To do what.
    pub actions: &'a [ActionName],
    /// The role that is asked for, and those that it includes.
    pub roles: &'a BTreeSet<RoleName>,
    /// For how long.
    pub duration: Span,
    /// How far ahead it begins; nothing for at once.
    pub lead: Span,
    /// The ticket.
    pub ticket: Option<&'a str>,
    /// Whether calls are counted.
    pub counted: bool,
    /// All that is asked for with all that is held, `resource:action`.
    pub together: &'a BTreeSet<String>,
    /// Rules that part duties and are left by an exception.
    pub left: &'a BTreeSet<String>,
    /// Of whoever breaks glass.
    pub proof: Option<Proof<'a>>,
}

/// How some approvers are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// How many of them.
    pub quorum: u32,
    /// After those of every lower order.
    pub order: u32,
    /// Who else may answer when none of them does.
    pub escalate: Option<Escalation>,
}

impl Need {
    /// What both ask for: the strictest of each. Others may answer where both say so, after the longer time, and only those
    /// whom both name.
    pub fn and(self, other: Self) -> Self {
        let escalate = match (self.escalate, other.escalate) {
            (Some(one), Some(other)) => {
                let to: Vec<Approvers> = one.to.into_iter().filter(|to| other.to.contains(to)).collect();
                (!to.is_empty()).then_some(Escalation { after: one.after.max(other.after), to })
            }
            _ => None,
        };
        Self { quorum: self.quorum.max(other.quorum), order: self.order.max(other.order), escalate }
    }
}

/// What a set says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether it allows.
    pub allows: bool,
    /// The rules that decided.
    pub rules: BTreeSet<String>,
    /// Who must approve.
    pub approvers: BTreeMap<Approvers, Need>,
    /// The longest that is allowed.
    pub longest: Option<Span>,
    /// It ends when unused for so long.
    pub unused: Option<Span>,
    /// How long to wait for approvals.
    pub expires: Option<Span>,
    /// Why not.
    pub findings: Vec<Finding>,
    /// Rules that would have forbidden it and are left.
    pub left: BTreeSet<String>,
}

impl PolicySet {
    /// Asks.
    pub fn ask(&self, question: &Question<'_>) -> Answer {
        match self.evaluate(question) {
            Ok(answer) => answer,
            Err(fault) => {
                tracing::error!(%fault, "the policy cannot be evaluated: denied");
                refusal("policy_error", format!("the policy cannot be evaluated: {fault}"))
            }
        }
    }

    fn evaluate(&self, question: &Question<'_>) -> Result<Answer, String> {
        let schema = schema()?;
        let identity = uid("Identity", question.identity.0.as_str())?;
        let resource = uid("Resource", question.resource.name.as_str())?;
        let action = uid(
            "Action",
            match question.step {
                Step::Request => "request",
                Step::Approve => "approve",
                Step::BreakGlass => "break_glass",
            },
        )?;
        let mut entities =
            vec![identity_entity(&identity, question.identity.1)?, resource_entity(&resource, question)?];
        let principal = match question.actor {
            Actor::Identity => identity.clone(),
            Actor::Person { name, standing, groups } => {
                let person = uid("Person", name.as_str())?;
                let groups = groups.iter().map(|group| uid("Group", group.as_str()));
                let standing = standing.iter().map(|standing| uid("Standing", standing));
                let parents: HashSet<EntityUid> = groups.chain(standing).collect::<Result<_, _>>()?;
                entities.push(Entity::new_no_attrs(person.clone(), parents));
                person
            }
        };
        let entities = Entities::from_entities(entities, Some(schema)).map_err(text)?;
        let context = context(question, identity)?;
        let request = Request::new(principal, action, resource, context, Some(schema)).map_err(text)?;
        let (decision, rules) = self.asked(&request, &entities, &BTreeSet::new())?;
        // One question more only where an exception bears on this one.
        let is_left = |id: &&String| question.left.contains(*id) && self.rules.get(*id).is_some_and(Rule::parts_duties);
        let left: BTreeSet<String> = rules.iter().filter(is_left).cloned().collect();
        let (decision, rules) =
            if left.is_empty() { (decision, rules) } else { self.asked(&request, &entities, &left)? };
        // INVARIANT: what was written before there was break-glass, or for everything, lets nobody break it.
        let named = |id: &String| self.rules.get(id).is_some_and(|rule| rule.of == RuleOf::BreakGlass);
        let allows = decision == Decision::Allow;
        let allows = allows && (question.step != Step::BreakGlass || rules.iter().any(named));
        Ok(Answer { left, ..self.answer(allows, rules, question) })
    }

    /// What all rules but those that are left decide.
    fn asked(
        &self,
        request: &Request,
        entities: &Entities,
        left: &BTreeSet<String>,
    ) -> Result<(Decision, BTreeSet<String>), String> {
        let mut policies = std::borrow::Cow::Borrowed(&self.policies);
        for id in left {
            policies.to_mut().remove_static(PolicyId::new(id)).map_err(text)?;
        }
        let response = Authorizer::new().is_authorized(request, &policies, entities);
        match response.diagnostics().errors().next() {
            Some(error) => Err(error.to_string()),
            None => Ok((response.decision(), response.diagnostics().reason().map(ToString::to_string).collect())),
        }
    }

    /// Obligations of the rules that decided: the strictest of each.
    fn answer(&self, allows: bool, rules: BTreeSet<String>, question: &Question<'_>) -> Answer {
        let mut answer = Answer { allows, ..Answer::default() };
        for (id, rule) in rules.iter().filter_map(|id| self.rules.get(id).map(|rule| (id, rule))) {
            // A rule that permits may say something to whoever approves, too.
            if rule.forbids || rule.finding.is_some() || rule.says.is_some() {
                let (code, does) = if rule.forbids { ("forbidden", "forbids") } else { ("noted", "permits") };
                let code = rule.finding.clone().unwrap_or_else(|| code.to_owned());
                let text = rule.says.clone().unwrap_or_else(|| format!("the rule {id} {does} it"));
                answer.findings.push(Finding { code, text });
            }
            for approvers in &rule.approvers {
                needed(&mut answer.approvers, approvers.clone(), rule.need());
            }
            answer.longest = shorter(answer.longest, rule.max_duration);
            answer.unused = shorter(answer.unused, rule.unused);
            answer.expires = shorter(answer.expires, rule.expires);
        }
        answer.rules = rules;
        if !allows && answer.findings.is_empty() {
            let what = match question.step {
                Step::Request => format!("no rule lets this be asked for on {}", question.resource.name),
                Step::Approve => "no rule lets them approve it".to_owned(),
                Step::BreakGlass => format!("no rule lets them break glass on {}", question.resource.name),
            };
            answer.findings.push(Finding { code: "not_permitted".to_owned(), text: what });
        }
        if let Some(longest) = answer.longest.filter(|longest| answer.allows && question.duration > *longest) {
            answer.allows = false;
            let text = format!("{} is longer than the {longest} that policy allows", question.duration);
            answer.findings.push(Finding { code: "too_long".to_owned(), text });
        }
        answer
    }
}

/// Adds a need to those there are.
pub(in super::super) fn needed(all: &mut BTreeMap<Approvers, Need>, approvers: Approvers, need: Need) {
    let both = match all.remove(&approvers) {
        Some(before) => before.and(need),
        None => need,
    };
    all.insert(approvers, both);
}

fn refusal(code: &str, text: String) -> Answer {
    Answer { findings: vec![Finding { code: code.to_owned(), text }], ..Answer::default() }
}

fn shorter(one: Option<Span>, other: Option<Span>) -> Option<Span> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = kind.parse().map_err(text)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn identity_entity(uid: &EntityUid, spec: &IdentitySpec) -> Result<Entity, String> {
    let kind = match spec.kind {
        IdentityKind::Service => "service",
        IdentityKind::Agent => "agent",
        IdentityKind::Pipeline => "pipeline",
        IdentityKind::ThirdParty => "third_party",
    };
    let attributes = HashMap::from([
        ("kind".to_owned(), string(kind)),
        ("environment".to_owned(), string(&spec.environment)),
        ("purpose".to_owned(), string(&spec.purpose)),
        ("owner".to_owned(), string(spec.owner.as_str())),
    ]);
    Entity::new(uid.clone(), attributes, HashSet::new()).map_err(text)
}

fn resource_entity(uid: &EntityUid, question: &Question<'_>) -> Result<Entity, String> {
    let sensitivity = match question.resource.spec.sensitivity {
        Sensitivity::Low => "low",
        Sensitivity::Normal => "normal",
        Sensitivity::High => "high",
    };
    let attributes = HashMap::from([
        ("sensitivity".to_owned(), string(sensitivity)),
        ("owner".to_owned(), string(question.resource.spec.owner.as_str())),
    ]);
    Entity::new(uid.clone(), attributes, HashSet::new()).map_err(text)
}

fn span(span: Span) -> RestrictedExpression {
    RestrictedExpression::new_duration(format!("{}ms", span.duration().as_millis()))
}

fn context(question: &Question<'_>, identity: EntityUid) -> Result<Context, String> {
    let flag = RestrictedExpression::new_bool;
    let set = |texts: &mut dyn Iterator<Item = &str>| RestrictedExpression::new_set(texts.map(string));
    let roles = question.roles.iter().map(|role| uid("Role", role.as_str()).map(RestrictedExpression::new_entity_uid));
    let mut pairs = vec![
        ("identity".to_owned(), RestrictedExpression::new_entity_uid(identity)),
        ("itself".to_owned(), flag(*question.actor == Actor::Identity)),
        ("owns_identity".to_owned(), flag(question.actor.is_owner(&question.identity.1.owner))),
        ("owns_resource".to_owned(), flag(question.actor.is_owner(&question.resource.spec.owner))),
        ("actions".to_owned(), set(&mut question.actions.iter().map(ActionName::as_str))),
        ("roles".to_owned(), RestrictedExpression::new_set(roles.collect::<Result<Vec<_>, _>>()?)),
        ("duration".to_owned(), span(question.duration)),
        ("lead".to_owned(), span(question.lead)),
        ("counted".to_owned(), flag(question.counted)),
        ("together".to_owned(), set(&mut question.together.iter().map(String::as_str))),
    ];
    if let Some(proof) = &question.proof {
        pairs.push(("signed_in".to_owned(), span(proof.age)));
        pairs.push(("amr".to_owned(), set(&mut proof.amr.iter().map(String::as_str))));
        pairs.extend(proof.acr.map(|acr| ("acr".to_owned(), string(acr))));
    }
    pairs.extend(question.ticket.map(|ticket| ("ticket".to_owned(), string(ticket))));
    Context::from_pairs(pairs).map_err(text)
}
