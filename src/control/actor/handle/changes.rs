//! Commands about the catalog, the policy, and changes of them that wait for another person.

use super::super::super::authorize::Caller;
use super::super::super::catalog::{self, Diff, Document, Effect, Wanted};
use super::super::super::change::{self, Outcome};
use super::super::super::exceptions;
use super::super::super::plan::{Context, Refused};
use super::super::super::record::{PolicyFile, PolicyRecord};
use super::requests::drawing;
use super::{ControlHandle, Done};
use crate::domain::Timestamp;
use crate::domain::change::Proposal;
use crate::domain::name::{ChangeId, ExceptionName};

/// What applying would change, who would gain or lose what, and whether it takes another person's word.
type Foreseen = (Done<Vec<Diff>>, Vec<Effect>, bool);

impl ControlHandle {
    /// Says what applying would change, who would gain or lose what, and whether it takes another person's word.
    ///
    /// # Errors
    /// As [`catalog::plan_wanted`].
    pub fn plan_apply(&self, caller: &Caller, wanted: &Wanted) -> Result<Foreseen, Refused> {
        let model = self.model();
        let context = Context { caller, now: self.shared.clock.now() };
        let plan = catalog::plan_wanted(&model, &context, wanted)?;
        let effects = catalog::effects_of(&model, &plan.changes);
        let waits = model.policy.is_some() && !catalog::widenings_of(&model, &plan.changes).is_empty();
        Ok((Done { answer: plan.answer, revision: model.revision }, effects, waits))
    }

    /// Applies what is wanted of the catalog, or has it wait.
    ///
    /// # Errors
    /// As [`change::plan_apply`].
    pub async fn want(&self, caller: &Caller, wanted: Wanted) -> Result<Done<Outcome<Vec<Diff>>>, Refused> {
        self.run(caller, "apply", move |model, context, identifiers| {
            change::plan_apply(model, context, &wanted, drawing(identifiers, context.now))
        })
        .await
    }

    /// Asks that an exception end later.
    ///
    /// # Errors
    /// As [`exceptions::plan_renew`].
    pub async fn renew_exception(
        &self,
        caller: &Caller,
        name: ExceptionName,
        expires: Timestamp,
        reason: String,
    ) -> Result<Done<Outcome<Vec<Diff>>>, Refused> {
        self.run(caller, "renew_exception", move |model, context, identifiers| {
            exceptions::plan_renew(model, context, &name, expires, &reason, drawing(identifiers, context.now))
        })
        .await
    }

    /// Applies documents; with `dry_run` only says what would change.
    ///
    /// # Errors
    /// As [`change::plan_apply`]; [`Refused::Conflict`] for what waits for another person.
    pub async fn apply(
        &self,
        caller: &Caller,
        documents: Vec<Document>,
        dry_run: bool,
    ) -> Result<Done<Vec<Diff>>, Refused> {
        let wanted = Wanted { documents, ..Wanted::default() };
        if dry_run {
            return self.plan_apply(caller, &wanted).map(|(done, ..)| done);
        }
        let Done { answer, revision } = self.want(caller, wanted).await?;
        match answer {
            Outcome::Done(answer) => Ok(Done { answer, revision }),
            Outcome::Waits(_, proposal) => Err(Refused::Conflict(format!("change {} waits", proposal.id))),
        }
    }

    /// Puts a policy into force, or has it wait.
    ///
    /// # Errors
    /// As [`change::plan_publish`].
    pub async fn publish_policy(
        &self,
        caller: &Caller,
        files: Vec<PolicyFile>,
        expected: Option<u64>,
        reason: String,
    ) -> Result<Done<Outcome<PolicyRecord>>, Refused> {
        self.run(caller, "publish_policy", move |model, context, identifiers| {
            change::plan_publish(model, context, &files, expected, &reason, drawing(identifiers, context.now))
        })
        .await
    }

    /// Approves a change.
    ///
    /// # Errors
    /// As [`change::plan_approve`].
    pub async fn approve_change(
        &self,
        caller: &Caller,
        id: ChangeId,
        digest: String,
        comment: Option<String>,
    ) -> Result<Done<Proposal>, Refused> {
        self.run(caller, "approve_change", move |model, context, identifiers| {
            let draw = drawing(identifiers, context.now);
            change::plan_approve(model, context, id, &digest, comment.as_deref(), draw)
        })
        .await
    }

    /// Denies a change.
    ///
    /// # Errors
    /// As [`change::plan_deny`].
    pub async fn deny_change(&self, caller: &Caller, id: ChangeId, reason: String) -> Result<Done<Proposal>, Refused> {
        self.run(caller, "deny_change", move |model, context, _| change::plan_deny(model, context, id, &reason)).await
    }

    /// Takes a change back.
    ///
    /// # Errors
    /// As [`change::plan_cancel`].
    pub async fn cancel_change(
        &self,
        caller: &Caller,
        id: ChangeId,
        reason: String,
    ) -> Result<Done<Proposal>, Refused> {
        self.run(caller, "cancel_change", move |model, context, _| change::plan_cancel(model, context, id, &reason))
            .await
    }

    /// A change, while it waits as of now, and the revision that last put it.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn change(&self, id: ChangeId) -> Result<Done<Proposal>, Refused> {
        let model = self.model();
        let kept = model.proposals.get(&id).ok_or_else(|| Refused::NotFound(format!("there is no change {id}")))?;
        let answer = change::seen(&model, self.shared.clock.now(), &kept.value);
        Ok(Done { answer, revision: kept.revision })
    }
}
