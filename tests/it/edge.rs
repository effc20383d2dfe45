//! The edge: bytes with two readings, callers that dawdle, and that nothing of either goes upstream.

mod inspected;
mod tap;
