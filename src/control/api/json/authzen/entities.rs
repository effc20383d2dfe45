//! AuthZEN's subjects, resources and actions, as ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::control::model::Model;
use crate::domain::name::{IdentityName, ParameterName, ResourceName};
use crate::domain::principal::SpiffeId;

/// The type of a subject that is named as the inventory names it.
pub(super) const IDENTITY: &str = "identity";
/// The type of a resource that is named as the catalog names it.
pub(super) const RESOURCE: &str = "resource";
/// The parameter that a resource's `id` is, where its type names the resource.
const ID: &str = "id";

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

/// Parameters of a call.
pub(super) type Parameters = Vec<(ParameterName, String)>;

impl Entity {
    /// The identity that a subject is, if there is exactly one.
    pub(super) fn identity(&self, model: &Model) -> Option<IdentityName> {
        if self.r#type == IDENTITY {
            let name: IdentityName = self.id.parse().ok()?;
            return model.identities.contains_key(&name).then_some(name);
        }
        if let Ok(spiffe) = self.id.parse::<SpiffeId>() {
            return model.workloads.get(&spiffe).cloned();
        }
        let (subject, none): (Arc<str>, Arc<str>) = (self.id.as_str().into(), "".into());
        let issuer = self.properties.get("issuer").and_then(Value::as_str);
        let theirs = model.subjects.range((subject.clone(), none)..).take_while(|((whose, _), _)| *whose == subject);
        // Two issuers may speak of the same subject and mean different ones.
        let mut found = theirs.filter(|((_, by), _)| issuer.is_none_or(|issuer| *issuer == **by));
        match (found.next(), found.next()) {
            (Some((_, name)), None) => Some(name.clone()),
            _ => None,
        }
    }

    /// The resource, and what is said of it as parameters of the call.
    pub(super) fn resource(&self, model: &Model) -> Option<(ResourceName, Parameters)> {
        let by_name = self.r#type == RESOURCE;
        let name: ResourceName = if by_name { &self.id } else { &self.r#type }.parse().ok()?;
        model.resources.contains_key(&name).then_some(())?;
        let id = Value::from(self.id.as_str());
        let mut said: BTreeMap<&str, &Value> = self.rest.iter().map(|(name, value)| (name.as_str(), value)).collect();
        if !by_name {
            said.insert(ID, &id);
        }
        // What stands where 1.0 has it, goes before.
        said.extend(self.properties.iter().map(|(name, value)| (name.as_str(), value)));
        let parameter = |(name, value): (&str, &Value)| Some((name.parse().ok()?, value.as_str()?.to_owned()));
        Some((name, said.into_iter().filter_map(parameter).collect()))
    }
}
