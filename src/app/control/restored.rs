//! Going on from a store that was put back from a backup.
//!
//! The store forgot what came after the backup; the evidence did not. What was ended then is ended again before any
//! gateway hears of the store, so that nothing that was revoked lives again. What was granted then stays lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::{log, part};
use crate::app::{AppError, on_runtime};
use crate::clock::SystemClock;
use crate::control::authorize::Caller;
use crate::control::plan::Refused;
use crate::control::record::RevokedToken;
use crate::control::{ControlHandle, Core, Untold};
use crate::domain::Timestamp;
use crate::domain::identity::IdentityState;
use crate::evidence::entry::{Change, Event, Kind};
use crate::evidence::query::{Filter, Query};
use crate::evidence::read::first;
use crate::evidence::retention::gone;
use crate::evidence::storage::{DiskStorage, Storage};
use crate::files;
use crate::gateway::incarnation;
use crate::settings::ControlSettings;

/// Highest epoch that was begun here, beside the store: a backup of the store alone does not take it back.
const EPOCH_FILE: &str = "epoch";

/// What a restored store goes on as.
#[derive(Clone, Debug, Serialize)]
pub struct RestoredStore {
    /// The store's epoch from now on: gateways take it for newer than all that they saw.
    pub epoch: u64,
    /// Revision that the backup had come to.
    pub revision: u64,
    /// What was ended after it and is ended again.
    pub ended_again: u64,
    /// Where the evidence of before lies; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<PathBuf>,
}

/// Declares that the store of the control plane of the settings at `config`, which is not running, was put back from a
/// backup. A new epoch begins, which gateways follow, and a new log of evidence, as the old one tells of what the store
/// does not know. What the old one tells was ended after the backup is ended again; of counted grants nothing is left.
///
/// # Errors
/// When the settings are wrong, the control plane runs, or a file cannot be read or written. It may be done again.
pub fn restored(config: &Path, reason: &str) -> Result<RestoredStore, AppError> {
    crate::app::crypto();
    let settings = ControlSettings::load(config)?;
    if settings.evidence.dir.exists() {
        // Its lock is a running control plane's.
        let unused = DiskStorage::open(&settings.evidence.dir);
        drop(unused.map_err(|error| part(format!("{error}; stop the control plane first")))?);
    }
    let file = settings.state_dir.join(EPOCH_FILE);
    let begun = match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().map_err(|_| part(format!("{}: not a number", file.display())))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0u64,
        Err(error) => return Err(AppError::io(format!("cannot read {}", file.display()))(error)),
    };
    on_runtime(async {
        let (core, untold) = Core::open_restored(&settings, Arc::new(SystemClock)).await.map_err(part)?;
        let done = go_on(&settings, (core.handle(), untold), (&file, begun), reason).await;
        core.shutdown().await;
        done
    })
}

async fn go_on(
    settings: &ControlSettings,
    (handle, untold): (&ControlHandle, Vec<Untold>),
    (file, begun): (&Path, u64),
    reason: &str,
) -> Result<RestoredStore, AppError> {
    let (revision, epoch) = (handle.model().revision, handle.model().epoch.max(begun).saturating_add(1));
    let none = (Vec::new(), Timestamp::UNIX_EPOCH);
    let (later, latest) = if settings.evidence.dir.exists() { later(&settings.evidence.dir, revision)? } else { none };
    let mut ended_again = 0;
    // What the evidence had yet to be told of is remembered beside the store.
    for change in later.into_iter().chain(untold.iter().map(|one| log::change(&one.told()))) {
        ended_again += u64::from(end_again(handle, &change).await?);
    }
    // A crash before this leaves a store that the evidence is ahead of, or what was told of it, which no control plane
    // starts on.
    let sealed = incarnation::seal(&settings.state_dir, &settings.evidence.dir).map_err(part)?;
    // A crash here leaves a store of the old epoch, which gateways refuse: it is done again.
    files::write(file, format!("{epoch}\n").as_bytes(), files::PRIVATE)
        .map_err(AppError::io(format!("cannot write {}", file.display())))?;
    handle.begin_epoch(&Caller::System, epoch, latest, reason.to_owned()).await.map_err(part)?;
    Ok(RestoredStore { epoch, revision, ended_again, evidence: sealed.moved_to })
}

/// What the evidence in `dir` tells of revisions after `revision`, in their order, and the latest time that it knows.
fn later(dir: &Path, revision: u64) -> Result<(Vec<Change<'static>>, Timestamp), AppError> {
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::read_only(dir));
    later_in(&storage, revision)
}

fn later_in(storage: &Arc<dyn Storage>, revision: u64) -> Result<(Vec<Change<'static>>, Timestamp), AppError> {
    let (mut changes, mut latest, mut told) = (Vec::new(), Timestamp::UNIX_EPOCH, None);
    let filter = Filter { kind: Some(Kind::Change), ..Filter::default() };
    // Once, from the first record that is there.
    let mut query = Query::new(storage.clone(), first(&**storage).map_err(part)?, filter);
    while let Some(found) = query.next().map_err(part)? {
        latest = latest.max(found.entry.time);
        if let Event::Change(change) = found.entry.event {
            told.get_or_insert(change.revision);
            if change.revision > revision {
                changes.push(*change);
            }
        }
    }
    if let Some((_, horizon)) = gone(&**storage).map_err(part)?
        && told.is_none_or(|told| told > revision)
    {
        let told = told.map_or_else(|| "nothing".to_owned(), |told| format!("revisions from {told} on"));
        return Err(part(format!(
            "the backup is of revision {revision}, and the evidence here tells of {told}: {horizon}. What was ended in between \
             would live again: put a later backup back"
        )));
    }
    changes.sort_by_key(|change| change.revision);
    changes.dedup();
    Ok((changes, latest))
}

