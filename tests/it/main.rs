//! Black-box tests by subject, and the house rules: one binary, linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and it stands outside of what the rules protect"
)]

mod access;
mod accessed;
mod archive;
mod attested;
mod breakglass;
mod call;
mod cli;
mod cli_dev;
mod cli_first_screen;
mod cli_processes;
mod clients;
mod control_pruned;
mod copies;
mod cut;
mod dev;
mod disuse;
mod drills;
mod durability;
mod edge;
mod ends;
mod faults;
mod fleet;
mod gateways;
mod grants;
mod grpc;
mod halted;
mod hashed;
mod hostile;
mod http2;
mod http_api;
mod identify;
mod notify;
mod operate;
mod pages;
mod proofs;
mod readme;
mod reasons;
mod restored;
mod revoked_under_load;
mod rotation;
mod scenarios;
mod scopes;
mod sign_in;
mod tidy;
mod tls;
mod token;
mod upstream;
mod uses;
mod witness;
mod world;
