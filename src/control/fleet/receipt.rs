//! Receipts: what a gateway has to show for a revision.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Gateway, Moment, SLACK};
use crate::domain::name::{GatewayName, GrantId, ResourceName};
use crate::domain::resource::MAX_AUTHORITY;
use crate::wire::v1;
use v1::gateway_receipt::State;

/// How old authority may be for a resource.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The revision that made it so: a gateway that has not applied it goes by an earlier one.
    pub since: u64,
    /// The bound.
    pub now: Duration,
    /// The largest that it has been.
    pub longest: Duration,
}

/// Which cut calls a receipt tells.
#[derive(Clone, Debug)]
pub enum Cuts {
    /// All.
    All,
    /// Those under these grants.
    Of(BTreeSet<GrantId>),
    /// Those for this reason, by its code: also of a call that ran under no grant.
    For(&'static str),
}

/// What is asked of a receipt.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The revision.
    pub revision: u64,
    /// The first revision whose cut calls are told: what is done in several steps has several.
    pub cuts_from: u64,
    /// Which cut calls are told.
    pub cuts: Cuts,
    /// How long a gateway that was answered may go on allowing calls: one per resource.
    pub bounds: Vec<Bound>,
    /// How long a connected gateway may lag before it is answered no more.
    pub lag: Duration,
    /// The resources whose grants it is about: a gateway that holds none of theirs is not concerned. `None`: it concerns
    /// everybody.
    pub about: Option<BTreeSet<ResourceName>>,
}

impl Wanted {
    /// How long a gateway that applied `applied` may go on after it was answered: as long as the resource that it may use
    /// longest.
    fn authority(&self, applied: u64) -> Duration {
        let bounds = self.bounds.iter().map(|bound| if applied >= bound.since { bound.now } else { bound.longest });
        bounds.max().unwrap_or(MAX_AUTHORITY.duration()).saturating_add(SLACK)
    }

    /// Whether it is about a grant by name.
    fn names(&self, grant: &[u8]) -> bool {
        let Cuts::Of(grants) = &self.cuts else { return false };
        crate::wire::grant_id(grant).is_ok_and(|id| grants.contains(&id))
    }

    /// Whether it tells of what upstreams hold of a grant: where grants are not named, of all that ended or stood still with
    /// these revisions.
    fn tells_of(&self, grant: &[u8]) -> bool {
        match self.cuts {
            Cuts::Of(_) => self.names(grant),
            Cuts::All | Cuts::For(_) => true,
        }
    }

    fn concerns(&self, cut: &v1::CutCall) -> bool {
        match &self.cuts {
            Cuts::All => true,
            Cuts::Of(_) => self.names(&cut.grant_id),
            Cuts::For(reason) => cut.reason == *reason,
        }
    }
}

impl Gateway {
    /// Where it stands with a revision, and by when it stops.
    fn standing(&self, wanted: &Wanted, now: Moment) -> (State, Option<Moment>) {
        let authority = wanted.authority(self.applied);
        let (state, stops_by) = if self.applied >= wanted.revision {
            (State::Enforced, None)
        } else if self.session.is_some() {
            // Its renewals are answered until it has lagged for too long, then no more.
            (State::Pending, Some(now.after(wanted.lag).after(authority)))
        } else {
            let stops_by = self.answered.after(authority);
            (if stops_by.boot < now.boot { State::Lapsed } else { State::Pending }, Some(stops_by))
        };
        // A process that it took the place of enforced only what it said itself, and goes on until it lapses.
        let before = self.displaced.filter(|before| before.applied < wanted.revision);
        match before.map(|before| before.answered.after(wanted.authority(before.applied))) {
            Some(until) if until.boot >= now.boot => {
                (State::Pending, [stops_by, Some(until)].into_iter().flatten().max_by_key(|moment| moment.boot))
            }
            _ => (state, stops_by),
        }
    }

    /// Whether it, or a process before it, may hold a grant that this is about, or cut calls for it before its scope
    /// became another one.
    pub(super) fn is_concerned(&self, wanted: &Wanted) -> bool {
        let Some(about) = &wanted.about else { return true };
        let from = wanted.cuts_from.min(wanted.revision);
        let mut cut = self.acknowledgements.cut_since(from);
        self.displaced.is_some()
            || self.holding.may_have(about, self.applied)
            || self.acknowledgements.unlisted_since(from) > 0
            || cut.any(|cut| wanted.concerns(cut))
    }

    pub(super) fn receipt(&self, name: &GatewayName, wanted: &Wanted, now: Moment) -> v1::GatewayReceipt {
        let (state, stops_by) = self.standing(wanted, now);
        let (state, stops_by) = if self.is_concerned(wanted) { (state, stops_by) } else { (State::NotConcerned, None) };
        let mut receipt = v1::GatewayReceipt {
            gateway: name.to_string(),
            state: state.into(),
            stops_by_unix_us: stops_by.map_or(0, |moment| moment.wall.unix_micros()),
            connected: self.session.is_some(),
            ..Default::default()
        };
        if state != State::Enforced {
            return receipt;
        }
        if let Some(first) = self.acknowledgements.since(wanted.revision).next() {
            receipt.took_us = first.took_us;
            receipt.statement = Some(first.statement.clone());
            receipt.statement_key.clone_from(&first.key);
        }
        let from = wanted.cuts_from.min(wanted.revision);
        receipt.unlisted = self.acknowledgements.unlisted_since(from);
        let cut = self.acknowledgements.cut_since(from).filter(|cut| wanted.concerns(cut));
        receipt.cut = cut.map(info).collect();
        let residual = self.acknowledgements.since(from).flat_map(|said| &said.residual);
        // Of a grant that was told of more than once the last word counts.
        let residual: BTreeMap<_, _> =
            residual.filter(|left| wanted.tells_of(&left.grant_id)).map(|left| (&left.grant_id, left)).collect();
        receipt.residual = residual.into_values().cloned().collect();
        receipt.residual_unlisted = self.acknowledgements.residual_unlisted_since(from);
        receipt
    }
}

fn info(cut: &v1::CutCall) -> v1::CutCallInfo {
    v1::CutCallInfo {
        call_id: cut.call_id.clone(),
        reason: cut.reason.clone(),
        intent_seq: cut.intent_seq,
        response_bytes: cut.response_bytes,
        late_bytes: cut.late_bytes,
    }
}
