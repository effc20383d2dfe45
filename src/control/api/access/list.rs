//! Lists of grants, in pages: the live ones from the model, the ended ones from the store.

use prost::Message as _;
use tonic::Status;

use super::super::super::actor::ControlHandle;
use super::super::super::encode;
use super::super::super::record::{self, GRANTS, Record};
use super::super::super::store::KeyRange;
use super::super::ApiError;
use super::super::error::refused;
use super::state_name;
use crate::control::plan::Refused;
use crate::domain::Timestamp;
use crate::domain::grant::{Grant, GrantState};
use crate::domain::name::{GrantId, IdentityName, ResourceName};
use crate::wire::v1;

/// Grants on a page when nobody says.
const DEFAULT_PAGE: usize = 100;
/// Grants on a page at most.
const MAX_PAGE: usize = 1_000;
/// Bytes of a page at most, encoded, but for its last grant: clients take 4 MiB.
const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Records read for one page: a page may be short, and even empty, with more to come.
const MAX_SCANNED: usize = 5_000;

struct Filter {
    identity: Option<IdentityName>,
    resource: Option<ResourceName>,
    states: Vec<GrantState>,
    now: Timestamp,
}

impl Filter {
    fn takes(&self, grant: &Grant) -> bool {
        self.identity.as_ref().is_none_or(|name| grant.identity == *name)
            && self.resource.as_ref().is_none_or(|name| grant.resource == *name)
            && self.states.contains(&grant.state(self.now))
    }

    fn wants_ended(&self) -> bool {
        self.states.iter().any(|state| matches!(state, GrantState::Expired | GrantState::Revoked))
    }
}

struct Page {
    grants: Vec<v1::Grant>,
    bytes: usize,
    size: usize,
}

impl Page {
    const fn new(size: usize) -> Self {
        Self { grants: Vec::new(), bytes: 0, size }
    }

    fn push(&mut self, grant: v1::Grant) {
        self.bytes += grant.encoded_len();
        self.grants.push(grant);
    }

    const fn is_full(&self) -> bool {
        self.grants.len() >= self.size || self.bytes >= MAX_PAGE_BYTES
    }
}

/// One page, oldest grants first.
pub(super) async fn list(
    handle: &ControlHandle,
    request: v1::ListGrantsRequest,
) -> Result<v1::ListGrantsResponse, Status> {
    let name = |field: &str, error: &dyn std::fmt::Display| ApiError::invalid(format!("{field}: {error}"));
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let filter = Filter {
        identity: optional(&request.identity).map(|t| t.parse()).transpose().map_err(|e| name("identity", &e))?,
        resource: optional(&request.resource).map(|t| t.parse()).transpose().map_err(|e| name("resource", &e))?,
        states: states(&request.states)?,
        now: handle.shared().clock.now(),
    };
    let after: Option<GrantId> =
        optional(&request.page_token).map(|t| t.parse()).transpose().map_err(|e| name("page_token", &e))?;
    let size = match request.page_size as usize {
        0 => DEFAULT_PAGE,
        size => size.min(MAX_PAGE),
    };
    if filter.wants_ended() {
        from_store(handle, &filter, after, size).await
    } else {
        Ok(from_model(handle, &filter, after, size))
    }
}

fn states(names: &[String]) -> Result<Vec<GrantState>, ApiError> {
    let all = [GrantState::Scheduled, GrantState::Active, GrantState::Expired, GrantState::Revoked];
    if names.is_empty() {
        return Ok(vec![GrantState::Scheduled, GrantState::Active]);
    }
    let find = |name: &String| all.into_iter().find(|state| state_name(*state) == name);
    let found: Option<Vec<GrantState>> = names.iter().map(find).collect();
    found.ok_or_else(|| ApiError::invalid("states: scheduled, active, expired, revoked"))
}

fn from_model(handle: &ControlHandle, filter: &Filter, after: Option<GrantId>, size: usize) -> v1::ListGrantsResponse {
    use std::ops::Bound::{Excluded, Unbounded};
    let model = handle.model();
    let from = after.map_or(Unbounded, Excluded);
    let ids: Box<dyn Iterator<Item = &GrantId>> = match &filter.identity {
        Some(name) => Box::new(model.grants_of.get(name).into_iter().flat_map(move |ids| ids.range((from, Unbounded)))),
        None => Box::new(model.grants.range((from, Unbounded)).map(|(id, _)| id)),
    };
    let mut page = Page::new(size);
    let mut next = None;
    for (scanned, id) in ids.enumerate() {
        let Some(kept) = model.grants.get(id) else { continue };
        if filter.takes(&kept.value) {
            page.push(encode::grant(&kept.value, kept.revision));
        }
        if page.is_full() || scanned >= MAX_SCANNED {
            next = Some(*id);
            break;
        }
    }
    // The last page may be full without anything after it.
    let more = next.filter(|id| model.grants.get_max().is_some_and(|(last, _)| last > id));
    v1::ListGrantsResponse {
        grants: page.grants,
        next_page_token: more.map(|id| id.to_string()).unwrap_or_default(),
        revision: model.revision,
    }
}

async fn from_store(
    handle: &ControlHandle,
    filter: &Filter,
    after: Option<GrantId>,
    size: usize,
) -> Result<v1::ListGrantsResponse, Status> {
    let vault = &handle.shared().vault;
    let mut from = after.map_or_else(|| GRANTS.to_owned(), |id| format!("{}\0", record::grant_key(id)));
    let end = format!("{}0", GRANTS.trim_end_matches('/'));
    let revision = handle.model().revision;
    let mut page = Page::new(size);
    let mut scanned = 0;
    loop {
        let range = KeyRange::span(&from, &end);
        let read = vault.store().range(range, Some(MAX_PAGE), None).await.map_err(|e| refused(Refused::from(e)))?;
        for kv in &read.kvs {
            scanned += 1;
            let Record::Grant(record) = vault.record(kv).map_err(|error| {
                tracing::error!(%error, "a grant cannot be read");
                refused(Refused::Unavailable)
            })?
            else {
                continue;
            };
            let id = record.grant.id;
            if filter.takes(&record.grant) {
                page.push(encode::grant(&record.grant, kv.mod_revision));
            }
            if page.is_full() || scanned >= MAX_SCANNED {
                return Ok(v1::ListGrantsResponse { grants: page.grants, next_page_token: id.to_string(), revision });
            }
            from = format!("{}\0", record::grant_key(id));
        }
        if !read.more {
            return Ok(v1::ListGrantsResponse { grants: page.grants, next_page_token: String::new(), revision });
        }
    }
}
