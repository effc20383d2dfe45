//! Commands about break-glass.

use super::super::super::authorize::Caller;
use super::super::super::breakglass;
use super::super::super::plan::Refused;
use super::requests::drawing;
use super::{ControlHandle, Done};
use crate::domain::breakglass::{BreakGlass, ReviewVerdict};
use crate::domain::name::BreakGlassId;
use crate::domain::request::Ask;
use crate::settings::control::BreakGlassSettings;

impl ControlHandle {
    /// Breaks glass within bounds.
    ///
    /// # Errors
    /// As [`breakglass::plan_open`].
    pub async fn break_glass(
        &self,
        caller: &Caller,
        ask: Ask,
        bounds: BreakGlassSettings,
    ) -> Result<Done<BreakGlass>, Refused> {
        self.run(caller, "break_glass", move |model, context, identifiers| {
            breakglass::plan_open(model, context, &ask, &bounds, drawing(identifiers, context.now))
        })
        .await
    }

    /// Ends what a break-glass gave, before its time.
    ///
    /// # Errors
    /// As [`breakglass::plan_close`].
    pub async fn close_break_glass(
        &self,
        caller: &Caller,
        id: BreakGlassId,
        reason: String,
    ) -> Result<Done<BreakGlass>, Refused> {
        self.run(caller, "close_break_glass", move |model, context, _| {
            breakglass::plan_close(model, context, id, &reason)
        })
        .await
    }

    /// Closes the review of a break-glass.
    ///
    /// # Errors
    /// As [`breakglass::plan_review`].
    pub async fn review_break_glass(
        &self,
        caller: &Caller,
        id: BreakGlassId,
        verdict: ReviewVerdict,
        comment: String,
    ) -> Result<Done<BreakGlass>, Refused> {
        self.run(caller, "review_break_glass", move |model, context, _| {
            breakglass::plan_review(model, context, id, verdict, &comment)
        })
        .await
    }

    /// A break-glass, with those who could close its review now, and the revision that last put it.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn broken(&self, id: BreakGlassId) -> Result<Done<BreakGlass>, Refused> {
        let model = self.model();
        let kept = breakglass::found(&model, id)?;
        Ok(Done { answer: breakglass::seen(&model, &kept.value), revision: kept.revision })
    }
}
