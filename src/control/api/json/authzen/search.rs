//! AuthZEN search (section 8): who may, to what, and what else. Answered by asking about each who could be meant.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::super::access::KnownCredential;
use super::entities::{Action, Context, Entity, IDENTITY, Parameters, RESOURCE};
use super::{Asking, Problem, Question, read};
use crate::control::catalog::actions_of;
use crate::domain::name::{ActionName, IdentityName, ResourceName};

pub(super) const SUBJECT: &str = "/access/v1/search/subject";
pub(super) const RESOURCE_PATH: &str = "/access/v1/search/resource";
pub(super) const ACTION: &str = "/access/v1/search/action";

/// Results on a page when nobody says, and at most.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;
/// Questions that one page asks: it may be short, and even empty, with more to come.
const MAX_ASKED: usize = 1_000;

/// An entity of which only the kind is said.
#[derive(Debug, Deserialize, JsonSchema)]
struct Kind {
    r#type: String,
}

/// Section 8.2.
#[derive(Debug, Default, Deserialize, JsonSchema)]
struct Page {
    #[serde(default)]
    token: String,
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct SubjectSearch {
    subject: Kind,
    action: Action,
    resource: Entity,
    #[serde(default)]
    context: Context,
    #[serde(default)]
    page: Page,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ResourceSearch {
    subject: Entity,
    action: Action,
    resource: Kind,
    #[serde(default)]
    context: Context,
    #[serde(default)]
    page: Page,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ActionSearch {
    subject: Entity,
    resource: Entity,
    #[serde(default)]
    context: Context,
    #[serde(default)]
    page: Page,
}

/// One page of what is `found` under names, in their order.
fn search(
    names: impl Iterator<Item = String>,
    page: &Page,
    found: impl Fn(String) -> Result<Vec<Value>, Problem>,
) -> Result<Value, Problem> {
    let limit = page.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let (mut results, mut last) = (Vec::new(), String::new());
    let mut names = names.skip_while(|name| *name <= page.token).enumerate().peekable();
    while let Some((before, name)) = names.next() {
        results.extend(found(name.clone())?);
        if (results.len() >= limit || before + 1 >= MAX_ASKED) && names.peek().is_some() {
            last = name;
            break;
        }
    }
    Ok(json!({ "results": results, "page": { "next_token": last, "count": results.len() } }))
}

fn nothing() -> Value {
    json!({ "results": [], "page": { "next_token": "", "count": 0 } })
}

impl Asking {
    fn allows(
        &self,
        (identity, credential): (IdentityName, Option<KnownCredential>),
        action: ActionName,
        resource: (ResourceName, Parameters),
        context: &Context,
    ) -> Result<bool, Problem> {
        let question = Question::new(identity, action, resource, context.presented(credential))?;
        Ok(question.answer(&self.model, self.now)?.allowed)
    }
}

pub(super) fn subjects(asking: &Asking, body: &[u8]) -> Result<Value, Problem> {
    let SubjectSearch { subject, action, resource, context, page } = read(body)?;
    let model = &asking.model;
    let (Some(resource), Ok(action)) = (resource.resource(model), action.name.parse::<ActionName>()) else {
        return Ok(nothing());
    };
    // The subjects of an identity, each only if it would be found as this identity and be let through.
    let shown = |name: String| {
        let kept = name.parse::<IdentityName>().ok().and_then(|name| model.identities.get(&name));
        let credentials = kept.into_iter().flat_map(|kept| kept.value.spec.authenticate.iter());
        let entities: BTreeSet<String> = match subject.r#type.as_str() {
            IDENTITY => BTreeSet::from([name.clone()]),
            _ => credentials.map(|it| it.subject().to_owned()).collect(),
        };
        let mut found = Vec::new();
        for id in entities {
            let entity = Entity::named(&subject.r#type, &id);
            let Some(whose) = entity.identity(model).filter(|(whose, _)| whose.as_str() == name) else { continue };
            if asking.allows(whose, action.clone(), resource.clone(), &context)? {
                found.push(json!({ "type": subject.r#type, "id": id }));
            }
        }
        Ok(found)
    };
    // Whoever may holds a grant; by a route that an exception observes, anybody may.
    search(model.grants_of.keys().map(ToString::to_string), &page, shown)
}

pub(super) fn resources(asking: &Asking, body: &[u8]) -> Result<Value, Problem> {
    let ResourceSearch { subject, action, resource, context, page } = read(body)?;
    let model = &asking.model;
    let (Some(whose), Ok(action)) = (subject.identity(model), action.name.parse::<ActionName>()) else {
        return Ok(nothing());
    };
    // Of other types we know the kind alone, and none of a kind.
    if resource.r#type != RESOURCE {
        return Ok(nothing());
    }
    let ids = model.grants_of.get(&whose.0).into_iter().flatten();
    let held = ids.filter_map(|id| model.grants.get(id)).map(|kept| kept.value.resource.to_string());
    let names: BTreeSet<String> = held.collect();
    search(names.into_iter(), &page, |name| {
        let Ok(resource) = name.parse::<ResourceName>() else { return Ok(Vec::new()) };
        let allowed = asking.allows(whose.clone(), action.clone(), (resource, Parameters::new()), &context)?;
        Ok(allowed.then(|| json!({ "type": RESOURCE, "id": name })).into_iter().collect())
    })
}

pub(super) fn actions(asking: &Asking, body: &[u8]) -> Result<Value, Problem> {
    let ActionSearch { subject, resource, context, page } = read(body)?;
    let model = &asking.model;
    let (Some(whose), Some(resource)) = (subject.identity(model), resource.resource(model)) else {
        return Ok(nothing());
    };
    let names: BTreeSet<String> = actions_of(model, &resource.0).into_iter().map(|name| name.to_string()).collect();
    search(names.into_iter(), &page, |name| {
        let Ok(action) = name.parse::<ActionName>() else { return Ok(Vec::new()) };
        let allowed = asking.allows(whose.clone(), action, resource.clone(), &context)?;
        Ok(allowed.then(|| json!({ "name": name })).into_iter().collect())
    })
}
