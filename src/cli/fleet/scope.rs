//! `portcullis fleet scope`: what a gateway stands before.

use clap::Args;
use serde::Serialize;

use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::super::time::{DEFAULT_WAIT, millis};
use super::super::{Context, receipt};
use crate::client::Receipt;
use crate::client::fleet::{FleetGateway, FleetScope};
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::domain::name::{GatewayName, ResourceName, RouteName};
use crate::domain::resource::Span;
use crate::wire::v1;

#[derive(Debug, Args)]
pub(in super::super) struct Before {
    /// A route that it stands before; may be repeated. Without any route or resource: everything
    #[arg(long = "route", value_name = "NAME")]
    routes: Vec<RouteName>,
    /// A resource, all of whose routes it stands before; may be repeated
    #[arg(long = "resource", value_name = "NAME")]
    resources: Vec<ResourceName>,
}

impl Before {
    /// `None`: nothing was said.
    pub(super) fn message(&self) -> Option<v1::GatewayScope> {
        let routes: Vec<String> = self.routes.iter().map(ToString::to_string).collect();
        let resources: Vec<String> = self.resources.iter().map(ToString::to_string).collect();
        (!routes.is_empty() || !resources.is_empty()).then_some(v1::GatewayScope { routes, resources })
    }
}

#[derive(Debug, Args)]
pub(in super::super) struct Change {
    /// The gateway
    name: GatewayName,
    #[command(flatten)]
    before: Before,
    /// Everything, as a gateway without a scope
    #[arg(long, conflicts_with_all = ["routes", "resources"], required_unless_present_any = ["routes", "resources"])]
    everything: bool,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Answer when the gateway has said that it is so, or after this time
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
    wait: Option<Span>,
}

#[derive(Serialize)]
struct Answer {
    gateway: String,
    /// Absent: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<FleetScope>,
    revision: u64,
    /// Whether the gateway goes by it; absent when it was not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    enforced: Option<bool>,
    gateways: Vec<Receipt>,
}

impl Change {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = v1::ScopeGatewayRequest {
            name: self.name.to_string(),
            scope: self.before.message(),
            reason: self.reason,
            wait_ms: self.wait.map_or(0, millis),
        };
        let scoped = context.client().await?.scope(request).await?;
        let shown = shown(&scoped.gateway);
        let gateways: Vec<Receipt> = scoped.receipt.into_iter().collect();
        let answer = Answer {
            gateway: scoped.gateway.name,
            scope: scoped.gateway.scope,
            revision: scoped.revision,
            enforced: self.wait.map(|_| crate::client::answers::outstanding(&gateways) == 0),
            gateways,
        };
        context.output.answer(&answer, || {
            let line = format!("gateway {} stands before {shown} from revision {}", answer.gateway, answer.revision);
            Human::Parts(vec![Human::Lines(vec![line]), receipt::tables(&answer.gateways, SystemClock.now())])
        })?;
        match self.wait {
            Some(_) => receipt::settled(&answer.gateways, "goes by its scope"),
            None => Ok(Exit::Done),
        }
    }
}

/// A scope for people.
pub(super) fn shown(gateway: &FleetGateway) -> String {
    let Some(scope) = &gateway.scope else { return "everything".to_owned() };
    let routes = scope.routes.iter().map(|name| format!("route/{name}"));
    let names: Vec<String> = routes.chain(scope.resources.iter().map(|name| format!("resource/{name}"))).collect();
    names.join(" ")
}
