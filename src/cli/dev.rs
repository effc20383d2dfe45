//! `portcullis dev`: everything on loopback, in one process.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;

use super::Context;
use super::failure::{Exit, Failure};
use crate::app;
use crate::domain::route::UpstreamUrl;

#[derive(Debug, Args)]
pub(super) struct Dev {
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
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Dev {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
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
        })?;
        Ok(Exit::Done)
    }
}
