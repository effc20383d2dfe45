//! People's tokens and the records of people and gateways.

use std::path::Path;

use base64::Engine as _;
use zeroize::Zeroizing;

use super::super::actor::ControlHandle;
use super::super::authorize::Caller;
use super::super::record::{Digest, GatewayRecord, Person, PersonRole, Standing};
use super::{EnrolError, MAX_FILE_BYTES};
use crate::domain::Timestamp;
use crate::domain::name::{GatewayName, OwnerName};
use crate::files;

/// What people's tokens begin with, so that a leaked one is recognised.
const TOKEN_PREFIX: &str = "pcp_";

/// A person to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonSpec {
    /// Their name.
    pub name: OwnerName,
    /// What they may do by standing.
    pub roles: Vec<PersonRole>,
    /// Owners that they speak for besides themselves.
    pub speaks_for: Vec<OwnerName>,
}

/// Makes sure that a person is recorded and their token stands in `token_file` (mode 0600): `pcp_` and 43 characters.
/// A token that is there stays.
///
/// # Errors
/// When the file cannot be read or written, or the writer refuses.
pub async fn ensure_person(handle: &ControlHandle, person: PersonSpec, token_file: &Path) -> Result<(), EnrolError> {
    let token = token(token_file)?;
    // A crash here leaves a token that nobody knows; the next run records it.
    let PersonSpec { name, roles, speaks_for } = person;
    let person = Person { name, roles, speaks_for, token: Digest::of(&token), signed_in: None };
    handle.put_person(&Caller::System, person).await?;
    Ok(())
}

/// Makes sure that a gateway is recorded, with the key of the log that it will write where none is known: no other key is
/// taken for its own. One that was expelled stays so.
///
/// # Errors
/// When the writer refuses.
pub async fn ensure_gateway(
    handle: &ControlHandle,
    name: &GatewayName,
    evidence_key: &str,
    now: Timestamp,
) -> Result<(), EnrolError> {
    let known = handle.model().gateways.get(name).map(|kept| kept.value.standing);
    // What was expelled is refused, and told so.
    if known != Some(Standing::Good) {
        let record = GatewayRecord {
            name: name.clone(),
            standing: Standing::Good,
            registered: now,
            hosts: Vec::new(),
            token: None,
            client_key: None,
            scope: Default::default(),
            attested: None,
        };
        handle.put_gateway(&Caller::System, record).await?;
    }
    // A crash here leaves one that has no key, and may not come: the next run gives it this one.
    if !handle.model().logs.contains_key(name) {
        handle.open_log(name.clone(), evidence_key.to_owned()).await?;
    }
    Ok(())
}

/// A token nobody can guess: `prefix` and 43 characters of base64url.
///
/// # Errors
/// When the system gives no randomness.
pub fn random_token(prefix: &str) -> Result<Zeroizing<String>, EnrolError> {
    let mut random = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *random).map_err(|_| EnrolError::NoRandomness)?;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*random);
    Ok(Zeroizing::new(format!("{prefix}{encoded}")))
}

fn token(path: &Path) -> Result<Zeroizing<String>, EnrolError> {
    let file = |source| EnrolError::File { path: path.to_owned(), source };
    match files::read_private(path, MAX_FILE_BYTES) {
        Ok(bytes) => {
            let text = Zeroizing::new(String::from_utf8_lossy(&bytes).trim_end().to_owned());
            if text.starts_with(TOKEN_PREFIX) && text.len() == TOKEN_PREFIX.len() + 43 {
                Ok(text)
            } else {
                let why = "is not a person's token".to_owned();
                Err(EnrolError::Unusable { path: path.to_owned(), why })
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let token = random_token(TOKEN_PREFIX)?;
            if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                files::private_dir(dir).map_err(file)?;
            }
            files::create_new(path, token.as_bytes(), files::PRIVATE).map_err(file)?;
            Ok(token)
        }
        Err(error) => Err(file(error)),
    }
}
