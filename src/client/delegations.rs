//! Who answers in whose place, as the command line asks for it.

use super::answers::{DelegationAnswer, DelegationList};
use super::{Client, ClientError, bounded};
use crate::wire::v1;

impl Client {
    /// Has another person answer in the caller's place.
    ///
    /// # Errors
    /// As `Access.CreateDelegation` says.
    pub async fn create_delegation(
        &mut self,
        message: v1::CreateDelegationRequest,
    ) -> Result<DelegationAnswer, ClientError> {
        Ok(self.access.create_delegation(bounded(message, 0)).await?.into_inner().try_into()?)
    }

    /// The caller's delegations and those by which they answer; with `all` those that are over, too.
    ///
    /// # Errors
    /// As `Access.ListDelegations` says.
    pub async fn delegations(&mut self, all: bool) -> Result<DelegationList, ClientError> {
        Ok(self
            .access
            .list_delegations(bounded(v1::ListDelegationsRequest { all }, 0))
            .await?
            .into_inner()
            .try_into()?)
    }

    /// Ends one before its time.
    ///
    /// # Errors
    /// As `Access.EndDelegation` says.
    pub async fn end_delegation(&mut self, id: Vec<u8>, reason: String) -> Result<DelegationAnswer, ClientError> {
        let message = v1::EndDelegationRequest { id, reason };
        Ok(self.access.end_delegation(bounded(message, 0)).await?.into_inner().try_into()?)
    }
}
