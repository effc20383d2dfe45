//! A file on that disk: what was written to it, and what of that is found when the power went.

/// What a disk writes at once: little, so that records are torn in many ways.
const BLOCK_BYTES: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct FakeFile {
    pub(super) bytes: Vec<u8>,
    /// How many of them are on disk.
    pub(super) synced: usize,
    /// Zeros behind them, as the file is read.
    pub(super) zeros: usize,
    /// As long as the file is on disk at least: where nothing else is, zeros are.
    pub(super) synced_size: usize,
    /// What is on disk under this name instead, while the whole file is not.
    pub(super) before: Option<Vec<u8>>,
    /// Bytes reserved, written ones included.
    pub(super) reserved: u64,
    /// Tells a file from a later one of the same name.
    pub(super) id: u64,
}

impl FakeFile {
    pub(super) fn new(bytes: Vec<u8>, id: u64) -> Self {
        Self { synced: bytes.len(), bytes, id, ..Self::default() }
    }

    pub(super) fn space(&self) -> u64 {
        self.reserved.max(self.size() as u64)
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.zeros
    }

    /// As it is read.
    pub(super) fn read(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(self.size(), 0);
        bytes
    }

    /// What of it is found after a loss of power, by what `next` draws from 0 to a bound.
    pub(super) fn survives(&self, mut next: impl FnMut(usize) -> usize) -> Vec<u8> {
        let kept = self.synced + next(self.bytes.len().saturating_sub(self.synced));
        let mut found = self.bytes.get(..kept).unwrap_or_default().to_vec();
        if self.synced_size <= self.synced || next(1) == 0 {
            found.resize(kept.max(self.synced_size), 0);
            return found;
        }
        // The disk wrote blocks in any order.
        found = self.read();
        found.truncate(self.synced_size.max(kept));
        let written = self.bytes.len().min(found.len());
        let unsynced = found.get_mut(self.synced..written).unwrap_or_default();
        let first = (BLOCK_BYTES - self.synced % BLOCK_BYTES).min(unsynced.len());
        let (first, others) = unsynced.split_at_mut(first);
        let blocks = std::iter::once(first).chain(others.chunks_mut(BLOCK_BYTES));
        blocks.filter(|_| next(1) == 0).for_each(|block| block.fill(0));
        found
    }
}
