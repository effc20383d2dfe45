//! What the gateways did about a change, for people: per gateway, then each call that was cut.

use super::failure::{Exit, Failure};
use super::output::Human;
use super::time::{both, measured};
use crate::client::Receipt;
use crate::client::answers::{ReceiptState, outstanding};
use crate::domain::Timestamp;

/// Tables of receipts and of cut calls.
pub(super) fn tables(receipts: &[Receipt], now: Timestamp) -> Human {
    let row = |receipt: &Receipt| {
        let (state, took) = match receipt.state {
            ReceiptState::Enforced => ("enforced", measured(receipt.took_us)),
            ReceiptState::Pending if receipt.connected => ("pending", String::new()),
            ReceiptState::Pending => ("pending (not connected)", String::new()),
            ReceiptState::Lapsed => ("lapsed", String::new()),
            ReceiptState::NotConcerned => ("not concerned", String::new()),
        };
        let stops = receipt.stops_by.map(|at| both(at, now)).unwrap_or_default();
        let cut = receipt.unlisted.saturating_add(u64::try_from(receipt.cut.len()).unwrap_or(u64::MAX));
        vec![receipt.gateway.clone(), state.into(), took, cut.to_string(), stops]
    };
    let cut = |receipt: &Receipt| {
        let rows = receipt.cut.iter().map(|cut| {
            vec![
                cut.call.to_string(),
                receipt.gateway.clone(),
                cut.reason.clone(),
                cut.evidence.to_string(),
                cut.response_bytes.to_string(),
                cut.late_bytes.to_string(),
            ]
        });
        rows.collect::<Vec<_>>()
    };
    let residual = |receipt: &Receipt| {
        let rows = receipt.residual.iter().map(|left| {
            let tokens = if left.tokens == 1 { "1 token".to_owned() } else { format!("{} tokens", left.tokens) };
            vec![tokens, receipt.gateway.clone(), left.grant.to_string(), both(left.until, now)]
        });
        let unlisted = (receipt.residual_unlisted > 0).then(|| {
            let grants = format!("of {} grants more", receipt.residual_unlisted);
            vec!["tokens".to_owned(), receipt.gateway.clone(), grants, "not listed".to_owned()]
        });
        rows.chain(unlisted).collect::<Vec<_>>()
    };
    Human::Parts(vec![
        Human::Table {
            headers: &["GATEWAY", "STATE", "TOOK", "CUT", "STOPS BY"],
            rows: receipts.iter().map(row).collect(),
            empty: "",
        },
        Human::Table {
            headers: &["CALL CUT", "GATEWAY", "REASON", "EVIDENCE", "BYTES", "LATE"],
            rows: receipts.iter().flat_map(cut).collect(),
            empty: "",
        },
        Human::Table {
            headers: &["UPSTREAMS HOLD", "GATEWAY", "GRANT", "UNTIL"],
            rows: receipts.iter().flat_map(residual).collect(),
            empty: "",
        },
    ])
}

/// Exit 7 while a gateway may still go on as before.
pub(super) fn settled(receipts: &[Receipt], what: &str) -> Result<Exit, Failure> {
    match outstanding(receipts) {
        0 => Ok(Exit::Done),
        outstanding => {
            let message = format!("{outstanding} of {} gateways did not say in time that it {what}", receipts.len());
            Err(Failure::new(Exit::Unavailable, message))
        }
    }
}
