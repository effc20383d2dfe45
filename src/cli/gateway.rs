//! `portcullis gateway`: run a gateway.

use std::path::PathBuf;

use clap::Subcommand;

use super::Context;
use super::failure::{Exit, Failure};
use crate::app;

#[derive(Debug, Subcommand)]
pub(super) enum Gateway {
    /// Run a gateway until it is told to end (SIGTERM: drain)
    Run {
        /// Settings of the gateway
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
}

impl Gateway {
    pub(super) fn run(self, _: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Run { config } => app::gateway::run(&config)?,
        }
        Ok(Exit::Done)
    }
}
