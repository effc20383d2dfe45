//! A gateway that does as it is told: attaches, takes what comes, acknowledges or stalls.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::plane::Bench;
use crate::wire::v1;
use v1::control_message::Message as Down;
use v1::gateway_message::Message as Up;

pub(super) struct Gateway {
    up: mpsc::Sender<v1::GatewayMessage>,
    down: Streaming<v1::ControlMessage>,
    pub(super) epoch: u64,
    pub(super) revision: u64,
    pub(super) grants: BTreeMap<Vec<u8>, v1::Grant>,
    pub(super) snapshots: usize,
    pub(super) changes: usize,
}

impl Gateway {
    pub(super) async fn attach(bench: &Bench, name: &str, epoch: u64, revision: u64) -> Result<Self, Status> {
        Self::attach_over(bench.as_gateway(name).await, epoch, revision).await
    }

    pub(super) async fn attach_over(channel: Channel, epoch: u64, revision: u64) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(16);
        let hello = v1::Hello { epoch, revision, log_origin: "test".into(), version: "0".into() };
        up.send(v1::GatewayMessage { message: Some(Up::Hello(hello)) }).await.unwrap();
        let mut client = v1::grant_stream_client::GrantStreamClient::new(channel);
        let down = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self { up, down, epoch, revision, grants: BTreeMap::new(), snapshots: 0, changes: 0 })
    }

    /// The next message, taken in.
    pub(super) async fn next(&mut self) -> Result<Down, Status> {
        let message =
            tokio::time::timeout(Duration::from_secs(20), self.down.message()).await.expect("a message in time")?;
        let message = message.ok_or_else(|| Status::unavailable("the stream ended"))?.message.unwrap();
        match &message {
            Down::Snapshot(part) => {
                if part.last {
                    self.snapshots += 1;
                    (self.epoch, self.revision) = (part.epoch, part.revision);
                }
                self.grants.extend(part.grants.iter().map(|g| (g.id.clone(), g.clone())));
            }
            Down::Delta(delta) => {
                self.changes += delta.changes.len();
                for change in &delta.changes {
                    match change.change.as_ref().unwrap() {
                        v1::change::Change::GrantPut(grant) => {
                            drop(self.grants.insert(grant.id.clone(), grant.clone()))
                        }
                        v1::change::Change::GrantEnded(ended) => drop(self.grants.remove(&ended.grant_id)),
                        _ => {}
                    }
                }
                (self.epoch, self.revision) = (delta.epoch, delta.revision);
            }
            Down::Authority(_) => {}
        }
        Ok(message)
    }

    /// Takes messages in until it is at `revision`.
    pub(super) async fn reach(&mut self, revision: u64) {
        while self.revision < revision {
            self.next().await.unwrap();
        }
    }

    pub(super) async fn applied(&self, cut: Vec<v1::CutCall>) {
        let applied =
            v1::Applied { epoch: self.epoch, revision: self.revision, cut, took_us: 42, ..Default::default() };
        self.up.send(v1::GatewayMessage { message: Some(Up::Applied(applied)) }).await.unwrap();
    }

    pub(super) async fn renew(&self, nonce: u8) {
        let renew = v1::Renew {
            nonce: vec![nonce; 16],
            epoch: self.epoch,
            applied_revision: self.revision,
            ..Default::default()
        };
        self.up.send(v1::GatewayMessage { message: Some(Up::Renew(renew)) }).await.unwrap();
    }

    /// Takes messages in until an authority comes.
    pub(super) async fn authority(&mut self) -> Result<v1::Authority, Status> {
        loop {
            if let Down::Authority(authority) = self.next().await? {
                return Ok(authority);
            }
        }
    }
}
