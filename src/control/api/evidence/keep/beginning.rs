//! A copy that begins behind records which its log does not have any more.
//!
//! What an older copy has of them is set aside and stays: it is the only place where they still are.

use tonic::{Status, Streaming};

use super::super::super::ApiError;
use super::super::super::push::in_good_standing;
use super::{Keeping, Sent, copies, logs, within_patience};
use crate::evidence::copy::{Beginning, Claimed, LogCopy};
use crate::evidence::tree::Hash;
use crate::wire::v1;

impl Keeping {
    /// Has the copy begin where the log says, with what is sent in the place of the records before.
    pub(super) async fn begin(
        &self,
        copy: LogCopy,
        begin: v1::KeepBegin,
        incoming: &mut Streaming<v1::KeepMessage>,
    ) -> Result<LogCopy, Status> {
        let (claimed, first) = (claimed(&begin)?, begin.first);
        let mut beginning = match Beginning::check(&copy, claimed) {
            Ok(beginning) => beginning,
            Err(error) => return Err(self.refused(&error).await),
        };
        let has = copy.size();
        tracing::warn!(
            gateway = %self.name, first, has,
            "a gateway's log was pruned and its copy does not have all that went: it begins behind that"
        );
        let mut copy = if has > 0 { self.anew(copy).await? } else { copy };
        while !beginning.is_whole() {
            let Some(Sent::Leaves(leaves)) = within_patience(incoming).await? else {
                return Err(ApiError::invalid("hashes of leaves are expected").into());
            };
            in_good_standing(self.handle.shared(), &self.name)?;
            let hashes = hashes(&leaves.hashes)?;
            let put = move || {
                let taken = beginning.put(&mut copy, &hashes);
                (copy, beginning, taken)
            };
            let taken;
            (copy, beginning, taken) = self.blocking(put).await?;
            if let Err(error) = taken {
                return Err(self.refused(&error).await);
            }
            if !beginning.is_whole() {
                self.answer(v1::Kept::default()).await?;
            }
        }
        let finish = move || beginning.finish(&mut copy).map(|()| copy);
        match self.blocking(finish).await? {
            Ok(copy) => Ok(copy),
            Err(error) => Err(self.refused(&error).await),
        }
    }

    /// Sets the copy aside and opens an empty one in its place.
    async fn anew(&self, copy: LogCopy) -> Result<LogCopy, Status> {
        let size = copy.size();
        let (handle, name, key) = (self.handle.clone(), self.name.clone(), self.key.clone());
        let aside = move || {
            // Its lock is this one's.
            drop(copy);
            let place = logs::place(&name, key.name().as_str()).unwrap_or(1);
            copies(&handle).map(|copies| copies.set_aside(&name, place, &key, size))
        };
        let aside = self.blocking(aside).await??.map_err(|error| Status::unavailable(error.to_string()))?;
        tracing::warn!(gateway = %self.name, records = size, aside = %aside.display(), "an older copy is set aside");
        self.open().await
    }
}

fn claimed(begin: &v1::KeepBegin) -> Result<Claimed, Status> {
    Ok(Claimed {
        first: begin.first,
        pruned: begin.pruned.clone(),
        checkpoint: begin.checkpoint.clone(),
        inclusion: hashes(&begin.inclusion)?,
        extends: hashes(&begin.extends)?,
        consistency: hashes(&begin.consistency)?,
    })
}

fn hashes(bytes: &[u8]) -> Result<Vec<Hash>, Status> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(ApiError::invalid("a hash has 32 bytes").into());
    }
    Ok(hashes.iter().map(|hash| Hash(*hash)).collect())
}
