//! Requests, as the command line asks for them.

use super::answers::GrantRecord;
use super::{Client, ClientError, bounded};
use crate::domain::request::Request;
use crate::wire::{WireError, v1};

/// A request, and what was waited for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The request, with the analysis as of now while it is open.
    pub request: Request,
    /// The revision of the change, or of its last one.
    pub revision: u64,
    /// Its grants, when it was waited for.
    pub grants: Vec<GrantRecord>,
    /// Whether every connected gateway has them, when it was waited for.
    pub enforced: bool,
}

impl TryFrom<v1::RequestResponse> for Asked {
    type Error = WireError;

    fn try_from(answer: v1::RequestResponse) -> Result<Self, WireError> {
        Ok(Self {
            request: request(super::answers::present("request", answer.request)?)?,
            revision: answer.revision,
            grants: answer.grants.into_iter().map(GrantRecord::try_from).collect::<Result<_, _>>()?,
            enforced: answer.enforced,
        })
    }
}

fn request(message: v1::AccessRequest) -> Result<Request, WireError> {
    serde_json::from_str(&message.request_json).map_err(|error| WireError::of("request_json", error))
}

impl Client {
    /// Asks for access.
    ///
    /// # Errors
    /// As `Access.CreateRequest` says.
    pub async fn create_request(&mut self, message: v1::CreateRequestRequest) -> Result<Asked, ClientError> {
        let wait = message.wait_ms;
        Ok(self.access.create_request(bounded(message, wait)).await?.into_inner().try_into()?)
    }

    /// Requests: the latest open ones, or the latest of all; and whether there are older ones.
    ///
    /// # Errors
    /// As `Access.ListRequests` says.
    pub async fn requests(&mut self, all: bool) -> Result<(Vec<Request>, bool), ClientError> {
        let answer = self.access.list_requests(bounded(v1::ListRequestsRequest { all }, 0)).await?.into_inner();
        Ok((answer.requests.into_iter().map(request).collect::<Result<_, _>>()?, answer.more))
    }

    /// One request.
    ///
    /// # Errors
    /// As `Access.GetRequest` says.
    pub async fn request(&mut self, id: Vec<u8>, wait_ms: u64) -> Result<Asked, ClientError> {
        let message = v1::GetRequestRequest { id, wait_ms };
        Ok(self.access.get_request(bounded(message, wait_ms)).await?.into_inner().try_into()?)
    }

    /// Approves what was seen.
    ///
    /// # Errors
    /// As `Access.ApproveRequest` says.
    pub async fn approve_request(&mut self, message: v1::ApproveRequestRequest) -> Result<Asked, ClientError> {
        Ok(self.access.approve_request(bounded(message, 0)).await?.into_inner().try_into()?)
    }

    /// Says no.
    ///
    /// # Errors
    /// As `Access.DenyRequest` says.
    pub async fn deny_request(&mut self, id: Vec<u8>, reason: String) -> Result<Asked, ClientError> {
        let message = v1::DenyRequestRequest { id, reason };
        Ok(self.access.deny_request(bounded(message, 0)).await?.into_inner().try_into()?)
    }

    /// Takes a request back, or what it was granted.
    ///
    /// # Errors
    /// As `Access.CancelRequest` says.
    pub async fn cancel_request(&mut self, message: v1::CancelRequestRequest) -> Result<Asked, ClientError> {
        let wait = message.wait_ms;
        Ok(self.access.cancel_request(bounded(message, wait)).await?.into_inner().try_into()?)
    }

    /// Which live grants a policy would end.
    ///
    /// # Errors
    /// As `Catalog.PreviewPolicy` says.
    pub async fn preview_policy(
        &mut self,
        files: Vec<v1::PolicyFile>,
    ) -> Result<v1::PreviewPolicyResponse, ClientError> {
        Ok(self.catalog.preview_policy(bounded(v1::PreviewPolicyRequest { files }, 0)).await?.into_inner())
    }
}
