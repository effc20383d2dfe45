//! What the identities of each owner hold, counted: however many somebody answers for, what they hold together is as much
//! as there is to hold.

use imbl::OrdMap;

use crate::domain::grant::Grant;
use crate::domain::name::{ActionName, OwnerName, ResourceName};

/// Of each owner, how many live grants give each action on each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held(OrdMap<OwnerName, OrdMap<(ResourceName, ActionName), usize>>);

impl Held {
    /// What an owner's identities hold.
    pub fn of(&self, owner: &OwnerName) -> impl Iterator<Item = &(ResourceName, ActionName)> {
        self.0.get(owner).into_iter().flat_map(OrdMap::keys)
    }

    /// The same, with how many grants give each.
    pub fn counted(&self, owner: &OwnerName) -> impl Iterator<Item = (&(ResourceName, ActionName), usize)> {
        self.0.get(owner).into_iter().flat_map(|held| held.iter().map(|(what, count)| (what, *count)))
    }

    /// A grant of an identity of this owner lives.
    pub(super) fn add(&mut self, owner: &OwnerName, grant: &Grant) {
        let held = self.0.entry(owner.clone()).or_default();
        for action in &grant.actions {
            *held.entry((grant.resource.clone(), action.clone())).or_default() += 1;
        }
    }

    /// It does no more, or the identity is somebody else's.
    pub(super) fn take(&mut self, owner: &OwnerName, grant: &Grant) {
        let Some(held) = self.0.get_mut(owner) else { return };
        for action in &grant.actions {
            let key = (grant.resource.clone(), action.clone());
            let gone = held.get_mut(&key).is_some_and(|count| {
                *count = count.saturating_sub(1);
                *count == 0
            });
            if gone {
                held.remove(&key);
            }
        }
        if held.is_empty() {
            self.0.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use imbl::OrdSet;

    use super::super::Model;
    use super::*;
    use crate::control::catalog::plan_apply;
    use crate::control::grant::{Access, GrantRequest, plan_create, plan_revoke};
    use crate::control::identity::plan_state;
    use crate::control::record::{Change, GrantRecord, Record};
    use crate::control::sample::{NOW, carried_out, context, document, model, request};
    use crate::domain::identity::IdentityState;
    use crate::domain::name::{GrantId, IdentityName};

    fn counted(model: &Model) -> Held {
        let mut held = Held::default();
        for kept in model.grants.values() {
            if let Some(identity) = model.identities.get(&kept.value.identity) {
                held.add(&identity.value.spec.owner, &kept.value);
            }
        }
        held
    }

    /// Whether grants are found by resource, and those whose time has yet to come by that.
    fn is_indexed(model: &Model) -> bool {
        let (mut on, mut ahead) = (OrdMap::<_, OrdSet<_>>::new(), OrdSet::new());
        for grant in model.grants.values().map(|kept| &kept.value) {
            on.entry(grant.resource.clone()).or_default().insert(grant.id);
            if grant.window.starts > NOW {
                ahead.insert((grant.window.starts, grant.id));
            }
        }
        (on, ahead) == (model.grants_by_resource.clone(), model.ahead.clone())
    }

    /// What is read at a start, where grants come before identities.
    fn reloaded(model: &Model) -> Model {
        let mut again = Model { epoch: 1, revision: 1, ..Model::default() };
        for kept in model.grants.values() {
            let record = GrantRecord { grant: kept.value.as_ref().clone(), expiry_noted: false };
            again.apply(&Change::Put(Record::Grant(record)), 1);
        }
        for kept in model.identities.values() {
            again.apply(&Change::Put(Record::Identity(kept.value.as_ref().clone())), 1);
        }
        again
    }

    #[test]
    fn what_owners_hold_is_what_their_identities_do_whatever_happens_to_either() {
        let owned_by = |name: &str, owner: &str| {
            let spec = format!(r#"{{"kind":"service","owner":"{owner}","purpose":"p","environment":"e"}}"#);
            document("Identity", name, &spec)
        };
        let mut model = model();
        let mut seed = 7u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut were_ahead = 0;
        let names = ["billing", "two", "three"];
        for step in 0..400u128 {
            let name = names[draw(3) as usize];
            model = match draw(6) {
                0 => {
                    let documents = [owned_by(name, ["payments", "orders", "nobody"][draw(3) as usize])];
                    carried_out(&model, &plan_apply(&model, &context(NOW), &documents).unwrap())
                }
                1 | 2 => {
                    let actions = [vec!["read"], vec!["write"], vec!["read", "write"]][draw(3) as usize].clone();
                    let actions = actions.into_iter().map(|name| name.parse().unwrap()).collect();
                    let access = Access::Actions("api/orders".parse().unwrap(), actions);
                    let starts =
                        [None, Some(NOW.saturating_add(Duration::from_secs(60 * (1 + draw(9)))))][draw(2) as usize];
                    let asked = GrantRequest { identity: name.parse().unwrap(), access, starts, ..request() };
                    let id = || GrantId::new(NOW, step);
                    plan_create(&model, &context(NOW), &asked, id)
                        .map_or(model.clone(), |plan| carried_out(&model, &plan))
                }
                3 => match model.grants.values().nth(draw(5) as usize).cloned() {
                    Some(kept) => {
                        let record = GrantRecord { grant: kept.value.as_ref().clone(), expiry_noted: false };
                        carried_out(&model, &plan_revoke(&context(NOW), &record, "x").unwrap())
                    }
                    None => model,
                },
                4 => match model.identities.get(&name.parse::<IdentityName>().unwrap()).cloned() {
                    Some(kept) => {
                        let mut after = model.clone();
                        after.apply(&Change::Delete(Record::Identity(kept.value.as_ref().clone())), 1);
                        after
                    }
                    None => model,
                },
                _ => {
                    let plan = plan_state(&model, &name.parse().unwrap(), IdentityState::Quarantined, "x");
                    plan.map_or(model.clone(), |plan| carried_out(&model, &plan))
                }
            };
            assert_eq!(model.held, counted(&model), "step {step}");
            assert!(is_indexed(&model), "step {step}");
            were_ahead += usize::from(!model.ahead.is_empty());
        }
        assert!(!model.grants.is_empty() && were_ahead > 20, "{were_ahead}");
        assert_eq!(reloaded(&model).held, counted(&model));
        assert!(is_indexed(&reloaded(&model)));
    }
}
