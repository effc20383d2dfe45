//! The control plane's picture of its own store: what commands are checked against, what reads answer from.
//!
//! Persistent maps, so that a reader holds one revision for as long as it likes and the writer never waits for it. The
//! same [`Model::apply`] builds it at start and follows every commit. It does not know where records come from.

mod delegations;
mod held;
mod people;
mod requests;
mod revisions;
mod tickets;

use std::sync::Arc;

pub use delegations::Delegations;
pub use held::Held;
use imbl::{OrdMap, OrdSet};
pub use tickets::Tickets;

use super::policy::InForce;
use super::record::ledger::Ledger;
use super::record::{
    Change, Digest, GatewayRecord, GrantRecord, LogRecord, Person, Record, RevokedToken, Standing, TrustRecord,
};
use crate::domain::Timestamp;
use crate::domain::breakglass::BreakGlass;
use crate::domain::change::Proposal;
use crate::domain::directory::{Group, PersonEntry};
use crate::domain::exception::Exception;
use crate::domain::grant::Grant;
use crate::domain::halt::{Halt, HaltScope};
use crate::domain::identity::{Authenticator, Identity};
use crate::domain::name::{
    BreakGlassId, ChangeId, ExceptionName, GatewayName, GrantId, IdentityName, OwnerName, RequestId, ResourceName,
    RoleName, RouteName, TicketSourceName,
};
use crate::domain::principal::SpiffeId;
use crate::domain::request::{Request, Requester};
use crate::domain::resource::{Resource, Span};
use crate::domain::role::Role;
use crate::domain::route::Route;
use crate::domain::ticket::TicketSource;

/// A record and the revision in which it was last put.
#[derive(Debug)]
pub struct Kept<T> {
    /// The record.
    pub value: Arc<T>,
    /// When it was last put.
    pub revision: u64,
}

/// The same record of the same revision: what differs between two models is found without reading it.
impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision && Arc::ptr_eq(&self.value, &other.value)
    }
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

