//! Tickets that are known to be closed, and the live grants that end with tickets: which of them still have to.

use std::sync::LazyLock;

use imbl::{OrdMap, OrdSet};

use super::Kept;
use crate::control::record::TicketRecord;
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::{GrantId, TicketSourceName};
use crate::domain::ticket::{Ticket, TicketSource};

/// What is known of tickets, and what hangs on them.
#[derive(Clone, Debug, Default)]
pub struct Tickets {
    known: OrdMap<Ticket, Kept<TicketRecord>>,
    /// The same by when we heard, oldest first.
    ages: OrdSet<(Timestamp, Ticket)>,
    /// The same of each source.
    by_source: OrdMap<TicketSourceName, OrdSet<(Timestamp, Ticket)>>,
    /// Live grants, by what they end with.
    bound: OrdMap<Ticket, OrdSet<GrantId>>,
    /// Closed tickets with live grants.
    owed: OrdSet<Ticket>,
}

impl Tickets {
    /// What is known of one.
    pub fn get(&self, ticket: &Ticket) -> Option<&Kept<TicketRecord>> {
        self.known.get(ticket)
    }

    /// What is known of one that is closed.
    pub fn closed(&self, ticket: &Ticket) -> Option<&TicketRecord> {
        self.known.get(ticket).map(|kept| kept.value.as_ref()).filter(|known| known.closed)
    }

    /// Live grants that end with a ticket.
    pub fn bound(&self, ticket: &Ticket) -> impl Iterator<Item = &GrantId> {
        self.bound.get(ticket).into_iter().flatten()
    }

    /// Whether live grants end with a ticket.
    pub fn is_awaited(&self, ticket: &Ticket) -> bool {
        self.bound.contains_key(ticket)
    }

    /// Closed tickets whose grants have not all ended.
    pub fn owed(&self) -> &OrdSet<Ticket> {
        &self.owed
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// By when we heard, oldest first.
    pub fn ages(&self) -> &OrdSet<(Timestamp, Ticket)> {
        &self.ages
    }

    /// Those of a source by when we heard, oldest first.
    pub fn of_source(&self, source: &TicketSourceName) -> &OrdSet<(Timestamp, Ticket)> {
        static NONE: LazyLock<OrdSet<(Timestamp, Ticket)>> = LazyLock::new(OrdSet::new);
        self.by_source.get(source).unwrap_or(&NONE)
    }

    /// Those of sources that are not among these.
    pub fn gone<'t>(
        &'t self,
        sources: &'t OrdMap<TicketSourceName, Kept<TicketSource>>,
    ) -> impl Iterator<Item = &'t Ticket> + 't {
        let gone = self.by_source.iter().filter(|(source, _)| !sources.contains_key(*source));
        gone.flat_map(|(_, all)| all.iter().map(|(_, ticket)| ticket))
    }

    pub(super) fn put(&mut self, record: &TicketRecord, revision: u64) {
        self.forget(&record.ticket);
        self.ages.insert((record.heard, record.ticket.clone()));
        let of_source = self.by_source.entry(record.ticket.source.clone()).or_default();
        of_source.insert((record.heard, record.ticket.clone()));
        if record.closed && self.bound.contains_key(&record.ticket) {
            self.owed.insert(record.ticket.clone());
        }
        self.known.insert(record.ticket.clone(), Kept::new(record, revision));
    }

    pub(super) fn forget(&mut self, ticket: &Ticket) {
        if let Some(old) = self.known.remove(ticket) {
            let age = (old.value.heard, ticket.clone());
            self.ages.remove(&age);
            let emptied = self.by_source.get_mut(&ticket.source).is_some_and(|all| {
                all.remove(&age);
                all.is_empty()
            });
            if emptied {
                self.by_source.remove(&ticket.source);
            }
            self.owed.remove(ticket);
        }
    }

    pub(super) fn bind(&mut self, grant: &Grant) {
        for ticket in &grant.lineage.until {
            self.bound.entry(ticket.clone()).or_default().insert(grant.id);
            if self.closed(ticket).is_some() {
                self.owed.insert(ticket.clone());
            }
        }
    }

    pub(super) fn unbind(&mut self, grant: &Grant) {
        for ticket in &grant.lineage.until {
            let emptied = self.bound.get_mut(ticket).is_some_and(|grants| {
                grants.remove(&grant.id);
                grants.is_empty()
            });
            if emptied {
                self.bound.remove(ticket);
                self.owed.remove(ticket);
            }
        }
    }
}
