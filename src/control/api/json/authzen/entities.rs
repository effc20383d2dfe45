//! AuthZEN's subjects, resources and actions, as ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::super::super::access::{KnownCredential, Presented};
use crate::control::model::Model;
use crate::domain::name::{IdentityName, ParameterName, ResourceName};
use crate::domain::principal::SpiffeId;

/// The type of a subject that is named as the inventory names it.
pub(super) const IDENTITY: &str = "identity";
/// The type of a resource that is named as the catalog names it.
pub(super) const RESOURCE: &str = "resource";
/// The parameter that a resource's `id` is, where its type names the resource.
const ID: &str = "id";
/// The property of a subject that says whose token it is.
const ISSUER: &str = "issuer";

/// A subject or a resource (sections 5.1 and 5.2).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Entity {
    /// What `id` names.
    pub(super) r#type: String,
    /// Which of its type.
    pub(super) id: String,
    /// What there is to know about it.
    #[serde(default)]
    properties: BTreeMap<String, Value>,
    /// Drafts before 1.0 had properties beside the rest.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// An action (section 5.3).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Action {
    /// What would be done.
    pub(super) name: String,
}

/// The circumstances (section 5.4).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub(super) struct Context {
    /// Where the call comes from, for grants that are limited to networks.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) ip: Option<IpAddr>,
    /// What came of an access request, unchanged, when the question is asked again.
    #[serde(default)]
    pub(super) approval: Option<Value>,
    /// What is not known is ignored, and a list is no context.
    #[serde(flatten)]
    #[expect(dead_code, reason = "with it the reader takes an object alone")]
    rest: BTreeMap<String, Value>,
}

/// Parameters of a call.
pub(super) type Parameters = Vec<(ParameterName, String)>;

/// The one that all of them are, if they are one.
fn only<T: Ord>(all: impl IntoIterator<Item = T>) -> Option<T> {
    let mut all: BTreeSet<T> = all.into_iter().collect();
    let first = all.pop_first()?;
    all.is_empty().then_some(first)
}

impl Entity {
    /// One of which no more is known than its name.
    pub(super) fn named(r#type: &str, id: &str) -> Self {
        Self { r#type: r#type.to_owned(), id: id.to_owned(), properties: BTreeMap::new(), rest: BTreeMap::new() }
    }

    /// The identity that a subject is, if there is exactly one, and the credential that it is known by.
    pub(super) fn identity(&self, model: &Model) -> Option<(IdentityName, Option<KnownCredential>)> {
        // A word that cannot be checked is no word to go by: with it the subject is nobody.
        let said = self.properties.get(ISSUER).into_iter().chain(self.rest.get(ISSUER));
        let issuers = said.map(Value::as_str).collect::<Option<BTreeSet<&str>>>()?;
        if issuers.len() > 1 {
            return None;
        }
        let issuer = issuers.first().copied();
        if self.r#type == IDENTITY {
            let name: IdentityName = self.id.parse().ok().filter(|_| issuer.is_none())?;
            return model.identities.contains_key(&name).then_some((name, None));
        }
        let (subject, none): (Arc<str>, Arc<str>) = (self.id.as_str().into(), "".into());
        let tokens = model.subjects.range((subject.clone(), none)..).take_while(|((whose, _), _)| *whose == subject);
        let tokens: Vec<_> = tokens.filter(|((_, by), _)| issuer.is_none_or(|issuer| *issuer == **by)).collect();
        // A certificate has no issuer that a question could name.
        let spiffe = self.id.parse::<SpiffeId>().ok().filter(|_| issuer.is_none());
        let workload = spiffe.as_ref().and_then(|id| model.workloads.get(id));
        let name = only(tokens.iter().map(|(_, name)| *name).chain(workload))?.clone();
        let credential = match (tokens.as_slice(), spiffe.filter(|_| workload.is_some())) {
            // Only of an issuer that was named is it known that the token is its.
            ([((_, by), _)], None) if issuer.is_some() => Some(KnownCredential::Token(by.clone())),
            ([], Some(spiffe)) => Some(KnownCredential::Workload(spiffe)),
            // One identity by several: which of them is not said.
            _ => None,
        };
        Some((name, credential))
    }

    /// The resource, and what is said of it as parameters of the call.
    pub(super) fn resource(&self, model: &Model) -> Option<(ResourceName, Parameters)> {
        let by_name = self.r#type == RESOURCE;
        let name: ResourceName = if by_name { &self.id } else { &self.r#type }.parse().ok()?;
        model.resources.contains_key(&name).then_some(())?;
        let mut said: BTreeMap<&str, String> = BTreeMap::new();
        // What stands where 1.0 has it goes before; what it is goes before what is said of it.
        for (name, value) in self.rest.iter().chain(&self.properties) {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                // No part of a path is one of these.
                Value::Null | Value::Array(_) | Value::Object(_) => continue,
            };
            said.insert(name, value);
        }
        if !by_name {
            said.insert(ID, self.id.clone());
        }
        Some((name, said.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value))).collect()))
    }
}

impl Context {
    /// With the credential that a subject is known by.
    pub(super) fn presented(&self, credential: Option<KnownCredential>) -> Presented {
        Presented::Only { credential, peer: self.ip }
    }
}
