//! Replaying a policy, as the API has it.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::super::super::authorize::Operation;
use super::super::super::record::PolicyFile;
use super::super::super::replay::{self, Asked};
use super::super::error::{malformed, refused};
use super::super::{ApiError, authorized};
use super::CatalogService;
use super::preview::PLACES;
use crate::domain::Timestamp;
use crate::domain::name::{ActionName, IdentityName, ResourceName};
use crate::domain::request::{Access, Ask, Requester};
use crate::domain::resource::Span;
use crate::wire::{self, v1};

/// Requests, live grants and kinds of calls that are replayed at once, of each.
const MAX_REPLAYED: usize = 1_000;
/// For how long an identity would ask for what it was refused.
const SHORT: Span = Span::new(Duration::from_secs(900));

impl CatalogService {
    pub(super) async fn replay(
        &self,
        request: Request<v1::ReplayPolicyRequest>,
    ) -> Result<Response<v1::ReplayPolicyResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::ReadPolicy, None).await?;
        self.looks(&caller)?;
        let Ok(place) = PLACES.try_acquire() else {
            return Err(ApiError::limit("another policy is being looked at; try again").into());
        };
        let v1::ReplayPolicyRequest { files, since_unix_us, calls } = request.into_inner();
        if calls.len() > MAX_REPLAYED {
            return Err(ApiError::invalid(format!("calls: at most {MAX_REPLAYED} kinds")).into());
        }
        let files = files.into_iter().map(|file| PolicyFile { name: file.name, text: file.text }).collect();
        let (model, now) = (self.handle.model(), self.handle.shared().clock.now());
        let after = replay::under(&model, now, files).map_err(refused)?;
        let since = Timestamp::from_unix_micros(since_unix_us);
        let (asked, mut gone) = self.asked(since, calls).await?;
        let replaying = tokio::task::spawn_blocking(move || {
            let (mut rows, mut replayed) = (Vec::new(), 0u64);
            for one in &asked {
                match replay::replay(&model, &after, now, one) {
                    Ok(row) => {
                        replayed = replayed.saturating_add(1);
                        rows.extend(row);
                    }
                    Err(_) => gone = gone.saturating_add(1),
                }
            }
            rows.sort_by_key(|row| row.shift);
            (rows, replayed, gone)
        });
        let (rows, replayed, gone) = replaying.await.map_err(|_| Status::from(ApiError::stopping()))?;
        drop(place);
        let rows = rows.into_iter().map(|row| v1::ReplayRow {
            change: row.shift.as_str().to_owned(),
            of: row.asked.of,
            by: row.asked.requester.to_string(),
            identity: row.asked.ask.identity.to_string(),
            access: row.asked.ask.access.to_string(),
            was: row.was,
            would: row.would,
            why: row.why,
            calls: row.asked.calls,
        });
        Ok(Response::new(v1::ReplayPolicyResponse { rows: rows.collect(), replayed, gone }))
    }

    /// All that is to be asked anew, and how much cannot be.
    async fn asked(&self, since: Timestamp, calls: Vec<v1::RecordedCalls>) -> Result<(Vec<Asked>, u64), Status> {
        let (mut asked, mut gone) = (Vec::new(), 0u64);
        for id in self.handle.request_ids(true, MAX_REPLAYED, |_, _| true) {
            // One may have been forgotten meanwhile.
            let Ok((found, _)) = self.handle.request(id).await else { continue };
            if found.created >= since {
                asked.push(Asked::request(&found));
            }
        }
        let model = self.handle.model();
        let live = model.grants.values().filter(|kept| kept.value.lineage.created >= since).take(MAX_REPLAYED);
        asked.extend(live.map(|kept| Asked::grant(&kept.value, 0)));
        for call in calls {
            if !call.grant_id.is_empty() {
                let id = wire::grant_id(&call.grant_id).map_err(malformed)?;
                let of = format!("grant {id}");
                if let Some(known) = asked.iter_mut().find(|it| it.of == of) {
                    known.calls = call.count;
                } else if let Ok((record, _)) = self.handle.grant(id).await {
                    asked.push(Asked::grant(&record.grant, call.count));
                } else {
                    gone = gone.saturating_add(1);
                }
                continue;
            }
            let bad = |error: &dyn std::fmt::Display| ApiError::invalid(format!("calls: {error}"));
            let identity: IdentityName = call.identity.parse().map_err(|error| bad(&error))?;
            let resource: ResourceName = call.resource.parse().map_err(|error| bad(&error))?;
            let action: ActionName = call.action.parse().map_err(|error| bad(&error))?;
            asked.push(Asked {
                of: "calls that were refused".to_owned(),
                requester: Requester::Identity(identity.clone()),
                ask: Ask {
                    identity,
                    access: Access::of(resource, vec![action]),
                    starts: None,
                    duration: SHORT,
                    limits: Default::default(),
                    reason: "what it was refused".to_owned(),
                    ticket: None,
                    until: Vec::new(),
                },
                calls: call.count,
            });
        }
        Ok((asked, gone))
    }
}
