//! Uses of counted grants, as renewals claim them and answers give them.

use super::super::super::uses::{Allotted, Claim, MAX_CLAIMED};
use crate::domain::name::AllotmentId;
use crate::wire::{WireError, bytes128, grant_id, v1};

/// Allotments that a gateway may say it has.
const MAX_HELD: usize = 100_000;

/// What a renewal claims. More than one may claim is left for the next.
pub(super) fn read(renew: &v1::Renew) -> Result<Claim, WireError> {
    let mut claim = Claim { process: hex(&renew.process), stream: renew.stream, ..Claim::default() };
    for wanted in renew.uses_wanted.iter().take(MAX_CLAIMED) {
        claim.wanted.insert(grant_id(&wanted.grant_id)?, (wanted.uses, wanted.ahead));
    }
    for returned in renew.uses_returned.iter().take(MAX_CLAIMED) {
        let grant = grant_id(&returned.grant_id)?;
        claim.returned.insert((grant, allotment_id(&returned.allotment_id)?), returned.spent);
    }
    if let Some(held) = renew.uses_held.as_ref().filter(|held| held.allotment_ids.len() <= MAX_HELD) {
        claim.held = Some(held.allotment_ids.iter().map(|id| allotment_id(id)).collect::<Result<_, _>>()?);
    }
    let is_claimed = !claim.wanted.is_empty() || !claim.returned.is_empty() || claim.held.is_some();
    if is_claimed && renew.process.len() != 16 {
        return Err(WireError::of("process", "must be 16 bytes"));
    }
    Ok(claim)
}

/// What is given of it.
pub(super) fn answer(allotted: &Allotted) -> v1::Allotment {
    let (id, uses) = allotted.allotment.map_or((Vec::new(), 0), |(id, uses)| (id.bits().to_be_bytes().to_vec(), uses));
    v1::Allotment {
        grant_id: allotted.grant.bits().to_be_bytes().to_vec(),
        allotment_id: id,
        uses,
        expires_unix_us: allotted.until.unix_micros(),
    }
}

fn allotment_id(bytes: &[u8]) -> Result<AllotmentId, WireError> {
    bytes128("allotment_id", bytes).map(AllotmentId::from_bits)
}

/// At most 16 bytes: what says more is nobody's.
fn hex(bytes: &[u8]) -> String {
    crate::evidence::entry::hex(bytes.get(..16).unwrap_or_default())
}
