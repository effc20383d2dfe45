//! A witness of others' logs (C2SP tlog-witness): cosigns a checkpoint when it extends the last one that it cosigned.
//!
//! What it cosigned is on disk before it says so, so that no crash lets it cosign two histories. Judging and remembering
//! only: who brings requests and takes answers is for others.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

use super::checkpoint::{Checkpoint, EvidenceKey, MAX_NOTE_BYTES, NoteError, Origin, VerifierKey, verify_note};
use super::cosignature::{CosignerKey, cosign};
use super::entry::hex;
use super::proof::{self, ProofError};
use super::sequencer::read_note;
use super::storage::{Persist, Storage};
use super::tree::{Hash, TreeHead, empty_root, sha256, verify_consistency};
use crate::domain::Timestamp;

/// Hashes of a consistency proof.
const MAX_PROOF: usize = 63;
/// Longest body of a request.
pub const MAX_REQUEST_BYTES: usize = MAX_NOTE_BYTES + MAX_PROOF * 45 + 64;
/// The path of a request, behind the witness's prefix.
pub const ADD_CHECKPOINT: &str = "add-checkpoint";

/// What a witness is asked: to cosign a checkpoint that grew from `old` records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Records under the last checkpoint that the witness cosigned, as far as the asker knows.
    pub old: u64,
    /// The proof that it grew from there.
    pub proof: Vec<Hash>,
    /// The signed checkpoint.
    pub note: String,
}

/// Why a checkpoint is not cosigned.
#[derive(Debug, thiserror::Error)]
pub enum NotCosigned {
    /// 400.
    #[error("not a request: {0}")]
    Malformed(&'static str),
    /// 400: the log would shrink.
    #[error("a shrunk log: the checkpoint has {size} records, and is to have grown from {old}")]
    Shrunk {
        /// Records that it is to have had.
        old: u64,
        /// Records that it has.
        size: u64,
    },
    /// 404.
    #[error("no log of this name is witnessed here")]
    UnknownLog,
    /// 403.
    #[error("the checkpoint: {0}")]
    Signature(NoteError),
    /// 409: it has cosigned another one meanwhile, or the log was put back.
    #[error("the last checkpoint that was cosigned has {known} records, and not {old}")]
    OtherSize {
        /// Records under the last one.
        known: u64,
        /// What the request said.
        old: u64,
    },
    /// 409: as many records, and others.
    #[error("a forked log: other records than the {0} that were cosigned")]
    Forked(u64),
    /// 422.
    #[error(
        "a forked log, or no proof: the checkpoint was not shown to have grown from the {0} records that were cosigned"
    )]
    Proof(u64),
    /// 500: nothing was said that is not on disk.
    #[error("what was cosigned cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    /// 500: what was cosigned last does not hold any more.
    #[error("what was cosigned last: {0}")]
    Memory(NoteError),
}

impl NotCosigned {
    /// The HTTP status that the standard gives it.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::Shrunk { .. } => 400,
            Self::Signature(_) => 403,
            Self::UnknownLog => 404,
            Self::OtherSize { .. } | Self::Forked(_) => 409,
            Self::Proof(_) => 422,
            Self::Disk(_) | Self::Memory(_) => 500,
        }
    }
}

impl Request {
    /// Asks for the checkpoint of a log, from its directory.
    ///
    /// # Errors
    /// When the log was never `old` records long, or its tiles cannot be read.
    pub fn make(storage: &dyn Storage, note: String, size: u64, old: u64) -> Result<Self, ProofError> {
        Ok(Self { old, proof: proof::consistency(storage, old, size)?, note })
    }

