//! The nouns: identities, principals, people, resources, routes, roles, requests, grants, exceptions, reasons, time.
//!
//! Pure: no runtime, no socket, no file. Text becomes a value of these types at the edge or not at all, and everything
//! further in can rely on it. Catalog objects are the deserialised documents that people write and the control plane
//! delivers; whether they fit together is checked where they are compiled, not here.

pub mod breakglass;
pub mod change;
pub mod clock;
pub mod delegation;
pub mod directory;
pub mod exception;
pub mod grant;
pub mod halt;
pub mod identity;
pub mod name;
pub mod principal;
pub mod reason;
pub mod request;
pub mod resource;
pub mod role;
pub mod root;
pub mod route;
pub mod scope;
pub mod size;
pub mod ticket;
pub mod trust;

pub use clock::{Clock, Timestamp};
pub use reason::Reason;
