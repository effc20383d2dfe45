//! `portcullis control`: make a control plane's keys, and run it.

use std::path::PathBuf;

use clap::Subcommand;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use crate::app;
use crate::domain::name::GatewayName;

#[derive(Debug, Subcommand)]
pub(super) enum Control {
    /// Make the CA, the keys and the administrator's token that the settings name, where they are missing
    Init {
        /// Settings of the control plane
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// A host name or address in the control plane's certificate, besides those of loopback; may be repeated
        #[arg(long = "host", value_name = "HOST")]
        names: Vec<String>,
        /// A host name or address in the certificates of the gateways that are named, besides those of loopback; may be
        /// repeated
        #[arg(long = "gateway-host", value_name = "HOST", requires = "gateways")]
        gateway_names: Vec<String>,
        /// Register a gateway and make its certificate; may be repeated
        #[arg(long = "gateway", value_name = "NAME")]
        gateways: Vec<GatewayName>,
    },
    /// Run a control plane until it is told to end (SIGTERM: drain)
    Run {
        /// Settings of the control plane
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
}

impl Control {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Init { config, names, gateway_names, gateways } => {
                let enrol = app::control::Enrol { names, gateway_names, gateways };
                let made = app::control::init(&config, &enrol)?;
                let shown = |path: &PathBuf| path.display().to_string();
                context.output.answer(&made, || {
                    let mut pairs =
                        vec![("CA", shown(&made.ca)), ("administrator's token", shown(&made.administrator))];
                    pairs.extend(made.gateways.iter().map(|dir| ("gateway", shown(dir))));
                    Human::Details(pairs)
                })?;
            }
            Self::Run { config } => app::control::run(&config)?,
        }
        Ok(Exit::Done)
    }
}
