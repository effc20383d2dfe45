//! What a request to the store may be. The numbers are etcd's defaults, so that what fits here fits there.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::StoreError;
use super::txn::{Op, Txn};

/// Comparisons, and operations of each branch, in a transaction (etcd: `--max-txn-ops`).
pub const MAX_OPERATIONS: usize = 128;
/// Keys, values and [`OPERATION_BYTES`] for each comparison and operation (etcd: `--max-request-bytes`, 1.5 MiB).
pub const MAX_REQUEST_BYTES: usize = 1_572_864;
/// What a comparison or operation counts besides its bytes: more than etcd's encoding ever adds.
pub const OPERATION_BYTES: usize = 64;
/// Long enough for any path of names, short enough for an index page.
pub const MAX_KEY_BYTES: usize = 1024;
/// Leases are renewed every few seconds; less would be a race with the network, and etcd rounds it up to 2 anyhow.
pub const LEASE_SECONDS_MIN: u64 = 2;
/// Nothing that lives longer than a day hangs on a session.
pub const LEASE_SECONDS_MAX: u64 = 86_400;

pub(super) fn check_key(key: &[u8]) -> Result<(), StoreError> {
    match key.len() {
        1..=MAX_KEY_BYTES => Ok(()),
        bytes => Err(StoreError::KeyLength { bytes }),
    }
}

/// Whole seconds, rounded up.
pub(super) fn check_lease(ttl: Duration) -> Result<u64, StoreError> {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    match seconds {
        LEASE_SECONDS_MIN..=LEASE_SECONDS_MAX => Ok(seconds),
        _ => Err(StoreError::LeaseDuration { seconds }),
    }
}

/// The first rule that `txn` breaks, whichever branch it is in.
pub(super) fn check_txn(txn: &Txn) -> Result<(), StoreError> {
    let operations = txn.compare.len().max(txn.then.len()).max(txn.or_else.len());
    if operations > MAX_OPERATIONS {
        return Err(StoreError::TooManyOperations { operations });
    }
    for compare in &txn.compare {
        check_key(&compare.key)?;
    }
    for op in txn.then.iter().chain(&txn.or_else) {
        match op {
            Op::Put { key, .. } => check_key(key)?,
            Op::Delete { range } | Op::Get { range, .. } => range.check()?,
        }
    }
    let bytes = txn.bytes();
    if bytes > MAX_REQUEST_BYTES {
        return Err(StoreError::TooLarge { bytes });
    }
    check_branch(&txn.then)?;
    check_branch(&txn.or_else)
}

/// A key has one fate in a branch: so a revision has at most one event for it.
pub(super) fn check_branch(ops: &[Op]) -> Result<(), StoreError> {
    let mut puts: HashSet<&Bytes> = HashSet::new();
    for op in ops {
        if let Op::Put { key, .. } = op
            && !puts.insert(key)
        {
            return Err(StoreError::DuplicateKey);
        }
    }
    for op in ops {
        if let Op::Delete { range } = op
            && puts.iter().any(|key| range.contains(key))
        {
            return Err(StoreError::DuplicateKey);
        }
    }
    Ok(())
}
