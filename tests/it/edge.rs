//! The edge: bytes with two readings, callers that dawdle, and that nothing of either goes upstream.

mod ahead;
mod answered;
mod answers;
mod forwarded;
mod held;
mod http2;
mod inspected;
mod refused;
mod slow;
mod tap;
