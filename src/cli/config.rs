//! `portcullis config`: check files before they count, and print what they may hold.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::{self, Human};
use crate::settings::{self, Faults, FileKind};

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Check a settings file or catalog documents: every fault with its line and column
    Validate {
        /// The file
        file: PathBuf,
    },
    /// Print the JSON Schema of a file
    Schema {
        /// Of which file
        of: Of,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Of {
    /// Settings of a gateway
    Gateway,
    /// Settings of a control plane
    Control,
    /// Catalog documents
    Catalog,
    /// A record of the evidence
    Evidence,
}

#[derive(Serialize)]
struct Valid {
    file: String,
    kind: &'static str,
    valid: bool,
}

impl Config {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Validate { file } => {
                let kind = match settings::check_file(&file)? {
                    FileKind::Gateway => "gateway settings",
                    FileKind::Control => "control plane settings",
                    FileKind::Catalog => "catalog documents",
                };
                let answer = Valid { file: file.display().to_string(), kind, valid: true };
                context.output.answer(&answer, || Human::Lines(vec![format!("{}: valid {kind}", answer.file)]))?;
                Ok(Exit::Done)
            }
            Self::Schema { of } => {
                let schema = of.schema();
                // A schema is a JSON document, whatever the format: there is no table of one.
                match context.output.format {
                    output::Format::Yaml => context.output.answer(&schema, || Human::Lines(Vec::new()))?,
                    output::Format::Table | output::Format::Json => {
                        output::write(&format!("{schema:#}\n"))?;
                    }
                }
                Ok(Exit::Done)
            }
        }
    }
}

impl Of {
    fn schema(self) -> Value {
        match self {
            Self::Gateway => settings::gateway::schema(),
            Self::Control => settings::control::schema(),
            Self::Catalog => settings::catalog::schema(),
            Self::Evidence => crate::evidence::entry::schema(),
        }
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::usage(faults.to_string())
    }
}
