//! Who may speak to the control plane: people and gateways, and the life of the store.
//!
//! Planning only. How a token or a certificate comes to somebody is `enrol`'s business.

use super::authorize::SYSTEM;
use super::model::Model;
use super::plan::{Audience, ChangeEvent, Plan, Refused, checked_reason};
use super::record::{Change, Digest, GatewayRecord, JoinToken, Meta, Person, Record, Standing};
use crate::domain::Timestamp;
use crate::domain::name::{GatewayName, OwnerName};
use crate::domain::scope::{MAX_SCOPE, Scope};

/// People that can be recorded: each token presented is compared with all of theirs.
const MAX_PEOPLE: usize = 10_000;
/// Gateways that can be recorded.
pub(super) const MAX_GATEWAYS: usize = 10_000;
/// Host names of one gateway.
const MAX_HOSTS: usize = 32;
/// What tokens to join with begin with, so that a leaked one is recognised.
pub const JOIN_PREFIX: &str = "pcj_";

/// A gateway that is to join.
#[derive(Clone, Debug)]
pub struct Invited {
    /// Its name.
    pub name: GatewayName,
    /// Host names and addresses in its certificate, besides those of loopback.
    pub hosts: Vec<String>,
    /// What it joins with.
    pub token: JoinToken,
    /// What it stands before; `None`: what its record says, everything if it has none.
    pub scope: Option<Scope>,
}

/// What a gateway joins with.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Its name.
    pub gateway: GatewayName,
    /// Of the token that it was let in by.
    pub token: Digest,
    /// Of the key that is certified.
    pub client_key: Digest,
    /// Of its log: a C2SP verifier key.
    pub evidence_key: String,
}

/// Prefix under which gateways appear in the evidence, where people have their plain names.
const GATEWAY_PREFIX: &str = "gateway.";
/// The same of identities.
const IDENTITY_PREFIX: &str = "identity.";

/// Whether the evidence would take a person of this name for somebody else.
pub(super) fn is_reserved(name: &str) -> bool {
    name == SYSTEM || [GATEWAY_PREFIX, IDENTITY_PREFIX].iter().any(|prefix| name.starts_with(prefix))
}

/// Records a person. The same again changes nothing.
///
/// # Errors
/// [`Refused::Invalid`] for a name that could be taken for the control plane's or a gateway's, [`Refused::Conflict`] for
/// a token that is somebody else's.
pub fn plan_person(model: &Model, person: Person) -> Result<Plan<()>, Refused> {
    if is_reserved(person.name.as_str()) {
        return Err(Refused::invalid(format!("`{}` cannot be a person's name", person.name)));
    }
    if model.groups.contains_key(&person.name) {
        return Err(Refused::Conflict(format!(
            "a group has the name {}: whoever takes it would be all of them",
            person.name
        )));
    }
    if model.person_with(&person.token).is_some_and(|other| other.name != person.name) {
        return Err(Refused::Conflict("the token is somebody else's".to_owned()));
    }
    let before = model.people.get(&person.name).map(|kept| kept.value.as_ref());
    if before == Some(&person) {
        return Ok(Plan::nothing(()));
    }
    if before.is_none() && model.people.len() >= MAX_PEOPLE {
        return Err(Refused::TooMuch(format!("{MAX_PEOPLE} people are recorded already")));
    }
    Ok(put("person", before.cloned().map(Record::Person), Record::Person(person)))
}

/// Removes a person: their token and their sign-in are nobody's from then on. Where there is none it changes nothing.
pub fn plan_forget_person(model: &Model, name: &OwnerName) -> Plan<()> {
    let Some(kept) = model.people.get(name) else { return Plan::nothing(()) };
    let before = Record::Person(kept.value.as_ref().clone());
    let change = Change::Delete(before.clone());
    let event = ChangeEvent::of("person.removed", Some(&before), &change, None);
    Plan { changes: vec![change], events: vec![event], audience: Audience::Control, answer: () }
}

