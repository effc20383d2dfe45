//! The evidence: an append-only, signed log of every decision.
//!
//! A record becomes durable in the journal before what it stands for happens. From the journal, which alone is the
//! truth, a sequencer derives hash tiles and signed checkpoints, off the path of calls. Verification needs the
//! directory and a public key, and no running program. Knows nothing of gateways, control planes or networks.

pub mod access;
pub mod archive;
pub mod bundle;
pub mod changes;
pub mod checkpoint;
pub mod copy;
pub mod cosignature;
pub mod entry;
pub mod explain;
pub mod export;
pub mod journal;
pub mod key;
pub mod keyed;
pub mod proof;
pub mod query;
pub mod read;
pub mod retention;
pub mod sequencer;
pub mod statement;
pub mod storage;
pub mod tiles;
pub mod tlog_proof;
pub mod tree;
pub mod verify;
pub mod witness;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::checkpoint::{Checkpoint, EvidenceKey, NoteError, Origin, VerifierKey};
use self::journal::{Journal, JournalOptions, OpenError, RecoveryReport, Writer};
use self::key::LogFileError;
use self::proof::ProofError;
use self::retention::{Bounds, Plan, Policy, PruneError};
use self::sequencer::{SequencerError, SequencerHandle, SequencerStatus};
use self::statement::StatementKind;
use self::storage::{DiskStorage, Persist, Storage};
use self::tree::{Hash, TreeHead};
use crate::domain::{Clock, Timestamp};

/// The latest checkpoint that the control plane cosigned, beside the log.
pub const COSIGNED: &str = "cosigned";

/// The latest signed checkpoint of the log in a directory, and its note.
///
/// # Errors
/// When the log's files cannot be read, or do not hold.
pub fn signed_checkpoint(storage: &dyn Storage) -> Result<Option<(Checkpoint, String)>, export::ExportError> {
    let key = key::read_log_file(storage)?;
    let Some((head, note)) = export::latest(storage, &key)? else { return Ok(None) };
    let checkpoint = Checkpoint { origin: key.name().clone(), head };
    Ok(Some((checkpoint, String::from_utf8_lossy(&note).into_owned())))
}

