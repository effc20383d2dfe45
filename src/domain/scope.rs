//! Scopes of gateways: which routes and resources one stands before.
//!
//! What is not in a gateway's scope it is never told of. A scope comes from the gateway's record, never from its claim.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{ResourceName, RouteName};

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
