//! What gateways said of their evidence, as `portcullis evidence query --fleet -o json` prints it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::Timestamp;
use crate::wire::v1;

/// A record, and whose it is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GatewayRecord {
    /// The gateway.
    pub gateway: String,
    /// The record, as `portcullis config schema evidence` describes it.
    pub record: serde_json::Value,
}

/// How far a gateway's answer goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GatewayStanding {
    /// The gateway.
    pub gateway: String,
    /// Why its part is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// When the control plane last answered a renewal of it.
    pub heard: Timestamp,
    /// Its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The key that signs it, as the control plane has it recorded. With another one than in the answer before, or another
    /// `log`, the gateway has a new log: it is asked from record 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The answer covers the log before this record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<u64>,
    /// Records that the log has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The first record that is there, where those before it were pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present_from: Option<u64>,
    /// It did not answer itself: this is what the control plane's copy of its log has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copy: bool,
    /// The first of its records that is none, and why: those from there on are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

impl GatewayStanding {
    /// Of an answer.
    pub fn of(answer: &v1::GatewayEvidence) -> Self {
        let is_there = answer.missing.is_empty();
        Self {
            gateway: answer.gateway.clone(),
            missing: (!is_there).then(|| answer.missing.clone()),
            heard: Timestamp::from_unix_micros(answer.heard_unix_us),
            log: is_there.then(|| answer.log.clone()),
            key: (is_there && !answer.key.is_empty()).then(|| answer.key.clone()),
            reached: is_there.then_some(answer.reached),
            size: is_there.then_some(answer.size),
            present_from: answer.present_from.filter(|_| is_there),
            copy: answer.copy,
            damaged: None,
        }
    }

    /// Whether everything that the log has was asked.
    pub fn is_whole(&self) -> bool {
        self.missing.is_none() && self.damaged.is_none() && self.reached >= self.size
    }
}

/// Records of gateways, by time, and how far each one's answer goes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EvidenceAnswer {
    /// The records.
    pub records: Vec<GatewayRecord>,
    /// Every gateway that was meant: those without an answer, too.
    pub gateways: Vec<GatewayStanding>,
    /// Whether every one of them answered, and to the end of its log.
    pub whole: bool,
}
