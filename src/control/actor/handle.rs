//! What the rest of the control plane asks the writer for: one method per command, and the model to read.

mod breakglass;
mod changes;
mod delegations;
mod requests;
mod tickets;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::super::attested::{self, Attested};
use super::super::authorize::{Caller, Denied};
use super::super::disuse;
use super::super::drill;
use super::super::fleet::{Fleet, GatewayStatus};
use super::super::grant::{self, GrantRequest, Selection};
use super::super::halt;
use super::super::identity::{self, Held};
use super::super::logs;
use super::super::model::Model;
use super::super::plan::{Context, Plan, Refused};
use super::super::record::{AuthorityRecord, GatewayRecord, GrantRecord, Person, RevokedToken, TrustRecord};
use super::super::registry::{self, Invited, Joining};
use super::super::trust;
use super::super::uses::{self, Allotted, Claim};
use super::{Identifiers, Job, Shared, note, planned};
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::halt::HaltScope;
use crate::domain::identity::{Identity, IdentityState};
use crate::domain::name::{AllotmentId, GatewayName, GrantId, IdentityName, OwnerName};
use crate::domain::scope::Scope;
use crate::evidence::checkpoint::Checkpoint;
use crate::settings::control::TemplateSettings;

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

    /// Records a gateway, or changes it.
    ///
    /// # Errors
    /// As [`registry::plan_gateway`].
    pub async fn put_gateway(&self, caller: &Caller, gateway: GatewayRecord) -> Result<Done<()>, Refused> {
        self.run(caller, "put_gateway", move |model, _, _| registry::plan_gateway(model, gateway)).await
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

    /// Records a gateway that is to join.
    ///
    /// # Errors
    /// As [`registry::plan_invite`].
    pub(in super::super) async fn invite(&self, caller: &Caller, invited: Invited) -> Result<Done<()>, Refused> {
        self.run(caller, "invite", move |model, context, _| registry::plan_invite(model, context.now, invited)).await
    }

    /// Says what a gateway stands before.
    ///
    /// # Errors
    /// As [`registry::plan_scope`].
    pub(in super::super) async fn scope(
        &self,
        caller: &Caller,
        gateway: GatewayName,
        scope: Scope,
        reason: String,
    ) -> Result<Done<()>, Refused> {
        self.run(caller, "scope", move |model, _, _| registry::plan_scope(model, &gateway, scope, &reason)).await
    }

    /// A gateway joins.
    ///
    /// # Errors
    /// As [`registry::plan_join`].
    pub(in super::super) async fn join(&self, joining: Joining) -> Result<Done<()>, Refused> {
        let caller = Caller::Joining(joining.gateway.clone(), joining.token);
        self.run(&caller, "join", move |model, context, _| registry::plan_join(model, context.now, &joining)).await
    }

    /// A replica joins by attestation; answers its name.
    ///
    /// # Errors
    /// As [`attested::plan_join`].
    pub(in super::super) async fn attest(
        &self,
        who: std::sync::Arc<Attested>,
        template: TemplateSettings,
        client_key: Vec<u8>,
        evidence_key: String,
    ) -> Result<Done<GatewayName>, Refused> {
        self.run(&Caller::Attested(who.clone()), "attest", move |model, context, _| {
            attested::plan_join(model, context.now, &template, &who, &client_key, &evidence_key)
        })
        .await
    }

    /// Lets replicas go that are gone.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super) async fn let_go(
        &self,
        templates: Vec<TemplateSettings>,
        gone: Vec<attested::Gone>,
    ) -> Result<Done<bool>, Refused> {
        self.run(&Caller::System, "let_go", move |model, context, _| {
            Ok(attested::plan_gone(model, context.now, &templates, &gone))
        })
        .await
    }

    /// Records that a gateway has its next certificate.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super) async fn note_certified(&self, gateway: GatewayName) -> Result<Done<()>, Refused> {
        let (object, why) = (format!("gateway/{gateway}"), "it asked for the next one".to_owned());
        self.run(&Caller::Gateway(gateway), "certify", move |_, _, _| Ok(note("gateway.certified", object, why))).await
    }

    /// Takes a step of a rotation of the CA.
    ///
    /// # Errors
    /// As [`trust::plan_step`].
    pub(in super::super) async fn step_trust(
        &self,
        caller: &Caller,
        step: trust::Step,
        first: Option<AuthorityRecord>,
        new: Option<AuthorityRecord>,
        reason: String,
    ) -> Result<Done<TrustRecord>, Refused> {
        self.run(caller, "step_trust", move |model, context, _| {
            trust::plan_step(model, context.now, step, first.as_ref(), new.as_ref(), &reason)
        })
        .await
    }

    /// Takes a gateway's authority for good.
    ///
    /// # Errors
    /// As [`registry::plan_expel`].
    pub async fn expel(&self, caller: &Caller, gateway: GatewayName, reason: String) -> Result<Done<()>, Refused> {
        self.run(caller, "expel", move |model, _, _| registry::plan_expel(model, &gateway, &reason)).await
    }

    /// Takes note of the log that a gateway comes with; answers how much of it is cosigned.
    ///
    /// # Errors
    /// [`Refused::Conflict`] when it is not the one that is known, nor one after it.
    pub async fn open_log(&self, gateway: GatewayName, key: String) -> Result<Done<u64>, Refused> {
        self.run(&Caller::Gateway(gateway.clone()), "open_log", move |model, context, _| {
            logs::plan_open(model, context.now, &gateway, &key)
        })
        .await
    }

    /// Stores what the answer to a renewal says, all or none: that a checkpoint of the gateway's log, proven from its first
    /// so many records, is cosigned, and what is taken back and given out of counted grants, with how many gateways may want
    /// the same.
    ///
    /// # Errors
    /// [`Refused::Conflict`] when more was cosigned meanwhile.
    pub(in super::super) async fn answer(
        &self,
        gateway: GatewayName,
        cosign: Option<(u64, Checkpoint)>,
        claim: Option<(u64, Claim)>,
    ) -> Result<Done<Vec<Allotted>>, Refused> {
        self.run(&Caller::Gateway(gateway.clone()), "answer", move |model, context, identifiers| {
            let now = context.now;
            let cosigned = match &cosign {
                Some((from, checkpoint)) => logs::plan_cosign(model, now, &gateway, *from, checkpoint)?.map(drop),
                None => Plan::nothing(()),
            };
            let id = || AllotmentId::from_bits(identifiers.draw(now).bits());
            let allotted = match &claim {
                Some((gateways, claim)) => uses::plan_claim(model, now, &gateway, *gateways, claim, id),
                None => Plan::nothing(Vec::new()),
            };
            Ok(cosigned.and(allotted).map(|((), allotted)| allotted))
        })
        .await
    }

    /// Lets a gateway that lost its state come with a new key and log.
    ///
    /// # Errors
    /// [`Refused::NotFound`] for a gateway without a log.
    pub async fn readmit(&self, caller: &Caller, gateway: GatewayName, reason: String) -> Result<Done<()>, Refused> {
        self.run(caller, "readmit", move |model, context, _| logs::plan_readmit(model, context.now, &gateway, &reason))
            .await
    }

    /// Records that a gateway's log is not what it was; `parted`: another process has its keys.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super) async fn note_log(
        &self,
        gateway: GatewayName,
        fault: String,
        parted: bool,
    ) -> Result<Done<()>, Refused> {
        self.run(&Caller::System, "note_log", move |model, context, _| {
            Ok(logs::plan_note(model, context.now, &gateway, fault, parted))
        })
        .await
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
