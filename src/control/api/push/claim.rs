//! Uses of counted grants, as renewals claim them and answers give them.

use super::super::super::uses::{Allotted, Claim};
use crate::domain::name::AllotmentId;
use crate::wire::{MAX_USES_CLAIMED, MAX_USES_HELD, WireError, bytes128, grant_id, v1};

/// What a renewal claims.
///
/// # Errors
/// When it claims more than one renewal may: to leave some of it out would be to take what is not there for never come.
pub(super) fn read(renew: &v1::Renew) -> Result<Claim, WireError> {
    let held = renew.uses_held.as_ref();
    for (field, count, most) in [
        ("uses_wanted", renew.uses_wanted.len(), MAX_USES_CLAIMED),
        ("uses_returned", renew.uses_returned.len(), MAX_USES_CLAIMED),
        ("uses_held", held.map_or(0, |held| held.allotment_ids.len()), MAX_USES_HELD),
    ] {
        if count > most {
            return Err(WireError::of(field, format!("at most {most}, not {count}")));
        }
    }
    let mut claim = Claim { process: hex(&renew.process), stream: renew.stream, ..Claim::default() };
    for wanted in &renew.uses_wanted {
        claim.wanted.insert(grant_id(&wanted.grant_id)?, (wanted.uses, wanted.ahead));
    }
    for returned in &renew.uses_returned {
        let grant = grant_id(&returned.grant_id)?;
        claim.returned.insert((grant, allotment_id(&returned.allotment_id)?), returned.spent);
    }
    if let Some(held) = held {
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
