//! The proof of each record that a story tells, so that each line can be checked without the logs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Log, Story};
use crate::evidence::tlog_proof::{BadProof, CannotProve, TlogProof};
use crate::evidence::tree::leaf_hash;

/// Adds to each line the proof that its record is in its log, under the latest cosigned checkpoint or, where that does not
/// reach, the latest that is signed; or says why there is none yet, or any more.
///
/// # Errors
/// When a log cannot be read, or does not agree with what it signed.
pub fn prove(story: &mut Story, logs: &[&Log]) -> Result<(), CannotProve> {
    for line in &mut story.timeline {
        let Some(log) = logs.iter().find(|log| log.name == line.log) else { continue };
        match TlogProof::make(&log.storage, line.seq) {
            Ok(proof) => {
                // What is proven is what was told.
                if STANDARD.encode(leaf_hash(&proof.record).0) != line.leaf {
                    let log = log.name.escape_default().to_string();
                    return Err(CannotProve::Bad(BadProof::Elsewhere { seq: line.seq, log }));
                }
                line.proof = Some(proof.to_string());
            }
            Err(why @ (CannotProve::NotSigned(_) | CannotProve::Pruned { .. } | CannotProve::NoRecord(_))) => {
                line.unproven = Some(why.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
