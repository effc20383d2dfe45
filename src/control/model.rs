//! The control plane's picture of its own store: what commands are checked against, what reads answer from.
//!
//! Persistent maps, so that a reader holds one revision for as long as it likes and the writer never waits for it. The
//! same [`Model::apply`] builds it at start and follows every commit. It does not know where records come from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use super::policy::InForce;
use super::record::ledger::Ledger;
use super::record::{Change, Digest, GatewayRecord, GrantRecord, LogRecord, Person, Record, RevokedToken, Standing};
use crate::domain::Timestamp;
use crate::domain::directory::{Group, PersonEntry};
use crate::domain::exception::Exception;
use crate::domain::grant::Grant;
use crate::domain::halt::{Halt, HaltScope};
use crate::domain::identity::{Authenticator, Identity};
use crate::domain::name::{
    ExceptionName, GatewayName, GrantId, IdentityName, OwnerName, RequestId, ResourceName, RoleName, RouteName,
};
use crate::domain::principal::SpiffeId;
use crate::domain::request::{Request, Requester};
use crate::domain::resource::{Resource, Span};
use crate::domain::role::Role;
use crate::domain::route::Route;

/// How long a request is found again by the key that its maker gave it.
const REQUEST_KEY_LIFE: Duration = Duration::from_secs(86_400);

/// A record and the revision in which it was last put.
#[derive(Debug)]
pub struct Kept<T> {
    /// The record.
    pub value: Arc<T>,
    /// When it was last put.
    pub revision: u64,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), revision: self.revision }
    }
}

impl<T> Kept<T> {
    fn new(value: &T, revision: u64) -> Self
    where
        T: Clone,
    {
        Self { value: Arc::new(value.clone()), revision }
    }
}

/// How many grants ended, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Before their time.
    pub revoked: u64,
    /// By the clock.
    pub expired: u64,
}

/// Everything that is kept, save what has ended.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The life of the store.
    pub epoch: u64,
    /// Of the last commit that gateways hear of.
    pub revision: u64,
    /// Of the last commit, whoever hears of it: at a start also of what was done outside of the model.
    pub committed: u64,
    /// By name.
    pub identities: OrdMap<IdentityName, Kept<Identity>>,
    /// By name.
    pub resources: OrdMap<ResourceName, Kept<Resource>>,
    /// The largest authority bound that each resource has had, as far as is known: a gateway that is away may go by it.
    pub longest: OrdMap<ResourceName, Span>,
    /// By name.
    pub routes: OrdMap<RouteName, Kept<Route>>,
    /// By name.
    pub roles: OrdMap<RoleName, Kept<Role>>,
    /// By name.
    pub exceptions: OrdMap<ExceptionName, Kept<Exception>>,
    /// People that documents describe, by name.
    pub entries: OrdMap<OwnerName, Kept<PersonEntry>>,
    /// By name.
    pub groups: OrdMap<OwnerName, Kept<Group>>,
    /// Whose a certificate is.
    pub workloads: OrdMap<SpiffeId, IdentityName>,
    /// Identities by who answers for them.
    pub owned: OrdMap<OwnerName, OrdSet<IdentityName>>,
    /// The version of the policy that is in force, compiled.
    pub policy: Option<InForce>,
    /// Requests that are open; the others are read from the store.
    pub requests: OrdMap<RequestId, Kept<Request>>,
    /// The same by their end.
    pub request_ends: OrdSet<(Timestamp, RequestId)>,
    /// What requests of the last day were called by who made them, so that the same is not made twice.
    pub request_keys: OrdMap<(Requester, String), RequestId>,
    /// The same by age.
    pub request_key_ages: OrdSet<(RequestId, Requester, String)>,
    /// Those that have not ended; the others are read from the store.
    pub grants: OrdMap<GrantId, Kept<Grant>>,
    /// The same by whose they are.
    pub grants_of: OrdMap<IdentityName, OrdSet<GrantId>>,
    /// The same by their end, so that the next one to end is the first.
    pub ends: OrdSet<(Timestamp, GrantId)>,
    /// Those that have.
    pub ended: Ended,
    /// By name.
    pub people: OrdMap<OwnerName, Kept<Person>>,
    /// By name.
    pub gateways: OrdMap<GatewayName, Kept<GatewayRecord>>,
    /// Their logs of evidence.
    pub logs: OrdMap<GatewayName, Kept<LogRecord>>,
    /// What stands still.
    pub halts: OrdMap<HaltScope, Kept<Halt>>,
    /// By issuer and `jti`.
    pub tokens: OrdMap<(String, String), Kept<RevokedToken>>,
    /// The same by their end.
    pub token_ends: OrdSet<(Timestamp, String, String)>,
    /// How many of them each gateway revoked.
    pub tokens_by: OrdMap<GatewayName, usize>,
    /// Of counted grants: what was given out.
    pub ledgers: OrdMap<GrantId, Kept<Ledger>>,
    /// The same of grants that have ended: nobody needs them any more.
    pub idle_ledgers: OrdSet<GrantId>,
    /// Counted grants of which gateways may give something back.
    pub allotted: OrdMap<GatewayName, OrdSet<GrantId>>,
    /// When a backup was declared restored.
    pub restored: Option<Timestamp>,
}