/// Records a gateway. The same again changes nothing.
///
/// # Errors
/// [`Refused::TooMuch`] when there are too many, [`Refused::Conflict`] for one that was expelled.
pub fn plan_gateway(model: &Model, gateway: GatewayRecord) -> Result<Plan<()>, Refused> {
    let before = model.gateways.get(&gateway.name).map(|kept| kept.value.as_ref());
    if before.is_some_and(|b| b.standing == gateway.standing) {
        return Ok(Plan::nothing(()));
    }
    if before.is_some_and(|before| before.standing == Standing::Expelled) {
        let name = &gateway.name;
        return Err(Refused::Conflict(format!("gateway {name} was expelled: a new one needs another name")));
    }
    if before.is_none() && model.gateways.len() >= MAX_GATEWAYS {
        return Err(Refused::TooMuch(format!("{MAX_GATEWAYS} gateways are recorded already")));
    }
    Ok(put("gateway", before.cloned().map(Record::Gateway), Record::Gateway(gateway)))
}

/// Records a gateway that is to join, and the token that it may do so with, once. One that is recorded may come with new
/// keys then.
///
/// # Errors
/// [`Refused::Conflict`] for one that was expelled, [`Refused::Invalid`] for hosts that no certificate names.
pub fn plan_invite(model: &Model, now: Timestamp, invited: Invited) -> Result<Plan<()>, Refused> {
    let Invited { name, hosts, token, scope } = invited;
    if hosts.len() > MAX_HOSTS {
        return Err(Refused::invalid(format!("hosts: at most {MAX_HOSTS}")));
    }
    let before = model.gateways.get(&name).map(|kept| kept.value.as_ref());
    if before.is_some_and(|before| before.standing == Standing::Expelled) {
        return Err(Refused::Conflict(format!("gateway {name} was expelled: a new one needs another name")));
    }
    if before.is_none() && model.gateways.len() >= MAX_GATEWAYS {
        return Err(Refused::TooMuch(format!("{MAX_GATEWAYS} gateways are recorded already")));
    }
    if let Some(scope) = &scope {
        known(model, scope)?;
    }
    let registered = before.map_or(now, |before| before.registered);
    let client_key = before.and_then(|before| before.client_key);
    let token = Some(token);
    // One that comes again does not get more by being silent about it.
    let had = before.map(|before| before.scope.clone()).unwrap_or_default();
    let scope = scope.unwrap_or_else(|| had.clone());
    // What is sent on its stream changes with its scope, and with nothing else here.
    let audience = if scope == had { Audience::Control } else { Audience::Gateways };
    let attested = before.and_then(|before| before.attested.clone());
    let record =
        GatewayRecord { name, standing: Standing::Good, registered, hosts, token, client_key, scope, attested };
    let change = Change::Put(Record::Gateway(record));
    let event = ChangeEvent::of("gateway.invited", before.cloned().map(Record::Gateway).as_ref(), &change, None);
    Ok(Plan { changes: vec![change], events: vec![event], audience, answer: () })
}

/// Says what a gateway stands before. The same again changes nothing.
///
/// # Errors
/// [`Refused::NotFound`] for a gateway, a route or a resource that is not there, [`Refused::Invalid`] for a scope that is
/// too large.
pub fn plan_scope(model: &Model, name: &GatewayName, scope: Scope, reason: &str) -> Result<Plan<()>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let Some(kept) = model.gateways.get(name) else {
        return Err(Refused::NotFound(format!("there is no gateway {name}")));
    };
    let before = kept.value.as_ref();
    if before.scope == scope {
        return Ok(Plan::nothing(()));
    }
    known(model, &scope)?;
    let change = Change::Put(Record::Gateway(GatewayRecord { scope, ..before.clone() }));
    let event = ChangeEvent::of("gateway.scoped", Some(&Record::Gateway(before.clone())), &change, Some(&reason));
    // A revision of the stream, though only one gateway has something to do in it.
    Ok(Plan { changes: vec![change], events: vec![event], audience: Audience::Gateways, answer: () })
}

