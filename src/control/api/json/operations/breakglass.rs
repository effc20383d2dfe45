//! Break-glass, and its reviews.

use super::super::problem::Problem;
use super::super::shapes::emergency::{Emergency, Judgement, WhichBreakGlass};
use super::super::shapes::{Nothing, WhyAndWait, millis};
use super::super::{Operation, Received, Takes, Verb};
use crate::domain::name::BreakGlassId;
use crate::wire::answers::{BreakGlassAnswer, BreakGlassList};
use crate::wire::v1;
use v1::access_server::Access as _;

fn id_of<I>(received: &Received<I>) -> Result<Vec<u8>, Problem> {
    received.part::<BreakGlassId>("id").map(|id| id.bits().to_be_bytes().to_vec())
}

/// Every operation on it.
pub(super) fn all() -> Vec<Operation> {
    let open = (
        "openBreakGlass",
        "Access at once, without an approval, for a person who proved lately who they are and whom policy names. It is \
         told to everybody whom it concerns, and another person reviews it.",
    );
    let list = ("listBreakGlass", "Every break-glass whose review is open, newest first.");
    let get = ("getBreakGlass", "One break-glass, with those who could close its review now.");
    let close = ("closeBreakGlass", "Ends the access before its time. The review stays open.");
    let review = ("reviewBreakGlass", "Closes the review. Whoever opened it, or answers for the identity, does not.");
    vec![
        Operation::new(
            Verb::Post,
            "/v1/break-glass",
            open,
            Takes::Body,
            |served, it: Received<Emergency>| async move {
                let (it, input) = it.split();
                let waited = input.wait.is_some();
                let done = served.access.open_break_glass(it.message(input.into())).await?;
                Ok(BreakGlassAnswer::of(done.into_inner(), waited, served.now())?)
            },
        ),
        Operation::new(
            Verb::Get,
            "/v1/break-glass",
            list,
            Takes::Query,
            |served, it: Received<WhichBreakGlass>| async move {
                let message = v1::ListBreakGlassRequest { all: it.input.all };
                let done = served.access.list_break_glass(it.message(message)).await?;
                Ok(BreakGlassList::try_from(done.into_inner())?)
            },
        ),
        Operation::new(
            Verb::Get,
            "/v1/break-glass/{id}",
            get,
            Takes::Nothing,
            |served, it: Received<Nothing>| async move {
                let message = v1::GetBreakGlassRequest { id: id_of(&it)? };
                let done = served.access.get_break_glass(it.message(message)).await?;
                Ok(BreakGlassAnswer::of(done.into_inner(), false, served.now())?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/break-glass/{id}/close",
            close,
            Takes::Body,
            |served, it: Received<WhyAndWait>| async move {
                let id = id_of(&it)?;
                let (it, WhyAndWait { reason, wait }) = it.split();
                let message = v1::CloseBreakGlassRequest { id, reason, wait_ms: millis(wait) };
                let done = served.access.close_break_glass(it.message(message)).await?;
                Ok(BreakGlassAnswer::of(done.into_inner(), wait.is_some(), served.now())?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/break-glass/{id}/review",
            review,
            Takes::Body,
            |served, it: Received<Judgement>| async move {
                let id = id_of(&it)?;
                let (it, Judgement { verdict, comment }) = it.split();
                let message = v1::ReviewBreakGlassRequest { id, verdict: verdict.as_str().to_owned(), comment };
                let done = served.access.review_break_glass(it.message(message)).await?;
                Ok(BreakGlassAnswer::of(done.into_inner(), false, served.now())?)
            },
        ),
    ]
}
