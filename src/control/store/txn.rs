//! Transactions: comparisons, two branches of operations, and what came of them.

use bytes::Bytes;

use super::limits::OPERATION_BYTES;
use super::{KeyRange, KeyValue, LeaseId, RangeResult, Revision};

/// Comparisons that must all hold for `then` to be done; otherwise `or_else` is.
///
/// Operations are done in order, and a `Get` sees what came before it in its branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub then: Vec<Op>,
    pub or_else: Vec<Op>,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compare.push(compare);
        self
    }

    /// Adds an operation to do when all conditions hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Adds an operation to do when a condition does not hold.
    #[must_use]
    pub fn or_else(mut self, op: Op) -> Self {
        self.or_else.push(op);
        self
    }

    /// Whether neither branch can change anything.
    pub fn is_read_only(&self) -> bool {
        self.then.iter().chain(&self.or_else).all(|op| matches!(op, Op::Get { .. }))
    }

    /// What counts towards [`super::MAX_REQUEST_BYTES`].
    pub fn bytes(&self) -> usize {
        let compares = self.compare.iter().map(|compare| {
            let value = if let CompareTarget::Value(value) = &compare.target { value.len() } else { 0 };
            compare.key.len().saturating_add(value)
        });
        let ops = self.then.iter().chain(&self.or_else).map(|op| match op {
            Op::Put { key, value, .. } => key.len().saturating_add(value.len()),
            Op::Delete { range } | Op::Get { range, .. } => range.bytes(),
        });
        compares.chain(ops).fold(0, |sum: usize, bytes| sum.saturating_add(bytes).saturating_add(OPERATION_BYTES))
    }
}

/// A condition on one key. A key that is not there has revisions and version 0, and no comparison of its value holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    pub op: CompareOp,
    pub target: CompareTarget,
}

/// How the key's own, on the left, must stand to the target's, on the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    Equal,
    NotEqual,
    Greater,
    Less,
}

/// What is compared, and with what. Values compare as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    ModRevision(Revision),
    CreateRevision(Revision),
    Version(u64),
    Value(Bytes),
}

impl Compare {
    pub fn new(key: impl AsRef<[u8]>, op: CompareOp, target: CompareTarget) -> Self {
        Self { key: Bytes::copy_from_slice(key.as_ref()), op, target }
    }

    /// The key is not there.
    pub fn absent(key: impl AsRef<[u8]>) -> Self {
        Self::new(key, CompareOp::Equal, CompareTarget::CreateRevision(0))
    }

    /// The key is there.
    pub fn present(key: impl AsRef<[u8]>) -> Self {
        Self::new(key, CompareOp::Greater, CompareTarget::CreateRevision(0))
    }

    /// The key was last put at `revision`: nobody changed it since it was read.
    pub fn unchanged(key: impl AsRef<[u8]>, revision: Revision) -> Self {
        Self::new(key, CompareOp::Equal, CompareTarget::ModRevision(revision))
    }

    /// Whether it holds for what the key is now.
    pub(super) fn holds(&self, current: Option<&KeyValue>) -> bool {
        let (modified, created, version) =
            current.map_or((0, 0, 0), |kv| (kv.mod_revision, kv.create_revision, kv.version));
        let ordering = match &self.target {
            CompareTarget::ModRevision(target) => modified.cmp(target),
            CompareTarget::CreateRevision(target) => created.cmp(target),
            CompareTarget::Version(target) => version.cmp(target),
            CompareTarget::Value(target) => match current {
                Some(kv) => kv.value.cmp(target),
                None => return false,
            },
        };
        match self.op {
            CompareOp::Equal => ordering.is_eq(),
            CompareOp::NotEqual => ordering.is_ne(),
            CompareOp::Greater => ordering.is_gt(),
            CompareOp::Less => ordering.is_lt(),
        }
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A put without a lease takes the key off the lease it had.
    Put {
        key: Bytes,
        value: Bytes,
        lease: Option<LeaseId>,
    },
    Delete {
        range: KeyRange,
    },
    Get {
        range: KeyRange,
        limit: Option<usize>,
    },
}

impl Op {
    pub fn put(key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: Bytes::copy_from_slice(key.as_ref()), value: value.into(), lease: None }
    }

    /// The key is deleted when the lease ends.
    pub fn put_leased(key: impl AsRef<[u8]>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::Put { key: Bytes::copy_from_slice(key.as_ref()), value: value.into(), lease: Some(lease) }
    }

    pub fn delete(range: KeyRange) -> Self {
        Self::Delete { range }
    }

    pub fn get(range: KeyRange) -> Self {
        Self::Get { range, limit: None }
    }
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether the comparisons held, hence which branch was done.
    pub succeeded: bool,
    /// The store's revision after it: its own if it wrote, which deleting nothing is not.
    pub revision: Revision,
    /// One per operation of the branch, in order.
    pub responses: Vec<OpResult>,
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    Put,
    /// How many keys it deleted.
    Delete {
        deleted: u64,
    },
    /// Its `revision` is the transaction's.
    Get(RangeResult),
}