/// What is known of a settled request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledRequest {
    /// When it was settled.
    pub at: Timestamp,
    /// The revision that put it.
    pub revision: u64,
    /// Who asked.
    pub requester: Requester,
    /// Whose access it would have been.
    pub identity: IdentityName,
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
    /// By name.
    pub ticket_sources: OrdMap<TicketSourceName, Kept<TicketSource>>,
    /// What is known of tickets, and the live grants that end with them.
    pub tickets: Tickets,
    /// People that documents describe, by name.
    pub entries: OrdMap<OwnerName, Kept<PersonEntry>>,
    /// By name.
    pub groups: OrdMap<OwnerName, Kept<Group>>,
    /// Whose a certificate is.
    pub workloads: OrdMap<SpiffeId, IdentityName>,
    /// Whose tokens of a subject are, by subject and issuer.
    pub subjects: OrdMap<(Arc<str>, Arc<str>), IdentityName>,
    /// The version of the policy that is in force, compiled.
    pub policy: Option<InForce>,
    /// Requests that are settled: what is known of each without reading its record from the store.
    pub settled: OrdMap<RequestId, SettledRequest>,
    /// The same by when.
    pub settled_ages: OrdSet<(Timestamp, RequestId)>,
    /// Requests that are open; the others are read from the store.
    pub requests: OrdMap<RequestId, Kept<Request>>,
    /// The same by their end.
    pub request_ends: OrdSet<(Timestamp, RequestId)>,
    /// The same by when the silence of one of their stages has lasted long enough for others to answer.
    pub request_silences: OrdSet<(Timestamp, RequestId)>,
    /// What requests of the last day were called by who made them, so that the same is not made twice.
    pub request_keys: OrdMap<(Requester, String), RequestId>,
    /// When the latest request with a key was made.
    pub keyed_last: Option<Timestamp>,
    /// The same keys by age.
    pub request_key_ages: OrdSet<(RequestId, Requester, String)>,
    /// Changes of catalog and policy that took, or take, another person's word.
    pub proposals: OrdMap<ChangeId, Kept<Proposal>>,
    /// Who answers in whose place, those that are over too.
    pub delegations: Delegations,
    /// Every time that somebody broke glass, whose review is open or was closed lately.
    pub broken: OrdMap<BreakGlassId, Kept<BreakGlass>>,
    /// Those that have not ended; the others are read from the store.
    pub grants: OrdMap<GrantId, Kept<Grant>>,
    /// The same by whose they are.
    pub grants_of: OrdMap<IdentityName, OrdSet<GrantId>>,
    /// The same by the resource that they are on.
    pub grants_by_resource: OrdMap<ResourceName, OrdSet<GrantId>>,
    /// Those that were made before their time, by when it comes.
    pub ahead: OrdSet<(Timestamp, GrantId)>,
    /// What of them the identities of each owner hold together.
    pub held: Held,
    /// Those of them that end when nothing uses them.
    pub watched: OrdSet<GrantId>,
    /// The same by their end, so that the next one to end is the first.
    pub ends: OrdSet<(Timestamp, GrantId)>,
    /// How many of them came without anybody's approval, by whose they are.
    pub unapproved_of: OrdMap<IdentityName, usize>,
    /// The same by who asked.
    pub unapproved_by: OrdMap<OwnerName, usize>,
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
    /// The authorities that certify gateways, from the first rotation on.
    pub trust: Option<Kept<TrustRecord>>,
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
            Record::TicketSource(it) => drop(self.ticket_sources.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Ticket(it) => self.tickets.put(it, revision),
            Record::Entry(it) => drop(self.entries.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Group(it) => drop(self.groups.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Policy(it) => self.policy = InForce::later(self.policy.take(), it),
            Record::Request(it) => self.put_request(it, revision),
            Record::Proposal(it) => drop(self.proposals.insert(it.id, Kept::new(it, revision))),
            Record::Delegation(it) => self.delegations.put(it, revision),
            Record::BreakGlass(it) => drop(self.broken.insert(it.id, Kept::new(it, revision))),
            Record::Person(it) => drop(self.people.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Gateway(it) => drop(self.gateways.insert(it.name.clone(), Kept::new(it, revision))),
            Record::Log(it) => drop(self.logs.insert(it.gateway.clone(), Kept::new(it, revision))),
            Record::Halt(it) => drop(self.halts.insert(it.scope.clone(), Kept::new(it, revision))),
            Record::Trust(it) => self.trust = Some(Kept::new(it, revision)),
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
            match credential {
                Authenticator::Spiffe { spiffe } => {
                    self.workloads.insert(spiffe.clone(), identity.name.clone());
                }
                Authenticator::Token { issuer, subject } => {
                    self.subjects.insert((subject.clone(), issuer.clone()), identity.name.clone());
                }
            }
        }
        for kept in self.grants_of.get(&identity.name).into_iter().flatten().filter_map(|id| self.grants.get(id)) {
            self.held.add(&identity.spec.owner, &kept.value);
        }
        self.identities.insert(identity.name.clone(), Kept::new(identity, revision));
    }

    fn forget_identity(&mut self, name: &IdentityName) {
        let Some(old) = self.identities.remove(name) else { return };
        let owner = &old.value.spec.owner;
        for kept in self.grants_of.get(name).into_iter().flatten().filter_map(|id| self.grants.get(id)) {
            self.held.take(owner, &kept.value);
        }
        for credential in &old.value.spec.authenticate {
            // One that is another's by now stays theirs.
            match credential {
                Authenticator::Spiffe { spiffe } if self.workloads.get(spiffe) == Some(name) => {
                    self.workloads.remove(spiffe);
                }
                Authenticator::Token { issuer, subject } => {
                    let key = (subject.clone(), issuer.clone());
                    if self.subjects.get(&key) == Some(name) {
                        self.subjects.remove(&key);
                    }
                }
                Authenticator::Spiffe { .. } => {}
            }
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
        if grant.window.starts > grant.lineage.created {
            self.ahead.insert((grant.window.starts, grant.id));
        }
        if grant.limits.unused.is_some() {
            self.watched.insert(grant.id);
        }
        self.tickets.bind(grant);
        self.grants_of.entry(grant.identity.clone()).or_default().insert(grant.id);
        self.grants_by_resource.entry(grant.resource.clone()).or_default().insert(grant.id);
        if let Some(identity) = self.identities.get(&grant.identity) {
            self.held.add(&identity.value.spec.owner, grant);
        }
        if grant.is_unapproved() {
            *self.unapproved_of.entry(grant.identity.clone()).or_default() += 1;
            *self.unapproved_by.entry(grant.lineage.created_by.clone()).or_default() += 1;
        }
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
            leave(&mut self.allotted, &open.gateway, grant);
        }
    }

    fn forget_grant(&mut self, id: GrantId) {
        let Some(old) = self.grants.remove(&id) else { return };
        self.ends.remove(&(old.value.window.ends, id));
        self.ahead.remove(&(old.value.window.starts, id));
        self.watched.remove(&id);
        self.tickets.unbind(&old.value);
        let name = &old.value.identity;
        if let Some(identity) = self.identities.get(name) {
            self.held.take(&identity.value.spec.owner, &old.value);
        }
        if old.value.is_unapproved() {
            one_less(&mut self.unapproved_of, name);
            one_less(&mut self.unapproved_by, &old.value.lineage.created_by);
        }
        leave(&mut self.grants_of, name, id);
        leave(&mut self.grants_by_resource, &old.value.resource, id);
    }

    fn delete(&mut self, record: &Record) {
        match record {
            Record::Meta(_) => {}
            Record::Identity(it) => self.forget_identity(&it.name),
            Record::Resource(it) => drop(self.resources.remove(&it.name)),
            Record::Route(it) => drop(self.routes.remove(&it.name)),
            Record::Role(it) => drop(self.roles.remove(&it.name)),
            Record::Exception(it) => drop(self.exceptions.remove(&it.name)),
            Record::TicketSource(it) => drop(self.ticket_sources.remove(&it.name)),
            Record::Ticket(it) => self.tickets.forget(&it.ticket),
            Record::Entry(it) => drop(self.entries.remove(&it.name)),
            Record::Group(it) => drop(self.groups.remove(&it.name)),
            // INVARIANT: what was in force is never deleted.
            Record::Policy(_) => {}
            Record::Request(it) => self.forget_request(it.id),
            Record::Proposal(it) => drop(self.proposals.remove(&it.id)),
            Record::Delegation(it) => self.delegations.forget(it.id),
            Record::BreakGlass(it) => drop(self.broken.remove(&it.id)),
            Record::Person(it) => drop(self.people.remove(&it.name)),
            Record::Gateway(it) => drop(self.gateways.remove(&it.name)),
            Record::Log(it) => drop(self.logs.remove(&it.gateway)),
            Record::Halt(it) => drop(self.halts.remove(&it.scope)),
            Record::Trust(_) => self.trust = None,
            Record::Grant(it) => self.forget_grant(it.grant.id),
            Record::Ledger(it) => self.forget_ledger(it.grant),
            Record::Token(it) => self.forget_token(it),
        }
    }

    fn forget_token(&mut self, token: &RevokedToken) {
        let Some(old) = self.tokens.remove(&(token.issuer.clone(), token.jti.clone())) else { return };
        self.token_ends.remove(&(old.value.expires, token.issuer.clone(), token.jti.clone()));
        if let Some(by) = &old.value.by {
            one_less(&mut self.tokens_by, by);
        }
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

/// Takes a grant out of an index; what holds none any more is gone.
fn leave<K: Ord + Clone>(index: &mut OrdMap<K, OrdSet<GrantId>>, key: &K, grant: GrantId) {
    let emptied = index.get_mut(key).is_some_and(|grants| {
        grants.remove(&grant);
        grants.is_empty()
    });
    if emptied {
        index.remove(key);
    }
}

/// Counts one less; what has come to none is gone.
fn one_less<K: Ord + Clone>(counts: &mut OrdMap<K, usize>, key: &K) {
    let none_left = counts.get_mut(key).is_some_and(|count| {
        *count = count.saturating_sub(1);
        *count == 0
    });
    if none_left {
        counts.remove(key);
    }
}
