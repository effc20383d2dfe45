//! A copy that begins behind records which its log does not have any more.
//!
//! What an older copy has of them is set aside and stays: it is the only place where they still are.

use std::time::Duration;

use tonic::{Status, Streaming};

use super::super::super::super::copies::Copies;
use super::super::super::super::stopped;
use super::super::super::ApiError;
use super::super::super::push::in_good_standing;
use super::{Keeping, Sent, Turn, copies, logs, within_patience};
use crate::evidence::copy::{Beginning, Claimed, LogCopy, MAX_LEAVES};
use crate::evidence::tree::{Hash, TreeHead};
use crate::wire::v1;

/// How long may be waited for all of a beginning, whatever comes.
const SETTLE: Duration = Duration::from_secs(30);
/// And for each message that is full.
const EACH: Duration = Duration::from_secs(5);

impl Keeping {
    /// Has the copy begin where the log says, with what is sent in the place of the records before.
    pub(super) async fn begin(
        &self,
        older: LogCopy,
        begin: v1::KeepBegin,
        incoming: &mut Streaming<v1::KeepMessage>,
        (turn, cosigned): (&mut Turn, Option<TreeHead>),
    ) -> Result<LogCopy, Status> {
        let (claimed, first) = (claimed(&begin)?, begin.first);
        let mut beginning = match Beginning::check(&older, claimed, cosigned) {
            Ok(beginning) => beginning,
            Err(error) => return Err(self.refused(&error).await),
        };
        let has = older.size();
        tracing::warn!(
            gateway = %self.name, first, has,
            "a gateway's log was pruned and its copy does not have all that went: it begins behind that"
        );
        let mut copy = self.anew().await?;
        let (mut stop, whole_within) = (self.stop.clone(), whole_within(first));
        let too_late = tokio::time::sleep(whole_within);
        tokio::pin!(too_late);
        while !beginning.is_whole() {
            let message = tokio::select! {
                message = within_patience(incoming) => message?,
                _ = &mut turn.replaced => return Err(ApiError::replaced().into()),
                () = stopped(&mut stop) => return Err(ApiError::stopping().into()),
                () = &mut too_late => {
                    let why = format!("the hashes before record {first} did not come within {} s", whole_within.as_secs());
                    return Err(Status::unavailable(why));
                }
            };
            let Some(Sent::Leaves(leaves)) = message else {
                return Err(ApiError::invalid("hashes of leaves are expected").into());
            };
            in_good_standing(self.handle.shared(), &self.name)?;
            let hashes = hashes(&leaves.hashes)?;
            let put = move || {
                let taken = beginning.put(&mut copy, &hashes);
                (copy, beginning, taken)
            };
            let began = self.handle.shared().clock.since_boot();
            let taken;
            (copy, beginning, taken) = self.blocking(put).await?;
            // What our disk takes is not the gateway's time: a slow one would never have all of it.
            let took = self.handle.shared().clock.since_boot().saturating_sub(began);
            let deadline = too_late.deadline() + took;
            too_late.as_mut().reset(deadline);
            if let Err(error) = taken {
                return Err(self.refused(&error).await);
            }
            if !beginning.is_whole() {
                self.answer(v1::Kept::default()).await?;
            }
        }
        let finish = move || beginning.finish(&mut copy).map(|()| copy);
        match self.blocking(finish).await? {
            Ok(copy) => self.exchange(older, copy).await,
            Err(error) => Err(self.refused(&error).await),
        }
    }

    /// Opens an empty copy beside the one that there is.
    async fn anew(&self) -> Result<LogCopy, Status> {
        self.opened(Copies::begin).await
    }

    /// Puts the copy that has begun in the place of the older one, and opens it there.
    async fn exchange(&self, older: LogCopy, begun: LogCopy) -> Result<LogCopy, Status> {
        let size = older.size();
        let (handle, name, key) = (self.handle.clone(), self.name.clone(), self.key.clone());
        let exchange = move || {
            // Their locks are of where they lie.
            drop((older, begun));
            let place = logs::place(&name, key.name().as_str()).unwrap_or(1);
            copies(&handle).map(|copies| copies.exchange(&name, place, &key, size))
        };
        let aside = self.blocking(exchange).await??.map_err(|error| Status::unavailable(error.to_string()))?;
        if let Some(aside) = aside {
            tracing::warn!(gateway = %self.name, records = size, aside = %aside.display(), "an older copy is set aside");
        }
        self.open().await
    }
}

/// How long all hashes before a record may be waited for: a while, and some seconds for each message of many.
fn whole_within(first: u64) -> Duration {
    let messages = first.div_ceil(MAX_LEAVES as u64);
    SETTLE + EACH.saturating_mul(u32::try_from(messages).unwrap_or(u32::MAX))
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
