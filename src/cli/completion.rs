//! `portcullis completion` and `portcullis version`: what the binary says about itself.

use clap::Args;
use clap_complete::Shell;
use serde::Serialize;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::{self, Human};

#[derive(Debug, Args)]
pub(super) struct Completion {
    /// For which shell
    shell: Shell,
}

impl Completion {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "portcullis", &mut script);
        output::write(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}

pub(super) fn version(context: &Context) -> Result<Exit, Failure> {
    let version = Version { name: "portcullis", version: env!("CARGO_PKG_VERSION") };
    context.output.answer(&version, || Human::Lines(vec![format!("portcullis {}", version.version)]))?;
    Ok(Exit::Done)
}
