//! Requests, as the API has them.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::super::super::actor::ControlHandle;
use super::super::super::authorize::{Caller, Denied, Operation};
use super::super::super::encode;
use super::super::super::plan::Refused;
use super::super::super::request::{Created, Yes};
use super::super::super::tickets::bound_of;
use super::super::error::{malformed, refused};
use super::super::{ApiError, authorized};
use super::AccessService;
use super::fields::{limits, parsed};
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::{IdentityName, RequestId};
use crate::domain::request::{Access, Ask, Request as Asked, Requester, State};
use crate::domain::resource::Span;
use crate::wire::{bytes128, v1};

/// Longest wait for a request to be settled.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Requests that are listed: the latest.
const MAX_LISTED: usize = 1_000;
/// Bytes of them, encoded: clients take 4 MiB.
const MAX_LIST_BYTES: usize = 3 * 1024 * 1024;

type Answer = Result<Response<v1::RequestResponse>, Status>;

impl AccessService {
    pub(super) async fn create(&self, request: Request<v1::CreateRequestRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::CreateRequest, None).await?;
        if !self.handle.shared().budgets.request(&caller, self.handle.shared().clock.since_boot()) {
            return Err(ApiError::limit("too many requests of this caller within a minute").into());
        }
        let message = request.into_inner();
        let (wait_ms, key) = (message.wait_ms, (!message.key.is_empty()).then(|| message.key.clone()));
        let ask = ask(message)?;
        self.look(&ask).await?;
        let done = self.handle.create_request(&caller, ask.clone(), key).await;
        let done = self.told(&caller, Operation::CreateRequest, done).await?;
        let (asked, revision) = match done.answer {
            Created::Request(asked) => (*asked, done.revision),
            Created::Known(id) => {
                let (known, revision) = self.handle.request(id).await.map_err(refused)?;
                if known.ask != (Ask { reason: ask.reason.trim().to_owned(), ..ask }) {
                    let why = format!("the key stands for request {id}, which asks for something else");
                    return Err(refused(Refused::Conflict(why)));
                }
                (known, revision)
            }
        };
        self.answered(asked, revision, wait_ms).await
    }

    pub(super) async fn list(
        &self,
        request: Request<v1::ListRequestsRequest>,
    ) -> Result<Response<v1::ListRequestsResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::ReadRequests, None).await?;
        self.looks(&caller)?;
        let all = request.get_ref().all;
        let (mut requests, mut bytes) = (Vec::new(), 0usize);
        let ids =
            self.handle.request_ids(all, MAX_LISTED + 1, |requester, identity| may_see(&caller, requester, identity));
        let mut more = ids.len() > MAX_LISTED;
        for id in ids.into_iter().take(MAX_LISTED) {
            // One may have been settled, or forgotten, meanwhile.
            let Ok((asked, _)) = self.handle.request(id).await else { continue };
            let one = message(&asked)?;
            bytes = bytes.saturating_add(one.encoded_len());
            if bytes > MAX_LIST_BYTES && !requests.is_empty() {
                more = true;
                break;
            }
            requests.push(one);
        }
        Ok(Response::new(v1::ListRequestsResponse { requests, more }))
    }

    pub(super) async fn get(&self, request: Request<v1::GetRequestRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::ReadRequests, None).await?;
        let v1::GetRequestRequest { id, wait_ms } = request.into_inner();
        let id = id_of(&id)?;
        self.looks(&caller)?;
        let (asked, revision) = self.seen(&caller, id).await?;
        let asked = self.handle.analysed(asked).map_err(refused)?;
        self.answered(asked, revision, wait_ms).await
    }

    pub(super) async fn approve(&self, request: Request<v1::ApproveRequestRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::DecideRequest, None).await?;
        let v1::ApproveRequestRequest { id, digest, comment, on_behalf_of } = request.into_inner();
        let mut faults = Vec::new();
        let on_behalf_of =
            (!on_behalf_of.is_empty()).then(|| parsed("on_behalf_of", &on_behalf_of, &mut faults)).flatten();
        if !faults.is_empty() {
            return Err(ApiError::invalid(faults.join("; ")).into());
        }
        let yes = Yes { digest, on_behalf_of, comment: (!comment.is_empty()).then_some(comment) };
        let asked = self.handle.model().requests.get(&id_of(&id)?).map(|kept| kept.value.clone());
        if let Some(asked) = asked {
            self.look(&asked.ask).await?;
        }
        let done = self.handle.approve_request(&caller, id_of(&id)?, yes).await;
        let done = self.told(&caller, Operation::DecideRequest, done).await?;
        self.answered(done.answer, done.revision, 0).await
    }

    pub(super) async fn deny(&self, request: Request<v1::DenyRequestRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::DecideRequest, None).await?;
        let v1::DenyRequestRequest { id, reason } = request.into_inner();
        let done = self.handle.deny_request(&caller, id_of(&id)?, reason).await;
        let done = self.told(&caller, Operation::DecideRequest, done).await?;
        self.answered(done.answer, done.revision, 0).await
    }

    pub(super) async fn cancel(&self, request: Request<v1::CancelRequestRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::CancelRequest, None).await?;
        let v1::CancelRequestRequest { id, reason, wait_ms } = request.into_inner();
        let id = id_of(&id)?;
        // Who may not see it is told neither whose it is nor what became of it.
        let (asked, _) = self.seen(&caller, id).await?;
        if asked.state == State::Granted {
            return self.given_back(&caller, asked, reason, wait_ms).await;
        }
        let done = self.handle.cancel_request(&caller, id, reason.clone()).await;
        if let Err(Refused::Conflict(_) | Refused::NotFound(_)) = &done
            && asked.is_open()
            && let (now, _) = self.handle.request(id).await.map_err(refused)?
            && now.state == State::Granted
        {
            // The last approval came first: whoever does not want it does not want what it was granted.
            return self.given_back(&caller, now, reason, wait_ms).await;
        }
        let done = self.told(&caller, Operation::CancelRequest, done).await?;
        self.answered(done.answer, done.revision, 0).await
    }

    /// What was granted ends before its time.
    async fn given_back(&self, caller: &Caller, asked: Asked, reason: String, wait_ms: u64) -> Answer {
        let (mut ended, mut revisions) = (Vec::new(), None);
        loop {
            let done = self.handle.give_back(caller, asked.clone(), reason.clone()).await;
            let done = self.told(caller, Operation::CancelRequest, done).await?;
            if done.answer.is_empty() {
                break;
            }
            revisions = Some((revisions.map_or(done.revision, |(first, _)| first), done.revision));
            ended.extend(done.answer);
        }
        let Some((first, last)) = revisions else {
            let why = format!("request {} was granted, and nothing of it lives any more", asked.id);
            return Err(refused(Refused::Conflict(why)));
        };
        let receipts = self.receipts(first, last, &ended, wait_ms).await;
        let pending = v1::gateway_receipt::State::Pending;
        Ok(Response::new(v1::RequestResponse {
            request: Some(message(&asked)?),
            revision: last,
            grants: ended.iter().map(|grant| encode::grant(grant, last)).collect(),
            enforced: receipts.iter().all(|receipt| receipt.state() != pending),
        }))
    }

    /// Looks at what access would end with, where that can be read.
    async fn look(&self, ask: &Ask) -> Result<(), Status> {
        let tickets = bound_of(&self.handle.model(), ask).map_err(refused)?;
        self.desk.look(&tickets).await.map_err(refused)
    }

    /// Takes a look from the caller's budget.
    fn looks(&self, caller: &Caller) -> Result<(), Status> {
        let shared = self.handle.shared();
        if shared.budgets.look(caller, shared.clock.since_boot()) {
            return Ok(());
        }
        Err(ApiError::limit("this caller has looked at requests too often within a minute: `--wait` waits").into())
    }

    /// A request, as far as the caller may see it.
    async fn seen(&self, caller: &Caller, id: RequestId) -> Result<(Asked, u64), Status> {
        let found = self.handle.request(id).await.map_err(refused)?;
        if may_see(caller, &found.0.requester, &found.0.ask.identity) {
            return Ok(found);
        }
        Err(refused(super::super::super::request::unknown(id)))
    }

    /// What the writer answered; a denial of its own is recorded as one of the table's would be.
    pub(super) async fn told<T>(
        &self,
        caller: &Caller,
        operation: Operation,
        done: Result<T, Refused>,
    ) -> Result<T, Status> {
        if let Err(Refused::Denied(why)) = &done {
            let denied = Denied { caller: caller.to_string(), operation, needed: why.clone() };
            super::super::record(&self.handle, caller, &denied).await;
        }
        done.map_err(refused)
    }

    /// Waits until the request is settled and its grants are everywhere, as long as is asked.
    async fn answered(&self, mut asked: Asked, mut revision: u64, wait_ms: u64) -> Answer {
        let wait = Duration::from_millis(wait_ms).min(MAX_WAIT);
        let began = tokio::time::Instant::now();
        if asked.is_open() && !wait.is_zero() {
            settled(&self.handle, asked.id, wait, self.stop.clone()).await;
            (asked, revision) = self.handle.request(asked.id).await.map_err(refused)?;
            // Still open, it is shown as it would be approved now.
            asked = self.handle.analysed(asked).map_err(refused)?;
        }
        let (mut grants, mut enforced) = (Vec::new(), false);
        if asked.state == State::Granted && !wait.is_zero() {
            let mut made: Vec<(Grant, u64)> = Vec::new();
            for id in &asked.grants {
                let (record, put) = self.handle.grant(*id).await.map_err(refused)?;
                made.push((record.grant, put));
            }
            let plain: Vec<Grant> = made.iter().map(|(grant, _)| grant.clone()).collect();
            let left = u64::try_from(wait.saturating_sub(began.elapsed()).as_millis()).unwrap_or(u64::MAX).max(1);
            let receipts = self.receipts(revision, revision, &plain, left).await;
            enforced = receipts.iter().all(|receipt| receipt.state != v1::gateway_receipt::State::Pending as i32);
            grants = made.iter().map(|(grant, put)| super::encode::grant(grant, *put)).collect();
        }
        let request = Some(message(&asked)?);
        Ok(Response::new(v1::RequestResponse { request, revision, grants, enforced }))
    }
}

