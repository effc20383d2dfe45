//! Changes of catalog and policy, as the command line asks for them.

use super::answers::{ChangeAnswer, ChangeList, ExceptionList, PolicyAnswer, RenewalAnswer, ReplayAnswer};
use super::{Client, ClientError, bounded};
use crate::wire::v1;

impl Client {
    /// Changes that wait for another person, with `all` settled ones too.
    ///
    /// # Errors
    /// As `Catalog.ListChanges` says.
    pub async fn changes(&mut self, all: bool) -> Result<ChangeList, ClientError> {
        let answer = self.catalog.list_changes(bounded(v1::ListChangesRequest { all }, 0)).await?;
        Ok(answer.into_inner().try_into()?)
    }

    /// One change.
    ///
    /// # Errors
    /// As `Catalog.GetChange` says.
    pub async fn change(&mut self, id: Vec<u8>) -> Result<ChangeAnswer, ClientError> {
        let answer = self.catalog.get_change(bounded(v1::GetChangeRequest { id }, 0)).await?;
        Ok(answer.into_inner().try_into()?)
    }

    /// Approves what was seen.
    ///
    /// # Errors
    /// As `Catalog.ApproveChange` says.
    pub async fn approve_change(&mut self, message: v1::ApproveChangeRequest) -> Result<ChangeAnswer, ClientError> {
        Ok(self.catalog.approve_change(bounded(message, 0)).await?.into_inner().try_into()?)
    }

    /// Says no.
    ///
    /// # Errors
    /// As `Catalog.DenyChange` says.
    pub async fn deny_change(&mut self, id: Vec<u8>, reason: String) -> Result<ChangeAnswer, ClientError> {
        let message = v1::DenyChangeRequest { id, reason };
        Ok(self.catalog.deny_change(bounded(message, 0)).await?.into_inner().try_into()?)
    }

    /// Takes a change back.
    ///
    /// # Errors
    /// As `Catalog.CancelChange` says.
    pub async fn cancel_change(&mut self, id: Vec<u8>, reason: String) -> Result<ChangeAnswer, ClientError> {
        let message = v1::CancelChangeRequest { id, reason };
        Ok(self.catalog.cancel_change(bounded(message, 0)).await?.into_inner().try_into()?)
    }

    /// Leave from rules, the oldest first; with `all` those that are over too.
    ///
    /// # Errors
    /// As `Catalog.ListExceptions` says.
    pub async fn exceptions(&mut self, all: bool) -> Result<ExceptionList, ClientError> {
        let answer = self.catalog.list_exceptions(bounded(v1::ListExceptionsRequest { all }, 0)).await?;
        Ok(answer.into_inner().try_into()?)
    }

    /// Asks that one end later.
    ///
    /// # Errors
    /// As `Catalog.RenewException` says.
    pub async fn renew_exception(&mut self, message: v1::RenewExceptionRequest) -> Result<RenewalAnswer, ClientError> {
        Ok(self.catalog.renew_exception(bounded(message, 0)).await?.into_inner().try_into()?)
    }

    /// Puts a policy into force, or has it wait.
    ///
    /// # Errors
    /// As `Catalog.PublishPolicy` says.
    pub async fn publish_policy(&mut self, message: v1::PublishPolicyRequest) -> Result<PolicyAnswer, ClientError> {
        Ok(self.catalog.publish_policy(bounded(message, 0)).await?.into_inner().try_into()?)
    }

    /// A version of the policy; 0 for the one that is in force.
    ///
    /// # Errors
    /// As `Catalog.GetPolicy` says.
    pub async fn policy(&mut self, version: u64) -> Result<PolicyAnswer, ClientError> {
        let answer = self.catalog.get_policy(bounded(v1::GetPolicyRequest { version }, 0)).await?;
        Ok(answer.into_inner().try_into()?)
    }

    /// Has a policy that is not in force decide what was asked before.
    ///
    /// # Errors
    /// As `Catalog.ReplayPolicy` says.
    pub async fn replay_policy(&mut self, message: v1::ReplayPolicyRequest) -> Result<ReplayAnswer, ClientError> {
        Ok(self.catalog.replay_policy(bounded(message, 0)).await?.into_inner().into())
    }
}
