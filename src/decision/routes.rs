//! The route table: from host, method and canonical path to one route, one action and its parameters.
//!
//! The most specific rule counts, never the order in which rules were written. Two rules that could take the same request
//! without one being more specific are refused when the table is compiled, so that matching cannot be ambiguous.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::snapshot::{ActionIndex, ResourceIndex};
use crate::domain::Reason;
use crate::domain::name::{ActionName, ParameterName, RouteName};
use crate::domain::route::{Host, MAX_ACTIONS, Method, Route, Segment};
use crate::domain::scope::Elsewhere;

/// A route in a compiled table.
#[derive(Debug)]
pub struct CompiledRoute {
    route: Route,
    resource: ResourceIndex,
    upstream: String,
    authority: String,
}

impl CompiledRoute {
    /// The route.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The name of the action at a place of the route's list.
    pub(super) fn action_name(&self, place: usize) -> &ActionName {
        // INVARIANT: places come from this very route's list of actions, which holds at least one.
        let actions = &self.route.spec.actions;
        match actions.get(place).or_else(|| actions.first()) {
            Some(rule) => &rule.name,
            None => unreachable!("a compiled route has actions"),
        }
    }

    /// The upstream's URL, as text.
    pub fn upstream_text(&self) -> &str {
        &self.upstream
    }

    /// The upstream's host and port, as a `Host` header names them.
    pub fn upstream_authority(&self) -> &str {
        &self.authority
    }
}

#[derive(Debug)]
struct Rule {
    route: Arc<CompiledRoute>,
    place: usize,
    action: ActionIndex,
}

impl Rule {
    fn spec(&self) -> Option<&crate::domain::route::ActionRule> {
        self.route.route.spec.actions.get(self.place)
    }
}

/// Every route, ready to match.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HashMap<Host, Vec<Rule>, ahash::RandomState>,
    any: Vec<Rule>,
    /// What is not to be taken here, though a rule would.
    elsewhere: Elsewhere,
}

/// Why routes do not make a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteFault {
    /// Some request would match both.
    #[error(
        "route {first} ({first_path}) and route {second} ({second_path}) take the same requests, and neither is more specific"
    )]
    Overlap {
        /// One route.
        first: RouteName,
        /// Its path.
        first_path: String,
        /// The other.
        second: RouteName,
        /// Its path.
        second_path: String,
    },
    /// A route without actions, or with too many.
    #[error("route {route} must have 1 to {MAX_ACTIONS} actions")]
    Actions {
        /// The route.
        route: RouteName,
    },
    /// Parts of one route that do not go together.
    #[error("route {route}: {why}")]
    Spec {
        /// The route.
        route: RouteName,
        /// Its field and what is wrong there.
        why: &'static str,
    },
    /// A rule without methods.
    #[error("route {route}: action {action} names no method")]
    Methods {
        /// The route.
        route: RouteName,
        /// The action.
        action: ActionName,
    },
}

/// Gives names their place in a snapshot.
pub trait Interner {
    /// The place of a resource.
    fn resource(&mut self, name: &crate::domain::name::ResourceName) -> ResourceIndex;
    /// The place of an action.
    fn action(&mut self, name: &ActionName) -> ActionIndex;
}

/// An interner for checking a table that nobody will match with.
#[derive(Debug, Default)]
struct NoPlaces;

impl Interner for NoPlaces {
    fn resource(&mut self, _: &crate::domain::name::ResourceName) -> ResourceIndex {
        ResourceIndex::default()
    }
    fn action(&mut self, _: &ActionName) -> ActionIndex {
        ActionIndex::default()
    }
}

/// What a request is, once matched.
#[derive(Debug)]
pub struct Matched<'a> {
    route: Arc<CompiledRoute>,
    place: usize,
    action: ActionIndex,
    parameters: Vec<(ParameterName, Cow<'a, str>)>,
}

impl<'a> Matched<'a> {
    /// The route.
    pub fn route(&self) -> &Arc<CompiledRoute> {
        &self.route
    }

    /// The route's name.
    pub fn route_name(&self) -> &RouteName {
        &self.route.route.name
    }

    /// The resource's place.
    pub fn resource(&self) -> ResourceIndex {
        self.route.resource
    }

    /// The action's place.
    pub fn action(&self) -> ActionIndex {
        self.action
    }

    /// The action's name.
    pub fn action_name(&self) -> &ActionName {
        self.route.action_name(self.place)
    }

    /// The action's place in the route's list.
    pub(super) fn place(&self) -> usize {
        self.place
    }

    /// Parameters and their values, percent-decoded.
    pub fn parameters(&self) -> &[(ParameterName, Cow<'a, str>)] {
        &self.parameters
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &ParameterName) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_ref())
    }

    /// A question about an action of a route, with parameters given (`can-i`).
    pub fn assumed(
        route: &Arc<CompiledRoute>,
        place: usize,
        action: ActionIndex,
        parameters: impl IntoIterator<Item = (ParameterName, String)>,
    ) -> Self {
        let parameters = parameters.into_iter().map(|(n, v)| (n, Cow::Owned(v))).collect();
        Self { route: route.clone(), place, action, parameters }
    }
}

impl RouteTable {
    /// Checks whether routes make a table.
    ///
    /// # Errors
    /// Every fault.
    pub fn check(routes: impl IntoIterator<Item = Route>) -> Result<(), Vec<RouteFault>> {
        Self::compile(routes, &mut NoPlaces).map(drop)
    }

