//! HTTP, the only place that knows the proxy library.
//!
//! The gate reads each HTTP/1.1 head itself, checks it strictly and hands the library exactly the approved bytes; the
//! library frames bodies, speaks HTTP/2 and keeps the pool of upstream connections. Around each call stands a race
//! between the library's work and the call's cut. What may be forwarded, and why, is decided by the pipeline, which knows
//! nothing of any of this.

mod answer;
mod awaited;
mod chunks;
mod context;
mod dial;
mod endpoints;
mod failure;
#[cfg(any(test, fuzzing))]
#[allow(unreachable_pub, reason = "tests reach it from inside, fuzzers from outside")]
pub mod fuzzing;
mod gate;
mod head;
mod hooks;
mod inspect;
mod io;
mod lent;
mod replay;
mod reply;
mod request;
mod serve;
mod strip;

pub(crate) use serve::Engine;
