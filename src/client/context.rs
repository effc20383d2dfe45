//! The user's contexts: named control planes in `$XDG_CONFIG_HOME/portcullis/config.yaml`.
//!
//! ```yaml
//! current: production
//! contexts:
//!   production: { address: "https://control.example:7443", ca_file: /etc/ca.pem, token_file: /run/token }
//!   staging:
//!     address: "https://control.staging.example:7443"
//!     ca_file: /etc/staging-ca.pem
//!     sign_in: { issuer: "https://id.example", client_id: portcullis }
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::sign_in::SignIn;
use super::target::TargetError;

/// One named control plane.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    pub(super) address: String,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) sign_in: Option<SignIn>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Contexts {
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// The context that is asked for, or the current one, if the user has any; with its name.
pub(super) fn load(config: Option<&Path>, wanted: Option<&str>) -> Result<Option<(String, Context)>, TargetError> {
    let path = config.map(|dir| dir.join("portcullis/config.yaml")).filter(|path| path.exists());
    let Some(path) = path else {
        return match wanted {
            Some(name) => Err(TargetError::new(format!("there is no context `{name}`: no config.yaml"))),
            None => Ok(None),
        };
    };
    let mut contexts: Contexts =
        crate::settings::load(&path).map_err(|faults| TargetError::new(faults.to_string()))?.raw;
    let Some(name) = wanted.map(str::to_owned).or(contexts.current) else { return Ok(None) };
    match contexts.contexts.remove(&name) {
        Some(context) => Ok(Some((name, context))),
        None => Err(TargetError::new(format!("{}: there is no context `{name}`", path.display()))),
    }
}
