//! Catalog objects as the control plane delivers them, parsed once.

use serde::de::DeserializeOwned;

use crate::domain::exception::Exception;
use crate::domain::halt::HaltScope;
use crate::domain::identity::{Identity, IdentityState};
use crate::domain::name::{ExceptionName, IdentityName, NameError, ResourceName, RouteName};
use crate::domain::resource::Resource;
use crate::domain::route::Route;
use crate::domain::scope::Elsewhere;
use crate::wire::v1;

/// Why an object cannot be applied. A gateway that does not understand an object must not go on as if it were not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObjectError {
    #[error("kind `{0}` is not known here")]
    Kind(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{kind} {name}: {error}")]
    Spec { kind: &'static str, name: String, error: serde_json::Error },
    #[error("identity {name}: state `{state}` is not known here")]
    State { name: String, state: String },
}

/// An object that a gateway decides by.
#[derive(Debug)]
pub(super) enum Object {
    Identity(Identity),
    Resource(Resource),
    Route(Route),
    Exception(Exception),
    Halt(HaltScope),
    Elsewhere(Elsewhere),
}

/// The name of an object that is no more.
#[derive(Debug)]
pub(super) enum Gone {
    Identity(IdentityName),
    Resource(ResourceName),
    Route(RouteName),
    Exception(ExceptionName),
    Halt(HaltScope),
    Elsewhere,
}

/// Parses an object; `None` for kinds that gateways have no use for.
pub(super) fn object(message: v1::CatalogObject) -> Result<Option<Object>, ObjectError> {
    let v1::CatalogObject { kind, name, spec_json, revision: _, state } = message;
    Ok(Some(match kind.as_str() {
        "Identity" => {
            let spec = spec("identity", &name, &spec_json)?;
            let state = match state.as_str() {
                "active" => IdentityState::Active,
                "quarantined" => IdentityState::Quarantined,
                "offboarded" => IdentityState::Offboarded,
                _ => return Err(ObjectError::State { name, state }),
            };
            Object::Identity(Identity { name: name.parse()?, spec, state })
        }
        "Resource" => {
            let spec = spec("resource", &name, &spec_json)?;
            Object::Resource(Resource { name: name.parse()?, spec })
        }
        "Route" => {
            let spec = spec("route", &name, &spec_json)?;
            Object::Route(Route { name: name.parse()?, spec })
        }
        "Exception" => {
            let spec = spec("exception", &name, &spec_json)?;
            Object::Exception(Exception::described(name.parse()?, spec))
        }
        "Halt" => Object::Halt(name.parse()?),
        "Elsewhere" => Object::Elsewhere(spec("elsewhere", &name, &spec_json)?),
        // What a role gives was copied into grants.
        "Role" => return Ok(None),
        _ => return Err(ObjectError::Kind(kind)),
    }))
}

/// Parses the key of an object that is no more; `None` for kinds that gateways have no use for.
pub(super) fn gone(key: v1::ObjectKey) -> Result<Option<Gone>, ObjectError> {
    Ok(Some(match key.kind.as_str() {
        "Identity" => Gone::Identity(key.name.parse()?),
        "Resource" => Gone::Resource(key.name.parse()?),
        "Route" => Gone::Route(key.name.parse()?),
        "Exception" => Gone::Exception(key.name.parse()?),
        "Halt" => Gone::Halt(key.name.parse()?),
        "Elsewhere" => Gone::Elsewhere,
        "Role" => return Ok(None),
        _ => return Err(ObjectError::Kind(key.kind)),
    }))
}

fn spec<T: DeserializeOwned>(kind: &'static str, name: &str, json: &str) -> Result<T, ObjectError> {
    serde_json::from_str(json).map_err(|error| ObjectError::Spec { kind, name: name.to_owned(), error })
}
