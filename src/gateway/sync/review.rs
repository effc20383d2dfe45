//! Whether a running call would still be allowed under the next snapshot, as far as it can be said without the request.
//!
//! On the safe side: where a grant or a route became less or different, its calls end, and callers come again.

use std::collections::HashMap;
use std::time::Duration;

use crate::decision::snapshot::{LiveGrant, ResourceIndex, Snapshot};
use crate::domain::Reason;
use crate::domain::grant::{Grant, Limits};
use crate::domain::identity::IdentityState;
use crate::domain::name::RouteName;
use crate::domain::route::RouteSpec;
use crate::gateway::live::{Running, Verdict};

/// One snapshot beside the next.
pub(super) struct Review<'s> {
    before: &'s Snapshot,
    after: &'s Snapshot,
    routes_before: HashMap<&'s RouteName, &'s RouteSpec>,
    routes_after: HashMap<&'s RouteName, &'s RouteSpec>,
}

impl<'s> Review<'s> {
    pub(super) fn new(before: &'s Snapshot, after: &'s Snapshot) -> Self {
        Self { before, after, routes_before: routes(before), routes_after: routes(after) }
    }

    /// What becomes of a call that began under the one before, or under the next one itself.
    pub(super) fn verdict(&self, running: &Running) -> Verdict {
        match self.ended(running) {
            Some(reason) => Verdict::Cut(reason),
            None => match self.bound(running) {
                Some(bound) if bound < running.authority_bound => Verdict::Tighten(bound),
                Some(_) => Verdict::Keep,
                None => Verdict::Cut(Reason::GrantMissing),
            },
        }
    }

    fn ended(&self, running: &Running) -> Option<Reason> {
        match self.after.identity(running.identity).map(|entry| entry.state) {
            None => return Some(Reason::IdentityUnknown),
            Some(IdentityState::Quarantined | IdentityState::Offboarded) => return Some(Reason::IdentityInactive),
            Some(IdentityState::Active) => {}
        }
        if running.roots.iter().flatten().any(|root| self.after.is_credential_halted(root)) {
            return Some(Reason::CredentialHalted);
        }
        if self.rerouted(&running.route) {
            return Some(Reason::RouteUnknown);
        }
        if self.resource(running).is_some_and(|resource| self.after.is_halted(resource)) {
            return Some(Reason::Halted);
        }
        if let Some(id) = running.grant {
            let Some(now) = self.after.grant(id) else { return Some(Reason::GrantRevoked) };
            return self.before.grant(id).is_some_and(|before| less(before, now)).then_some(Reason::GrantRevoked);
        }
        let name = running.exception.as_ref()?;
        let holds = self.after.exception(name).is_some_and(|e| e.route == running.route && e.ends >= running.ends);
        (!holds).then_some(Reason::ExceptionEnded)
    }

    /// Whether the route is gone, or says something else about what its requests are.
    fn rerouted(&self, name: &RouteName) -> bool {
        let Some(now) = self.routes_after.get(name) else { return true };
        let Some(before) = self.routes_before.get(name) else { return false };
        before.host != now.host || before.resource != now.resource || before.actions != now.actions
    }

    /// How old authority may be for the call's resource; `None` when the resource is no more.
    fn bound(&self, running: &Running) -> Option<Duration> {
        self.after.resource(self.resource(running)?).map(|entry| entry.authority)
    }

    fn resource(&self, running: &Running) -> Option<ResourceIndex> {
        match running.grant.and_then(|id| self.after.grant(id)) {
            Some(grant) => Some(grant.resource),
            None => self.after.resource_place(&self.routes_after.get(&running.route)?.resource),
        }
    }
}

fn routes(snapshot: &Snapshot) -> HashMap<&RouteName, &RouteSpec> {
    snapshot.routes().map(|route| (&route.route().name, &route.route().spec)).collect()
}

fn less(before: &LiveGrant, now: &LiveGrant) -> bool {
    before.identity != now.identity
        || before.resource != now.resource
        || before.limits != now.limits
        || now.window.ends < before.window.ends
        || now.window.starts > before.window.starts
        || before.actions.iter().any(|action| !now.actions.contains(action))
}

/// Whether `now` allows less, or something else, than `before` did. Limits that changed at all count.
pub(super) fn narrowed(snapshot: &Snapshot, before: &LiveGrant, now: &Grant) -> bool {
    let none = Limits::default();
    snapshot.identity_place(&now.identity) != Some(before.identity)
        || snapshot.resource_place(&now.resource) != Some(before.resource)
        || before.limits.as_deref().unwrap_or(&none) != &now.limits
        || now.window.ends < before.window.ends
        || now.window.starts > before.window.starts
        || before.actions.iter().any(|place| snapshot.action(*place).is_none_or(|action| !now.actions.contains(action)))
}
