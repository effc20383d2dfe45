//! Exceptions, as the API has them.

use tonic::{Request, Response, Status};

use super::super::super::authorize::Operation;
use super::super::super::exceptions::by_age;
use super::super::error::refused;
use super::super::{ApiError, authorized};
use super::{CatalogService, changes};
use crate::domain::Timestamp;
use crate::domain::name::ExceptionName;
use crate::wire::v1;

impl CatalogService {
    pub(super) async fn exceptions(
        &self,
        request: Request<v1::ListExceptionsRequest>,
    ) -> Result<Response<v1::ListExceptionsResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadCatalog, None).await?;
        let (all, now) = (request.get_ref().all, self.handle.shared().clock.now());
        let model = self.handle.model();
        let mut exceptions = Vec::new();
        for kept in by_age(&model).into_iter().filter(|kept| all || kept.value.is_live(now)) {
            let exception_json = serde_json::to_string(&*kept.value)
                .map_err(|error| Status::from(ApiError::invalid(error.to_string())))?;
            let (name, revision) = (kept.value.name.to_string(), kept.revision);
            exceptions.push(v1::ExceptionEntry { name, exception_json, revision });
        }
        Ok(Response::new(v1::ListExceptionsResponse { exceptions, now_unix_us: now.unix_micros() }))
    }

    pub(super) async fn renew(
        &self,
        request: Request<v1::RenewExceptionRequest>,
    ) -> Result<Response<v1::RenewExceptionResponse>, Status> {
        // Whose it is decides who may ask.
        let name = request.get_ref().name.parse::<ExceptionName>();
        let model = self.handle.model();
        let known = name.as_ref().ok().and_then(|name| model.exceptions.get(name));
        let owner = known.map(|kept| kept.value.spec.owner.clone());
        let caller = authorized(&self.handle, &request, Operation::RenewException, owner.as_ref()).await?;
        let name = name.map_err(|error| ApiError::invalid(format!("name: {error}")))?;
        let v1::RenewExceptionRequest { expires_unix_us, reason, .. } = request.into_inner();
        let expires = Timestamp::from_unix_micros(expires_unix_us);
        let done = self.handle.renew_exception(&caller, name, expires, reason).await.map_err(refused)?;
        let (_, proposal) = done.answer.parts();
        let change = proposal.as_ref().map(changes::message).transpose()?;
        Ok(Response::new(v1::RenewExceptionResponse { change, revision: done.revision }))
    }
}