    /// The body: `old <size>`, the proof, an empty line, the checkpoint.
    pub fn body(&self) -> String {
        let proof: String = self.proof.iter().map(|hash| format!("{}\n", STANDARD.encode(hash.0))).collect();
        format!("old {}\n{proof}\n{}", self.old, self.note)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(body: &[u8]) -> Result<Self, NotCosigned> {
        let bad = NotCosigned::Malformed;
        let text = std::str::from_utf8(body).map_err(|_| bad("not UTF-8"))?;
        let (head, note) = text.split_once("\n\n").ok_or_else(|| bad("no empty line"))?;
        let mut lines = head.split('\n');
        let size = lines.next().and_then(|line| line.strip_prefix("old ")).ok_or_else(|| bad("no old size"))?;
        let old: u64 = size.parse().map_err(|_| bad("the old size is not a number"))?;
        if old.to_string() != size {
            return Err(bad("the old size is not in canonical form"));
        }
        let mut proof = Vec::new();
        for line in lines {
            let hash = STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok());
            proof.push(Hash(hash.ok_or_else(|| bad("a line of the proof is not a hash"))?));
            if proof.len() > MAX_PROOF {
                return Err(bad("more hashes than a proof has"));
            }
        }
        Ok(Self { old, proof, note: note.to_owned() })
    }
}

/// A witness: a key, the logs that it watches, and what it cosigned of each.
#[derive(Debug)]
pub struct Witness {
    storage: Arc<dyn Storage>,
    key: EvidenceKey,
    name: Origin,
    logs: Vec<VerifierKey>,
    /// Comparing and storing are one step.
    turn: Mutex<()>,
}

impl Witness {
    /// With what it remembers in `storage`, which nobody else writes.
    pub fn new(storage: Arc<dyn Storage>, key: EvidenceKey, name: Origin, logs: Vec<VerifierKey>) -> Self {
        Self { storage, key, name, logs, turn: Mutex::new(()) }
    }

    /// The key that verifies what it cosigns.
    pub fn verifier(&self) -> CosignerKey {
        CosignerKey::of(&self.key, &self.name)
    }

    /// Judges a request and gives the line that cosigns its checkpoint. That it did is then on disk. Blocks for that.
    ///
    /// # Errors
    /// Why not.
    pub fn add_checkpoint(&self, body: &[u8], now: Timestamp) -> Result<String, NotCosigned> {
        let request = Request::parse(body)?;
        let note = request.note.as_bytes();
        let origin = Checkpoint::read(note).map_err(|_| NotCosigned::Malformed("not a checkpoint"))?.origin;
        let key = self.logs.iter().find(|key| *key.name() == origin).ok_or(NotCosigned::UnknownLog)?;
        let checkpoint = Checkpoint::verify(note, key).map_err(NotCosigned::Signature)?;
        // What is signed is the text of name, size and root, which must then be all of the note's text.
        if verify_note(note, key).map_err(NotCosigned::Signature)? != checkpoint.text() {
            return Err(NotCosigned::Malformed("a checkpoint with extension lines is not cosigned here"));
        }
        let (old, head) = (request.old, checkpoint.head);
        if old > head.size {
            return Err(NotCosigned::Shrunk { old, size: head.size });
        }
        let _turn = self.turn.lock();
        let file = file_of(&origin);
        let known = match read_note(&*self.storage, &file)? {
            Some(note) => Checkpoint::verify(&note, key).map_err(NotCosigned::Memory)?.head,
            None => TreeHead { size: 0, root: empty_root() },
        };
        if known.size != old {
            return Err(NotCosigned::OtherSize { known: known.size, old });
        }
        if known.size == head.size && known.root != head.root {
            return Err(NotCosigned::Forked(known.size));
        }
        if !verify_consistency(&known, &head, &request.proof) {
            return Err(NotCosigned::Proof(known.size));
        }
        let line = cosign(&checkpoint, &self.key, &self.name, now).map_err(NotCosigned::Signature)?;
        // A crash behind this line leaves a checkpoint that nobody was told was cosigned: asked again, it is.
        self.storage.write_file(&file, note, Persist::Now)?;
        Ok(line)
    }
}

/// Where the last checkpoint of a log stands.
fn file_of(origin: &Origin) -> String {
    hex(&sha256(origin.as_str().as_bytes()))
}

#[cfg(test)]
#[path = "witness/tests.rs"]
mod tests;
