//! A gateway that is told step by step holds what one would that is told at once.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use v1::change::Change as Told;

use super::super::record::{Change, GrantRecord, RevokedToken};
use super::*;
use crate::control::sample::NOW;
use crate::domain::Timestamp;
use crate::domain::grant::{Limits, Lineage, Revocation, Window};
use crate::domain::halt::{Halt, HaltScope};
use crate::domain::name::GrantId;

/// What a gateway that does as it is told holds.
#[derive(Debug, Default, PartialEq)]
struct Held {
    objects: BTreeMap<(String, String), String>,
    grants: BTreeMap<Vec<u8>, u64>,
    tokens: BTreeMap<String, i64>,
}

impl Held {
    fn whole(view: &View) -> Self {
        let mut held = Self::default();
        for object in view.catalog() {
            held.objects.insert((object.kind, object.name), object.spec_json + &object.state);
        }
        held.grants = view.grants().map(|grant| (grant.id, grant.revision)).collect();
        let token = |kept: &crate::control::model::Kept<RevokedToken>| encode::token(&kept.value);
        held.tokens =
            view.model.tokens.values().map(|kept| (kept.value.jti.clone(), token(kept).expires_unix_us)).collect();
        held
    }

    fn take(&mut self, changes: Vec<v1::Change>) {
        for change in changes {
            match change.change.unwrap() {
                Told::ObjectPut(object) => {
                    drop(self.objects.insert((object.kind, object.name), object.spec_json + &object.state))
                }
                Told::ObjectDeleted(key) => {
                    assert!(self.objects.remove(&(key.kind, key.name)).is_some(), "it never heard of it");
                }
                Told::GrantPut(grant) => drop(self.grants.insert(grant.id, grant.revision)),
                Told::GrantEnded(ended) => assert!(self.grants.remove(&ended.grant_id).is_some(), "nor of that"),
                Told::TokenRevoked(token) => drop(self.tokens.insert(token.jti, token.expires_unix_us)),
            }
        }
    }

    /// Without identities that no grant of its needs any more.
    fn needed(mut self, fresh: &Self) -> Self {
        self.objects.retain(|key, _| key.0 != "Identity" || fresh.objects.contains_key(key));
        self
    }
}

const RESOURCES: [&str; 3] = ["api/orders", "db/ledger", "api/people"];
const IDENTITIES: [&str; 3] = ["billing", "shipping", "audit"];
const ROUTES: [&str; 4] = ["orders", "orders-too", "ledger", "people"];

/// Each but the last lies below the one before.
const PATHS: [&str; 4] = ["/**", "/{part}/**", "/ledger/**", "/people"];

fn parse<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> T {
    serde_json::from_value(json).unwrap()
}

fn identity(place: usize, state: IdentityState, purpose: u8) -> Change {
    let spec = serde_json::json!({
        "kind": "service", "owner": "payments", "purpose": format!("p{purpose}"), "environment": "production",
        "authenticate": [{ "spiffe": format!("spiffe://example.org/{}", IDENTITIES[place]) }],
    });
    Change::Put(Record::Identity(Identity { name: IDENTITIES[place].parse().unwrap(), spec: parse(spec), state }))
}

fn route(place: usize, resource: usize) -> Route {
    let spec = serde_json::json!({
        "upstream": "http://127.0.0.1:9", "resource": RESOURCES[resource],
        "actions": [{ "name": "read", "methods": ["GET"], "path": PATHS[place] }],
    });
    Route { name: ROUTES[place].parse().unwrap(), spec: parse(spec) }
}

fn resource(place: usize, seconds: u64) -> Change {
    let spec = serde_json::json!({ "owner": "o", "sensitivity": "high", "authority": format!("{seconds}s") });
    let name = RESOURCES[place].parse().unwrap();
    Change::Put(Record::Resource(crate::domain::resource::Resource { name, spec: parse(spec) }))
}

fn grant(id: u128, identity: usize, resource: usize, over: bool) -> Change {
    let at = NOW;
    let revoked = over.then(|| Revocation { at, by: "bob".parse().unwrap(), reason: "over".into() });
    let grant = Grant {
        id: GrantId::from_bits(id),
        identity: IDENTITIES[identity].parse().unwrap(),
        resource: RESOURCES[resource].parse().unwrap(),
        actions: vec!["read".parse().unwrap()],
        window: Window { starts: NOW, ends: NOW.saturating_add(Duration::from_secs(60)) },
        limits: Limits::default(),
        lineage: Lineage {
            created: NOW,
            created_by: "alice".parse().unwrap(),
            reason: "sweep".into(),
            ticket: None,
            origin: None,
            exception: None,
            break_glass: None,
            until: Vec::new(),
        },
        revoked,
    };
    Change::Put(Record::Grant(GrantRecord { grant, expiry_noted: false }))
}

fn exception(route: usize, there: bool) -> Change {
    let spec = serde_json::json!({
        "rule": "observe", "route": ROUTES[route], "owner": "o", "reason": "r", "expires": "2030-01-01T00:00:00Z",
    });
    let record = Record::Exception(Exception::described("leave".parse().unwrap(), parse(spec)));
    if there { Change::Put(record) } else { Change::Delete(record) }
}

