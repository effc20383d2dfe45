//! `portcullis gateway`: run a gateway, and set its log aside.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use crate::app;
use crate::app::join::Attest;

#[derive(Debug, Subcommand)]
pub(super) enum Gateway {
    /// Run a gateway until it is told to end (SIGTERM: drain)
    Run {
        /// Settings of the gateway
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make this gateway's keys where they are missing, and have them certified with an invitation, once
    Join {
        /// Settings of the gateway: the files that they name for the control plane are written
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// What `portcullis fleet invite` wrote; it is removed when it is spent
        #[arg(long, value_name = "FILE", required_unless_present = "attest")]
        invitation: Option<PathBuf>,
        /// Join by somebody else's word instead, as a replica of the template that is the settings' `name`. The CA of the
        /// control plane lies in `control.ca_file` already
        #[arg(long, value_name = "WHOSE", conflicts_with = "invitation")]
        attest: Option<Whose>,
        /// An X.509-SVID with its chain, PEM, for `--attest spiffe`
        #[arg(long, value_name = "FILE", required_if_eq("attest", "spiffe"))]
        svid_file: Option<PathBuf>,
        /// The key of the SVID, PEM
        #[arg(long, value_name = "FILE", required_if_eq("attest", "spiffe"))]
        svid_key_file: Option<PathBuf>,
        /// A projected service account token with the control plane's audience, for `--attest kubernetes`
        #[arg(long, value_name = "FILE", required_if_eq("attest", "kubernetes"))]
        token_file: Option<PathBuf>,
    },
    /// Set the log of a gateway that is not running aside, and have it begin a new one: after it lost records, when the
    /// control plane gives it no authority over it any more
    Seal {
        /// Settings of the gateway
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Hash what the evidence must not hold with a new key from here on; a running gateway takes it within two seconds. The
    /// old one is kept under its identifier: who holds it finds what it hashed (`evidence query --hash-key`)
    RotateHashKey {
        /// Settings of the gateway
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Whose word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Whose {
    /// A SPIFFE trust domain's
    Spiffe,
    /// A Kubernetes cluster's
    Kubernetes,
}

#[derive(Serialize)]
struct RotateAnswer {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<PathBuf>,
}

#[derive(Serialize)]
struct SealAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<PathBuf>,
    next: u64,
}

impl Gateway {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Run { config } => app::gateway::run(&config)?,
            Self::Join { config, invitation, attest, svid_file, svid_key_file, token_file } => {
                let joined = match (invitation, attest, svid_file.zip(svid_key_file), token_file) {
                    (Some(invitation), ..) => app::join::join(&config, &invitation)?,
                    (None, Some(Whose::Spiffe), Some((svid, key)), _) => {
                        app::join::attest(&config, &Attest::Spiffe { svid, key })?
                    }
                    (None, Some(Whose::Kubernetes), _, Some(token)) => {
                        app::join::attest(&config, &Attest::Kubernetes { token })?
                    }
                    (None, ..) => return Err(Failure::usage("what vouches for this gateway is missing")),
                };
                let line = format!("gateway {} has joined: {}", joined.gateway, joined.certificate.display());
                context.output.answer(&joined, || Human::Lines(vec![line]))?;
            }
            Self::RotateHashKey { config } => {
                let rotated = app::gateway::rotate_hash_key(&config)?;
                let (before, kept) = rotated.old.unzip();
                let answer = RotateAnswer { key: rotated.new, before, kept };
                let old = answer.kept.as_ref().map(|path| format!("; the one before is kept in {}", path.display()));
                let line = format!("the key is {}{}", answer.key, old.unwrap_or_default());
                context.output.answer(&answer, || Human::Lines(vec![line]))?;
            }
            Self::Seal { config } => {
                let sealed = app::gateway::seal(&config)?;
                let line = match &sealed.moved_to {
                    Some(path) => {
                        format!("the log is sealed, in {}; the next one is number {}", path.display(), sealed.next)
                    }
                    None => format!("there was no log; the next one is number {}", sealed.next),
                };
                let answer = SealAnswer { sealed: sealed.moved_to, next: sealed.next };
                context.output.answer(&answer, || Human::Lines(vec![line]))?;
            }
        }
        Ok(Exit::Done)
    }
}
