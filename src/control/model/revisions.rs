//! When each record was last put, as far as the model keeps it: what a commit holds the store against.

use super::super::record::Record;
use super::Model;

impl Model {
    /// The revision in which the key of `record` was last put, as far as the model keeps it; `None` when it is not there.
    pub fn revision_of(&self, record: &Record) -> Option<u64> {
        match record {
            Record::Meta(_) => None,
            Record::Identity(it) => self.identities.get(&it.name).map(|k| k.revision),
            Record::Resource(it) => self.resources.get(&it.name).map(|k| k.revision),
            Record::Route(it) => self.routes.get(&it.name).map(|k| k.revision),
            Record::Role(it) => self.roles.get(&it.name).map(|k| k.revision),
            Record::Exception(it) => self.exceptions.get(&it.name).map(|k| k.revision),
            Record::TicketSource(it) => self.ticket_sources.get(&it.name).map(|k| k.revision),
            Record::Ticket(it) => self.tickets.get(&it.ticket).map(|k| k.revision),
            Record::Entry(it) => self.entries.get(&it.name).map(|k| k.revision),
            Record::Group(it) => self.groups.get(&it.name).map(|k| k.revision),
            // A version is published once.
            Record::Policy(_) => None,
            Record::Request(it) => {
                let settled = self.settled.get(&it.id).map(|settled| settled.revision);
                self.requests.get(&it.id).map(|k| k.revision).or(settled)
            }
            Record::Proposal(it) => self.proposals.get(&it.id).map(|k| k.revision),
            Record::Delegation(it) => self.delegations.get(it.id).map(|k| k.revision),
            Record::BreakGlass(it) => self.broken.get(&it.id).map(|k| k.revision),
            Record::Person(it) => self.people.get(&it.name).map(|k| k.revision),
            Record::Gateway(it) => self.gateways.get(&it.name).map(|k| k.revision),
            Record::Log(it) => self.logs.get(&it.gateway).map(|k| k.revision),
            Record::Halt(it) => self.halts.get(&it.scope).map(|k| k.revision),
            Record::Trust(_) => self.trust.as_ref().map(|k| k.revision),
            Record::Grant(it) => self.grants.get(&it.grant.id).map(|k| k.revision),
            Record::Ledger(it) => self.ledgers.get(&it.grant).map(|k| k.revision),
            Record::Token(it) => self.tokens.get(&(it.issuer.clone(), it.jti.clone())).map(|k| k.revision),
        }
    }
}
