//! `portcullis fleet`: where the gateways stand, and taking one's authority.

use clap::{Args, Subcommand};

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use super::time::both;
use crate::client::fleet::{FleetGateway, FleetStatus};
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::domain::Timestamp;
use crate::domain::name::GatewayName;

#[derive(Debug, Subcommand)]
pub(super) enum Fleet {
    /// Show each gateway: how far it enforces, how old its authority is, how much of its log is cosigned
    Status,
    /// Take a gateway's authority for good, for example after it was stolen
    Expel(Change),
    /// Let a gateway that lost its state come with a new evidence key and log; the old one is sealed
    Readmit(Change),
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The gateway
    name: GatewayName,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Fleet {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut client = context.client().await?;
        let now = SystemClock.now();
        match self {
            Self::Status => {
                let status = client.fleet().await?;
                context.output.answer(&status, || table(&status, now))?;
            }
            Self::Expel(Change { name, reason }) => {
                let gateway = client.expel(name.to_string(), reason).await?;
                let stops = both(gateway.stops_by, now);
                let line = format!("gateway {name} is expelled: whatever it does, it has no authority after {stops}");
                context.output.answer(&gateway, || Human::Lines(vec![line]))?;
            }
            Self::Readmit(Change { name, reason }) => {
                let gateway = client.readmit(name.to_string(), reason).await?;
                let line = format!("gateway {name} may come with a new evidence key; its old log is sealed");
                context.output.answer(&gateway, || Human::Lines(vec![line]))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn table(status: &FleetStatus, now: Timestamp) -> Human {
    let row = |gateway: &FleetGateway| {
        let state = match (gateway.standing.as_str(), gateway.connected) {
            ("good", true) => "connected".to_owned(),
            ("good", false) => "not connected".to_owned(),
            (other, _) => other.to_owned(),
        };
        let age = format!("{:.1}s", now.saturating_since(gateway.answered).as_secs_f64());
        let lag = status.revision.saturating_sub(gateway.applied_revision);
        let log = gateway.log.as_ref();
        let cosigned = log.map(|log| format!("{} records", log.cosigned_size)).unwrap_or_default();
        let at = log.and_then(|log| log.cosigned).map(|at| both(at, now)).unwrap_or_default();
        vec![gateway.name.clone(), state, gateway.applied_revision.to_string(), lag.to_string(), age, cosigned, at]
    };
    Human::Table {
        headers: &["GATEWAY", "STATE", "REVISION", "LAG", "AUTHORITY", "COSIGNED", "AT"],
        rows: status.gateways.iter().map(row).collect(),
        empty: "no gateways",
    }
}
