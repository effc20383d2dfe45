//! (being built)

pub mod issuers;