/// Waits until a request is open no more, a bounded time.
async fn settled(handle: &ControlHandle, id: RequestId, wait: Duration, mut stop: tokio::sync::watch::Receiver<bool>) {
    let mut committed = handle.shared().outbox.subscribe();
    let looking = async {
        loop {
            committed.mark_unchanged();
            if !handle.model().requests.contains_key(&id) || committed.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = looking => {}
        () = tokio::time::sleep(wait) => {}
        () = super::super::super::stopped(&mut stop) => {}
    }
}

/// Identities see their own requests.
fn may_see(caller: &Caller, requester: &Requester, identity: &IdentityName) -> bool {
    match caller {
        Caller::Identity(name) => identity == name || matches!(requester, Requester::Identity(asked) if asked == name),
        _ => true,
    }
}

fn id_of(bytes: &[u8]) -> Result<RequestId, Status> {
    bytes128("id", bytes).map(RequestId::from_bits).map_err(malformed)
}

fn message(asked: &Asked) -> Result<v1::AccessRequest, Status> {
    Ok(v1::AccessRequest {
        id: asked.id.bits().to_be_bytes().to_vec(),
        state: asked.state.as_str().to_owned(),
        request_json: serde_json::to_string(asked)
            .map_err(|error| Status::from(ApiError::invalid(error.to_string())))?,
        digest: asked.analysis.digest.clone(),
    })
}

fn ask(message: v1::CreateRequestRequest) -> Result<Ask, Status> {
    let mut faults = Vec::new();
    let identity = parsed("identity", &message.identity, &mut faults);
    let access = match (message.role.as_str(), message.resource.as_str()) {
        (role, "") if !role.is_empty() && message.actions.is_empty() => {
            parsed("role", role, &mut faults).map(Access::Role)
        }
        ("", resource) if !resource.is_empty() => {
            let actions: BTreeSet<_> =
                message.actions.iter().filter_map(|action| parsed("action", action, &mut faults)).collect();
            let resource = parsed("resource", resource, &mut faults);
            resource.map(|resource| Access::of(resource, actions.into_iter().collect()))
        }
        _ => {
            faults.push("say either a role, or a resource with actions".to_owned());
            None
        }
    };
    let limits = limits(message.limits, &mut faults);
    let until = message.until.iter().filter_map(|ticket| parsed("until", ticket, &mut faults)).collect();
    match (identity, access) {
        (Some(identity), Some(access)) if faults.is_empty() => Ok(Ask {
            identity,
            access,
            starts: (message.starts_unix_us != 0).then(|| Timestamp::from_unix_micros(message.starts_unix_us)),
            duration: Span::new(Duration::from_millis(message.duration_ms)),
            limits,
            reason: message.reason,
            ticket: (!message.ticket.is_empty()).then_some(message.ticket),
            until,
        }),
        _ => Err(ApiError::invalid(faults.join("; ")).into()),
    }
}
