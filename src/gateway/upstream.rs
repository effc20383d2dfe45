//! Upstreams: where they are, who they must be, and who the gateway is to them.
//!
//! Knows nothing of the proxy library: what is made here is an address, a TLS configuration and a name to verify.

mod link;
mod own;
mod reach;
mod resolve;
mod tls;
mod verify;

pub(crate) use link::{Link, Links};
pub(crate) use own::OwnCertificate;
pub(crate) use reach::Reach;
pub(crate) use resolve::Resolver;
pub(crate) use tls::{Target, Targets, UpstreamTrust};
