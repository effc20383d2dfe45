//! The first certificate of a replica that joins by attestation.

use std::sync::Arc;

use tonic::Status;

use super::super::super::attested::Attested;
use super::super::super::enrol::{EnrolError, Subject};
use super::super::super::plan::Refused;
use super::super::ApiError;
use super::super::error::refused;
use super::{FleetService, unsigned};
use crate::domain::name::GatewayName;
use crate::wire::v1;

impl FleetService {
    pub(super) async fn attested(
        &self,
        who: &Arc<Attested>,
        certificate_request: &[u8],
        evidence_key: String,
        template: &str,
    ) -> Result<v1::CertifyResponse, Status> {
        let template: GatewayName =
            template.parse().map_err(|error| ApiError::invalid(format!("template: {error}")))?;
        // What a joiner asks for is looked at among those that mean it: of others it learns nothing.
        let template = self.attestation.template(&template).filter(|it| who.templates.contains(&it.name));
        let denied = || ApiError::denied(format!("`{}` is meant by no template of that name", who.subject));
        let template = template.ok_or_else(denied)?.clone();
        let ca = self.ca().await?;
        let clock = &*self.handle.shared().clock;
        let invalid = |error: EnrolError| match error {
            EnrolError::Key(_) => unsigned(&error),
            error => ApiError::invalid(format!("certificate_request: {error}")),
        };
        // Before anything is recorded: a request that does not hold leaves the token good.
        let key = ca.requested_key(certificate_request).map_err(invalid)?;
        let name = crate::wire::replica_name(template.name.as_str(), &key);
        let name: GatewayName = name.parse().map_err(|_| refused(Refused::Unavailable))?;
        let subject = Subject::Gateway { name: name.clone(), names: template.hosts.clone() };
        let certified = ca.certify(&subject, certificate_request, clock).await.map_err(invalid)?;
        self.handle.attest(who.clone(), template, key, evidence_key).await.map_err(refused)?;
        Ok(v1::CertifyResponse {
            certificate_pem: certified.pem,
            ca_pem: self.trust.bundle(&ca),
            control_keys: vec![self.control_key.clone()],
            gateway: name.to_string(),
        })
    }
}
