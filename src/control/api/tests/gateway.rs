//! A gateway that does as it is told: attaches, takes what comes, acknowledges or stalls.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::plane::Bench;
use crate::evidence::checkpoint::{EvidenceKey, Origin};
use crate::evidence::cosignature::CosignerKey;
use crate::evidence::statement::StatementKind;
use crate::wire::v1;
use v1::control_message::Message as Down;
use v1::gateway_message::Message as Up;

pub(super) struct Gateway {
    up: mpsc::Sender<v1::GatewayMessage>,
    down: Streaming<v1::ControlMessage>,
    pub(super) key: EvidenceKey,
    pub(super) origin: Origin,
    authority: CosignerKey,
    pub(super) epoch: u64,
    pub(super) revision: u64,
    /// As the welcome said.
    pub(super) cosigned: u64,
    pub(super) challenge: Vec<u8>,
    pub(super) grants: BTreeMap<Vec<u8>, v1::Grant>,
    pub(super) snapshots: usize,
    pub(super) changes: usize,
}

impl Gateway {
    pub(super) async fn attach(bench: &Bench, name: &str, epoch: u64, revision: u64) -> Result<Self, Status> {
        Self::attach_with(bench, name, bench.evidence_key(name), epoch, revision).await
    }

    /// With an evidence key of the test's own.
    pub(super) async fn attach_with(
        bench: &Bench,
        name: &str,
        key: EvidenceKey,
        epoch: u64,
        revision: u64,
    ) -> Result<Self, Status> {
        let gateway = Self::greeted(bench, name, key, epoch, revision).await?;
        gateway.show().await;
        Ok(gateway)
    }

    /// Welcomed, and nothing shown yet.
    pub(super) async fn greeted(
        bench: &Bench,
        name: &str,
        key: EvidenceKey,
        epoch: u64,
        revision: u64,
    ) -> Result<Self, Status> {
        let channel = bench.as_gateway(name).await;
        let origin: Origin = format!("portcullis/gateway/{name}").parse().unwrap();
        let (up, messages) = mpsc::channel(16);
        let hello = v1::Hello {
            epoch,
            revision,
            log_origin: origin.to_string(),
            version: "0".into(),
            evidence_key: key.verifier(&origin).to_string(),
        };
        up.send(v1::GatewayMessage { message: Some(Up::Hello(hello)) }).await.unwrap();
        let mut client = v1::grant_stream_client::GrantStreamClient::new(channel);
        let down = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        let mut gateway = Self {
            up,
            down,
            key,
            origin,
            authority: bench.authority(),
            epoch,
            revision,
            cosigned: 0,
            challenge: Vec::new(),
            grants: BTreeMap::new(),
            snapshots: 0,
            changes: 0,
        };
        let Down::Welcome(welcome) = gateway.next().await? else { panic!("a welcome comes first") };
        gateway.challenge = welcome.challenge;
        Ok(gateway)
    }

    /// Shows that the stream is its own.
    async fn show(&self) {
        let attach = v1::Attach { challenge: self.challenge.clone(), log: self.origin.to_string() };
        self.send_signed(StatementKind::Attach, &self.key, &attach, Up::Attach).await;
    }

    /// Says something that is signed.
    pub(super) async fn send_signed(
        &self,
        kind: StatementKind,
        key: &EvidenceKey,
        message: &impl prost::Message,
        wrap: impl FnOnce(v1::Signed) -> Up,
    ) {
        let payload = message.encode_to_vec();
        let signature = key.state(kind, &payload).unwrap();
        let message = Some(wrap(v1::Signed { payload, signature }));
        self.up.send(v1::GatewayMessage { message }).await.unwrap();
    }

    /// The next message, taken in.
    pub(super) async fn next(&mut self) -> Result<Down, Status> {
        let message =
            tokio::time::timeout(Duration::from_secs(20), self.down.message()).await.expect("a message in time")?;
        let message = message.ok_or_else(|| Status::unavailable("the stream ended"))?.message.unwrap();
        if let Down::Welcome(welcome) = &message {
            self.cosigned = welcome.cosigned_size;
        }
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
            Down::Authority(_) | Down::Welcome(_) => {}
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
        self.applied_by(&self.key, cut).await;
    }

    /// Signed by a key of the test's own.
    pub(super) async fn applied_by(&self, key: &EvidenceKey, cut: Vec<v1::CutCall>) {
        let (epoch, revision, log) = (self.epoch, self.revision, self.origin.to_string());
        let applied = v1::Applied { epoch, revision, cut, took_us: 42, log, unlisted: 0, ..Default::default() };
        self.send_signed(StatementKind::Applied, key, &applied, Up::Applied).await;
    }

    pub(super) async fn renew(&self, nonce: u8) {
        self.renew_with(nonce, v1::Renew::default()).await;
    }

    /// With a checkpoint of the test's own.
    pub(super) async fn renew_with(&self, nonce: u8, renew: v1::Renew) {
        let (epoch, applied_revision, challenge) = (self.epoch, self.revision, self.challenge.clone());
        let renew = v1::Renew { nonce: vec![nonce; 16], epoch, applied_revision, challenge, ..renew };
        self.send_signed(StatementKind::Renewal, &self.key, &renew, Up::Renew).await;
    }

    /// Takes messages in until an authority comes.
    pub(super) async fn authority(&mut self) -> Result<v1::Authority, Status> {
        loop {
            if let Down::Authority(signed) = self.next().await? {
                let key = self.authority.verifier();
                assert!(key.stated(StatementKind::Authority, &signed.payload, &signed.signature));
                return Ok(v1::Authority::decode(signed.payload.as_slice()).unwrap());
            }
        }
    }
}
