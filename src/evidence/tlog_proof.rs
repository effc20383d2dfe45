//! A record with the proof that it is in a log, in one file that needs nothing else (C2SP tlog-proof).
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <base64 of the record>
//! index <position>
//! <base64 hash, the record's sibling first>…
//!
//! <the checkpoint, signed and cosigned>
//! ```
//!
//! The record itself stands in `extra`, so that the file says what it proves. Which keys are believed is the reader's
//! to say: a proof that named its own key would prove nothing.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::COSIGNED;
use super::checkpoint::{Checkpoint, MAX_NOTE_BYTES, NoteError, VerifierKey};
use super::cosignature::CosignerKey;
use super::entry::{Entry, EntryError, MAX_ENTRY_BYTES};
use super::key::{LogFileError, read_log_file};
use super::proof::{self, ProofError};
use super::read::{JournalReader, Next, Place};
use super::retention::{Horizon, gone};
use super::sequencer::{CHECKPOINT, SIGNED, read_note};
use super::storage::Storage;
use super::tree::{Hash, leaf_hash, verify_inclusion};
use crate::domain::Timestamp;

/// The first line.
pub const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// What the name of a file with a proof ends with.
pub const EXTENSION: &str = "tlog-proof";
/// Hashes of a proof: one per level of the tree.
const MAX_HASHES: usize = 63;
/// Longest proof: its record in base64, its hashes, its checkpoint.
pub const MAX_PROOF_BYTES: usize = MAX_ENTRY_BYTES * 4 / 3 + MAX_HASHES * 48 + MAX_NOTE_BYTES + 256;

/// A record and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// The record, as it stands in the log.
    pub record: Vec<u8>,
    /// Its position, from 0.
    pub index: u64,
    /// The siblings on the way to the root.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint, as it was published.
    pub checkpoint: String,
}

