//! Who keeps the keys of the CA, as the settings of a control plane name them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::parts::{Check, seconds};
use crate::domain::resource::Span;

/// A command that asks whoever keeps the keys.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCaSigner {
    /// The command and its first arguments: a path, no shell. It is run as `COMMAND… public-key LABEL`, which writes the
    /// public key (PEM or DER) and ends with 3 where there is none of that label, and as `COMMAND… sign LABEL ALGORITHM`
    /// (`ecdsa-p256-sha256`, `ecdsa-p384-sha384` or `rsa-pkcs1-sha256`), which reads bytes and writes their signature.
    command: Vec<String>,
    /// How long it may take, 1s to 60s. Default: 10s.
    #[serde(default = "default_timeout")]
    timeout: Span,
}

/// Who keeps the CA's keys, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSignerSettings {
    /// The command and its first arguments, at least the command.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

pub(super) fn ca_signer(check: &mut Check<'_>, raw: &RawCaSigner) -> CaSignerSettings {
    if !raw.command.first().is_some_and(|program| program.starts_with('/')) {
        check.fault(
            "/ca_signer/command",
            "an absolute path is expected, then arguments: nothing is looked up, no shell runs",
        );
    }
    let timeout = check.span("/ca_signer/timeout", raw.timeout, seconds(1), seconds(60));
    CaSignerSettings { command: raw.command.clone(), timeout }
}

fn default_timeout() -> Span {
    seconds(10)
}
