//! Questions about every gateway's evidence.

use super::{Client, ClientError, bounded};
use crate::wire::v1;

/// Gateways answer within ten seconds each, sixteen at a time; a large fleet takes some rounds.
const FLEET_MS: u64 = 120_000;

/// Answers of gateways, as they come.
pub struct Answers(tonic::Streaming<v1::GatewayEvidence>);

impl Answers {
    /// The next gateway's; `None` when every one has been heard or given up.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn next(&mut self) -> Result<Option<v1::GatewayEvidence>, ClientError> {
        Ok(self.0.message().await?)
    }
}

impl Client {
    /// Asks the gateways about their evidence.
    ///
    /// # Errors
    /// As `Evidence.Query` says.
    pub async fn query_evidence(&mut self, request: v1::QueryEvidenceRequest) -> Result<Answers, ClientError> {
        Ok(Answers(self.evidence.query(bounded(request, FLEET_MS)).await?.into_inner()))
    }
}
