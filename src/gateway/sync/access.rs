//! The one operation besides the stream that a gateway asks of its control plane: that a token of its own be dead
//! everywhere.

use std::time::Duration;

use tokio::sync::Mutex;
use tonic::transport::Channel;

use super::connect;
use crate::domain::Timestamp;
use crate::settings::gateway::ControlEndpoint;
use crate::wire::v1;
use crate::wire::v1::access_client::AccessClient;

/// Time for the control plane to commit and answer.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(4);

/// Why the control plane did not take a revocation.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::gateway) enum RevokeError {
    #[error("the control plane cannot be reached: {0}")]
    Unreachable(String),
    #[error("the control plane did not acknowledge: {0}")]
    Refused(String),
    #[error("the control plane did not acknowledge in time")]
    Late,
}

/// Asks the control plane, over a connection of its own that is kept while it works.
#[derive(Debug)]
pub(in crate::gateway) struct TokenRevoker {
    control: ControlEndpoint,
    client: Mutex<Option<AccessClient<Channel>>>,
}

impl TokenRevoker {
    pub(in crate::gateway) fn new(control: ControlEndpoint) -> Self {
        Self { control, client: Mutex::new(None) }
    }

    /// Declares a token dead everywhere, by its issuer and handle, until its own end.
    pub(in crate::gateway) async fn revoke(
        &self,
        issuer: String,
        handle: String,
        expires: Timestamp,
    ) -> Result<(), RevokeError> {
        let request = v1::RevokeTokenRequest { issuer, jti: handle, expires_unix_us: expires.unix_micros() };
        let acknowledged = tokio::time::timeout(ACKNOWLEDGE_LIMIT, async {
            let mut client = self.client().await?;
            client.revoke_token(request).await.map_err(|status| RevokeError::Refused(status.message().to_owned()))
        });
        match acknowledged.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                // Certificates may have been renewed beneath it: the next one connects anew.
                *self.client.lock().await = None;
                Err(error)
            }
            Err(_) => Err(RevokeError::Late),
        }
    }

    async fn client(&self) -> Result<AccessClient<Channel>, RevokeError> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let new = connect::access(&self.control).await.map_err(|error| RevokeError::Unreachable(error.to_string()))?;
        Ok(client.insert(new).clone())
    }
}
