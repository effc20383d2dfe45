//! The key by which gateways know the control plane's word: it signs authorities and cosigns checkpoints.
//!
//! An Ed25519 key of its own beside the CA: what is signed every three seconds is not signed by what certifies.

use std::path::Path;

use crate::domain::Timestamp;
use crate::evidence::checkpoint::{Checkpoint, EvidenceKey, NoteError, Origin};
use crate::evidence::cosignature::{self, CosignerKey};
use crate::evidence::key::KeyFileError;
use crate::evidence::statement::StatementKind;
use crate::wire::v1;

const FILE: &str = "authority.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityKeyError {
    /// Its file.
    #[error("{FILE}: {0}")]
    File(#[from] KeyFileError),
    /// The trust domain is no name for it.
    #[error("{FILE}: {0}")]
    Name(#[from] NoteError),
}

/// The key.
#[derive(Clone, Debug)]
pub struct AuthorityKey {
    key: EvidenceKey,
    name: Origin,
}

impl AuthorityKey {
    /// Reads the key in `state_dir`, or makes it.
    ///
    /// # Errors
    /// When its file cannot be used.
    pub fn open_or_create(state_dir: &Path, trust_domain: &str) -> Result<Self, AuthorityKeyError> {
        let name = format!("{trust_domain}/portcullis/control").parse()?;
        Ok(Self { key: EvidenceKey::load_or_create(&state_dir.join(FILE))?, name })
    }

    /// What verifies it.
    pub fn verifier(&self) -> CosignerKey {
        CosignerKey::of(&self.key, &self.name)
    }

    /// Cosigns a checkpoint: one signature line.
    pub(super) fn cosign(&self, checkpoint: &Checkpoint, at: Timestamp) -> Result<String, NoteError> {
        cosignature::cosign(checkpoint, &self.key, &self.name, at)
    }

    /// Signs an authority.
    pub(super) fn sign(&self, authority: &v1::Authority) -> Result<v1::Signed, NoteError> {
        let payload = prost::Message::encode_to_vec(authority);
        let signature = self.key.state(StatementKind::Authority, &payload)?;
        Ok(v1::Signed { payload, signature })
    }
}
