//! What the rest of the control plane asks the writer for: one method per command, and the model to read.

mod breakglass;
mod changes;
mod delegations;
mod gateways;
mod requests;
mod tickets;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::super::authorize::{Caller, Denied};
use super::super::disuse;
use super::super::drill;
use super::super::fleet::{Fleet, GatewayStatus};
use super::super::grant::{self, GrantRequest, Selection};
use super::super::halt;
use super::super::identity::{self, Held};
use super::super::model::Model;
use super::super::plan::{Context, Plan, Refused};
use super::super::record::{GrantRecord, Person, RevokedToken};
use super::super::registry;
use super::{Identifiers, Job, Shared, note, planned};
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::halt::HaltScope;
use crate::domain::identity::{Identity, IdentityState};
use crate::domain::name::{GrantId, IdentityName, OwnerName};

/// How long a caller waits for a place in the queue, and for its commit.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job of {}", self.caller)
    }
}

/// What was done, and the revision from which on it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// The answer.
    pub answer: T,
    /// The revision.
    pub revision: u64,
}

impl ControlHandle {
    pub(super) fn new(jobs: mpsc::Sender<Job>, shared: Arc<Shared>) -> Self {
        Self { jobs, shared }
    }

    pub(in super::super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Everything that is kept, as of one revision.
    pub fn model(&self) -> Arc<Model> {
        self.shared.model.load_full()
    }

    /// The gateways.
    pub fn fleet(&self) -> &Fleet {
        &self.shared.fleet
    }

    /// Where each gateway stands.
    pub fn gateways(&self) -> Vec<GatewayStatus> {
        self.shared.fleet.status()
    }

    async fn run<T: Send + 'static>(
        &self,
        caller: &Caller,
        command: &'static str,
        plan: impl FnOnce(&Model, &Context<'_>, &mut Identifiers) -> Result<Plan<T>, Refused> + Send + 'static,
    ) -> Result<Done<T>, Refused> {
        let _timer = self.shared.metrics.command_seconds.with_label_values(&[command]).start_timer();
        let (sender, receiver) = oneshot::channel();
        let job = Job {
            caller: caller.clone(),
            plan: Box::new(move |model, context, identifiers| match plan(model, context, identifiers) {
                Ok(plan) => {
                    let (plan, answer) = plan.take_answer();
                    // Whoever asked may be gone by then; what was done stays done.
                    let tell = move |done: Result<u64, Refused>| {
                        let _ = sender.send(done.map(|revision| Done { answer, revision }));
                    };
                    Some(planned(plan, context.caller, context.now, identifiers, Box::new(tell)))
                }
                Err(refused) => {
                    let _ = sender.send(Err(refused));
                    None
                }
            }),
        };
        let done = async {
            self.jobs.send(job).await.map_err(|_| Refused::Unavailable)?;
            receiver.await.map_err(|_| Refused::Unavailable)?
        };
        tokio::time::timeout(PATIENCE, done).await.unwrap_or(Err(Refused::Unavailable))
    }

    /// Changes an identity's state.
    ///
    /// # Errors
    /// As [`identity::plan_state`].
    pub async fn set_state(
        &self,
        caller: &Caller,
        name: IdentityName,
        state: IdentityState,
        reason: String,
    ) -> Result<Done<Identity>, Refused> {
        self.run(caller, "set_state", move |model, _, _| identity::plan_state(model, &name, state, &reason)).await
    }

    /// Ends a grant that nothing uses.
    ///
    /// # Errors
    /// As [`disuse::plan_end`].
    pub(in super::super) async fn end_unused(&self, id: GrantId, why: String) -> Result<Done<Option<Grant>>, Refused> {
        self.run(&Caller::System, "end_unused", move |model, context, _| disuse::plan_end(model, context, id, &why))
            .await
    }

    /// Ends the next part of what an identity that may not act holds: until nothing is left, it is asked again.
    ///
    /// # Errors
    /// As [`identity::plan_end_held`].
    pub async fn end_held(&self, caller: &Caller, name: IdentityName, reason: String) -> Result<Done<Held>, Refused> {
        self.run(caller, "end_held", move |model, context, _| identity::plan_end_held(model, context, &name, &reason))
            .await
    }

    /// Makes grants.
    ///
    /// # Errors
    /// As [`grant::plan_create`].
    pub async fn create_grants(&self, caller: &Caller, request: GrantRequest) -> Result<Done<Vec<Grant>>, Refused> {
        self.run(caller, "create_grant", move |model, context, identifiers| {
            grant::plan_create(model, context, &request, || identifiers.draw(context.now))
        })
        .await
    }

    /// Ends a grant. One that has ended already is returned as it is, with the revision in which that was.
    ///
    /// # Errors
    /// [`Refused::NotFound`] for a grant that never was; otherwise as [`grant::plan_revoke`].
    pub async fn revoke_grant(&self, caller: &Caller, id: GrantId, reason: String) -> Result<Done<Grant>, Refused> {
        let words = reason.clone();
        let done = self
            .run(caller, "revoke_grant", move |model, context, _| match model.grants.get(&id) {
                Some(kept) => {
                    let record = GrantRecord { grant: kept.value.as_ref().clone(), expiry_noted: false };
                    grant::plan_revoke(context, &record, &reason).map(|plan| plan.map(Some))
                }
                None => Ok(Plan::nothing(None)),
            })
            .await?;
        if let Some(grant) = done.answer {
            return Ok(Done { answer: grant, revision: done.revision });
        }
        super::super::plan::checked_reason(&words).map_err(Refused::invalid)?;
        let (record, revision) = self.grant(id).await?;
        Ok(Done { answer: record.grant, revision })
    }

    /// Ends the next of the selected grants: until none is left, it is asked again.
    ///
    /// # Errors
    /// As [`grant::plan_revoke_selected`].
    pub async fn revoke_selected(
        &self,
        caller: &Caller,
        selection: Selection,
        reason: String,
    ) -> Result<Done<Vec<Grant>>, Refused> {
        self.run(caller, "revoke_grants", move |model, context, _| {
            grant::plan_revoke_selected(model, context, &selection, &reason)
        })
        .await
    }

    /// A grant, live or ended, and the revision that last put it.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Unavailable`] when the store does not answer.
    pub async fn grant(&self, id: GrantId) -> Result<(GrantRecord, u64), Refused> {
        if let Some(kept) = self.model().grants.get(&id) {
            let grant = kept.value.as_ref().clone();
            return Ok((GrantRecord { grant, expiry_noted: false }, kept.revision));
        }
        match self.shared.vault.grant(id).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Refused::NotFound(format!("there is no grant {id}"))),
            Err(error) => {
                tracing::error!(%error, "a grant cannot be read");
                Err(Refused::Unavailable)
            }
        }
    }

    /// Declares a token dead.
    ///
    /// # Errors
    /// As [`grant::plan_revoke_token`].
    pub async fn revoke_token(&self, caller: &Caller, token: RevokedToken) -> Result<Done<()>, Refused> {
        self.run(caller, "revoke_token", move |model, context, _| grant::plan_revoke_token(model, context, &token))
            .await
    }

    /// Records a person, or changes them.
    ///
    /// # Errors
    /// As [`registry::plan_person`].
    pub async fn put_person(&self, caller: &Caller, person: Person) -> Result<Done<()>, Refused> {
        self.run(caller, "put_person", move |model, _, _| registry::plan_person(model, person)).await
    }

    /// Removes a person.
    ///
    /// # Errors
    /// When the writer refuses.
    pub async fn forget_person(&self, caller: &Caller, name: OwnerName) -> Result<Done<()>, Refused> {
        self.run(caller, "forget_person", move |model, _, _| Ok(registry::plan_forget_person(model, &name))).await
    }

    /// Has everything in a scope stand still.
    ///
    /// # Errors
    /// As [`halt::plan_halt`].
    pub async fn halt(&self, caller: &Caller, scope: HaltScope, reason: String) -> Result<Done<()>, Refused> {
        self.run(caller, "halt", move |model, context, _| halt::plan_halt(model, context, &scope, &reason)).await
    }

    /// Lets everything in a scope go on.
    ///
    /// # Errors
    /// As [`halt::plan_resume`].
    pub async fn resume(&self, caller: &Caller, scope: HaltScope, reason: String) -> Result<Done<()>, Refused> {
        self.run(caller, "resume", move |model, _, _| halt::plan_resume(model, &scope, &reason)).await
    }

    /// Makes a drill's grants.
    ///
    /// # Errors
    /// As [`drill::plan_begin`].
    pub(in super::super) async fn begin_drill(&self) -> Result<Done<Vec<GrantId>>, Refused> {
        self.run(&Caller::System, "begin_drill", move |model, context, identifiers| {
            drill::plan_begin(model, context.now, || identifiers.draw(context.now))
        })
        .await
    }

    /// Ends every grant of a drill; answers the revision of the last end.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super) async fn end_drill(&self) -> Result<u64, Refused> {
        let identity = drill::identity()?;
        let mut revision = 0;
        while self.model().grants_of.get(&identity).is_some_and(|grants| !grants.is_empty()) {
            let selection = Selection { identity: Some(identity.clone()), resource: None };
            let done = self.revoke_selected(&Caller::System, selection, drill::REASON.to_owned()).await?;
            revision = done.revision;
            if done.answer.is_empty() {
                break;
            }
        }
        Ok(revision)
    }

    /// Records what a drill came to.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super) async fn note_drill(&self, caller: &Caller, result: String) -> Result<Done<()>, Refused> {
        self.run(caller, "note_drill", move |_, _, _| Ok(note("fleet.drilled", "fleet".to_owned(), result))).await
    }

    /// Declares the store a restored backup: gateways that saw more than it knows will take it as new. `latest` is the
    /// latest time that is known of the store that was lost.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn begin_epoch(
        &self,
        caller: &Caller,
        epoch: u64,
        latest: Timestamp,
        reason: String,
    ) -> Result<Done<u64>, Refused> {
        self.run(caller, "begin_epoch", move |model, context, _| {
            registry::plan_epoch(model, context.now, latest, epoch, &reason)
        })
        .await
    }

    /// Records that somebody was denied something.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn note_denied(&self, caller: &Caller, denied: &Denied, suppressed: u64) -> Result<Done<()>, Refused> {
        let object = format!("operation/{}", denied.operation.as_str());
        let mut reason = denied.to_string();
        if suppressed > 0 {
            reason.push_str(&format!("; {suppressed} more denials before it were not recorded"));
        }
        self.run(caller, "note_denied", move |_, _, _| Ok(note("access.denied", object, reason))).await
    }
}
