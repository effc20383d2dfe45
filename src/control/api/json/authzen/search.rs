//! AuthZEN search (section 8): who may, to what, and what else. Answered by asking about each who could be meant.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::entities::{Action, Entity, IDENTITY, Parameters, RESOURCE};
use super::{Problem, Question, Served, read};
use crate::control::catalog::actions_of;
use crate::control::model::Model;
use crate::domain::Timestamp;
use crate::domain::name::{ActionName, IdentityName, ResourceName};

pub(super) const SUBJECT: &str = "/access/v1/search/subject";
pub(super) const RESOURCE_PATH: &str = "/access/v1/search/resource";
pub(super) const ACTION: &str = "/access/v1/search/action";

/// Results on a page when nobody says, and at most.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;
/// Questions that one page asks: it may be short, and even empty, with more to come.
const MAX_ASKED: usize = 2_000;

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
    page: Page,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ResourceSearch {
    subject: Entity,
    action: Action,
    resource: Kind,
    #[serde(default)]
    page: Page,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ActionSearch {
    subject: Entity,
    resource: Entity,
    #[serde(default)]
    page: Page,
}

/// What there is to ask about, in order, each with the name under which it is found.
struct Candidates<'a> {
    names: Box<dyn Iterator<Item = String> + 'a>,
    page: &'a Page,
}

impl Candidates<'_> {
    /// Those that `takes` takes, as `shown`.
    fn search(
        self,
        takes: impl Fn(&str) -> Result<bool, Problem>,
        shown: impl Fn(&str) -> Vec<Value>,
    ) -> Result<Value, Problem> {
        let limit = self.page.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
        let (mut results, mut asked, mut last) = (Vec::new(), 0, String::new());
        let mut names = self.names.skip_while(|name| *name <= self.page.token).peekable();
        while let Some(name) = names.next() {
            asked += 1;
            if takes(&name)? {
                results.extend(shown(&name));
            }
            if (results.len() >= limit || asked >= MAX_ASKED) && names.peek().is_some() {
                last = name;
                break;
            }
        }
        Ok(json!({ "results": results, "page": { "next_token": last, "count": results.len() } }))
    }
}

fn nothing() -> Value {
    json!({ "results": [], "page": { "next_token": "", "count": 0 } })
}

struct Asking<'a> {
    model: &'a Model,
    now: Timestamp,
}

impl Asking<'_> {
    fn allows(
        &self,
        identity: IdentityName,
        action: ActionName,
        (resource, parameters): (ResourceName, Parameters),
    ) -> Result<bool, Problem> {
        let question = Question { identity, action, resource, parameters };
        Ok(question.answer(self.model, self.now)?.allowed)
    }
}

pub(super) fn subjects(served: &Served, body: &[u8]) -> Result<Value, Problem> {
    let SubjectSearch { subject, action, resource, page } = read(body)?;
    let model = served.identifier.handle.model();
    let asking = Asking { model: &model, now: served.now() };
    let (Some(resource), Ok(action)) = (resource.resource(&model), action.name.parse::<ActionName>()) else {
        return Ok(nothing());
    };
    // Whoever may, holds a grant, or comes by a route that an exception observes, which anybody may.
    let names = Box::new(model.grants_of.keys().map(ToString::to_string));
    let takes = |name: &str| match name.parse::<IdentityName>() {
        Ok(name) => asking.allows(name, action.clone(), resource.clone()),
        Err(_) => Ok(false),
    };
    let shown = |name: &str| {
        if subject.r#type == IDENTITY {
            return vec![json!({ "type": IDENTITY, "id": name })];
        }
        let found = name.parse::<IdentityName>().ok().and_then(|name| model.identities.get(&name));
        let theirs = found.into_iter().flat_map(|kept| kept.value.spec.authenticate.iter());
        theirs.map(|it| json!({ "type": subject.r#type, "id": it.subject() })).collect()
    };
    Candidates { names, page: &page }.search(takes, shown)
}

pub(super) fn resources(served: &Served, body: &[u8]) -> Result<Value, Problem> {
    let ResourceSearch { subject, action, resource, page } = read(body)?;
    let model = served.identifier.handle.model();
    let asking = Asking { model: &model, now: served.now() };
    let (Some(identity), Ok(action)) = (subject.identity(&model), action.name.parse::<ActionName>()) else {
        return Ok(nothing());
    };
    // Of other types we know the kind alone, and none of a kind.
    if resource.r#type != RESOURCE {
        return Ok(nothing());
    }
    let ids = model.grants_of.get(&identity).into_iter().flatten();
    let held = ids.filter_map(|id| model.grants.get(id)).map(|kept| kept.value.resource.to_string());
    let names: BTreeSet<String> = held.collect();
    let takes = |name: &str| match name.parse::<ResourceName>() {
        Ok(name) => asking.allows(identity.clone(), action.clone(), (name, Parameters::new())),
        Err(_) => Ok(false),
    };
    let names = Box::new(names.into_iter());
    Candidates { names, page: &page }.search(takes, |name| vec![json!({ "type": RESOURCE, "id": name })])
}

pub(super) fn actions(served: &Served, body: &[u8]) -> Result<Value, Problem> {
    let ActionSearch { subject, resource, page } = read(body)?;
    let model = served.identifier.handle.model();
    let asking = Asking { model: &model, now: served.now() };
    let (Some(identity), Some(resource)) = (subject.identity(&model), resource.resource(&model)) else {
        return Ok(nothing());
    };
    let names: BTreeSet<String> = actions_of(&model, &resource.0).into_iter().map(|name| name.to_string()).collect();
    let takes = |name: &str| match name.parse::<ActionName>() {
        Ok(name) => asking.allows(identity.clone(), name, resource.clone()),
        Err(_) => Ok(false),
    };
    Candidates { names: Box::new(names.into_iter()), page: &page }.search(takes, |name| vec![json!({ "name": name })])
}
