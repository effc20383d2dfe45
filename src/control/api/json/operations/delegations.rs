//! Who answers in whose place.

use super::super::problem::Problem;
use super::super::shapes::{NewDelegation, WhichDelegations, Why, millis};
use super::super::{Operation, Received, Takes, Verb};
use crate::domain::name::DelegationId;
use crate::wire::answers::{DelegationAnswer, DelegationList};
use crate::wire::v1;
use v1::access_server::Access as _;

fn delegation_id<I>(received: &Received<I>) -> Result<Vec<u8>, Problem> {
    received.part::<DelegationId>("id").map(|id| id.bits().to_be_bytes().to_vec())
}

/// Every operation on them.
pub(super) fn all() -> Vec<Operation> {
    let list = (
        "listDelegations",
        "The caller's delegations and those by which they answer, newest first; for who watches over all access, everybody's.",
    );
    let create = (
        "createDelegation",
        "Has another person approve in the caller's place for a time. The two count as one person, and never for what either \
         asks for or answers for.",
    );
    let end =
        ("endDelegation", "Ends a delegation now. What was approved by it and is not granted does not count any more.");
    vec![
        Operation::new(
            Verb::Get,
            "/v1/delegations",
            list,
            Takes::Query,
            |served, it: Received<WhichDelegations>| async move {
                let message = v1::ListDelegationsRequest { all: it.input.all };
                Ok(DelegationList::try_from(served.access.list_delegations(it.message(message)).await?.into_inner())?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/delegations",
            create,
            Takes::Body,
            |served, it: Received<NewDelegation>| async move {
                let (it, NewDelegation { to, duration, reason }) = it.split();
                let duration_ms = millis(Some(duration));
                let message = v1::CreateDelegationRequest { to: to.to_string(), duration_ms, reason };
                Ok(DelegationAnswer::try_from(
                    served.access.create_delegation(it.message(message)).await?.into_inner(),
                )?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/delegations/{id}/end",
            end,
            Takes::Body,
            |served, it: Received<Why>| async move {
                let id = delegation_id(&it)?;
                let (it, Why { reason }) = it.split();
                let message = v1::EndDelegationRequest { id, reason };
                Ok(DelegationAnswer::try_from(served.access.end_delegation(it.message(message)).await?.into_inner())?)
            },
        ),
    ]
}
