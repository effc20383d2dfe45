//! Break-glass, as the command line asks for it.

use super::answers::{BreakGlassAnswer, BreakGlassList};
use super::{Client, ClientError, bounded};
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::wire::v1;

fn answer(answer: v1::BreakGlassResponse, wait_ms: u64) -> Result<BreakGlassAnswer, ClientError> {
    Ok(BreakGlassAnswer::of(answer, wait_ms > 0, SystemClock.now())?)
}

impl Client {
    /// Breaks glass.
    ///
    /// # Errors
    /// As `Access.OpenBreakGlass` says.
    pub async fn break_glass(&mut self, message: v1::OpenBreakGlassRequest) -> Result<BreakGlassAnswer, ClientError> {
        let wait = message.wait_ms;
        answer(self.access.open_break_glass(bounded(message, wait)).await?.into_inner(), wait)
    }

    /// Every break-glass whose review is open, with `all` the others too.
    ///
    /// # Errors
    /// As `Access.ListBreakGlass` says.
    pub async fn broken(&mut self, all: bool) -> Result<BreakGlassList, ClientError> {
        let answer = self.access.list_break_glass(bounded(v1::ListBreakGlassRequest { all }, 0)).await?;
        Ok(answer.into_inner().try_into()?)
    }

    /// One of them.
    ///
    /// # Errors
    /// As `Access.GetBreakGlass` says.
    pub async fn broken_one(&mut self, id: Vec<u8>) -> Result<BreakGlassAnswer, ClientError> {
        let message = v1::GetBreakGlassRequest { id };
        answer(self.access.get_break_glass(bounded(message, 0)).await?.into_inner(), 0)
    }

    /// Ends its access before its time.
    ///
    /// # Errors
    /// As `Access.CloseBreakGlass` says.
    pub async fn close_break_glass(
        &mut self,
        message: v1::CloseBreakGlassRequest,
    ) -> Result<BreakGlassAnswer, ClientError> {
        let wait = message.wait_ms;
        answer(self.access.close_break_glass(bounded(message, wait)).await?.into_inner(), wait)
    }

    /// Closes its review.
    ///
    /// # Errors
    /// As `Access.ReviewBreakGlass` says.
    pub async fn review_break_glass(
        &mut self,
        message: v1::ReviewBreakGlassRequest,
    ) -> Result<BreakGlassAnswer, ClientError> {
        answer(self.access.review_break_glass(bounded(message, 0)).await?.into_inner(), 0)
    }
}
