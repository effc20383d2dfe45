//! What is known of a ticket, as it is kept.

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;
use crate::domain::ticket::Ticket;

/// What a source last said of a ticket. Kept of those that were closed, until nobody could say so again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    /// Which.
    pub ticket: Ticket,
    /// Whether it is closed. One that was opened again stays known: what was said before that is not taken any more.
    pub closed: bool,
    /// When it was so by the source's clock: what is older than this says nothing new.
    pub since: Timestamp,
    /// When we heard.
    pub heard: Timestamp,
    /// How we know, in words: which delivery of which webhook, or that it was read.
    pub by: String,
}
