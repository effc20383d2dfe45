//! What a gateway stands before: read, told, and changed.

use std::collections::BTreeSet;

use tonic::Status;

use super::super::super::authorize::Caller;
use super::super::super::fleet::{Cuts, Wanted};
use super::super::error::refused;
use super::super::push::MAX_LAG;
use super::super::{ApiError, receipts};
use super::{FleetService, parsed};
use crate::domain::scope::Scope;
use crate::wire::v1;

/// A scope as it is asked for.
///
/// # Errors
/// When a name is none.
pub(super) fn read(message: v1::GatewayScope) -> Result<Scope, Status> {
    fn names<T: std::str::FromStr<Err: std::fmt::Display> + Ord>(
        field: &str,
        texts: &[String],
    ) -> Result<BTreeSet<T>, Status> {
        let name = |text: &String| text.parse().map_err(|error| ApiError::invalid(format!("{field}: {error}")).into());
        texts.iter().map(name).collect()
    }
    let v1::GatewayScope { routes, resources } = message;
    Ok(Scope { routes: names("routes", &routes)?, resources: names("resources", &resources)? })
}

/// A scope as it is told.
pub(super) fn told(scope: &Scope) -> v1::GatewayScope {
    v1::GatewayScope {
        routes: scope.routes.iter().map(ToString::to_string).collect(),
        resources: scope.resources.iter().map(ToString::to_string).collect(),
    }
}

impl FleetService {
    /// Changes a scope, and tells what the gateway has to show for it.
    pub(super) async fn scoped(
        &self,
        caller: &Caller,
        request: v1::ScopeGatewayRequest,
    ) -> Result<v1::ScopeGatewayResponse, Status> {
        let v1::ScopeGatewayRequest { name, scope, reason, wait_ms } = request;
        let name = parsed(&name)?;
        let scope = read(scope.unwrap_or_default())?;
        let done = self.handle.scope(caller, name.clone(), scope, reason).await.map_err(refused)?;
        let model = self.handle.model();
        let bounds = model.resources.keys().map(|name| receipts::bound(&model, name)).collect();
        let revision = done.revision;
        let wanted = Wanted { revision, cuts_from: revision, cuts: Cuts::All, bounds, lag: MAX_LAG, about: None };
        let receipts = receipts::wait(&self.handle, &wanted, wait_ms, &self.stop).await;
        let receipt = receipts.into_iter().find(|receipt| receipt.gateway == name.as_str());
        Ok(v1::ScopeGatewayResponse { gateway: Some(self.one(&name)?), revision, receipt })
    }
}
