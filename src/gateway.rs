//! The data plane. (being built)

pub mod authority;
pub mod live;
pub mod published;
