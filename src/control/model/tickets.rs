//! Tickets that are known to be closed, and the live grants that end with tickets: which of them still have to.

use imbl::{OrdMap, OrdSet};

use super::Kept;
use crate::control::record::TicketRecord;
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::GrantId;
use crate::domain::ticket::Ticket;

/// What is known of tickets, and what hangs on them.
#[derive(Clone, Debug, Default)]
pub struct Tickets {
    known: OrdMap<Ticket, Kept<TicketRecord>>,
    /// The same by when we heard, oldest first.
    ages: OrdSet<(Timestamp, Ticket)>,
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

    pub(super) fn put(&mut self, record: &TicketRecord, revision: u64) {
        self.forget(&record.ticket);
        self.ages.insert((record.heard, record.ticket.clone()));
        if record.closed && self.bound.contains_key(&record.ticket) {
            self.owed.insert(record.ticket.clone());
        }
        self.known.insert(record.ticket.clone(), Kept::new(record, revision));
    }

    pub(super) fn forget(&mut self, ticket: &Ticket) {
        if let Some(old) = self.known.remove(ticket) {
            self.ages.remove(&(old.value.heard, ticket.clone()));
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
