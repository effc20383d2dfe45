//! The control plane as its clients see it: real TLS, real gRPC, on loopback.

mod access;
mod gateway;
mod log;
mod plane;
mod stream;
