//! What must hold for every store. Each function is a rule; all of them run on SQLite, and on a real etcd, which is
//! right when the two differ.

mod changes;
mod differential;
mod leases;
mod limits;
mod reading;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::etcd::EtcdStore;
use super::{
    Compare, CompareOp, CompareTarget, KeyRange, KeyValue, Op, OpResult, RangeResult, Revision, SqliteStore, Store,
    StoreError, Txn, TxnResult, WatchBatch, WatchStream,
};
use crate::domain::Timestamp;
use crate::domain::clock::ManualClock;

/// Far longer than anything here takes; a bound, not a wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store to put to the test, and a place in it that no other rule touches.
struct Subject {
    store: Arc<dyn Store>,
    /// How its time passes; without one, by itself.
    clock: Option<Arc<ManualClock>>,
    place: String,
}

impl Subject {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    /// All of this rule's keys.
    fn all(&self) -> KeyRange {
        KeyRange::prefix(&self.place)
    }

    async fn put(&self, name: &str, value: &str) -> Revision {
        self.store.txn(Txn::new().then(Op::put(self.key(name), value.to_owned()))).await.unwrap().revision
    }

    async fn delete(&self, name: &str) -> Revision {
        self.store.txn(Txn::new().then(Op::delete(KeyRange::key(self.key(name))))).await.unwrap().revision
    }

    async fn get(&self, name: &str) -> Option<KeyValue> {
        let mut found = self.store.range(KeyRange::key(self.key(name)), None, None).await.unwrap().kvs;
        assert!(found.len() <= 1);
        found.pop()
    }

    /// The names and values of a range of this rule's keys.
    fn shown(&self, found: &RangeResult) -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let shown = |kv: &KeyValue| (text(&kv.key).strip_prefix(&self.place).unwrap().to_owned(), text(&kv.value));
        found.kvs.iter().map(shown).collect()
    }

    async fn revision(&self) -> Revision {
        self.store.current_revision().await.unwrap()
    }

    /// Lets time pass, if it does not by itself.
    async fn pass(&self, time: Duration) {
        if let Some(clock) = &self.clock {
            clock.advance(time);
            self.store.tick().await.unwrap();
        }
    }
}

async fn next(watch: &mut WatchStream) -> Result<WatchBatch, StoreError> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch has something").expect("the watch goes on")
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

macro_rules! rules {
    ($($file:ident: $($rule:ident)+;)+) => {
        mod sqlite {
            use super::*;

            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $rule() {
                    let dir = tempfile::tempdir().unwrap();
                    let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
                    let store = SqliteStore::open(&dir.path().join("store.db"), clock.clone()).unwrap();
                    let place = concat!(stringify!($rule), "/").to_owned();
                    $file::$rule(&Subject { store: Arc::new(store), clock: Some(clock), place }).await;
                }
            )+)+
        }

        /// One server for all of them, one after the other: compaction and revisions are the whole store's.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn etcd_obeys_every_rule() {
            let store = Arc::new(EtcdStore::start());
            $($(
                println!("{}", stringify!($rule));
                let place = concat!(stringify!($rule), "/").to_owned();
                $file::$rule(&Subject { store: store.clone(), clock: None, place }).await;
            )+)+
        }
    };
}

rules! {
    reading:
        keys_come_in_byte_order
        a_limit_says_whether_there_is_more
        prefixes_end_where_their_last_byte_counts_up
        a_prefix_of_0xff_reaches_the_end
        spans_exclude_their_end
        the_past_is_readable
        the_future_is_not_readable;
    writing:
        a_put_counts_revision_and_version
        a_key_put_again_after_its_deletion_is_new
        deleting_a_range_tells_how_many
        what_writes_nothing_moves_no_revision
        every_comparison_is_as_etcd_makes_it
        a_missing_key_compares_as_zero_and_has_no_value
        one_failed_comparison_takes_the_other_branch
        a_get_sees_what_its_transaction_did_before
        a_key_has_one_fate_in_a_branch
        deletions_may_overlap
        concurrent_increments_all_count
        values_are_any_bytes;
    limits:
        operations_are_limited_in_each_list
        bytes_are_limited
        many_small_operations_fit_as_counted
        keys_are_limited;
    changes:
        a_watch_gives_a_revision_whole_and_in_order
        a_watch_sees_only_its_range
        a_watch_resumes_from_a_revision
        a_watch_from_now_sees_nothing_before
        a_watch_may_begin_in_the_future
        a_watch_reads_a_long_past_in_whole_revisions
        a_watch_misses_nothing_while_many_write
        a_watch_tells_of_the_value_before
        compaction_forgets_what_was_before
        compaction_keeps_what_is_alive
        compaction_goes_only_forward;
    leases:
        a_revoked_lease_takes_its_keys_in_one_revision
        a_lease_without_keys_ends_in_silence
        an_expired_lease_takes_its_keys_in_a_revision_of_its_own
        an_unknown_lease_is_refused_and_nothing_is_done
        a_put_moves_a_key_between_leases
        the_time_of_a_lease_is_limited;
}
