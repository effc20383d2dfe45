//! The authorities that certify gateways: which are trusted, who still depends on which, and the steps of a rotation.

use std::time::Duration;

use tonic::Status;

use super::super::super::authorize::Caller;
use super::super::super::fleet::GatewayStatus;
use super::super::super::plan::Refused;
use super::super::super::record::{AuthorityStanding, Standing};
use super::super::super::trust::{Step, StepError};
use super::super::ApiError;
use super::super::error::refused;
use super::{FleetService, unsigned};
use crate::wire::v1;

/// Longest wait for gateways to renew.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Gateways that a refusal names.
const NAMED: usize = 10;

impl FleetService {
    pub(super) async fn authorities(&self) -> Result<v1::ListAuthoritiesResponse, Status> {
        let told = self.trust.authorities().await.map_err(|error| unsigned(&error))?;
        let authorities = told.iter().map(|it| v1::AuthorityInfo {
            label: it.label.clone(),
            standing: it.standing.as_str().to_owned(),
            since_unix_us: it.since.unix_micros(),
            certificate_pem: it.certificate.clone(),
        });
        let bundle_pem = match self.trust.issuing().await.map_err(|error| unsigned(&error))? {
            Some(ca) => self.trust.bundle(&ca),
            None => return Err(ApiError::no_ca().into()),
        };
        let gateways = self.depending().into_iter().map(|(gateway, connected, label)| v1::GatewayCertificate {
            gateway,
            connected,
            label,
        });
        let gateways = gateways.collect();
        Ok(v1::ListAuthoritiesResponse { authorities: authorities.collect(), bundle_pem, gateways })
    }

    pub(super) async fn rotated(
        &self,
        caller: &Caller,
        request: v1::RotateAuthorityRequest,
    ) -> Result<v1::ListAuthoritiesResponse, Status> {
        let v1::RotateAuthorityRequest { step, reason, force, wait_ms } = request;
        let step = match step.as_str() {
            "publish" => Step::Publish,
            "issue" => Step::Issue,
            "retire" => Step::Retire,
            "replace" => Step::Replace,
            _ => return Err(ApiError::invalid("step: publish, issue, retire or replace").into()),
        };
        if step == Step::Retire && !force {
            self.renewed(Duration::from_millis(wait_ms).min(MAX_WAIT)).await?;
        }
        self.trust.step(&self.handle, caller, step, reason).await.map_err(|error| match error {
            StepError::NoCa => ApiError::no_ca().into(),
            StepError::Refused(why) => refused(why),
            StepError::Enrol(error) => Status::from(unsigned(&error)),
            StepError::Follow(error) => {
                tracing::error!(%error, "a step of the CA's rotation is stored, and what follows from it failed");
                refused(Refused::Unavailable)
            }
        })?;
        self.authorities().await
    }

    /// Waits until every gateway that is connected shows a certificate of whoever issues.
    async fn renewed(&self, patience: Duration) -> Result<(), Status> {
        let mut changed = self.handle.fleet().watch();
        let all = async {
            loop {
                changed.mark_unchanged();
                let behind = self.behind().await?;
                if behind.is_empty() || changed.changed().await.is_err() {
                    return Ok::<(), Status>(());
                }
            }
        };
        if let Ok(renewed) = tokio::time::timeout(patience, all).await {
            return renewed;
        }
        let behind = self.behind().await?;
        if behind.is_empty() {
            return Ok(());
        }
        let named = behind.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = if behind.len() > NAMED { format!(" and {} more", behind.len() - NAMED) } else { String::new() };
        Err(refused(Refused::Conflict(format!(
            "gateways that are connected have certificates of the authority before: {named}{more}; they renew by themselves, \
             which `control ca status` shows; with --force they are cut off and must join again"
        ))))
    }

    async fn behind(&self) -> Result<Vec<String>, Status> {
        let told = self.trust.authorities().await.map_err(|error| unsigned(&error))?;
        let issuing = told.iter().find(|it| it.standing == AuthorityStanding::Issuing).map(|it| it.label.clone());
        let behind = |(name, connected, label): (String, bool, String)| {
            (connected && Some(&label) != issuing.as_ref()).then_some(name)
        };
        Ok(self.depending().into_iter().filter_map(behind).collect())
    }

    /// Every gateway that may have authority: its name, whether it is connected, and by whom the certificate is that it
    /// showed last, as far as is known.
    fn depending(&self) -> Vec<(String, bool, String)> {
        let model = self.handle.model();
        let is_good = |status: &GatewayStatus| {
            model.gateways.get(&status.name).is_some_and(|kept| kept.value.standing == Standing::Good)
        };
        let statuses = self.handle.gateways().into_iter().filter(is_good);
        statuses
            .map(|status| (status.name.to_string(), status.connected, status.issued_by.unwrap_or_default()))
            .collect()
    }
}
