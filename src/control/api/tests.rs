//! The control plane as its clients see it: real TLS, real gRPC, on loopback.

mod access;
mod authzen;
mod copies;
mod gateway;
mod hostile;
mod http;
mod log;
mod matrix;
mod plane;
mod scoped;
mod silence;
mod stream;
