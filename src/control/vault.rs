//! The store as the control plane uses it: sealed records, a head that fences other writers, an outbox.
//!
//! A commit is one transaction: what the command relied on is compared, its records, its events and the head are put.
//! Either all of it is there after a crash or nothing. What the records mean is the planner's business.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::model::Model;
use super::plan::{Audience, ChangeEvent};
use super::record::{self, Change, GrantRecord, HEAD, META, Meta, OUTBOX, PolicyRecord, ROOT, Record, RecordError};
use super::store::sealed::{SealError, SealKey};
use super::store::{Compare, KeyRange, KeyValue, Op, Store, StoreError, Txn};
use crate::domain::Timestamp;
use crate::domain::name::{GrantId, RequestId};
use crate::domain::request::Request;
use crate::domain::resource::MAX_AUTHORITY;

/// Keys read at once at start.
const PAGE: usize = 1_000;
/// Operations of a transaction besides records and outbox: the head.
const OVERHEAD: usize = 2;
/// Bytes of a transaction that are left for keys and the store's own accounting.
const BYTES_MARGIN: usize = 64 * 1024;

/// What one command leaves in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRecord {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What happened, in order.
    pub events: Vec<ChangeEvent>,
}

/// Why the store's content cannot be used, or a commit was not done.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The store said no, or nothing.
    #[error("{}", .0.detail())]
    Store(#[from] StoreError),
    /// A value was not written by this control plane.
    #[error("the value under `{key}`: {source}")]
    Seal {
        /// Where.
        key: String,
        /// What is wrong with it.
        source: SealError,
    },
    /// A value is not a record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A later program wrote this store.
    #[error("the store's layout {0} is not one that this program reads")]
    Format(u32),
    /// Somebody else wrote what the commit relied on.
    #[error("another writer changed the store")]
    Conflict,
    /// A record that cannot be written as JSON.
    #[error("a record cannot be written: {0}")]
    Unwritable(#[from] serde_json::Error),
}

/// The part of a commit that one command makes.
#[derive(Debug, Default)]
pub struct Part {
    /// Its records.
    pub changes: Vec<Change>,
    /// Its events, under the key that the outbox gets.
    pub outbox: Option<(String, OutboxRecord)>,
}

/// A commit that is being put together.
#[derive(Debug)]
pub struct Draft {
    txn: Txn,
    bytes: usize,
    audience: Audience,
}

/// The store with the key that seals its values.
#[derive(Debug)]
pub struct Vault {
    store: Arc<dyn Store>,
    seal: SealKey,
}

impl Vault {
    /// Of a store and its key.
    pub fn new(store: Arc<dyn Store>, seal: SealKey) -> Self {
        Self { store, seal }
    }

    /// A key for something that is not kept in the store, the same as long as the key of its seals is.
    pub fn derived(&self, purpose: &str) -> aws_lc_rs::hmac::Key {
        self.seal.derived(purpose)
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Reads a value that was put under its key.
    ///
    /// # Errors
    /// When it is not sealed by this control plane for this key.
    pub fn open(&self, kv: &KeyValue) -> Result<(String, Bytes), VaultError> {
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        match self.seal.open(&kv.key, &kv.value) {
            Ok(value) => Ok((key, value)),
            Err(source) => Err(VaultError::Seal { key, source }),
        }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When it is not one of ours.
    pub fn record(&self, kv: &KeyValue) -> Result<Record, VaultError> {
        let (key, value) = self.open(kv)?;
        Ok(Record::decode(&key, &value)?)
    }

    /// Builds the model from what is kept, at one revision. One record out of place stops the start: a control plane
    /// that does not know what it decided decides nothing.
    ///
    /// # Errors
    /// When the store does not answer, or holds what is not ours.
    pub async fn load(&self) -> Result<Model, VaultError> {
        let mut model = Model::default();
        let revision = self.store.current_revision().await?;
        model.committed = revision;
        let end = format!("{}0", ROOT.trim_end_matches('/'));
        let mut from = ROOT.as_bytes().to_vec();
        loop {
            let page = self.store.range(KeyRange::span(&from, &end), Some(PAGE), Some(revision)).await?;
            for kv in &page.kvs {
                if kv.key == HEAD {
                    self.open(kv)?;
                    model.revision = kv.mod_revision;
                } else if !kv.key.starts_with(OUTBOX.as_bytes()) {
                    let record = self.record(kv)?;
                    if let Record::Meta(meta) = record
                        && !meta.is_readable()
                    {
                        return Err(VaultError::Format(meta.format));
                    }
                    if let Record::Resource(resource) = &record
                        && kv.create_revision != kv.mod_revision
                    {
                        // What its bound was before is not kept.
                        model.longest.insert(resource.name.clone(), MAX_AUTHORITY);
                    }
                    model.apply(&Change::Put(record), kv.mod_revision);
                }
            }
            match page.kvs.last() {
                Some(last) if page.more => {
                    from = last.key.to_vec();
                    from.push(0);
                }
                _ => return Ok(model),
            }
        }
    }

    /// A store that was never used gets its first epoch.
    ///
    /// # Errors
    /// When the store does not answer, or somebody else was first.
    pub async fn initialize(&self) -> Result<(), VaultError> {
        let meta = self.value(META, &Record::Meta(Meta::of_epoch(1, None)))?;
        let txn = Txn::new()
            .when(Compare::absent(META))
            .when(Compare::absent(HEAD))
            .then(Op::put(META, meta))
            .then(Op::put(HEAD, self.seal.seal(HEAD.as_bytes(), b"")));
        let done = self.store.txn(txn).await?;
        if done.succeeded { Ok(()) } else { Err(VaultError::Conflict) }
    }

    /// A grant as it is kept, with the revision that put it: also one that has ended.
    ///
    /// # Errors
    /// When the store does not answer, or holds what is not ours.
    pub async fn grant(&self, id: GrantId) -> Result<Option<(GrantRecord, u64)>, VaultError> {
        let found = self.store.range(KeyRange::key(record::grant_key(id)), None, None).await?;
        let Some(kv) = found.kvs.first() else { return Ok(None) };
        match self.record(kv)? {
            Record::Grant(grant) => Ok(Some((grant, kv.mod_revision))),
            _ => Err(RecordError::Misplaced(record::grant_key(id)).into()),
        }
    }

    /// A request as it is kept, with the revision that put it: also one that is settled.
    ///
    /// # Errors
    /// When the store does not answer, or holds what is not ours.
    pub async fn request(&self, id: RequestId) -> Result<Option<(Request, u64)>, VaultError> {
        let key = record::request_key(id);
        let found = self.store.range(KeyRange::key(&key), None, None).await?;
        let Some(kv) = found.kvs.first() else { return Ok(None) };
        match self.record(kv)? {
            Record::Request(request) => Ok(Some((*request, kv.mod_revision))),
            _ => Err(RecordError::Misplaced(key).into()),
        }
    }

    /// A version of the policy.
    ///
    /// # Errors
    /// When the store does not answer, or holds what is not ours.
    pub async fn policy(&self, version: u64) -> Result<Option<PolicyRecord>, VaultError> {
        let key = record::policy_key(version);
        let found = self.store.range(KeyRange::key(&key), None, None).await?;
        let Some(kv) = found.kvs.first() else { return Ok(None) };
        match self.record(kv)? {
            Record::Policy(policy) => Ok(Some(policy)),
            _ => Err(RecordError::Misplaced(key).into()),
        }
    }

    fn value(&self, key: &str, record: &Record) -> Result<Bytes, VaultError> {
        let json = serde_json::to_vec(&record.json()?)?;
        Ok(self.seal.seal(key.as_bytes(), &json))
    }

    /// An empty commit on top of `model`: it goes through only while nobody else has moved the head.
    pub fn draft(&self, model: &Model) -> Draft {
        let txn = Txn::new().when(Compare::unchanged(HEAD, model.revision));
        Draft { txn, bytes: 0, audience: Audience::Control }
    }

    /// Adds a command's part. `false`: there is no room for it, and the draft is as it was.
    ///
    /// # Errors
    /// When a record cannot be written.
    pub fn add(&self, draft: &mut Draft, model: &Model, part: &Part, audience: Audience) -> Result<bool, VaultError> {
        let mut compare = Vec::with_capacity(part.changes.len());
        let mut then = Vec::with_capacity(part.changes.len() + 1);
        for change in &part.changes {
            let key = change.record().key();
            compare.push(match model.revision_of(change.record()) {
                Some(revision) => Compare::unchanged(&key, revision),
                // Meta and what the model does not keep are fenced by the head alone.
                None if matches!(change.record(), Record::Meta(_)) => Compare::present(&key),
                None => Compare::absent(&key),
            });
            then.push(match change {
                Change::Put(record) => Op::put(&key, self.value(&key, record)?),
                Change::Delete(_) => Op::delete(KeyRange::key(&key)),
            });
        }
        if let Some((key, outbox)) = &part.outbox {
            then.push(Op::put(key, self.seal.seal(key.as_bytes(), &serde_json::to_vec(outbox)?)));
        }
        let bytes = Txn { compare: compare.clone(), then: then.clone(), or_else: Vec::new() }.bytes();
        let operations = draft.txn.then.len().max(draft.txn.compare.len()) + then.len() + OVERHEAD;
        let fits = operations <= super::store::MAX_OPERATIONS
            && draft.bytes + bytes <= super::store::MAX_REQUEST_BYTES - BYTES_MARGIN;
        // The first part goes in even so: the store then says what is too much.
        if !fits && !draft.txn.then.is_empty() {
            return Ok(false);
        }
        draft.bytes += bytes;
        draft.txn.compare.append(&mut compare);
        draft.txn.then.append(&mut then);
        if audience == Audience::Gateways {
            draft.audience = Audience::Gateways;
        }
        Ok(true)
    }

    /// Makes the draft true. Returns the revision.
    ///
    /// # Errors
    /// [`VaultError::Conflict`] when it was not done; [`StoreError::Unavailable`] when nobody knows.
    pub async fn commit(&self, draft: Draft) -> Result<(u64, Audience), VaultError> {
        let mut txn = draft.txn;
        if draft.audience == Audience::Gateways {
            txn = txn.then(Op::put(HEAD, self.seal.seal(HEAD.as_bytes(), b"")));
        }
        let done = self.store.txn(txn).await?;
        if done.succeeded { Ok((done.revision, draft.audience)) } else { Err(VaultError::Conflict) }
    }
}
