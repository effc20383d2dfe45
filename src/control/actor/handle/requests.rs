//! Commands about requests and policy.

use std::time::Duration;

use super::super::super::authorize::Caller;
use super::super::super::plan::Refused;
use super::super::super::record::PolicyRecord;
use super::super::super::request;
use super::super::Identifiers;
use super::{ControlHandle, Done};
use crate::domain::grant::Grant;
use crate::domain::name::{IdentityName, RequestId};
use crate::domain::request::{Ask, Request, Requester};

/// How long a request may take from being settled to being stored.
const SETTLING: Duration = Duration::from_secs(2);

impl ControlHandle {
    /// Makes a request.
    ///
    /// # Errors
    /// As [`request::plan_create`].
    pub async fn create_request(
        &self,
        caller: &Caller,
        ask: Ask,
        key: Option<String>,
    ) -> Result<Done<request::Created>, Refused> {
        self.run(caller, "create_request", move |model, context, identifiers| {
            request::plan_create(model, context, &ask, key.as_deref(), drawing(identifiers, context.now))
        })
        .await
    }

    /// Approves a request.
    ///
    /// # Errors
    /// As [`request::plan_approve`]; [`Refused::Conflict`] for one that is settled already.
    pub async fn approve_request(
        &self,
        caller: &Caller,
        id: RequestId,
        yes: request::Yes,
    ) -> Result<Done<Request>, Refused> {
        let done = self.run(caller, "approve_request", move |model, context, identifiers| {
            request::plan_approve(model, context, id, &yes, drawing(identifiers, context.now))
        });
        self.or_settled(id, done.await).await
    }

    /// Denies a request.
    ///
    /// # Errors
    /// As [`request::plan_deny`]; [`Refused::Conflict`] for one that is settled already.
    pub async fn deny_request(&self, caller: &Caller, id: RequestId, reason: String) -> Result<Done<Request>, Refused> {
        let done =
            self.run(caller, "deny_request", move |model, context, _| request::plan_deny(model, context, id, &reason));
        self.or_settled(id, done.await).await
    }

    /// Takes a request back.
    ///
    /// # Errors
    /// As [`request::plan_cancel`]; [`Refused::Conflict`] for one that is settled already.
    pub async fn cancel_request(
        &self,
        caller: &Caller,
        id: RequestId,
        reason: String,
    ) -> Result<Done<Request>, Refused> {
        let done = self
            .run(caller, "cancel_request", move |model, context, _| request::plan_cancel(model, context, id, &reason));
        self.or_settled(id, done.await).await
    }

    /// Gives back the next of what a request was granted: until the answer is nothing, it is asked again.
    ///
    /// # Errors
    /// As [`request::plan_give_back`].
    pub async fn give_back(
        &self,
        caller: &Caller,
        asked: Request,
        reason: String,
    ) -> Result<Done<Vec<Grant>>, Refused> {
        self.run(caller, "give_back", move |model, context, _| request::plan_give_back(model, context, &asked, &reason))
            .await
    }

    /// Whoever came too late is told what became of it. What settled it may share a transaction with what was refused for
    /// it, and not be stored yet.
    async fn or_settled(&self, id: RequestId, done: Result<Done<Request>, Refused>) -> Result<Done<Request>, Refused> {
        let Err(Refused::NotFound(why)) = done else { return done };
        let mut committed = self.shared.outbox.subscribe();
        let told = async {
            loop {
                committed.mark_unchanged();
                match self.request(id).await {
                    Ok((settled, _)) if !settled.is_open() => {
                        let by = settled.settled.as_ref();
                        let how = by.map(|it| format!(" by {}: {}", it.by, it.reason)).unwrap_or_default();
                        return Refused::Conflict(format!("request {id} is {} already{how}", settled.state.as_str()));
                    }
                    Ok(_) if committed.changed().await.is_ok() => {}
                    Ok(_) | Err(Refused::Unavailable) => return Refused::Unavailable,
                    Err(_) => return Refused::NotFound(why),
                }
            }
        };
        let late = Refused::Conflict(format!("request {id} is being decided at this moment; try again"));
        Err(tokio::time::timeout(SETTLING, told).await.unwrap_or(late))
    }

    /// A request, open or settled, and the revision that last put it.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Unavailable`] when the store does not answer.
    pub async fn request(&self, id: RequestId) -> Result<(Request, u64), Refused> {
        if let Some(kept) = self.model().requests.get(&id) {
            return Ok((kept.value.as_ref().clone(), kept.revision));
        }
        match self.shared.vault.request(id).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(request::unknown(id)),
            Err(error) => {
                tracing::error!(%error, "a request cannot be read");
                Err(Refused::Unavailable)
            }
        }
    }

    /// The latest open requests that `sees` takes, with `all` settled ones too, newest first: which they are, without
    /// reading one.
    pub fn request_ids(
        &self,
        all: bool,
        most: usize,
        sees: impl Fn(&Requester, &IdentityName) -> bool,
    ) -> Vec<RequestId> {
        let model = self.model();
        let open =
            model.requests.iter().rev().filter(|(_, kept)| sees(&kept.value.requester, &kept.value.ask.identity));
        let settled = model.settled.iter().rev().filter(|(_, known)| all && sees(&known.requester, &known.identity));
        let mut ids: Vec<RequestId> = open.map(|(id, _)| *id).take(most).collect();
        if all {
            ids.extend(settled.map(|(id, _)| *id).take(most));
        }
        ids.sort_by(|one, other| other.cmp(one));
        ids.truncate(most);
        ids
    }

    /// An open request with the analysis as of now: what whoever approves is to see. A settled one is as it was.
    ///
    /// # Errors
    /// When what it names is gone, or no policy is in force.
    pub fn analysed(&self, asked: Request) -> Result<Request, Refused> {
        if !asked.is_open() {
            return Ok(asked);
        }
        request::analysed(&self.model(), self.shared.clock.now(), &asked)
    }

    /// A version of the policy; the one that is in force without a number.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Unavailable`] when the store does not answer.
    pub async fn policy(&self, version: Option<u64>) -> Result<PolicyRecord, Refused> {
        let model = self.model();
        let current = model.policy.as_ref().map(|policy| policy.record.clone());
        match (version, current) {
            (None, None) => Err(Refused::NotFound("no policy is in force".to_owned())),
            (None, Some(current)) => Ok(current.as_ref().clone()),
            (Some(version), Some(current)) if current.version == version => Ok(current.as_ref().clone()),
            (Some(version), _) => match self.shared.vault.policy(version).await {
                Ok(Some(found)) => Ok(found),
                Ok(None) => Err(Refused::NotFound(format!("there is no version {version} of the policy"))),
                Err(error) => {
                    tracing::error!(%error, "a policy cannot be read");
                    Err(Refused::Unavailable)
                }
            },
        }
    }
}

/// Draws identifiers of now.
pub(super) fn drawing(identifiers: &mut Identifiers, now: crate::domain::Timestamp) -> impl FnMut() -> u128 {
    move || identifiers.draw(now).bits()
}
