//! What a policy would end, before it is published.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::super::super::authorize::Operation;
use super::super::super::policy::PolicySet;
use super::super::super::reconsider;
use super::super::super::record::PolicyFile;
use super::super::{ApiError, authorized};
use super::CatalogService;
use crate::wire::v1;

/// Grants that are judged: what is more is told.
const MAX_JUDGED: usize = 50_000;
/// Grants that are listed. All that were judged are counted.
const MAX_LISTED: usize = 100;
/// Policies that are looked at or replayed at the same time: it takes a thread for a while.
pub(super) static PLACES: Semaphore = Semaphore::const_new(1);

impl CatalogService {
    pub(super) async fn preview(
        &self,
        request: Request<v1::PreviewPolicyRequest>,
    ) -> Result<Response<v1::PreviewPolicyResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadPolicy, None).await?;
        let Ok(place) = PLACES.try_acquire() else {
            return Err(ApiError::limit("another policy is being looked at; try again").into());
        };
        let given = request.into_inner().files.into_iter();
        let files: Vec<PolicyFile> = given.map(|file| PolicyFile { name: file.name, text: file.text }).collect();
        let set = PolicySet::compile(&files).map_err(|faults| Status::from(ApiError::invalid(faults.join("; "))))?;
        let (model, clock) = (self.handle.model(), self.handle.shared().clock.clone());
        let judged = tokio::task::spawn_blocking(move || {
            let (set, now) = (Arc::new(set), clock.now());
            let mut answer = v1::PreviewPolicyResponse::default();
            for kept in model.grants.values().take(MAX_JUDGED) {
                let Some(why) = reconsider::denied_by(&model, now, &set, &kept.value) else { continue };
                answer.ends = answer.ends.saturating_add(1);
                if answer.grants.len() < MAX_LISTED {
                    let id = kept.value.id.bits().to_be_bytes().to_vec();
                    answer.grants.push(v1::EndingGrant { id, identity: kept.value.identity.to_string(), why });
                }
            }
            answer.unjudged = u64::try_from(model.grants.len().saturating_sub(MAX_JUDGED)).unwrap_or(u64::MAX);
            answer
        });
        let answer = judged.await.map_err(|_| Status::from(ApiError::stopping()))?;
        drop(place);
        Ok(Response::new(answer))
    }
}