impl Model {
    /// Takes in one change of `revision`. The stream's own revision is the writer's to set.
    pub fn apply(&mut self, change: &Change, revision: u64) {
        match change {
            Change::Put(record) => self.put(record, revision),
            Change::Delete(record) => self.delete(record),
        }
    }

    /// The gateway that may join with a token.
    pub fn gateway_joining(&self, digest: &Digest, now: Timestamp) -> Option<GatewayName> {
        let good = |gateway: &&Kept<GatewayRecord>| {
            let token = gateway.value.token.as_ref().filter(|token| now < token.expires);
            token.is_some_and(|token| token.digest.is(digest)) && gateway.value.standing == Standing::Good
        };
        self.gateways.values().find(good).map(|gateway| gateway.value.name.clone())
    }

    fn put(&mut self, record: &Record, revision: u64) {
        match record {
            Record::Meta(meta) => (self.epoch, self.restored) = (meta.epoch, meta.restored),
            Record::Identity(it) => self.put_identity(it, revision),
            Record::Resource(it) => {
                let bound = it.spec.authority;
                let longest = self.longest.get(&it.name).map_or(bound, |before| bound.max(*before));
                self.longest.insert(it.name.clone(), longest);
                self.resources.insert(it.name.clone(), Kept::new(it, revision));
            }
            Record::Route(it) => drop(self.routes.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Role(it) => drop(self.roles.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Exception(it) => drop(self.exceptions.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Entry(it) => drop(self.entries.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Group(it) => drop(self.groups.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Policy(it) => self.policy = InForce::later(self.policy.take(), it),
            Record::Request(it) => self.put_request(it, revision),
            Record::Person(it) => drop(self.people.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Gateway(it) => drop(self.gateways.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Log(it) => drop(self.logs.insert(it.gateway.clone(), Kept::new(it, revision))),
            Record::Halt(it) => drop(self.halts.insert(it.scope.clone(), Kept::new(it, revision))),
            Record::Grant(it) => self.put_grant(it, revision),
            Record::Ledger(it) => self.put_ledger(it, revision),
            Record::Token(it) => {
                self.forget_token(it);
                self.token_ends.insert((it.expires, it.issuer.clone(), it.jti.clone()));
                self.tokens.insert((it.issuer.clone(), it.jti.clone()), Kept::new(it, revision));
                if let Some(by) = &it.by {
                    *self.tokens_by.entry(by.clone()).or_default() += 1;
                }
            }
        }
    }

    fn put_identity(&mut self, identity: &Identity, revision: u64) {
        self.forget_identity(&identity.name);
        for credential in &identity.spec.authenticate {
            if let Authenticator::Spiffe { spiffe } = credential {
                self.workloads.insert(spiffe.clone(), identity.name.clone());
            }
        }
        self.owned.entry(identity.spec.owner.clone()).or_default().insert(identity.name.clone());
        self.identities.insert(identity.name.clone(), Kept::new(identity, revision));
    }

    fn forget_identity(&mut self, name: &IdentityName) {
        let Some(old) = self.identities.remove(name) else { return };
        let owner = &old.value.spec.owner;
        let emptied = self.owned.get_mut(owner).is_some_and(|owned| {
            owned.remove(name);
            owned.is_empty()
        });
        if emptied {
            self.owned.remove(owner);
        }
        for credential in &old.value.spec.authenticate {
            // One that is another's by now stays theirs.
            if let Authenticator::Spiffe { spiffe } = credential
                && self.workloads.get(spiffe) == Some(name)
            {
                self.workloads.remove(spiffe);
            }
        }
    }

    fn put_request(&mut self, request: &Request, revision: u64) {
        if let Some(old) = self.requests.remove(&request.id) {
            self.request_ends.remove(&(old.value.expires, request.id));
        }
        if let Some(key) = &request.key {
            let place = (request.requester.clone(), key.clone());
            self.request_keys.insert(place.clone(), request.id);
            self.request_key_ages.insert((request.id, place.0, place.1));
            let old = RequestId::new(request.created.saturating_sub(REQUEST_KEY_LIFE), 0);
            while let Some((id, requester, key)) = self.request_key_ages.get_min().filter(|(id, ..)| *id < old).cloned()
            {
                self.request_key_ages.remove(&(id, requester.clone(), key.clone()));
                let place = (requester, key);
                if self.request_keys.get(&place) == Some(&id) {
                    self.request_keys.remove(&place);
                }
            }
        }
        if request.is_open() {
            self.request_ends.insert((request.expires, request.id));
            self.requests.insert(request.id, Kept::new(request, revision));
        }
    }

    fn put_grant(&mut self, record: &GrantRecord, revision: u64) {
        let grant = &record.grant;
        // The end may have come nearer.
        self.forget_grant(grant.id);
        if record.has_ended() {
            if grant.revoked.is_some() {
                self.ended.revoked = self.ended.revoked.saturating_add(1);
            } else {
                self.ended.expired = self.ended.expired.saturating_add(1);
            }
            if self.ledgers.contains_key(&grant.id) {
                self.idle_ledgers.insert(grant.id);
            }
            return;
        }
        self.ends.insert((grant.window.ends, grant.id));
        self.grants_of.entry(grant.identity.clone()).or_default().insert(grant.id);
        self.grants.insert(grant.id, Kept::new(grant, revision));
    }

    fn put_ledger(&mut self, ledger: &Ledger, revision: u64) {
        self.forget_ledger(ledger.grant);
        for open in &ledger.open {
            self.allotted.entry(open.gateway.clone()).or_default().insert(ledger.grant);
        }
        if !self.grants.contains_key(&ledger.grant) {
            self.idle_ledgers.insert(ledger.grant);
        }
        self.ledgers.insert(ledger.grant, Kept::new(ledger, revision));
    }

    fn forget_ledger(&mut self, grant: GrantId) {
        self.idle_ledgers.remove(&grant);
        let Some(old) = self.ledgers.remove(&grant) else { return };
        for open in &old.value.open {
            let emptied = self.allotted.get_mut(&open.gateway).is_some_and(|grants| {
                grants.remove(&grant);
                grants.is_empty()
            });
            if emptied {
                self.allotted.remove(&open.gateway);
            }
        }
    }

    fn forget_grant(&mut self, id: GrantId) {
        let Some(old) = self.grants.remove(&id) else { return };
        self.ends.remove(&(old.value.window.ends, id));
        let name = &old.value.identity;
        let emptied = self.grants_of.get_mut(name).is_some_and(|grants| {
            grants.remove(&id);
            grants.is_empty()
        });
        if emptied {
            self.grants_of.remove(name);
        }
    }

    fn delete(&mut self, record: &Record) {
        match record {
            Record::Meta(_) => {}
            Record::Identity(it) => self.forget_identity(&it.name),
            Record::Resource(it) => drop(self.resources.remove(&it.name)),
            Record::Route(it) => drop(self.routes.remove(&it.name)),
            Record::Role(it) => drop(self.roles.remove(&it.name)),
            Record::Exception(it) => drop(self.exceptions.remove(&it.name)),
            Record::Entry(it) => drop(self.entries.remove(&it.name)),
            Record::Group(it) => drop(self.groups.remove(&it.name)),
            // INVARIANT: what was in force or asked for is never deleted.
            Record::Policy(_) | Record::Request(_) => {}
            Record::Person(it) => drop(self.people.remove(&it.name)),
            Record::Gateway(it) => drop(self.gateways.remove(&it.name)),
            Record::Log(it) => drop(self.logs.remove(&it.gateway)),
            Record::Halt(it) => drop(self.halts.remove(&it.scope)),
            Record::Grant(it) => self.forget_grant(it.grant.id),
            Record::Ledger(it) => self.forget_ledger(it.grant),
            Record::Token(it) => self.forget_token(it),
        }
    }

    fn forget_token(&mut self, token: &RevokedToken) {
        let Some(old) = self.tokens.remove(&(token.issuer.clone(), token.jti.clone())) else { return };
        self.token_ends.remove(&(old.value.expires, token.issuer.clone(), token.jti.clone()));
        let Some(by) = &old.value.by else { return };
        let none_left = self.tokens_by.get_mut(by).is_some_and(|count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
        if none_left {
            self.tokens_by.remove(by);
        }
    }

    /// The revision in which the key of `record` was last put, as far as the model keeps it; `None` when it is not there.
    pub fn revision_of(&self, record: &Record) -> Option<u64> {
        match record {
            Record::Meta(_) => None,
            Record::Identity(it) => self.identities.get(&it.name).map(|k| k.revision),
            Record::Resource(it) => self.resources.get(&it.name).map(|k| k.revision),
            Record::Route(it) => self.routes.get(&it.name).map(|k| k.revision),
            Record::Role(it) => self.roles.get(&it.name).map(|k| k.revision),
            Record::Exception(it) => self.exceptions.get(&it.name).map(|k| k.revision),
            Record::Entry(it) => self.entries.get(&it.name).map(|k| k.revision),
            Record::Group(it) => self.groups.get(&it.name).map(|k| k.revision),
            // A version is published once.
            Record::Policy(_) => None,
            Record::Request(it) => self.requests.get(&it.id).map(|k| k.revision),
            Record::Person(it) => self.people.get(&it.name).map(|k| k.revision),
            Record::Gateway(it) => self.gateways.get(&it.name).map(|k| k.revision),
            Record::Log(it) => self.logs.get(&it.gateway).map(|k| k.revision),
            Record::Halt(it) => self.halts.get(&it.scope).map(|k| k.revision),
            Record::Grant(it) => self.grants.get(&it.grant.id).map(|k| k.revision),
            Record::Ledger(it) => self.ledgers.get(&it.grant).map(|k| k.revision),
            Record::Token(it) => self.tokens.get(&(it.issuer.clone(), it.jti.clone())).map(|k| k.revision),
        }
    }

    /// The groups that somebody is in, by way of others too.
    pub fn groups_of(&self, person: &OwnerName) -> BTreeSet<OwnerName> {
        let mut found = BTreeSet::new();
        let mut looking = vec![person.clone()];
        while let Some(name) = looking.pop() {
            for group in self.groups.values() {
                let spec = &group.value.spec;
                let holds = if name == *person { spec.members.contains(&name) } else { spec.groups.contains(&name) };
                if holds && found.insert(group.value.name.clone()) {
                    looking.push(group.value.name.clone());
                }
            }
        }
        found
    }

    /// The people in a group, by way of others too; nobody for a name that is no group's.
    pub fn members_of(&self, group: &OwnerName) -> BTreeSet<OwnerName> {
        let (mut people, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut looking = vec![group.clone()];
        while let Some(name) = looking.pop() {
            if let Some(kept) = self.groups.get(&name)
                && seen.insert(name)
            {
                people.extend(kept.value.spec.members.iter().cloned());
                looking.extend(kept.value.spec.groups.iter().cloned());
            }
        }
        people
    }

    /// The person whose token this is, with the groups that they are in as owners that they speak for. Every record is
    /// compared, so that the time says nothing.
    pub fn speaker_with(&self, token: &Digest) -> Option<Arc<Person>> {
        let person = self.person_with(token)?;
        let groups = self.groups_of(&person.name);
        if groups.is_empty() {
            return Some(person);
        }
        let mut speaker = person.as_ref().clone();
        speaker.speaks_for.extend(groups);
        Some(Arc::new(speaker))
    }

    /// The person whose token this is. Every record is compared, so that the time says nothing.
    pub fn person_with(&self, token: &Digest) -> Option<Arc<Person>> {
        let mut found = None;
        for kept in self.people.values() {
            if kept.value.token.is(token) {
                found = Some(kept.value.clone());
            }
        }
        found
    }

    /// Grants of `identity` on `resource` that have not ended.
    pub fn grants_on<'m>(
        &'m self,
        identity: &IdentityName,
        resource: &'m ResourceName,
    ) -> impl Iterator<Item = &'m Kept<Grant>> + 'm {
        let ids = self.grants_of.get(identity).into_iter().flat_map(OrdSet::iter);
        ids.filter_map(|id| self.grants.get(id)).filter(move |kept| kept.value.resource == *resource)
    }
}