/// Ends again what a change ended; whether it did anything.
async fn end_again(handle: &ControlHandle, change: &Change<'_>) -> Result<bool, AppError> {
    let caller = Caller::System;
    let object: &str = &change.object;
    let why = format!("ended in revision {}, which a restored store does not know", change.revision);
    let before = handle.model().revision;
    let done = match &*change.operation {
        "grant.revoked" => match object.parse() {
            Ok(id) => handle.revoke_grant(&caller, id, why).await.map(drop),
            Err(_) => Ok(()),
        },
        "identity.quarantined" | "identity.offboarded" => match object.parse() {
            Ok(name) => {
                let gone = &*change.operation == "identity.offboarded";
                let state = if gone { IdentityState::Offboarded } else { IdentityState::Quarantined };
                handle.set_state(&caller, name, state, why).await.map(drop)
            }
            Err(_) => Ok(()),
        },
        "gateway.expelled" => match object.parse() {
            Ok(name) => handle.expel(&caller, name, why).await.map(drop),
            Err(_) => Ok(()),
        },
        "halt.begun" => match object.parse() {
            Ok(scope) => handle.halt(&caller, scope, why).await.map(drop),
            Err(_) => Ok(()),
        },
        "token.revoked" => {
            let token = change.after.as_deref().cloned().map(serde_json::from_value::<RevokedToken>);
            match token {
                Some(Ok(token)) => handle.revoke_token(&caller, RevokedToken { by: None, ..token }).await.map(drop),
                _ => Ok(()),
            }
        }
        _ => return Ok(false),
    };
    match done {
        Ok(()) => Ok(handle.model().revision > before || &*change.operation == "gateway.expelled"),
        // What the backup does not have is as ended as can be.
        Err(Refused::NotFound(_) | Refused::Conflict(_) | Refused::Invalid(_)) => Ok(false),
        Err(error) => Err(part(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::evidence::journal::Journal;
    use crate::evidence::journal::tests::{clock, origin, small, writer};
    use crate::evidence::storage::{BoundedStorage, FakeStorage};

    fn change(revision: u64) -> Event<'static> {
        Event::Change(Box::new(Change {
            revision,
            actor: Cow::Owned("alice".parse().unwrap()),
            operation: "grant.revoked".into(),
            object_kind: "grant".into(),
            object: format!("{revision}").into(),
            before_digest: None,
            after: None,
            reason: Some("x".repeat(200).into()),
        }))
    }

    /// Reads of a log with so many changes, in many segments.
    fn reads(changes: u64) -> usize {
        let disk = FakeStorage::new();
        let (journal, _) = Journal::open(Arc::new(disk.clone()), origin(), &writer(), small(), clock()).unwrap();
        for revision in 1..=changes {
            let ticket = journal.append(&change(revision)).unwrap();
            journal.durable_blocking(ticket).unwrap();
        }
        journal.close();
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        let storage = BoundedStorage::new(disk, move || counted.fetch_add(1, Ordering::SeqCst) < usize::MAX);
        let (later, _) = later_in(&(Arc::new(storage) as Arc<dyn Storage>), changes / 2).unwrap();
        let revisions: Vec<u64> = later.iter().map(|change| change.revision).collect();
        assert_eq!(revisions, (changes / 2 + 1..=changes).collect::<Vec<_>>(), "each once, in order");
        reads.load(Ordering::SeqCst)
    }

    #[test]
    fn what_came_after_a_backup_is_read_once() {
        let (some, more) = (reads(100), reads(400));
        assert!(some > 10 && more <= some * 5, "{some} reads of 100 changes, {more} of 400");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_revoked_a_moment_before_is_ended_again_though_no_evidence_tells_of_it() {
        use crate::control::sample::{documents, request};
        let home = tempfile::tempdir().unwrap();
        let text = format!(
            "role: control\ntrust_domain: example.org\nstate_dir: {0}\ngrpc_address: 127.0.0.1:0\n\
             http_address: 127.0.0.1:0\ntls: {{certificate_file: x, key_file: x, client_ca_file: x}}\n",
            home.path().join("state").display()
        );
        let config = home.path().join("control.yaml");
        files::write(&config, text.as_bytes(), files::PRIVATE).unwrap();
        let settings = ControlSettings::parse("control.yaml", &text).unwrap();
        // Without whoever takes its outbox to the evidence, as with one that is behind.
        let open = async || Core::open(&settings, Arc::new(SystemClock)).await.unwrap();
        let core = open().await;
        core.handle().apply(&Caller::System, documents(), false).await.unwrap();
        let grant = core.handle().create_grants(&Caller::System, request()).await.unwrap().answer[0].id;
        core.shutdown().await;
        let store = ["control.db", "control.db-wal"].map(|name| home.path().join("state").join(name));
        let copies: Vec<_> = store.iter().map(|file| std::fs::read(file).ok()).collect();
        let core = open().await;
        core.handle().revoke_grant(&Caller::System, grant, "leaked".into()).await.unwrap();
        core.shutdown().await;
        for (file, copy) in store.iter().zip(copies) {
            match copy {
                Some(bytes) => files::write(file, &bytes, files::PRIVATE).unwrap(),
                None => drop(std::fs::remove_file(file)),
            }
        }
        let done = tokio::task::spawn_blocking(move || restored(&config, "the disk broke")).await.unwrap().unwrap();
        assert_eq!(done.ended_again, 1, "{done:?}");
        let core = open().await;
        assert!(!core.handle().model().grants.contains_key(&grant), "it does not live again");
        core.shutdown().await;
    }
}
