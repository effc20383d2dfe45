//! The control plane as its clients see it: real TLS, real gRPC, on loopback.

mod gateway;
mod plane;
pub(in crate::control) mod sample;

mod access;
mod stream;
