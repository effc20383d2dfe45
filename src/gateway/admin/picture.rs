//! A snapshot as operators see it: what is known, and what one identity may do. Holds no secrets, as snapshots do not.

use serde::Serialize;

use crate::decision::snapshot::{LiveGrant, Snapshot};
use crate::domain::Timestamp;
use crate::domain::grant::Limits;
use crate::domain::identity::IdentityState;
use crate::domain::name::{ActionName, ExceptionName, GrantId, IdentityName, ResourceName, RouteName};

/// What is known.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    epoch: u64,
    revision: u64,
    identities: usize,
    resources: usize,
    grants: usize,
    routes: Vec<RouteLine>,
    exceptions: Vec<ExceptionLine>,
}

#[derive(Debug, Serialize)]
struct RouteLine {
    name: RouteName,
    host: Option<String>,
    upstream: String,
    resource: ResourceName,
    actions: Vec<ActionName>,
}

#[derive(Debug, Serialize)]
struct ExceptionLine {
    name: ExceptionName,
    route: RouteName,
    ends: Timestamp,
}

/// What one identity may do.
#[derive(Debug, Serialize)]
pub(super) struct IdentityPicture {
    identity: IdentityName,
    state: IdentityState,
    grants: Vec<GrantLine>,
}

#[derive(Debug, Serialize)]
struct GrantLine {
    id: GrantId,
    resource: Option<ResourceName>,
    actions: Vec<ActionName>,
    starts: Timestamp,
    ends: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
}

pub(super) fn summary(snapshot: &Snapshot) -> Summary {
    let mut routes: Vec<RouteLine> = snapshot
        .routes()
        .map(|route| {
            let route = route.route();
            let mut actions: Vec<ActionName> = route.spec.actions.iter().map(|rule| rule.name.clone()).collect();
            actions.sort();
            actions.dedup();
            RouteLine {
                name: route.name.clone(),
                host: route.spec.host.as_ref().map(|host| host.as_str().to_owned()),
                upstream: String::from(route.spec.upstream.clone()),
                resource: route.spec.resource.clone(),
                actions,
            }
        })
        .collect();
    routes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut exceptions: Vec<ExceptionLine> = snapshot
        .exceptions()
        .map(|e| ExceptionLine { name: e.name.clone(), route: e.route.clone(), ends: e.ends })
        .collect();
    exceptions.sort_by(|a, b| a.name.cmp(&b.name));
    Summary {
        epoch: snapshot.epoch(),
        revision: snapshot.revision(),
        identities: snapshot.identities().count(),
        resources: snapshot.resources().count(),
        grants: snapshot.grant_count(),
        routes,
        exceptions,
    }
}

/// `None`: there is no such identity.
pub(super) fn identity(snapshot: &Snapshot, name: &IdentityName) -> Option<IdentityPicture> {
    let place = snapshot.identity_place(name)?;
    let entry = snapshot.identity(place)?;
    let mut grants: Vec<GrantLine> = snapshot.grants_of(place).map(|grant| line(snapshot, grant)).collect();
    grants.sort_by_key(|grant| grant.id);
    Some(IdentityPicture { identity: entry.name.clone(), state: entry.state, grants })
}

fn line(snapshot: &Snapshot, grant: &LiveGrant) -> GrantLine {
    GrantLine {
        id: grant.id,
        resource: snapshot.resource(grant.resource).map(|entry| entry.name.clone()),
        actions: grant.actions.iter().filter_map(|place| snapshot.action(*place)).cloned().collect(),
        starts: grant.window.starts,
        ends: grant.window.ends,
        limits: grant.limits.as_deref().cloned(),
    }
}
