//! Break-glass, as the API has it.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::super::super::authorize::Operation;
use super::super::super::encode;
use super::super::super::tickets::bound_of;
use super::super::error::{malformed, refused};
use super::super::{ApiError, authorized};
use super::AccessService;
use super::fields::{limits, parsed};
use crate::domain::breakglass::{BreakGlass, ReviewVerdict};
use crate::domain::grant::Grant;
use crate::domain::name::BreakGlassId;
use crate::domain::request::{Access, Ask};
use crate::domain::resource::Span;
use crate::wire::{bytes128, v1};

/// Bytes of a list, encoded: clients take 4 MiB.
const MAX_LIST_BYTES: usize = 3 * 1024 * 1024;

type Answer = Result<Response<v1::BreakGlassResponse>, Status>;

impl AccessService {
    pub(super) async fn open_glass(&self, request: Request<v1::OpenBreakGlassRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::BreakGlass, None).await?;
        if !self.handle.shared().budgets.request(&caller, self.handle.shared().clock.since_boot()) {
            return Err(ApiError::limit("too many requests of this caller within a minute").into());
        }
        let message = request.into_inner();
        let wait_ms = message.wait_ms;
        let ask = ask(message)?;
        let tickets = bound_of(&self.handle.model(), &ask).map_err(refused)?;
        self.desk.look(&tickets).await.map_err(refused)?;
        let done = self.handle.break_glass(&caller, ask, self.break_glass).await;
        let done = self.told(&caller, Operation::BreakGlass, done).await?;
        self.glass(&done.answer, done.revision, wait_ms).await
    }

    pub(super) async fn list_glass(
        &self,
        request: Request<v1::ListBreakGlassRequest>,
    ) -> Result<Response<v1::ListBreakGlassResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadBreakGlass, None).await?;
        let wanted = request.get_ref().all;
        let model = self.handle.model();
        let (mut all, mut bytes, mut more) = (Vec::new(), 0usize, false);
        let kept = model.broken.values().rev().map(|kept| kept.value.as_ref());
        for it in kept.filter(|it| wanted || it.is_unreviewed()) {
            let one = self.message(it)?;
            bytes = bytes.saturating_add(one.encoded_len());
            if bytes > MAX_LIST_BYTES && !all.is_empty() {
                more = true;
                break;
            }
            all.push(one);
        }
        Ok(Response::new(v1::ListBreakGlassResponse { all, more }))
    }

    pub(super) async fn get_glass(&self, request: Request<v1::GetBreakGlassRequest>) -> Answer {
        authorized(&self.handle, &request, Operation::ReadBreakGlass, None).await?;
        let done = self.handle.broken(id_of(&request.get_ref().id)?).map_err(refused)?;
        self.glass(&done.answer, done.revision, 0).await
    }

    pub(super) async fn close_glass(&self, request: Request<v1::CloseBreakGlassRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::CloseBreakGlass, None).await?;
        let v1::CloseBreakGlassRequest { id, reason, wait_ms } = request.into_inner();
        let done = self.handle.close_break_glass(&caller, id_of(&id)?, reason).await;
        let done = self.told(&caller, Operation::CloseBreakGlass, done).await?;
        self.glass(&done.answer, done.revision, wait_ms).await
    }

    pub(super) async fn review_glass(&self, request: Request<v1::ReviewBreakGlassRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::ReviewBreakGlass, None).await?;
        let v1::ReviewBreakGlassRequest { id, verdict, comment } = request.into_inner();
        let verdict = match verdict.as_str() {
            "justified" => ReviewVerdict::Justified,
            "unjustified" => ReviewVerdict::Unjustified,
            _ => return Err(ApiError::invalid("verdict: justified or unjustified").into()),
        };
        let done = self.handle.review_break_glass(&caller, id_of(&id)?, verdict, comment).await;
        let done = self.told(&caller, Operation::ReviewBreakGlass, done).await?;
        self.glass(&done.answer, done.revision, 0).await
    }

    /// The answer, once every connected gateway does as it says, or the time that is waited is over.
    async fn glass(&self, it: &BreakGlass, revision: u64, wait_ms: u64) -> Answer {
        let (mut grants, mut enforced) = (Vec::new(), false);
        if wait_ms > 0 {
            let mut made: Vec<(Grant, u64)> = Vec::new();
            for id in &it.grants {
                let (record, put) = self.handle.grant(*id).await.map_err(refused)?;
                made.push((record.grant, put));
            }
            let plain: Vec<Grant> = made.iter().map(|(grant, _)| grant.clone()).collect();
            let receipts = self.receipts(revision, revision, &plain, wait_ms).await;
            enforced = receipts.iter().all(|receipt| receipt.state() != v1::gateway_receipt::State::Pending);
            grants = made.iter().map(|(grant, put)| encode::grant(grant, *put)).collect();
        }
        let break_glass = Some(self.message(it)?);
        Ok(Response::new(v1::BreakGlassResponse { break_glass, revision, grants, enforced }))
    }

    fn message(&self, it: &BreakGlass) -> Result<v1::BreakGlass, Status> {
        Ok(v1::BreakGlass {
            id: it.id.bits().to_be_bytes().to_vec(),
            state: it.state(self.handle.shared().clock.now()).as_str().to_owned(),
            break_glass_json: serde_json::to_string(it)
                .map_err(|error| Status::from(ApiError::invalid(error.to_string())))?,
        })
    }
}

fn id_of(bytes: &[u8]) -> Result<BreakGlassId, Status> {
    bytes128("id", bytes).map(BreakGlassId::from_bits).map_err(malformed)
}

fn ask(message: v1::OpenBreakGlassRequest) -> Result<Ask, Status> {
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
    match (identity, access) {
        (Some(identity), Some(access)) if faults.is_empty() => Ok(Ask {
            identity,
            access,
            starts: None,
            duration: Span::new(Duration::from_millis(message.duration_ms)),
            limits,
            reason: message.reason,
            ticket: (!message.ticket.is_empty()).then_some(message.ticket),
            until: Vec::new(),
        }),
        _ => Err(ApiError::invalid(faults.join("; ")).into()),
    }
}
