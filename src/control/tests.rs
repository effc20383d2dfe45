//! The control plane as its clients see it: real TLS, real gRPC, on loopback.

mod gateway;
mod plane;

mod access;
mod stream;
