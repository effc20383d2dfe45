//! `portcullis control`: make a control plane's keys, and run it.

use std::path::PathBuf;

use clap::Subcommand;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use crate::app;

#[derive(Debug, Subcommand)]
pub(super) enum Control {
    /// Make the CA, the keys and the administrator's token that the settings name, where they are missing
    Init {
        /// Settings of the control plane
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
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
            Self::Init { config } => {
                let made = app::control::init(&config)?;
                context.output.answer(&made, || Human::Details(made.pairs()))?;
            }
            Self::Run { config } => app::control::run(&config)?,
        }
        Ok(Exit::Done)
    }
}
