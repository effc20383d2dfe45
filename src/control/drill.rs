//! Drills: a grant that nobody can use, made and ended on every gateway. Planning only.
//!
//! It is a grant like any other, of a real resource, and goes the way of any other. Nobody can use it: it is for an identity
//! that has no credential. Each gateway gets one of its scope.

use std::collections::BTreeSet;
use std::time::Duration;

use super::catalog::actions_of;
use super::model::Model;
use super::plan::{Audience, ChangeEvent, Plan, Refused};
use super::record::{Change, GrantRecord, Record};
use super::{authorize, scoped};
use crate::domain::Timestamp;
use crate::domain::grant::{Grant, Limits, Lineage, Window};
use crate::domain::identity::{Identity, IdentityKind, IdentitySpec, IdentityState};
use crate::domain::name::{GrantId, IdentityName, ResourceName};

/// For whom a drill's grants are. Nobody has a credential of it.
pub(super) const IDENTITY: &str = "portcullis-drill";
/// How long they live, if nobody ends them.
const LIFE: Duration = Duration::from_secs(120);
/// Most of them: one transaction.
const MOST: usize = 40;
/// Why, in the evidence.
pub(super) const REASON: &str = "a drill";

/// Makes a drill's grants, one at least for every gateway's scope.
///
/// # Errors
/// [`Refused::Unfit`] where there is no route whose resource could be granted.
pub(super) fn plan_begin(
    model: &Model,
    now: Timestamp,
    mut id: impl FnMut() -> GrantId,
) -> Result<Plan<Vec<GrantId>>, Refused> {
    let name = identity()?;
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Audience::Gateways, answer: Vec::new() };
    // INVARIANT: nobody can be this identity. One of that name that has a credential is somebody's.
    match model.identities.get(&name).map(|kept| kept.value.as_ref()) {
        Some(known) if !known.spec.authenticate.is_empty() || known.state != IdentityState::Active => {
            return Err(Refused::Conflict(format!(
                "the identity {name} is a drill's, and has a credential or is set aside"
            )));
        }
        Some(_) => {}
        None => {
            let change = Change::Put(Record::Identity(nobody(name.clone())?));
            plan.events.push(ChangeEvent::of("identity.created", None, &change, Some(REASON)));
            plan.changes.push(change);
        }
    }
    for resource in resources(model).into_iter().take(MOST) {
        let actions = actions_of(model, &resource).into_iter().take(1).collect();
        let lineage = Lineage {
            created: now,
            created_by: authorize::SYSTEM.parse().map_err(|_| Refused::invalid("the author has no name"))?,
            reason: REASON.to_owned(),
            ticket: None,
            until: Vec::new(),
            origin: None,
            exception: None,
            break_glass: None,
        };
        let window = Window { starts: now, ends: now.saturating_add(LIFE) };
        let (id, identity) = (id(), name.clone());
        let grant =
            Grant { id, identity, resource, actions, window, limits: Limits::default(), lineage, revoked: None };
        let change = Change::Put(Record::Grant(GrantRecord { grant, expiry_noted: false }));
        plan.events.push(ChangeEvent::of("grant.created", None, &change, Some(REASON)));
        plan.changes.push(change);
        plan.answer.push(id);
    }
    if plan.answer.is_empty() {
        let why = "there is no route whose resource could be granted: apply one first".to_owned();
        return Err(Refused::Unfit(vec![why]));
    }
    Ok(plan)
}

/// A resource of every gateway's scope, and no more than it takes.
fn resources(model: &Model) -> Vec<ResourceName> {
    let granted = |name: &ResourceName| model.resources.contains_key(name) && !actions_of(model, name).is_empty();
    let mut chosen: Vec<ResourceName> =
        model.resources.keys().find(|name| granted(name)).cloned().into_iter().collect();
    for gateway in model.gateways.keys() {
        let Some(scope) = scoped::scope_of(model, gateway) else { continue };
        let of_it: BTreeSet<ResourceName> = scoped::resources(model, scope);
        if !chosen.iter().any(|name| of_it.contains(name)) {
            chosen.extend(of_it.into_iter().find(|name| granted(name)));
        }
    }
    chosen
}

fn nobody(name: IdentityName) -> Result<Identity, Refused> {
    let spec = IdentitySpec {
        kind: IdentityKind::Service,
        owner: authorize::SYSTEM.parse().map_err(|_| Refused::invalid("the owner has no name"))?,
        purpose: "drills: its grants show how long a change takes through every gateway, and nobody can use them"
            .to_owned(),
        environment: "drill".to_owned(),
        authenticate: Vec::new(),
        capabilities: Default::default(),
    };
    Ok(Identity { name, spec, state: IdentityState::Active })
}

pub(super) fn identity() -> Result<IdentityName, Refused> {
    IDENTITY.parse().map_err(|_| Refused::invalid("the drill's identity has no name"))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{NOW, carried_out, model};
    use super::*;
    use crate::domain::identity::Authenticator;

    fn begin(model: &Model) -> Result<Plan<Vec<GrantId>>, Refused> {
        let mut next = 0;
        plan_begin(model, NOW, || {
            next += 1;
            GrantId::new(NOW, next)
        })
    }

    #[test]
    fn a_drills_grant_is_a_real_one_that_nobody_can_use() {
        let model = model();
        let plan = begin(&model).unwrap();
        let after = carried_out(&model, &plan);
        let grant = &after.grants[&plan.answer[0]].value;
        assert_eq!((grant.identity.as_str(), plan.audience), (IDENTITY, Audience::Gateways));
        assert!(!grant.actions.is_empty() && after.resources.contains_key(&grant.resource));
        let identity = &after.identities[&grant.identity].value;
        assert!(identity.spec.authenticate.is_empty());
        assert!(!after.workloads.values().any(|name| name.as_str() == IDENTITY));
        // Again, with the identity that is there.
        assert_eq!(begin(&after).unwrap().changes.len(), plan.answer.len());
    }

    #[test]
    fn whoever_gives_the_drills_identity_a_credential_gets_no_grant_of_it() {
        let model = model();
        let mut identity = nobody(identity().unwrap()).unwrap();
        identity.spec.authenticate = vec![Authenticator::Token { issuer: "i".into(), subject: "s".into() }];
        let mut plan = Plan::nothing(());
        plan.changes.push(Change::Put(Record::Identity(identity)));
        assert!(matches!(begin(&carried_out(&model, &plan)), Err(Refused::Conflict(_))));
        assert!(matches!(begin(&Model::default()), Err(Refused::Unfit(_))));
    }
}
