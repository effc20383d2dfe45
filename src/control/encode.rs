//! Records as the messages that gateways and people get.
//!
//! One direction only; what arrives is parsed where it is used. Knows no stream and no request.

use super::model::{Kept, Model};
use super::record::{Change, GrantRecord, Record, RevokedToken};
use crate::domain::Reason;
use crate::domain::exception::ExceptionRule;
use crate::domain::grant::Grant;
use crate::domain::identity::{Identity, IdentityState};
use crate::domain::scope::Elsewhere;
use crate::wire::v1;

/// A grant as of the revision that put it.
pub(super) fn grant(grant: &Grant, revision: u64) -> v1::Grant {
    v1::Grant { revision, ..v1::Grant::from(grant) }
}

/// An identity's state as documents and the API write it.
pub(super) const fn state(state: IdentityState) -> &'static str {
    match state {
        IdentityState::Active => "active",
        IdentityState::Quarantined => "quarantined",
        IdentityState::Offboarded => "offboarded",
    }
}

fn spec_json(spec: &impl serde::Serialize) -> String {
    // Specs are plain data that was read from JSON; an empty text is refused by every reader.
    serde_json::to_string(spec).unwrap_or_default()
}

/// A catalog object as of the revision that put it; `None` for records that are not of the catalog.
pub(super) fn object(record: &Record, revision: u64) -> Option<v1::CatalogObject> {
    let plain = |kind: &str, name: String, spec_json: String| {
        Some(v1::CatalogObject { kind: kind.to_owned(), name, spec_json, revision, state: String::new() })
    };
    match record {
        Record::Identity(it) => Some(identity(it, revision)),
        Record::Resource(it) => plain("Resource", it.name.to_string(), spec_json(&it.spec)),
        Record::Route(it) => plain("Route", it.name.to_string(), spec_json(&it.spec)),
        Record::Role(it) => plain("Role", it.name.to_string(), spec_json(&it.spec)),
        Record::Entry(it) => plain("Person", it.name.to_string(), spec_json(&it.spec)),
        Record::Group(it) => plain("Group", it.name.to_string(), spec_json(&it.spec)),
        // Gateways need no more of it than its name.
        Record::Halt(it) => plain("Halt", it.scope.to_string(), "{}".to_owned()),
        Record::Exception(it) => plain("Exception", it.name.to_string(), spec_json(&it.spec)),
        Record::TicketSource(it) => plain("TicketSource", it.name.to_string(), spec_json(&it.spec)),
        Record::Meta(_)
        | Record::Grant(_)
        | Record::Ledger(_)
        | Record::Person(_)
        | Record::Gateway(_)
        | Record::Log(_)
        | Record::Token(_)
        | Record::Policy(_)
        | Record::Request(_)
        | Record::Proposal(_)
        | Record::BreakGlass(_)
        | Record::Delegation(_)
        | Record::Ticket(_)
        | Record::Trust(_) => None,
    }
}

/// An identity with its state.
pub(super) fn identity(identity: &Identity, revision: u64) -> v1::CatalogObject {
    v1::CatalogObject {
        kind: "Identity".to_owned(),
        name: identity.name.to_string(),
        spec_json: spec_json(&identity.spec),
        revision,
        state: state(identity.state).to_owned(),
    }
}

/// The name of the one object that says what is not a gateway's to take.
pub(super) const ELSEWHERE: &str = "elsewhere";

/// What is not a gateway's to take: one object, put anew as a whole.
pub(super) fn elsewhere(elsewhere: &Elsewhere, revision: u64) -> v1::CatalogObject {
    v1::CatalogObject {
        kind: "Elsewhere".to_owned(),
        name: ELSEWHERE.to_owned(),
        spec_json: spec_json(elsewhere),
        revision,
        state: String::new(),
    }
}

/// A revoked token.
pub(super) fn token(token: &RevokedToken) -> v1::RevokedToken {
    v1::RevokedToken {
        issuer: token.issuer.clone(),
        jti: token.jti.clone(),
        expires_unix_us: token.expires.unix_micros(),
    }
}

/// What gateways hear of a change; `None` when it does not concern them.
pub(super) fn change(change: &Change, revision: u64) -> Option<v1::Change> {
    use v1::change::Change as Message;
    let message = match change {
        Change::Put(Record::Grant(record)) => grant_change(record, revision),
        Change::Put(Record::Token(it)) => Message::TokenRevoked(token(it)),
        // Roles and people are for people: what roles give is copied into grants.
        Change::Put(Record::Exception(it)) if it.spec.rule != ExceptionRule::Observe => return None,
        Change::Put(Record::Role(_) | Record::Entry(_) | Record::Group(_) | Record::TicketSource(_))
        | Change::Delete(
            Record::Role(_)
            | Record::Entry(_)
            | Record::Group(_)
            | Record::TicketSource(_)
            | Record::Grant(_)
            | Record::Token(_),
        ) => return None,
        Change::Put(record) => Message::ObjectPut(object(record, revision)?),
        Change::Delete(record) => {
            let gone = object(record, revision)?;
            Message::ObjectDeleted(v1::ObjectKey { kind: gone.kind, name: gone.name })
        }
    };
    Some(v1::Change { change: Some(message) })
}

fn grant_change(record: &GrantRecord, revision: u64) -> v1::change::Change {
    let reason = if record.grant.revoked.is_some() {
        Reason::GrantRevoked
    } else if record.expiry_noted {
        Reason::GrantExpired
    } else {
        return v1::change::Change::GrantPut(grant(&record.grant, revision));
    };
    v1::change::Change::GrantEnded(v1::GrantEnded {
        grant_id: record.grant.id.bits().to_be_bytes().to_vec(),
        reason: reason.code().to_owned(),
    })
}

/// Every object of the catalog that gateways need, in an order in which each stands after what it names.
pub(super) fn gateway_catalog(model: &Model) -> Vec<v1::CatalogObject> {
    let mut objects = Vec::new();
    objects.extend(model.identities.values().map(|k| identity(&k.value, k.revision)));
    objects.extend(model.resources.values().filter_map(|k| kept(k, Record::Resource)));
    objects.extend(model.routes.values().filter_map(|k| kept(k, Record::Route)));
    let observed = model.exceptions.values().filter(|kept| kept.value.spec.rule == ExceptionRule::Observe);
    objects.extend(observed.filter_map(|k| kept(k, Record::Exception)));
    objects.extend(model.halts.values().filter_map(|k| kept(k, Record::Halt)));
    objects
}

/// Roles, people, groups, sources of tickets, and leave from rules of the control plane's own, which only people see.
pub(super) fn people_catalog(model: &Model) -> Vec<v1::CatalogObject> {
    let mut objects: Vec<_> = model.roles.values().filter_map(|k| kept(k, Record::Role)).collect();
    objects.extend(model.entries.values().filter_map(|k| kept(k, Record::Entry)));
    objects.extend(model.groups.values().filter_map(|k| kept(k, Record::Group)));
    let own = model.exceptions.values().filter(|kept| kept.value.spec.rule != ExceptionRule::Observe);
    objects.extend(own.filter_map(|k| kept(k, Record::Exception)));
    objects.extend(model.ticket_sources.values().filter_map(|k| kept(k, Record::TicketSource)));
    objects
}

/// An object of the model.
pub(super) fn kept<T: Clone>(kept: &Kept<T>, record: impl FnOnce(T) -> Record) -> Option<v1::CatalogObject> {
    object(&record(kept.value.as_ref().clone()), kept.revision)
}
