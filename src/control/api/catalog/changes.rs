//! Changes that wait for another person, as the API has them.

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::super::super::actor::Done;
use super::super::super::authorize::{Caller, Denied, Operation};
use super::super::super::plan::Refused;
use super::super::error::{malformed, refused};
use super::super::{ApiError, authorized};
use super::CatalogService;
use crate::domain::change::{Proposal, Proposed};
use crate::domain::name::ChangeId;
use crate::wire::{bytes128, v1};

/// Bytes of a list, encoded: clients take 4 MiB.
const MAX_LIST_BYTES: usize = 3 * 1024 * 1024;

type Answer = Result<Response<v1::ChangeResponse>, Status>;

impl CatalogService {
    pub(super) async fn list(
        &self,
        request: Request<v1::ListChangesRequest>,
    ) -> Result<Response<v1::ListChangesResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::ReadChanges, None).await?;
        self.looks(&caller)?;
        let all = request.get_ref().all;
        let model = self.handle.model();
        let (mut changes, mut bytes, mut more) = (Vec::new(), 0usize, false);
        let kept = model.proposals.values().rev().map(|kept| kept.value.as_ref());
        for proposal in kept.filter(|it| all || it.is_open()) {
            let one = message(&listed(proposal))?;
            bytes = bytes.saturating_add(one.encoded_len());
            if bytes > MAX_LIST_BYTES && !changes.is_empty() {
                more = true;
                break;
            }
            changes.push(one);
        }
        Ok(Response::new(v1::ListChangesResponse { changes, more }))
    }

    pub(super) async fn get(&self, request: Request<v1::GetChangeRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::ReadChanges, None).await?;
        self.looks(&caller)?;
        answered(self.handle.change(id_of(&request.get_ref().id)?).map_err(refused)?)
    }

    pub(super) async fn approve(&self, request: Request<v1::ApproveChangeRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::DecideChange, None).await?;
        let v1::ApproveChangeRequest { id, digest, comment } = request.into_inner();
        let comment = (!comment.is_empty()).then_some(comment);
        let done = self.handle.approve_change(&caller, id_of(&id)?, digest, comment).await;
        answered(self.told(&caller, done).await?)
    }

    pub(super) async fn deny(&self, request: Request<v1::DenyChangeRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::DecideChange, None).await?;
        let v1::DenyChangeRequest { id, reason } = request.into_inner();
        let done = self.handle.deny_change(&caller, id_of(&id)?, reason).await;
        answered(self.told(&caller, done).await?)
    }

    pub(super) async fn cancel(&self, request: Request<v1::CancelChangeRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::DecideChange, None).await?;
        let v1::CancelChangeRequest { id, reason } = request.into_inner();
        let done = self.handle.cancel_change(&caller, id_of(&id)?, reason).await;
        answered(self.told(&caller, done).await?)
    }

    /// Takes a look from the caller's budget: a change that waits is worked out anew each time.
    pub(super) fn looks(&self, caller: &Caller) -> Result<(), Status> {
        let shared = self.handle.shared();
        if shared.budgets.look(caller, shared.clock.since_boot()) {
            return Ok(());
        }
        Err(ApiError::limit("this caller has looked at changes too often within a minute").into())
    }

    /// What the writer answered; a denial of its own is recorded as one of the table's would be.
    async fn told<T>(&self, caller: &Caller, done: Result<T, Refused>) -> Result<T, Status> {
        if let Err(Refused::Denied(why)) = &done {
            let denied = Denied { caller: caller.to_string(), operation: Operation::DecideChange, needed: why.clone() };
            super::super::record(&self.handle, caller, &denied).await;
        }
        done.map_err(refused)
    }
}

fn answered(done: Done<Proposal>) -> Answer {
    Ok(Response::new(v1::ChangeResponse { change: Some(message(&done.answer)?), revision: done.revision }))
}

/// A change as lists have it.
fn listed(proposal: &Proposal) -> Proposal {
    let proposed = match &proposal.proposed {
        Proposed::Catalog { prune, end_grants, .. } => {
            Proposed::Catalog { documents: Vec::new(), prune: *prune, end_grants: *end_grants }
        }
        Proposed::Policy { over, .. } => Proposed::Policy { files: Vec::new(), over: *over },
    };
    let mut listed = Proposal { proposed, ..proposal.clone() };
    for object in &mut listed.objects {
        (object.before, object.after) = (None, None);
    }
    listed
}

fn id_of(bytes: &[u8]) -> Result<ChangeId, Status> {
    bytes128("id", bytes).map(ChangeId::from_bits).map_err(malformed)
}

/// A change as a message.
pub(super) fn message(proposal: &Proposal) -> Result<v1::CatalogChange, Status> {
    Ok(v1::CatalogChange {
        id: proposal.id.bits().to_be_bytes().to_vec(),
        state: proposal.state.as_str().to_owned(),
        change_json: serde_json::to_string(proposal)
            .map_err(|error| Status::from(ApiError::invalid(error.to_string())))?,
        digest: proposal.digest.clone(),
    })
}
