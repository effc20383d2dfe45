//! Changes that wait for another person.

use super::super::problem::Problem;
use super::super::shapes::{Agreed, Candidate, Nothing, WhichChanges, Why};
use super::super::{Operation, Received, Takes, Verb};
use crate::domain::name::ChangeId;
use crate::wire::answers::{ChangeAnswer, ChangeList, ReplayAnswer};
use crate::wire::v1;
use v1::catalog_server::Catalog as _;

fn change_id<I>(received: &Received<I>) -> Result<Vec<u8>, Problem> {
    received.part::<ChangeId>("id").map(|id| id.bits().to_be_bytes().to_vec())
}

/// Every operation on them.
pub(super) fn all() -> Vec<Operation> {
    let list = ("listChanges", "Changes of catalog and policy that wait for another person, newest first.");
    let get = ("getChange", "One change, while it waits as of now.");
    let approve = (
        "approveChange",
        "Approves a change as it was seen: it comes true. When what it was made from has changed, it is `stale`.",
    );
    let deny = ("denyChange", "Says no to a change.");
    let cancel = ("cancelChange", "Takes a change back.");
    let replay = ("replayPolicy", "Has a policy that is not in force decide what was asked before; changes nothing.");
    vec![
        Operation::new(
            Verb::Post,
            "/v1/policy/replay",
            replay,
            Takes::Body,
            |served, it: Received<Candidate>| async move {
                let (it, input) = it.split();
                let done = served.catalog.replay_policy(it.message(input.into())).await?;
                Ok(ReplayAnswer::from(done.into_inner()))
            },
        ),
        Operation::new(Verb::Get, "/v1/changes", list, Takes::Query, |served, it: Received<WhichChanges>| async move {
            let done = served.catalog.list_changes(it.message(v1::ListChangesRequest { all: it.input.all })).await?;
            Ok(ChangeList::try_from(done.into_inner())?)
        }),
        Operation::new(
            Verb::Get,
            "/v1/changes/{id}",
            get,
            Takes::Nothing,
            |served, it: Received<Nothing>| async move {
                let done = served.catalog.get_change(it.message(v1::GetChangeRequest { id: change_id(&it)? })).await?;
                Ok(ChangeAnswer::try_from(done.into_inner())?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/changes/{id}/approve",
            approve,
            Takes::Body,
            |served, it: Received<Agreed>| async move {
                let id = change_id(&it)?;
                let (it, Agreed { digest, comment }) = it.split();
                let message = v1::ApproveChangeRequest { id, digest, comment };
                let done = served.catalog.approve_change(it.message(message)).await?;
                Ok(ChangeAnswer::try_from(done.into_inner())?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/changes/{id}/deny",
            deny,
            Takes::Body,
            |served, it: Received<Why>| async move {
                let id = change_id(&it)?;
                let (it, Why { reason }) = it.split();
                let done = served.catalog.deny_change(it.message(v1::DenyChangeRequest { id, reason })).await?;
                Ok(ChangeAnswer::try_from(done.into_inner())?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/changes/{id}/cancel",
            cancel,
            Takes::Body,
            |served, it: Received<Why>| async move {
                let id = change_id(&it)?;
                let (it, Why { reason }) = it.split();
                let done = served.catalog.cancel_change(it.message(v1::CancelChangeRequest { id, reason })).await?;
                Ok(ChangeAnswer::try_from(done.into_inner())?)
            },
        ),
    ]
}
