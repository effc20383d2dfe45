//! Portcullis: an inline access gate for machine callers.

pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod control;
pub mod decision;
pub mod domain;
pub mod evidence;
pub mod files;
pub mod gateway;
pub mod settings;
pub mod telemetry;
pub mod token;
pub mod wire;