/// A name that nothing has is a slip of the pen: the gateway would stand before nothing.
pub(super) fn known(model: &Model, scope: &Scope) -> Result<(), Refused> {
    if scope.routes.len() + scope.resources.len() > MAX_SCOPE {
        return Err(Refused::invalid(format!("scope: at most {MAX_SCOPE} routes and resources")));
    }
    let route = scope.routes.iter().find(|name| !model.routes.contains_key(*name));
    let resource = scope.resources.iter().find(|name| !model.resources.contains_key(*name));
    let missing = route.map(|name| format!("route {name}")).or_else(|| resource.map(|name| format!("resource {name}")));
    missing.map_or(Ok(()), |what| Err(Refused::NotFound(format!("there is no {what}: apply it first"))))
}

/// A gateway joins with the key of a log that it brings: its token is spent. What was known of an earlier log of its is
/// sealed, and certificates of an earlier key are no good any more.
///
/// # Errors
/// [`Refused::Conflict`] when the token was spent meanwhile, or the key is not one.
pub fn plan_join(model: &Model, now: Timestamp, joining: &Joining) -> Result<Plan<()>, Refused> {
    let Joining { gateway: name, token, client_key, evidence_key } = joining;
    let spent = || Refused::Conflict(format!("gateway {name} has joined with this token already"));
    let before = model.gateways.get(name).map(|kept| kept.value.as_ref()).ok_or_else(spent)?;
    // Another invitation may have taken its place, or the gateway been expelled, since the token was looked at.
    let is_good = |known: &JoinToken| known.digest.is(token) && now < known.expires;
    if !before.token.as_ref().is_some_and(is_good) || before.standing == Standing::Expelled {
        return Err(spent());
    }
    let joined = GatewayRecord { token: None, client_key: Some(*client_key), ..before.clone() };
    let change = Change::Put(Record::Gateway(joined));
    let event = ChangeEvent::of("gateway.joined", Some(&Record::Gateway(before.clone())), &change, None);
    let log = super::logs::plan_bring(model, now, name, evidence_key)?;
    let changes = [vec![change], log.changes].concat();
    Ok(Plan { changes, events: [vec![event], log.events].concat(), audience: Audience::Control, answer: () })
}

/// Takes a gateway's authority for good. Again it changes nothing.
///
/// # Errors
/// [`Refused::NotFound`] for one that is not recorded.
pub fn plan_expel(model: &Model, name: &GatewayName, reason: &str) -> Result<Plan<()>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let Some(kept) = model.gateways.get(name) else {
        return Err(Refused::NotFound(format!("there is no gateway {name}")));
    };
    let before = kept.value.as_ref();
    if before.standing == Standing::Expelled {
        return Ok(Plan::nothing(()));
    }
    let change = Change::Put(Record::Gateway(GatewayRecord { standing: Standing::Expelled, ..before.clone() }));
    let event = ChangeEvent::of("gateway.expelled", Some(&Record::Gateway(before.clone())), &change, Some(&reason));
    Ok(Plan { changes: vec![change], events: vec![event], audience: Audience::Control, answer: () })
}

/// Begins a life of the store, above the one it has: after a backup was restored. What counted grants have left of then
/// is spent, for all that anybody can know: up to now, or to `latest` where the evidence knows of a later time.
///
/// # Errors
/// [`Refused::Conflict`] when it is not above.
pub fn plan_epoch(
    model: &Model,
    now: Timestamp,
    latest: Timestamp,
    epoch: u64,
    reason: &str,
) -> Result<Plan<u64>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    if epoch <= model.epoch {
        return Err(Refused::Conflict(format!("the store is in epoch {} already", model.epoch)));
    }
    let before = Record::Meta(Meta::of_epoch(model.epoch, model.restored));
    let change = Change::Put(Record::Meta(Meta::of_epoch(epoch, Some(now.max(latest)))));
    let event = ChangeEvent::of("store.restored", Some(&before), &change, Some(&reason));
    Ok(Plan { changes: vec![change], events: vec![event], audience: Audience::Gateways, answer: epoch })
}

fn put(kind: &str, before: Option<Record>, after: Record) -> Plan<()> {
    let operation = format!("{kind}.{}", if before.is_some() { "changed" } else { "created" });
    let change = Change::Put(after);
    let event = ChangeEvent::of(&operation, before.as_ref(), &change, None);
    Plan { changes: vec![change], events: vec![event], audience: Audience::Control, answer: () }
}
