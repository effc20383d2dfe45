//! `portcullis dev`: everything on loopback, in one process.

use std::net::{Ipv4Addr, SocketAddr};

use clap::{Args, Subcommand, ValueEnum};

use serde::Serialize;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use crate::app;
use crate::domain::name::OwnerName;
use crate::domain::route::UpstreamUrl;
use crate::settings::Durability;
use crate::settings::gateway::MAX_WORKERS;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Dev {
    #[command(subcommand)]
    command: Option<DevCommand>,
    /// Begin anew: remove what an earlier `dev` kept in the directory
    #[arg(long)]
    fresh: bool,
    /// Put the gate before your own service: every path goes there, as resource api/upstream
    #[arg(long, value_name = "URL")]
    upstream: Option<UpstreamUrl>,
    /// Where the gateway listens, plain (loopback only; port 0 picks one, here and below)
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(8080))]
    gateway_address: SocketAddr,
    /// Where the gateway listens, mutual TLS
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(8443))]
    gateway_tls_address: SocketAddr,
    /// Where the gateway's health, metrics and snapshot are
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(9901))]
    admin_address: SocketAddr,
    /// Where the control plane's gRPC is
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(7443))]
    control_address: SocketAddr,
    /// Where the control plane's HTTP is
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(7080))]
    http_address: SocketAddr,
    /// For measuring: how many threads of the gateway serve callers [default: the machine's cores]
    #[arg(long, value_name = "NUMBER", value_parser = workers)]
    workers: Option<u64>,
    /// For measuring: when a record of the gateway's evidence counts as written
    #[arg(long, value_enum, default_value_t)]
    durability: DurabilityName,
}

#[derive(Serialize)]
struct Token<'t> {
    token: &'t str,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Beside a running `dev`: sign in as one of its people, and print the ID token
    SignIn {
        /// One of the people of the directory
        person: OwnerName,
    },
}

/// [`Durability`], as it is called on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum DurabilityName {
    /// When it is on the disk: survives the loss of power
    #[default]
    Disk,
    /// When the operating system has it: survives the process alone
    Process,
}

impl From<DurabilityName> for Durability {
    fn from(name: DurabilityName) -> Self {
        match name {
            DurabilityName::Disk => Self::Disk,
            DurabilityName::Process => Self::Process,
        }
    }
}

fn workers(text: &str) -> Result<u64, String> {
    let most = MAX_WORKERS as u64;
    text.parse().ok().filter(|number| (1..=most).contains(number)).ok_or_else(|| format!("1 to {most}"))
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Dev {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        if let Some(DevCommand::SignIn { person }) = &self.command {
            let token = app::dev::sign_in(&context.dir(), person)?;
            context.output.answer(&Token { token: &token }, || Human::Lines(vec![token.to_string()]))?;
            return Ok(Exit::Done);
        }
        app::dev::run(&app::dev::Options {
            dir: context.dir(),
            fresh: self.fresh,
            upstream: self.upstream,
            addresses: app::dev::Addresses {
                gateway: self.gateway_address,
                gateway_tls: self.gateway_tls_address,
                admin: self.admin_address,
                control: self.control_address,
                http: self.http_address,
            },
            workers: self.workers,
            durability: self.durability.into(),
        })?;
        Ok(Exit::Done)
    }
}
