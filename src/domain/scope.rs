//! Scopes of gateways: which routes and resources one stands before.
//!
//! What is not in a gateway's scope it is never told of, save that certain calls are not its to take. A scope comes from the gateway's record, never from its claim.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{ResourceName, RouteName};
use super::route::{ActionRule, Host, Method, PathTemplate, RouteSpec};

/// Routes and resources that one scope can name: past it everything, or another gateway, is meant.
pub const MAX_SCOPE: usize = 1_000;

/// What a gateway stands before: the routes that are named, and every route of the resources that are. With neither it is
/// everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Routes, by name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub routes: BTreeSet<RouteName>,
    /// Resources: all their routes, those that will be made included.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub resources: BTreeSet<ResourceName>,
}

impl Scope {
    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.routes.is_empty() && self.resources.is_empty()
    }

    /// Whether a route is in it, that of a resource.
    pub fn has(&self, route: &RouteName, resource: &ResourceName) -> bool {
        self.is_everything() || self.routes.contains(route) || self.resources.contains(resource)
    }
}

/// Calls that a rule of a gateway's scope would take, and that belong to a more specific one outside of it: they are nobody's
/// there. Without it they would fall through to the wider rule, its grants and its upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elsewhere {
    /// Each the rule of some route, without what it leads to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<ForeignRule>,
}

/// A rule of a route that a gateway does not stand before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignRule {
    /// The host that calls name; without it any host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// Methods that it takes.
    pub methods: Vec<Method>,
    /// Paths that it takes.
    pub path: PathTemplate,
}

impl ForeignRule {
    /// Of a rule of a route.
    pub fn of(route: &RouteSpec, rule: &ActionRule) -> Self {
        Self { host: route.host.clone(), methods: rule.methods.clone(), path: rule.path.clone() }
    }

    /// Whether some call matches this rule and a rule of a route, and is this one's.
    pub fn takes_from(&self, route: &RouteSpec, rule: &ActionRule) -> bool {
        self.methods.iter().any(|method| rule.methods.contains(method))
            && self.path.overlaps(&rule.path)
            && self.comes_before(route.host.as_ref(), &rule.path)
    }

    /// Whether a call is this rule's, though another one (of a host, or of any; with its path) matches it.
    pub fn has(&self, call: (&Host, Method, &str), other: (Option<&Host>, &PathTemplate)) -> bool {
        let (host, method, path) = call;
        self.host.as_ref().is_none_or(|own| own == host)
            && self.methods.contains(&method)
            && self.comes_before(other.0, other.1)
            && self.path.matches(path, |_, _| {})
    }

    /// A rule for the call's host comes before those for any, and then the more specific one.
    fn comes_before(&self, host: Option<&Host>, path: &PathTemplate) -> bool {
        match (&self.host, host) {
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(own), Some(other)) if own != other => false,
            // Of one table neither is as specific as the other; if it were so, the call would be nobody's.
            (Some(_), Some(_)) | (None, None) => self.path.specificity(path) != Some(Ordering::Less),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        let routes = self.routes.iter().map(|name| format!("route/{name}"));
        let names: Vec<String> = routes.chain(self.resources.iter().map(|name| format!("resource/{name}"))).collect();
        f.write_str(&names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_its_routes_and_the_routes_of_its_resources_and_an_empty_one_has_all() {
        let name = |route: &str, resource: &str| (route.parse().unwrap(), resource.parse().unwrap());
        let (orders, ledger) = (name("orders", "api/orders"), name("ledger", "db/ledger"));
        let of = |json: &str| serde_json::from_str::<Scope>(json).unwrap();
        for (json, shown, has_orders) in [
            ("{}", "everything", true),
            (r#"{"routes":["orders"]}"#, "route/orders", true),
            (r#"{"resources":["api/orders"]}"#, "resource/api/orders", true),
            (r#"{"routes":["other"],"resources":["db/ledger"]}"#, "route/other resource/db/ledger", false),
        ] {
            let scope = of(json);
            assert_eq!((scope.to_string().as_str(), scope.has(&orders.0, &orders.1)), (shown, has_orders));
            assert_eq!(serde_json::to_string(&scope).unwrap(), json);
        }
        assert!(!of(r#"{"routes":["orders"]}"#).has(&ledger.0, &ledger.1));
    }
}
