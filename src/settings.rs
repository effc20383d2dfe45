//! Settings: what people write into files, read once, checked whole.
//!
//! A file becomes a tree with places, the tree is checked against the shape of its type, then against itself; all faults
//! are reported together, each with file, line and column. What comes out cannot be wrong any more: further in, nothing
//! asks again. This module refuses to know what the settings are used for, and opens none of the files they name but
//! secrets, which are read where they are needed and never stand in a settings file.

mod archive;
pub mod cases;
pub mod catalog;
pub mod control;
pub mod fault;
mod format;
pub mod gateway;
pub mod inventory;
pub mod issuer;
mod load;
mod parts;
mod phrase;
mod secret;
mod shape;
mod yaml;

use crate::domain::size;

pub use archive::{ArchiveSettings, ArchiveTarget, PastMaxLag, RetentionSettings, S3Settings};
pub use control::{ControlSettings, CopiesSettings};
pub use fault::{Fault, Faults, Places};
pub use gateway::GatewaySettings;
pub use load::{FileKind, Loaded, check_file, json_schema, load, parse};
pub use parts::{Durability, EvidenceSettings, LogFormat, LogLevel, LogSettings};
pub use secret::{SecretError, read_secret};
