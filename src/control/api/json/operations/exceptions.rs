//! Leave from rules, and its later ends.

use super::super::problem::Problem;
use super::super::shapes::emergency::{Renewal, WhichExceptions};
use super::super::{Operation, Received, Takes, Verb};
use crate::domain::name::ExceptionName;
use crate::wire::answers::{ExceptionList, RenewalAnswer};
use crate::wire::v1;
use v1::catalog_server::Catalog as _;

/// Every operation on it.
pub(super) fn all() -> Vec<Operation> {
    let list = ("listExceptions", "Leave from rules, the oldest first.");
    let renew =
        ("renewException", "Asks that an exception end later: it waits for somebody who does not answer for it.");
    vec![
        Operation::new(
            Verb::Get,
            "/v1/exceptions",
            list,
            Takes::Query,
            |served, it: Received<WhichExceptions>| async move {
                let message = v1::ListExceptionsRequest { all: it.input.all };
                Ok(ExceptionList::try_from(served.catalog.list_exceptions(it.message(message)).await?.into_inner())?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/exceptions/{name}/renew",
            renew,
            Takes::Body,
            |served, it: Received<Renewal>| async move {
                let name: ExceptionName = it.part("name")?;
                let (it, Renewal { expires, reason }) = it.split();
                let expires_unix_us = expires.unix_micros();
                let message = v1::RenewExceptionRequest { name: name.to_string(), expires_unix_us, reason };
                let done = served.catalog.renew_exception(it.message(message)).await?;
                Ok::<_, Problem>(RenewalAnswer::try_from(done.into_inner())?)
            },
        ),
    ]
}
