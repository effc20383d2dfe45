//! From the control plane's messages to the next snapshot, and to what ends with it.
//!
//! Pure: takes the snapshot in force and a message, and returns a [`Picture`] or a fault. What is not understood is a
//! fault, never skipped. Publishing, cutting and acknowledging happen elsewhere.

use std::collections::HashSet;

use super::object::{Gone, Object, ObjectError, gone, object};
use super::review::narrowed;
use crate::decision::snapshot::{IdentityIndex, Snapshot, SnapshotBuilder};
use crate::domain::grant::Grant;
use crate::domain::identity::{Identity, IdentityState};
use crate::domain::name::GrantId;
use crate::domain::scope::Elsewhere;
use crate::domain::{Reason, Timestamp};
use crate::gateway::authority::Highest;
use crate::gateway::live::{Selector, TokenKey};
use crate::wire::{WireError, grant_id, v1};

/// Grants that a snapshot may hold: what a gateway's memory is planned for, with room.
pub(super) const MAX_GRANTS: usize = 4_000_000;

/// Why a message cannot be applied. The stream ends, and the next one begins with a whole snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("a change of a kind that is not known here")]
    Unknown,
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("grant: {0}")]
    Grant(#[from] WireError),
    #[error("routes do not make a table: {0}")]
    Routes(String),
    #[error("revision {got:?} does not follow {held:?}")]
    Order { held: (u64, u64), got: (u64, u64) },
    #[error("{got:?} is behind what this gateway has seen: {highest}")]
    Behind { got: (u64, u64), highest: Highest },
    #[error("a delta in the middle of a snapshot")]
    Interrupted,
    #[error("more than {MAX_GRANTS} grants")]
    TooMany,
}

/// A revoked token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revoked {
    pub(super) issuer: String,
    pub(super) jti: String,
    pub(super) expires: Timestamp,
}

/// The next snapshot, and what it ends.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) snapshot: Snapshot,
    /// Running calls that end, as far as an index leads to them.
    pub(super) cut: Vec<(Selector, Reason)>,
    /// Grants that ended or became less.
    pub(super) grants: Vec<GrantId>,
    /// Whether every running call must be looked at.
    pub(super) review: bool,
    pub(super) revoked: Vec<Revoked>,
}

/// A snapshot that arrives in parts.
#[derive(Debug)]
pub(super) struct Assembly {
    epoch: u64,
    revision: u64,
    builder: SnapshotBuilder,
    grants: usize,
    revoked: Vec<Revoked>,
}

/// Takes in one part. Returns the picture with the last one.
pub(super) fn part(
    assembly: &mut Option<Assembly>,
    before: &Snapshot,
    highest: Highest,
    part: v1::SnapshotPart,
) -> Result<Option<Picture>, Fault> {
    let got = (part.epoch, part.revision);
    not_behind(got, highest)?;
    let mut whole = assembly.take().unwrap_or_else(|| Assembly {
        epoch: part.epoch,
        revision: part.revision,
        builder: SnapshotBuilder::afresh(before),
        grants: 0,
        revoked: Vec::new(),
    });
    if got != (whole.epoch, whole.revision) {
        return Err(Fault::Order { held: (whole.epoch, whole.revision), got });
    }
    whole.grants += part.grants.len();
    if whole.grants > MAX_GRANTS {
        return Err(Fault::TooMany);
    }
    for message in part.objects {
        match object(message)? {
            None => {}
            Some(Object::Identity(identity)) => whole.builder.put_identity(&identity),
            Some(Object::Resource(resource)) => whole.builder.put_resource(&resource),
            Some(Object::Route(route)) => whole.builder.put_route(route),
            Some(Object::Exception(exception)) => whole.builder.put_exception(&exception),
            Some(Object::Halt(scope)) => whole.builder.put_halt(&scope),
            Some(Object::Elsewhere(elsewhere)) => whole.builder.put_elsewhere(elsewhere),
        }
    }
    for message in part.grants {
        let grant = Grant::try_from(message)?;
        // One that has ended has no place in a picture of what is live.
        if grant.revoked.is_none() {
            whole.builder.put_grant(&grant);
        }
    }
    whole.revoked.extend(part.revoked_tokens.into_iter().map(revoked));
    if !part.last {
        *assembly = Some(whole);
        return Ok(None);
    }
    let Assembly { epoch, revision, builder, grants: _, revoked } = whole;
    let cut = revoked.iter().map(|token| (selector(token), Reason::TokenRevoked)).collect();
    let snapshot = build(builder, epoch, revision)?;
    Ok(Some(Picture { snapshot, cut, grants: Vec::new(), review: true, revoked }))
}

/// Takes in what changed.
pub(super) fn delta(before: &Snapshot, highest: Highest, delta: v1::Delta) -> Result<Picture, Fault> {
    let (held, got) = ((before.epoch(), before.revision()), (delta.epoch, delta.revision));
    not_behind(got, highest)?;
    if delta.epoch != before.epoch() || delta.revision <= before.revision() {
        return Err(Fault::Order { held, got });
    }
    let mut editing = Editing {
        before,
        builder: before.edit(),
        cut: Vec::new(),
        grants: Vec::new(),
        review: false,
        revoked: Vec::new(),
    };
    for change in delta.changes {
        editing.change(change)?;
    }
    let Editing { before: _, builder, cut, grants, review, revoked } = editing;
    let snapshot = build(builder, delta.epoch, delta.revision)?;
    if snapshot.grant_count() > MAX_GRANTS {
        return Err(Fault::TooMany);
    }
    Ok(Picture { snapshot, cut, grants, review, revoked })
}

