//! What gateways have to show for the end of several grants, as evidence keeps it.

use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::actor::ControlHandle;
use super::receipts;
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::CallId;
use crate::wire::v1;

/// How long gateways are waited for before what they have to show is recorded.
const WAIT_MS: u64 = 30_000;
/// Gateways that a receipt lists, cut calls of each, and grants: it fits one record. All of them are counted.
const MAX_GATEWAYS: usize = 100;
const MAX_CALLS: usize = 5;
const MAX_GRANTS: usize = 100;

/// The receipt of grants that ended in the first of the revisions, and in those up to the second; and in words.
pub(super) async fn receipt(
    handle: &ControlHandle,
    (first, last): (u64, u64),
    ended: &[Grant],
    stop: &watch::Receiver<bool>,
) -> (Value, String) {
    let shown = receipts::of_grants(handle, (first, last), ended, WAIT_MS, stop).await;
    let cut: u64 = shown.iter().map(calls).sum();
    let pending = shown.iter().filter(|it| it.state() == v1::gateway_receipt::State::Pending).count();
    let mut words = format!("{} grants ended, {cut} calls cut", ended.len());
    if pending > 0 {
        words.push_str(&format!("; {pending} gateways have not said so yet"));
    }
    let grants: Vec<String> = ended.iter().take(MAX_GRANTS).map(|grant| grant.id.to_string()).collect();
    let gateways: Vec<Value> = shown.iter().take(MAX_GATEWAYS).map(told).collect();
    let receipt = json!({ "revision": last, "ended": ended.len(), "grants": grants, "gateways": gateways, "cut": cut });
    (receipt, words)
}

fn calls(receipt: &v1::GatewayReceipt) -> u64 {
    u64::try_from(receipt.cut.len()).unwrap_or(u64::MAX).saturating_add(receipt.unlisted)
}

fn told(receipt: &v1::GatewayReceipt) -> Value {
    let state = match receipt.state() {
        v1::gateway_receipt::State::Enforced => "enforced",
        v1::gateway_receipt::State::Lapsed => "lapsed",
        v1::gateway_receipt::State::NotConcerned => "not_concerned",
        v1::gateway_receipt::State::Pending | v1::gateway_receipt::State::Unspecified => "pending",
    };
    let call = |cut: &v1::CutCallInfo| {
        let bits: Option<[u8; 16]> = cut.call_id.as_slice().try_into().ok();
        bits.map(|bits| CallId::from_bits(u128::from_be_bytes(bits)).to_string())
    };
    let listed: Vec<String> = receipt.cut.iter().take(MAX_CALLS).filter_map(call).collect();
    let tokens: u64 = receipt.residual.iter().map(|left| left.tokens).fold(0, u64::saturating_add);
    let until = receipt.residual.iter().map(|left| left.until_unix_us).max().map(Timestamp::from_unix_micros);
    let late: u64 = receipt.cut.iter().map(|cut| cut.late_bytes).fold(0, u64::saturating_add);
    let mut told = json!({
        "gateway": receipt.gateway, "state": state, "took_us": receipt.took_us, "calls": calls(receipt), "cut": listed,
        "late_bytes": late,
    });
    // What upstreams hold and nobody can recall, and until when.
    if let (Some(until), Some(told)) = (until, told.as_object_mut()) {
        let residual = json!({ "tokens": tokens, "until": until, "unlisted": receipt.residual_unlisted });
        told.insert("residual".to_owned(), residual);
    }
    told
}