/// What a good proof says.
#[derive(Clone, Debug)]
pub struct Proven {
    /// What is proven to be in the log.
    pub entry: Entry,
    /// The checkpoint that covers it.
    pub checkpoint: Checkpoint,
    /// When it was cosigned, where a cosigner was given.
    pub cosigned: Option<Timestamp>,
}

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum BadProof {
    /// Not of this form.
    #[error("not a proof ({HEADER}): {0}")]
    Malformed(&'static str),
    /// The checkpoint does not hold.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// The cosigner did not sign it.
    #[error("the checkpoint is not cosigned by {0}")]
    NotCosigned(String),
    /// The hashes do not lead to the root.
    #[error("record {index} is not the one in the log: its hashes do not lead to the root over {size} records")]
    Root {
        /// The record.
        index: u64,
        /// Records under the checkpoint.
        size: u64,
    },
    /// What is in the log there is none of this schema.
    #[error("record {index}: {error}")]
    Entry {
        /// The record.
        index: u64,
        /// In which way.
        error: EntryError,
    },
    /// The record says that it stands elsewhere, or in another log.
    #[error("the record says that it is record {seq} of {log}")]
    Elsewhere {
        /// Its own position.
        seq: u64,
        /// Its own log, escaped.
        log: String,
    },
}

/// Why no proof can be made.
#[derive(Debug, thiserror::Error)]
pub enum CannotProve {
    /// The disk fails.
    #[error("the log cannot be read: {0}")]
    Disk(#[from] io::Error),
    /// `log.json` cannot be used.
    #[error(transparent)]
    LogFile(#[from] LogFileError),
    /// A checkpoint beside the log does not hold.
    #[error("{file}: {error}")]
    Checkpoint {
        /// Which file.
        file: &'static str,
        /// In which way.
        error: NoteError,
    },
    /// Nothing was signed yet.
    #[error("record {0} is not under a signed checkpoint yet: a writer signs every second")]
    NotSigned(u64),
    /// The record cannot be read.
    #[error("{place}: {why}")]
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        why: &'static str,
    },
    /// The record was pruned.
    #[error("record {index} is not here any more: {horizon}; an archive of the log proves it")]
    Pruned {
        /// The record.
        index: u64,
        /// What was pruned.
        horizon: Horizon,
    },
    /// There is no such record.
    #[error("the log has no record {0}")]
    NoRecord(u64),
    /// The tiles.
    #[error(transparent)]
    Tiles(#[from] ProofError),
    /// What was made does not hold: the log was changed.
    #[error("the log does not agree with what it signed: {0}")]
    Bad(#[from] BadProof),
}

impl TlogProof {
    /// Proves record `index` of a log in a directory, under its latest cosigned checkpoint, or, where that does not
    /// reach, the latest that is signed. What it gives has been verified.
    ///
    /// # Errors
    /// When there is no such record, it is not signed yet, or the log was changed.
    pub fn make(storage: &Arc<dyn Storage>, index: u64) -> Result<Self, CannotProve> {
        let key = read_log_file(&**storage)?;
        let (checkpoint, size) = covering(&**storage, &key, index)?.ok_or(CannotProve::NotSigned(index))?;
        if let Some((_, horizon)) = gone(&**storage)?.filter(|(first, _)| index < *first) {
            return Err(CannotProve::Pruned { index, horizon });
        }
        let mut reader = JournalReader::new(storage.clone(), index);
        let record = match reader.next()? {
            Next::Record(record) if record.place.seq == index => record.bytes.to_vec(),
            Next::Record(_) | Next::CaughtUp { .. } => return Err(CannotProve::NoRecord(index)),
            Next::Damaged { place, why } => return Err(CannotProve::Damaged { place, why }),
        };
        let proof = Self { record, index, hashes: proof::inclusion(&**storage, index, size)?, checkpoint };
        proof.verify(Some(&key), None)?;
        Ok(proof)
    }

    /// Verifies it with the log's key, a cosigner's, or both. A cosigner's word alone says that the checkpoint is the
    /// one that it saw; the log's origin is then as the checkpoint names it.
    ///
    /// # Errors
    /// The first thing that does not hold. Without any key nothing does.
    pub fn verify(&self, key: Option<&VerifierKey>, cosigner: Option<&CosignerKey>) -> Result<Proven, BadProof> {
        let cosigned = match cosigner {
            Some(cosigner) => {
                let at = cosigner.cosigned(&self.checkpoint);
                Some(at.ok_or_else(|| BadProof::NotCosigned(cosigner.name().to_string()))?)
            }
            None => None,
        };
        let checkpoint = match key {
            Some(key) => Checkpoint::verify(self.checkpoint.as_bytes(), key)?,
            None if cosigned.is_some() => Checkpoint::read(self.checkpoint.as_bytes())?,
            None => return Err(NoteError::Unsigned("any key that is given".to_owned()).into()),
        };
        let head = &checkpoint.head;
        if !verify_inclusion(leaf_hash(&self.record), self.index, head.size, &self.hashes, &head.root) {
            return Err(BadProof::Root { index: self.index, size: head.size });
        }
        let entry = Entry::parse(&self.record).map_err(|error| BadProof::Entry { index: self.index, error })?;
        if entry.seq != self.index || entry.log != checkpoint.origin.as_str() {
            return Err(BadProof::Elsewhere { seq: entry.seq, log: entry.log.escape_default().to_string() });
        }
        Ok(Proven { entry, checkpoint, cosigned })
    }
}

/// The checkpoint beside the log that covers a record, and its size.
fn covering(storage: &dyn Storage, key: &VerifierKey, index: u64) -> Result<Option<(String, u64)>, CannotProve> {
    // A published checkpoint is not synced; what was signed is.
    for file in [COSIGNED, CHECKPOINT, SIGNED] {
        let Some(note) = read_note(storage, file)? else { continue };
        let checkpoint = Checkpoint::verify(&note, key).map_err(|error| CannotProve::Checkpoint { file, error })?;
        if index < checkpoint.head.size {
            return Ok(Some((String::from_utf8_lossy(&note).into_owned(), checkpoint.head.size)));
        }
    }
    Ok(None)
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nextra {}\nindex {}", STANDARD.encode(&self.record), self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", STANDARD.encode(hash.0))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = BadProof;
    fn from_str(text: &str) -> Result<Self, BadProof> {
        let bad = BadProof::Malformed;
        if text.len() > MAX_PROOF_BYTES {
            return Err(bad("too long"));
        }
        let (proof, checkpoint) = text.split_once("\n\n").ok_or_else(|| bad("no empty line"))?;
        let mut lines = proof.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(bad("the first line is another"));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
        let record = extra.and_then(|extra| STANDARD.decode(extra).ok()).filter(|it| it.len() <= MAX_ENTRY_BYTES);
        let record = record.ok_or_else(|| bad("it carries no record"))?;
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).unwrap_or_default();
        let number: u64 = index.parse().map_err(|_| bad("the index is not a number"))?;
        if number.to_string() != index {
            return Err(bad("the index is not in canonical form"));
        }
        let mut hashes = Vec::new();
        for line in lines {
            let hash = STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok());
            hashes.push(Hash(hash.ok_or_else(|| bad("a line is not a hash"))?));
            if hashes.len() > MAX_HASHES {
                return Err(bad("more hashes than a tree has levels"));
            }
        }
        Ok(Self { record, index: number, hashes, checkpoint: checkpoint.to_owned() })
    }
}

#[cfg(test)]
#[path = "tlog_proof/tests.rs"]
mod tests;
