//! The data plane: the way of a call, from the accepted connection to the recorded outcome.
//!
//! [`Gateway::start`] puts the parts together: workers that serve callers, and beside them, on a runtime of its own, the
//! stream from the control plane, the refresh of issuers' keys, and the admin endpoints. Knows nothing of how grants come
//! about: it enforces what the stream brings.

mod accept;
mod address_limit;
pub mod admin;
pub mod authority;
mod budget;
mod connection;
mod credential;
mod denials;
#[cfg(test)]
mod fixture;
mod handed;
mod hash_key;
mod http;
mod identify;
pub mod incarnation;
pub mod live;
mod meter;
pub mod metrics;
pub mod oauth;
mod pipeline;
pub mod published;
mod record;
mod refusal;
mod start;
pub mod sync;
mod tls;
mod upstream;
mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::Notify;

#[cfg(fuzzing)]
pub use http::fuzzing;
pub use start::{Gateway, GatewayError};
pub use tls::TlsError;

use crate::domain::Clock;
use crate::evidence::journal::Journal;
use crate::issuers::TokenVerifier;
use crate::settings::gateway::GatewayLimits;
use crate::token::keys::SigningKey;
use crate::token::mint::GatewayIssuer;

/// What the workers of a gateway share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) authority: Arc<authority::AuthorityClock>,
    pub(crate) published: Arc<published::Published>,
    pub(crate) registry: Arc<live::Registry>,
    pub(crate) meter: Arc<meter::Meter>,
    pub(crate) verifier: Arc<TokenVerifier>,
    pub(crate) oauth: Arc<oauth::Oauth>,
    pub(crate) journal: Journal,
    pub(crate) refusals: record::RefusalCounter,
    pub(crate) denials: Arc<denials::DenialBudget>,
    /// For what records must not hold.
    pub(crate) hash_key: hash_key::CurrentHashKey,
    pub(crate) metrics: Arc<metrics::Metrics>,
    pub(crate) limits: GatewayLimits,
    /// Memory for inspected bodies.
    pub(crate) inspection: Arc<budget::Budget>,
    pub(crate) tls: Arc<tls::Tls>,
    pub(crate) addresses: Arc<address_limit::AddressLimit>,
    pub(crate) issuer: GatewayIssuer,
    pub(crate) upstream_key: Arc<SigningKey>,
    pub(crate) upstream_trust: upstream::UpstreamTrust,
    pub(crate) reach: Arc<upstream::Reach>,
    /// Open connections of all workers.
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_changed: Arc<Notify>,
}
