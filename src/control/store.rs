//! The control plane's store: one trait in etcd's shape.
//!
//! Keys in byte order, a revision for every transaction that writes, compare-and-swap transactions, watches that resume
//! from a revision until it is compacted, leases. Limits are those of etcd and the same for every implementation; one
//! suite of tests holds for all of them, and a real etcd is its judge. What the values mean is not known here.

mod limits;
mod range;
pub mod sealed;
pub mod sqlite;
mod txn;

#[cfg(test)]
mod etcd;
#[cfg(test)]
mod suite;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

#[cfg(test)]
pub(super) use etcd::EtcdStore;
pub use limits::{
    LEASE_SECONDS_MAX, LEASE_SECONDS_MIN, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_REQUEST_BYTES, OPERATION_BYTES,
};
pub use range::KeyRange;
pub use sqlite::SqliteStore;
pub use txn::{Compare, CompareOp, CompareTarget, Op, OpResult, Txn, TxnResult};

/// Counts the transactions that wrote. An empty store is at 1, its first write makes 2.
pub type Revision = u64;

/// A value under its key, as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// At most [`MAX_KEY_BYTES`], never empty.
    pub key: Bytes,
    pub value: Bytes,
    /// When the key came to be; deleted and put again, it is a new one.
    pub create_revision: Revision,
    /// When this value was put.
    pub mod_revision: Revision,
    /// How often the key was put since its creation: 1 at first.
    pub version: u64,
    /// The lease whose end deletes the key.
    pub lease: Option<LeaseId>,
}

/// What a range read found, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    pub kvs: Vec<KeyValue>,
    /// The limit left keys out.
    pub more: bool,
    /// The store's revision when it was read: a watch from the next one misses nothing.
    pub revision: Revision,
}

/// All that one revision changed within the watched range, in the order in which the transaction did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    pub revision: Revision,
    /// Never empty; a key occurs at most once.
    pub events: Vec<Event>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `previous`: the revision of the value that this one replaced, unless the key is new.
    Put { kv: KeyValue, previous: Option<Revision> },
    /// `previous`: the revision of the value that is gone, unless it was compacted.
    Delete { key: Bytes, previous: Option<Revision> },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// Batches in revision order. After an error there is nothing more; it does not end otherwise.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchBatch, StoreError>> + Send>>;

/// Names a lease; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A granted lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    /// What the store gave, whole seconds; not less than what was asked for.
    pub ttl: Duration,
}

/// Where the control plane's truth is kept.
///
/// Every answer is linearizable: it reflects all that was acknowledged before the question. A transaction is
/// acknowledged when it is durable. After [`StoreError::Unavailable`] a write may or may not have been done.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Reads `range`, at most `limit` keys of it, as it is now or as it was `at` a revision (0 means now).
    async fn range(
        &self,
        range: KeyRange,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<RangeResult, StoreError>;

    /// Does `then` when every comparison holds, `or_else` otherwise; all of it or nothing.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Follows what changes within `range`, from revision `from` on, which may be in the future; 0 means from now.
    ///
    /// When `from` is compacted, or a reader is so slow that compaction overtakes it, the stream yields
    /// [`StoreError::Compacted`]; then only reading the range anew helps.
    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets what was before `revision`; what is alive at it stays.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// A lease of at least `ttl`, rounded up to whole seconds. A restart of the store gives it its full time anew.
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Gives a lease its full time again, counted from now.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease: its keys are deleted, in one revision, if it has any.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends the leases whose time is over, each in a revision of its own. To be called about once a second where the
    /// store has no timer itself.
    async fn tick(&self) -> Result<(), StoreError>;

    /// The revision of the last transaction that wrote.
    async fn current_revision(&self) -> Result<Revision, StoreError>;
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("that revision was compacted; the oldest one kept is {oldest}")]
    Compacted { oldest: Revision },
    #[error("that revision is in the future; the store is at {current}")]
    FutureRevision { current: Revision },
    #[error("a transaction of {operations} operations; at most {MAX_OPERATIONS} are allowed")]
    TooManyOperations { operations: usize },
    #[error("a request of {bytes} bytes; at most {MAX_REQUEST_BYTES} are allowed")]
    TooLarge { bytes: usize },
    #[error("a key of {bytes} bytes; 1 to {MAX_KEY_BYTES} are allowed")]
    KeyLength { bytes: usize },
    #[error("a transaction puts the same key twice, or puts and deletes it")]
    DuplicateKey,
    #[error("there is no lease {lease}")]
    LeaseNotFound { lease: LeaseId },
    #[error("a lease of {seconds} s; {LEASE_SECONDS_MIN} to {LEASE_SECONDS_MAX} are allowed")]
    LeaseDuration { seconds: u64 },
    /// Later may be better. `detail` is for the log, not for callers.
    #[error("the store is unavailable")]
    Unavailable { detail: String },
    /// What is kept cannot be right; a person must look. `detail` is for the log, not for callers.
    #[error("the store is damaged")]
    Corrupt { detail: String },
}

impl StoreError {
    /// What the log says; the `Display` text is what a caller may read.
    pub fn detail(&self) -> String {
        match self {
            Self::Unavailable { detail } | Self::Corrupt { detail } => format!("{self}: {detail}"),
            Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::TooManyOperations { .. }
            | Self::TooLarge { .. }
            | Self::KeyLength { .. }
            | Self::DuplicateKey
            | Self::LeaseNotFound { .. }
            | Self::LeaseDuration { .. } => self.to_string(),
        }
    }
}