fn halt(resource: usize, there: bool) -> Change {
    let scope = HaltScope::Resource(RESOURCES[resource].parse().unwrap());
    let record = Record::Halt(Halt { scope, reason: "r".into(), by: "bob".parse().unwrap(), since: NOW });
    if there { Change::Put(record) } else { Change::Delete(record) }
}

fn token(place: u8) -> Change {
    let (issuer, jti) = ("https://i".to_owned(), format!("t{place}"));
    Change::Put(Record::Token(RevokedToken { issuer, jti, expires: Timestamp::MAX, by: None }))
}

fn change() -> impl Strategy<Value = Change> {
    let states = [IdentityState::Active, IdentityState::Quarantined, IdentityState::Offboarded];
    prop_oneof![
        4 => (0u128..12, 0..3usize, 0..3usize, any::<bool>()).prop_map(|(id, who, what, over)| grant(id, who, what, over)),
        2 => (0..3usize, 0..3usize, 0..4u8).prop_map(move |(who, state, say)| identity(who, states[state], say)),
        2 => (0..4usize, 0..3usize).prop_map(|(at, what)| Change::Put(Record::Route(route(at, what)))),
        1 => (0..4usize).prop_map(|at| Change::Delete(Record::Route(route(at, 0)))),
        1 => (0..3usize, 5..60u64).prop_map(|(what, seconds)| resource(what, seconds)),
        1 => (0..4usize, any::<bool>()).prop_map(|(at, there)| exception(at, there)),
        1 => (0..3usize, any::<bool>()).prop_map(|(what, there)| halt(what, there)),
        1 => (0..6u8).prop_map(token),
    ]
}

fn scopes() -> [Scope; 3] {
    [
        parse(serde_json::json!({ "resources": ["api/orders"] })),
        parse(serde_json::json!({ "routes": ["orders", "ledger"] })),
        parse(serde_json::json!({ "routes": ["people"], "resources": ["db/ledger"] })),
    ]
}

proptest! {
    #[test]
    fn steps_lead_where_a_whole_picture_would_and_tell_of_nothing_else(
        which in 0..3usize,
        commits in proptest::collection::vec(proptest::collection::vec(change(), 1..4), 1..30),
    ) {
        let scope = scopes()[which].clone();
        let mut model = Model { epoch: 1, revision: 1, ..Model::default() };
        let mut view = View::of(Arc::new(model.clone()), &scope);
        let mut held = Held::whole(&view);
        for commit in commits {
            model.revision += 1;
            let revision = model.revision;
            commit.iter().for_each(|change| model.apply(change, revision));
            let next = Arc::new(model.clone());
            let fresh = View::of(next.clone(), &scope);
            match view.step(next.clone(), NOW) {
                Step::Delta(changes) => held.take(changes),
                Step::Afresh => {
                    view = View::of(next.clone(), &scope);
                    held = Held::whole(&view);
                }
            }
            let whole = Held::whole(&fresh);
            held = held.needed(&whole);
            view.identities.retain(|name| fresh.identities.contains(name));
            prop_assert_eq!(&held, &whole);
            let foreign = next.grants.values().filter(|kept| !fresh.resources.contains(&kept.value.resource));
            for kept in foreign {
                let id = kept.value.id.bits().to_be_bytes().to_vec();
                prop_assert!(!held.grants.contains_key(&id), "a grant of another's scope");
            }
        }
    }
}

#[test]
fn what_is_not_in_a_scope_makes_no_change_and_a_route_that_leads_elsewhere_makes_a_new_picture() {
    let mut model = Model { epoch: 1, revision: 1, ..Model::default() };
    for change in [
        resource(0, 10),
        resource(1, 10),
        identity(0, IdentityState::Active, 0),
        identity(1, IdentityState::Active, 0),
        Change::Put(Record::Route(route(0, 0))),
        grant(1, 0, 0, false),
    ] {
        model.apply(&change, 1);
    }
    let scope = scopes()[1].clone();
    let mut view = View::of(Arc::new(model.clone()), &scope);
    let names = |view: &View| view.catalog().into_iter().map(|object| object.name).collect::<Vec<_>>();
    assert_eq!(names(&view), ["billing", "api/orders", "orders"]);
    let mut step = |change: Change| {
        model.apply(&change, model.revision + 1);
        model.revision += 1;
        view.step(Arc::new(model.clone()), NOW)
    };
    for foreign in [grant(2, 1, 1, false), grant(2, 1, 1, true), resource(1, 20)] {
        assert_eq!(step(foreign), Step::Delta(Vec::new()));
    }
    // Of a route that would lose calls to one of its own it is told that they are not its to take, and no more.
    let Step::Delta(told) = step(Change::Put(Record::Route(route(3, 1)))) else { panic!("not its route") };
    let [v1::Change { change: Some(Told::ObjectPut(object)) }] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(object.spec_json, r#"{"rules":[{"methods":["GET"],"path":"/people"}]}"#);
    let Step::Delta(own) = step(grant(3, 1, 0, false)) else { panic!("one grant more") };
    assert_eq!(own.len(), 2, "and whose it is");
    let Step::Delta(moved) = step(grant(3, 1, 1, false)) else { panic!("one grant less") };
    assert!(matches!(moved.as_slice(), [v1::Change { change: Some(Told::GrantEnded(_)) }]), "{moved:?}");
    assert_eq!(step(Change::Put(Record::Route(route(0, 1)))), Step::Afresh);
}
