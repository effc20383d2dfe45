//! After each change of policy or catalog every live grant that was asked for is judged again, and those that policy would
//! not give any more end.
//!
//! The judging is done aside from the writer and takes at most half of one thread; the writer judges again those that it is
//! to end. A crash here leaves some of them unjudged: the next start judges all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::super::actor::ControlHandle;
use super::super::model::Model;
use super::super::reconsider::{self, MAX_AT_ONCE};
use super::ended;
use crate::domain::grant::Grant;
use crate::domain::name::GrantId;

/// Grants that are judged before others have their turn.
const CHUNK: usize = 256;
/// How long to wait where the store does not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Works until stopped.
pub(in super::super) async fn run(handle: ControlHandle, mut stop: watch::Receiver<bool>) {
    let mut committed = handle.shared().outbox.subscribe();
    let waiting = stop.clone();
    let mut judged: Option<Arc<Model>> = None;
    loop {
        committed.mark_unchanged();
        let model = handle.model();
        let is_known = judged.as_ref().is_some_and(|before| is_same_ground(before, &model));
        if !is_known && model.policy.is_some() {
            let done = tokio::select! {
                done = sweep(&handle, &model, &waiting) => done,
                () = super::super::stopped(&mut stop) => return,
            };
            if !done {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            judged = Some(model);
        }
        tokio::select! {
            () = super::super::stopped(&mut stop) => return,
            changed = committed.changed() => if changed.is_err() { return },
        }
    }
}

/// Whether all that a question to policy is made of is what it was: the maps are shared until one of them changes.
fn is_same_ground(one: &Model, other: &Model) -> bool {
    let version = |model: &Model| model.policy.as_ref().map(|policy| policy.record.version);
    version(one) == version(other)
        && one.identities.ptr_eq(&other.identities)
        && one.resources.ptr_eq(&other.resources)
        && one.roles.ptr_eq(&other.roles)
        && one.people.ptr_eq(&other.people)
        && one.groups.ptr_eq(&other.groups)
        && one.exceptions.ptr_eq(&other.exceptions)
}

/// Judges every live grant once. False: the writer did not do it.
async fn sweep(handle: &ControlHandle, model: &Arc<Model>, stop: &watch::Receiver<bool>) -> bool {
    let (mut ended, mut revisions): (Vec<Grant>, Option<(u64, u64)>) = (Vec::new(), None);
    let (mut from, mut left): (Option<GrantId>, Model) = (None, model.as_ref().clone());
    loop {
        let began = tokio::time::Instant::now();
        let now = handle.shared().clock.now();
        let judged = tokio::task::spawn_blocking(move || reconsider::judge(left, now, from, CHUNK)).await;
        let Ok((denied, last, rest)) = judged else { return false };
        left = rest;
        for some in denied.chunks(MAX_AT_ONCE) {
            match handle.end_denied(some.to_vec()).await {
                Ok(done) if done.answer.is_empty() => {}
                Ok(done) => {
                    revisions = Some((revisions.map_or(done.revision, |(first, _)| first), done.revision));
                    ended.extend(done.answer);
                }
                Err(error) => {
                    tracing::warn!(%error, "grants that policy would not give any more could not be ended yet");
                    return false;
                }
            }
        }
        let Some(last) = last else { break };
        from = Some(last);
        tokio::time::sleep(began.elapsed()).await;
    }
    if let Some(revisions) = revisions {
        let version = model.policy.as_ref().map_or(0, |policy| policy.record.version);
        let (receipt, words) = ended::receipt(handle, revisions, &ended, stop).await;
        if let Err(error) = handle.note_reconsidered(version, receipt, words).await {
            tracing::error!(%error, "a receipt could not be recorded");
        }
    }
    true
}
