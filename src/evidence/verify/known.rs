//! What a log has to agree with: its key, the checkpoints beside it, and the word of who cosigned them.

use super::{Failure, VerifyOptions};
use crate::domain::Timestamp;
use crate::evidence::COSIGNED;
use crate::evidence::checkpoint::{Checkpoint, VerifierKey};
use crate::evidence::cosignature::CosignerKey;
use crate::evidence::key::read_log_file;
use crate::evidence::sequencer::read_note;
use crate::evidence::storage::Storage;
use crate::evidence::tree::TreeHead;

pub(super) fn the_key(storage: &dyn Storage, options: &VerifyOptions) -> Result<VerifierKey, Failure> {
    let found = read_log_file(storage)?;
    match &options.key {
        Some(expected) if *expected != found => {
            Err(Failure::OtherKey { found: found.to_string(), expected: expected.to_string() })
        }
        _ => Ok(found),
    }
}

pub(super) fn note(storage: &dyn Storage, file: &'static str, key: &VerifierKey) -> Result<Option<TreeHead>, Failure> {
    let Some(note) = read_note(storage, file)? else { return Ok(None) };
    let checkpoint = Checkpoint::verify(&note, key).map_err(|error| Failure::Checkpoint { file, error })?;
    Ok(Some(checkpoint.head))
}

/// The latest checkpoint that was cosigned, and when, where a cosigner is known.
pub(super) fn cosigned(
    storage: &dyn Storage,
    key: &VerifierKey,
    cosigner: Option<&CosignerKey>,
) -> Result<Option<(TreeHead, Option<Timestamp>)>, Failure> {
    let Some(head) = note(storage, COSIGNED, key)? else {
        return if cosigner.is_some() { Err(Failure::NotCosigned) } else { Ok(None) };
    };
    let Some(cosigner) = cosigner else { return Ok(Some((head, None))) };
    let text = read_note(storage, COSIGNED)?.unwrap_or_default();
    let at = std::str::from_utf8(&text).ok().and_then(|text| cosigner.cosigned(text));
    at.map(|at| Some((head, Some(at)))).ok_or(Failure::NotCosigned)
}