    /// Compiles routes into a table.
    ///
    /// # Errors
    /// Every fault.
    pub fn compile(
        routes: impl IntoIterator<Item = Route>,
        places: &mut dyn Interner,
    ) -> Result<Self, Vec<RouteFault>> {
        let mut table = Self::default();
        let mut faults = Vec::new();
        for route in routes {
            if route.spec.actions.is_empty() || route.spec.actions.len() > MAX_ACTIONS {
                faults.push(RouteFault::Actions { route: route.name });
                continue;
            }
            let (name, unfit) = (&route.name, route.spec.faults());
            faults.extend(unfit.into_iter().map(|why| RouteFault::Spec { route: name.clone(), why }));
            let resource = places.resource(&route.spec.resource);
            let (upstream, authority) = (route.spec.upstream.to_string(), route.spec.upstream.authority());
            let route = Arc::new(CompiledRoute { route, resource, upstream, authority });
            for (place, rule) in route.route.spec.actions.iter().enumerate() {
                if rule.methods.is_empty() {
                    faults.push(RouteFault::Methods { route: route.route.name.clone(), action: rule.name.clone() });
                }
                let rule = Rule { route: route.clone(), place, action: places.action(&rule.name) };
                match &route.route.spec.host {
                    Some(host) => table.hosts.entry(host.clone()).or_default().push(rule),
                    None => table.any.push(rule),
                }
            }
        }
        for rules in table.hosts.values_mut().chain([&mut table.any]) {
            overlaps(rules, &mut faults);
            rules.sort_by_key(|rule| std::cmp::Reverse(weight(rule)));
        }
        if faults.is_empty() { Ok(table) } else { Err(faults) }
    }

    /// The same table, which leaves to others what is theirs.
    #[must_use]
    pub fn without(self, elsewhere: Elsewhere) -> Self {
        Self { elsewhere, ..self }
    }

    /// What is not to be taken here.
    pub fn elsewhere(&self) -> &Elsewhere {
        &self.elsewhere
    }

    /// Every route of the table, once per action.
    pub fn rules(&self) -> impl Iterator<Item = (&Arc<CompiledRoute>, usize, ActionIndex)> {
        self.hosts.values().flatten().chain(&self.any).map(|rule| (&rule.route, rule.place, rule.action))
    }

    /// The rule that takes a request: of the rules for its host first, then of those for any.
    ///
    /// `path` is canonical and without a query.
    ///
    /// # Errors
    /// [`Reason::RouteUnknown`], or [`Reason::MethodNotAllowed`] when only the method is wrong.
    pub fn match_request<'a>(&self, host: &Host, method: &str, path: &'a str) -> Result<Matched<'a>, Reason> {
        let parsed = Method::parse(method);
        let mut refusal = Reason::RouteUnknown;
        let of_host = self.hosts.get(host).map(Vec::as_slice).unwrap_or_default();
        for rule in of_host.iter().chain(&self.any) {
            let Some(spec) = rule.spec() else { continue };
            let mut parameters: Vec<(ParameterName, Cow<'a, str>)> = Vec::new();
            let mut readable = true;
            let matches = spec.path.matches(path, |name, value| match percent_decoded(value) {
                Some(value) => parameters.push((name.clone(), value)),
                None => readable = false,
            });
            if !matches {
                continue;
            }
            if !readable {
                return Err(Reason::RequestMalformed);
            }
            match parsed {
                Some(method) if spec.methods.contains(&method) => {
                    let rule_host = rule.route.route.spec.host.as_ref();
                    let call = (host, method, path);
                    if self.elsewhere.rules.iter().any(|foreign| foreign.has(call, (rule_host, &spec.path))) {
                        return Err(Reason::RouteUnknown);
                    }
                    return Ok(Matched {
                        route: rule.route.clone(),
                        place: rule.place,
                        action: rule.action,
                        parameters,
                    });
                }
                _ => refusal = Reason::MethodNotAllowed,
            }
        }
        Err(refusal)
    }
}

/// A segment's text. `None`: not UTF-8, or an escape that is none.
fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let hex = |digit: u8| char::from(digit).to_digit(16);
            let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        };
        decoded.push(byte);
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// A total order in which a more specific rule comes first. Where [`overlaps`] finds nothing, it agrees with specificity.
fn weight(rule: &Rule) -> (Vec<u8>, bool) {
    let Some(spec) = rule.spec() else { return Default::default() };
    let segments = spec.path.segments().iter().map(|segment| match segment {
        Segment::Literal(_) => 2,
        Segment::Parameter(_) => 1,
    });
    (segments.collect(), !spec.path.takes_rest())
}

fn overlaps(rules: &[Rule], faults: &mut Vec<RouteFault>) {
    for (at, rule) in rules.iter().enumerate() {
        for other in rules.iter().skip(at + 1) {
            let (Some(a), Some(b)) = (rule.spec(), other.spec()) else { continue };
            let shared = a.methods.iter().any(|method| b.methods.contains(method));
            let same_meaning = Arc::ptr_eq(&rule.route, &other.route) && a.name == b.name && a.path == b.path;
            if !shared || same_meaning || !a.path.overlaps(&b.path) {
                continue;
            }
            if matches!(a.path.specificity(&b.path), None | Some(Ordering::Equal)) {
                faults.push(RouteFault::Overlap {
                    first: rule.route.route.name.clone(),
                    first_path: a.path.to_string(),
                    second: other.route.route.name.clone(),
                    second_path: b.path.to_string(),
                });
            }
        }
    }
}