/// Why a log cannot be opened for writing. Closed: without it no call is allowed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directory cannot be used.
    #[error("the evidence directory {directory} cannot be opened: {error}")]
    Directory {
        /// Which.
        directory: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// What was pruned cannot be removed.
    #[error("segments that were pruned cannot be removed: {0}")]
    Pruned(#[source] io::Error),
    /// Another process writes there.
    #[error(
        "another process writes the evidence in {0}: end it first, or give this one a directory of its own (evidence.dir)"
    )]
    Busy(PathBuf),
    /// `log.json` cannot be used.
    #[error(transparent)]
    LogFile(#[from] LogFileError),
    /// The directory's log has another key or name.
    #[error("the evidence directory belongs to {found}, and this key is {expected}")]
    OtherKey {
        /// What stands there.
        found: String,
        /// What was given.
        expected: String,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// Tiles and checkpoint.
    #[error(transparent)]
    Sequencer(#[from] SequencerError),
}

/// Why no checkpoint of a log's first records is signed.
#[derive(Debug, thiserror::Error)]
pub enum PrefixError {
    /// None of more records is there.
    #[error("there is no checkpoint")]
    None,
    /// Their tiles.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// They are not those of the published checkpoint any more.
    #[error(
        "the hashes of the first {0} records are not those that were signed: `evidence verify` names the first bad record"
    )]
    Damaged(u64),
    /// The key makes no signature.
    #[error(transparent)]
    Key(#[from] NoteError),
}

/// A log that is being written: journal and sequencer over one directory.
#[derive(Debug)]
pub struct EvidenceLog {
    journal: Journal,
    sequencer: SequencerHandle,
    storage: Arc<dyn Storage>,
    signer: EvidenceKey,
    key: VerifierKey,
}

impl EvidenceLog {
    /// Opens the log in a directory, or creates it.
    ///
    /// # Errors
    /// When the disk fails, another process writes there, or what is there is damaged, cut or another log's.
    pub fn open(
        directory: &Path,
        origin: Origin,
        key: EvidenceKey,
        writer: &Writer,
        options: JournalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RecoveryReport), LogError> {
        let storage = DiskStorage::open(directory).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => LogError::Busy(directory.to_owned()),
            _ => LogError::Directory { directory: directory.to_owned(), error },
        })?;
        Self::open_in(Arc::new(storage), origin, key, writer, options, clock)
    }

    /// As [`open`](Self::open), on any storage.
    ///
    /// # Errors
    /// As there.
    pub fn open_in(
        storage: Arc<dyn Storage>,
        origin: Origin,
        key: EvidenceKey,
        writer: &Writer,
        options: JournalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RecoveryReport), LogError> {
        let verifier = key.verifier(&origin);
        match key::read_log_file(&*storage) {
            Ok(found) if found == verifier => {}
            Ok(found) => {
                return Err(LogError::OtherKey { found: found.to_string(), expected: verifier.to_string() });
            }
            Err(LogFileError::Disk(error)) if error.kind() == io::ErrorKind::NotFound => {
                key::write_log_file(&*storage, &verifier)?;
            }
            Err(error) => return Err(error.into()),
        }
        sequencer::refuse_rollback(&storage, &verifier)?;
        // What was to be deleted when the last process ended.
        retention::delete(&*storage).map_err(LogError::Pruned)?;
        let durability = options.durability;
        let (journal, report) = Journal::open(storage.clone(), origin, writer, options, clock.clone())?;
        let started = SequencerHandle::start(storage.clone(), journal.clone(), key.clone(), durability, clock);
        let sequencer = match started {
            Ok(sequencer) => sequencer,
            Err(error) => {
                journal.close();
                return Err(error.into());
            }
        };
        Ok((Self { journal, sequencer, storage, signer: key, key: verifier }, report))
    }

    /// Where records go.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The key that verifies the log's checkpoints.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.key
    }

    /// The last signed checkpoint: what it says, and the signed note.
    pub fn checkpoint(&self) -> Option<(TreeHead, String)> {
        self.sequencer.checkpoint()
    }

    /// Takes everything durable under a checkpoint and waits for that. Blocks for some disk writes.
    pub fn checkpoint_now(&self) -> Option<(TreeHead, String)> {
        self.sequencer.checkpoint_now()
    }

    /// A signed checkpoint of the first `size` records, for a copy that is behind: it says nothing that the published one, which
    /// has at least as many, does not. Blocks for some reads.
    ///
    /// # Errors
    /// When so many are not under a checkpoint, tiles cannot be read, or the key makes no signature.
    pub fn checkpoint_of(&self, size: u64) -> Result<String, PrefixError> {
        let (published, _) = self.checkpoint().ok_or(PrefixError::None)?;
        let head = TreeHead { size, root: proof::root(&*self.storage, size, published.size)? };
        // INVARIANT: nothing is signed that the published checkpoint does not say: a tile that rotted is no second history.
        let grown = proof::consistency(&*self.storage, size, published.size)?;
        if !tree::verify_consistency(&head, &published, &grown) {
            return Err(PrefixError::Damaged(size));
        }
        Ok(Checkpoint { origin: self.key.name().clone(), head }.sign(&self.signer)?)
    }

    /// The proof that the log with `new` records, under a checkpoint, grew from its first `old`. Blocks for some reads.
    ///
    /// # Errors
    /// When the log was never that long, or its tiles cannot be read.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, ProofError> {
        proof::consistency(&*self.storage, old, new)
    }

    /// Keeps the latest checkpoint that was cosigned, with its cosignature, beside the log.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn keep_cosigned(&self, note: &str) -> io::Result<()> {
        self.storage.write_file(COSIGNED, note.as_bytes(), Persist::Now)
    }

    /// Signs a statement with the log's key.
    ///
    /// # Errors
    /// When the key makes no signature.
    pub fn state(&self, kind: StatementKind, payload: &[u8]) -> Result<Vec<u8>, NoteError> {
        self.signer.state(kind, payload)
    }

    /// Finishes what was begun, and prunes what `policy` lets go of and `may_go` agrees to: nothing that is not cosigned, and
    /// nothing beyond the bounds. Blocks for some reads and writes.
    ///
    /// # Errors
    /// When the disk fails, or the log does not hold. What was recorded by then and not deleted goes the next time.
    pub fn prune(
        &self,
        policy: Policy,
        bounds: Bounds,
        now: Timestamp,
        may_go: impl FnOnce(&Plan) -> Result<(), PruneError>,
    ) -> Result<Option<Plan>, PruneError> {
        retention::delete(&*self.storage)?;
        let cosigned = retention::cosigned(&*self.storage)?;
        let (_, plan) = retention::plan_within(&self.storage, policy, bounds, now)?;
        let Some(plan) = plan else {
            if retention::is_due(&self.storage, policy, now)? {
                self.journal.turn();
            }
            return Ok(None);
        };
        may_go(&plan)?;
        retention::seal(&self.storage, plan.from, plan.before)?;
        let ticket = self.journal.append_here(&retention::record(&plan, policy, cosigned, bounds.archived))?;
        self.journal.durable_blocking(ticket)?;
        // A crash here leaves a record of something that was not done: it may be missing, and is not.
        if self.checkpoint_now().is_none_or(|(head, _)| head.size <= ticket.seq) {
            return Err(PruneError::NotSigned);
        }
        retention::note(&self.storage, ticket.seq)?;
        // A crash here leaves segments that the next opening deletes.
        retention::delete(&*self.storage)?;
        Ok(Some(plan))
    }

    /// How tiles and checkpoint are doing.
    pub fn sequencer_status(&self) -> SequencerStatus {
        self.sequencer.status()
    }

    /// Writes what is queued, publishes a last checkpoint and ends the threads. Appending fails from now on. Blocks.
    pub fn shutdown(&self) {
        self.journal.close();
        self.sequencer.stop();
    }
}

impl Drop for EvidenceLog {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[cfg(test)]
#[path = "evidence/tests.rs"]
mod tests;