fn not_behind(got: (u64, u64), highest: Highest) -> Result<(), Fault> {
    if got < (highest.epoch, highest.revision) { Err(Fault::Behind { got, highest }) } else { Ok(()) }
}

fn build(builder: SnapshotBuilder, epoch: u64, revision: u64) -> Result<Snapshot, Fault> {
    builder.build(epoch, revision).map_err(|faults| {
        let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Fault::Routes(texts.join("; "))
    })
}

fn revoked(message: v1::RevokedToken) -> Revoked {
    let v1::RevokedToken { issuer, jti, expires_unix_us } = message;
    Revoked { issuer, jti, expires: Timestamp::from_unix_micros(expires_unix_us) }
}

fn selector(token: &Revoked) -> Selector {
    Selector::Token(TokenKey::of(&token.issuer, &token.jti))
}

struct Editing<'s> {
    before: &'s Snapshot,
    builder: SnapshotBuilder,
    cut: Vec<(Selector, Reason)>,
    grants: Vec<GrantId>,
    review: bool,
    revoked: Vec<Revoked>,
}

impl Editing<'_> {
    fn change(&mut self, change: v1::Change) -> Result<(), Fault> {
        use v1::change::Change;
        match change.change.ok_or(Fault::Unknown)? {
            Change::ObjectPut(message) => match object(message)? {
                None => {}
                Some(Object::Identity(identity)) => self.identity(&identity),
                Some(Object::Resource(resource)) => {
                    self.builder.put_resource(&resource);
                    self.review = true;
                }
                Some(Object::Route(route)) => {
                    self.builder.put_route(route);
                    self.review = true;
                }
                Some(Object::Exception(exception)) => {
                    self.builder.put_exception(&exception);
                    self.review = true;
                }
                Some(Object::Halt(scope)) => {
                    self.builder.put_halt(&scope);
                    self.review = true;
                }
                // As with a new route that is more specific: calls that run are not matched again.
                Some(Object::Elsewhere(elsewhere)) => self.builder.put_elsewhere(elsewhere),
            },
            Change::ObjectDeleted(key) => match gone(key)? {
                None => {}
                Some(Gone::Identity(name)) => {
                    if let Some(place) = self.before.identity_place(&name) {
                        self.cut.push((Selector::Identity(place), Reason::IdentityUnknown));
                    }
                    self.builder.remove_identity(&name);
                }
                Some(Gone::Resource(name)) => {
                    self.builder.remove_resource(&name);
                    self.review = true;
                }
                Some(Gone::Route(name)) => {
                    self.builder.remove_route(&name);
                    self.review = true;
                }
                Some(Gone::Exception(name)) => {
                    self.builder.remove_exception(&name);
                    self.review = true;
                }
                Some(Gone::Halt(scope)) => self.builder.remove_halt(&scope),
                Some(Gone::Elsewhere) => self.builder.put_elsewhere(Elsewhere::default()),
            },
            Change::GrantPut(message) => self.grant(&Grant::try_from(message)?),
            Change::GrantEnded(ended) => {
                // A reason that is not known here ends it all the same.
                let reason = ended.reason.parse().unwrap_or(Reason::GrantRevoked);
                self.end(grant_id(&ended.grant_id)?, reason);
            }
            Change::TokenRevoked(message) => {
                let token = revoked(message);
                self.cut.push((selector(&token), Reason::TokenRevoked));
                self.revoked.push(token);
            }
        }
        Ok(())
    }

    fn identity(&mut self, identity: &Identity) {
        self.builder.put_identity(identity);
        let Some(place) = self.before.identity_place(&identity.name) else { return };
        match identity.state {
            IdentityState::Active => {}
            IdentityState::Quarantined | IdentityState::Offboarded => {
                self.cut.push((Selector::Identity(place), Reason::IdentityInactive));
                return;
            }
        }
        let kept: Vec<_> = identity.spec.authenticate.iter().map(|a| a.principal()).collect();
        // Running calls do not say which of its credentials they came with.
        if self.before.principals_of(place).any(|principal| !kept.contains(principal)) {
            self.cut.push((Selector::Identity(place), Reason::IdentityUnknown));
        }
    }

    fn grant(&mut self, grant: &Grant) {
        if grant.revoked.is_some() {
            return self.end(grant.id, Reason::GrantRevoked);
        }
        self.builder.put_grant(grant);
        let Some(before) = self.before.grant(grant.id) else { return };
        // What it is now is known once the snapshot is built; comparing with the message needs no places.
        if narrowed(self.before, before, grant) {
            self.cut.push((Selector::Grant(grant.id), Reason::GrantRevoked));
            self.grants.push(grant.id);
        }
    }

    fn end(&mut self, id: GrantId, reason: Reason) {
        self.builder.remove_grant(id);
        self.cut.push((Selector::Grant(id), reason));
        self.grants.push(id);
    }
}

/// Identities that had a credential before which is not theirs any more.
pub(super) fn lost_credentials(before: &Snapshot, after: &Snapshot) -> HashSet<IdentityIndex> {
    let lost = before.principals().filter(|(principal, place)| after.identify(principal) != Some(*place));
    lost.map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests;
