//! Questions about what gateways recorded.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::text;
use crate::domain::name::{ActionName, CallId, GatewayName, GrantId, IdentityName, ResourceName};
use crate::domain::resource::Span;
use crate::domain::{Reason, Timestamp};
use crate::wire::{MAX_EVIDENCE_RECORDS, v1};

/// Which records are wanted: those for which everything given holds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in super::super) struct Wanted {
    /// Whose calls.
    identity: Option<IdentityName>,
    /// Under which grant.
    grant: Option<GrantId>,
    /// On which resource.
    resource: Option<ResourceName>,
    /// Doing what.
    action: Option<ActionName>,
    /// With which reason: a reason's code.
    #[serde(deserialize_with = "reason")]
    #[schemars(with = "Option<String>")]
    reason: Option<Reason>,
    /// Of which call.
    call: Option<CallId>,
    /// Of which kind, as records name it: `intent`, `denial`.
    kind: Option<String>,
    /// Not before.
    from: Option<Timestamp>,
    /// Before.
    to: Option<Timestamp>,
    /// Holding each of these.
    #[schemars(length(max = 16))]
    values: Vec<WantedValue>,
}

fn reason<'de, D: Deserializer<'de>>(text: D) -> Result<Option<Reason>, D::Error> {
    let text = Option::<String>::deserialize(text)?;
    text.map(|text| text.parse().map_err(|_| D::Error::custom("not a reason's code"))).transpose()
}

/// An object alone: in a list of values nobody sees which is which.
fn filter<'de, D: Deserializer<'de>>(object: D) -> Result<Wanted, D::Error> {
    let object = serde_json::Map::<String, serde_json::Value>::deserialize(object)?;
    serde_json::from_value(serde_json::Value::Object(object)).map_err(D::Error::custom)
}

/// So many records, of as many as an answer has.
fn count<'de, D: Deserializer<'de>>(number: D) -> Result<Option<u32>, D::Error> {
    let number = Option::<u32>::deserialize(number)?;
    match number.filter(|number| !(1..=MAX_EVIDENCE_RECORDS).contains(number)) {
        Some(number) => Err(D::Error::custom(format_args!("{number} is outside 1 to {MAX_EVIDENCE_RECORDS}"))),
        None => Ok(number),
    }
}

/// A value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WantedValue {
    /// As it is.
    plain: String,
    /// Hashed under each key that it may have been recorded under: `KEY:HMAC` as records have it.
    #[serde(default)]
    hashes: Vec<String>,
}

/// A question to every gateway, or to some.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in super::super) struct EvidenceQuestion {
    /// Which records.
    #[serde(deserialize_with = "filter")]
    filter: Wanted,
    /// Only these gateways; none named: all.
    gateways: Vec<GatewayName>,
    /// Records of each gateway, 1 to 1000.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Option<u32>", range(min = 1, max = MAX_EVIDENCE_RECORDS))]
    limit: Option<u32>,
    /// Where to begin in each gateway's log: its `reached` of an answer before; 0 when its `log` or `key` is another since.
    after: BTreeMap<GatewayName, u64>,
}

impl From<EvidenceQuestion> for v1::QueryEvidenceRequest {
    fn from(it: EvidenceQuestion) -> Self {
        Self {
            filter: Some(it.filter.into()),
            gateways: it.gateways.iter().map(ToString::to_string).collect(),
            limit: it.limit.unwrap_or_default(),
            after: it.after.into_iter().map(|(gateway, seq)| (gateway.to_string(), seq)).collect(),
            last: 0,
        }
    }
}

/// A question about the last records, and those that come.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in super::super) struct EvidenceTail {
    /// Which records.
    #[serde(deserialize_with = "filter")]
    filter: Wanted,
    /// Only these gateways; none named: all.
    gateways: Vec<GatewayName>,
    /// Of a gateway that `after` does not name: its last so many records. Default: 10.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Option<u32>", range(min = 1, max = MAX_EVIDENCE_RECORDS))]
    last: Option<u32>,
    /// Where to go on in each gateway's log: its `reached` of the answer before; 0 when its `log` or `key` is another since.
    after: BTreeMap<GatewayName, u64>,
    /// Answer when there is a record, or after this time, at most 1m. Default: at once.
    pub(in super::super) wait: Option<Span>,
}

/// Last records, where nothing else is said.
const LAST: u32 = 10;

impl From<EvidenceTail> for v1::QueryEvidenceRequest {
    fn from(it: EvidenceTail) -> Self {
        let EvidenceTail { filter, gateways, last, after, wait: _ } = it;
        let question = EvidenceQuestion { filter, gateways, limit: None, after };
        Self { last: last.unwrap_or(LAST), ..question.into() }
    }
}

impl From<Wanted> for v1::EvidenceFilter {
    fn from(it: Wanted) -> Self {
        let bytes = |bits: u128| bits.to_be_bytes().to_vec();
        Self {
            identity: text(it.identity),
            grant: it.grant.map(|grant| bytes(grant.bits())).unwrap_or_default(),
            resource: text(it.resource),
            action: text(it.action),
            reason: it.reason.map(|reason| reason.to_string()).unwrap_or_default(),
            call: it.call.map(|call| bytes(call.bits())).unwrap_or_default(),
            kind: it.kind.unwrap_or_default(),
            from_unix_us: it.from.map(Timestamp::unix_micros),
            to_unix_us: it.to.map(Timestamp::unix_micros),
            values: it
                .values
                .into_iter()
                .map(|value| v1::EvidenceValue { plain: value.plain, hashes: value.hashes })
                .collect(),
        }
    }
}
