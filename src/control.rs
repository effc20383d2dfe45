//! The control plane: what is allowed is decided here, and pushed to every gateway.
//!
//! In the order of the way: `api` knows who calls and whether they may; [`request`] is the way to a grant, by what
//! [`analyse`] finds, [`policy`] says and [`approval`]s give, and [`breakglass`] the one past them; [`catalog`], [`grant`] and [`registry`] plan what other
//! commands change, as pure functions of the [`model`], and [`change`] has wait what takes another person's word; the `actor` makes plans true, one store transaction for each
//! group ([`vault`], over [`store`]), with the events that tell of them; the stream of `api` sends gateways what they
//! miss from the `ring`, and [`fleet`] knows how far each has come; [`outbox`] takes the events to the evidence. It never
//! reaches into a gateway.

mod actor;
pub mod analyse;
mod api;
pub mod approval;
mod asked;
mod attested;
pub mod authority;
pub mod authorize;
pub mod breakglass;
pub mod catalog;
pub mod change;
mod copies;
pub mod delegation;
pub mod disuse;
mod drill;
mod encode;
pub mod enrol;
pub mod exceptions;
pub mod fleet;
pub mod grant;
pub mod halt;
mod http;
pub mod identity;
mod logs;
mod metrics;
pub mod model;
mod notify;
pub mod outbox;
pub mod plan;
mod plane;
pub mod policy;
mod reconsider;
pub mod record;
pub mod registry;
mod remembered;
pub mod replay;
pub mod request;
mod ring;
mod scoped;
mod sign_in;
pub mod store;
mod tickets;
pub mod trust;
mod uses;
pub mod vault;
pub mod witnessed;

pub use actor::{ControlHandle, Done};
pub use api::ApiStartError;
pub use plane::{ControlPlane, Core, StartError};
pub use remembered::Untold;

use crate::serve::stopped;

#[cfg(test)]
pub(crate) mod sample;
