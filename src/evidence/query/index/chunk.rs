//! A chunk as it stands in the index's file: found again, and checked wherever it is read.
//!
//! Knows nothing of what terms mean, and of the log only the root that its records have.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::evidence::tree::Hash;

/// Before a body: its length, the checksum of the rest of the head, the root, and a checksum for each block.
const HEAD: usize = 8;
const ROOT: usize = 32;
const BLOCK: usize = 4096;
/// Longest body: no more terms than this fit.
const MAX_BODY: usize = 64 << 20;

pub(super) const BODY_HEADER: usize = 24;
pub(super) const TERM: usize = 16;
pub(super) const CALL: usize = 12;

#[derive(Clone, Debug)]
pub(in crate::evidence::query) struct Chunk {
    /// Where its body stands in the file.
    at: u64,
    length: usize,
    /// Of each block of the body.
    sums: Vec<u32>,
    /// Of the log as far as this chunk goes: another root, another history.
    pub(super) root: Hash,
    pub(in crate::evidence::query) first_time: i64,
    pub(in crate::evidence::query) last_time: i64,
    pub(super) terms: usize,
    pub(super) calls: usize,
}

pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn size(bytes: &[u8], at: usize) -> Option<usize> {
    number(bytes, at).map(u32::from_le_bytes).and_then(|it| usize::try_from(it).ok())
}

/// A body with its head, as it is written; `None` when it is too long.
pub(super) fn sealed(root: &Hash, body: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY)?.to_le_bytes();
    let mut rest = root.0.to_vec();
    body.chunks(BLOCK).for_each(|block| rest.extend_from_slice(&crc32c::crc32c(block).to_le_bytes()));
    let sum = crc32c::crc32c_append(crc32c::crc32c(&length), &rest).to_le_bytes();
    Some([&length[..], &sum, &rest, body].concat())
}

impl Chunk {
    /// The chunk whose head stands at `at`; `None` when none does, or not all of it.
    pub(super) fn open(file: &File, at: u64, places: usize) -> Option<Self> {
        let mut head = vec![0; HEAD];
        file.read_exact_at(&mut head, at).ok()?;
        let length = size(&head, 0).filter(|length| *length <= MAX_BODY)?;
        let mut rest = vec![0; ROOT + length.div_ceil(BLOCK) * 4];
        file.read_exact_at(&mut rest, at + HEAD as u64).ok()?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(head.get(..4)?), &rest);
        if number(&head, 4).map(u32::from_le_bytes) != Some(sum) {
            return None;
        }
        let (root, sums) = rest.split_first_chunk::<ROOT>()?;
        let sums = sums.as_chunks::<4>().0.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
        let at = at + u64::try_from(HEAD + rest.len()).ok()?;
        let mut chunk = Self { at, length, sums, root: Hash(*root), first_time: 0, last_time: 0, terms: 0, calls: 0 };
        let body = chunk.bytes(file, 0, BODY_HEADER).ok()?;
        chunk.first_time = i64::from_le_bytes(number(&body, 0)?);
        chunk.last_time = i64::from_le_bytes(number(&body, 8)?);
        (chunk.terms, chunk.calls) = (size(&body, 16)?, size(&body, 20)?);
        let least = BODY_HEADER + places * 16 + chunk.terms.checked_mul(TERM)? + chunk.calls.checked_mul(CALL)?;
        let whole = file.metadata().is_ok_and(|meta| meta.len() >= chunk.end());
        (least <= length && whole).then_some(chunk)
    }

    /// Where the next one begins.
    pub(super) fn end(&self) -> u64 {
        self.at + u64::try_from(self.length).unwrap_or(u64::MAX)
    }

    /// Whether all of it is as it was written.
    pub(super) fn holds(&self, file: &File) -> bool {
        self.bytes(file, 0, self.length).is_ok()
    }

    /// Bytes of its body, as they were written.
    ///
    /// # Errors
    /// Those of the disk; [`io::ErrorKind::InvalidData`] where something else stands.
    pub(super) fn bytes(&self, file: &File, from: usize, length: usize) -> io::Result<Vec<u8>> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the index is damaged");
        let end = from.checked_add(length).filter(|end| *end <= self.length).ok_or_else(damaged)?;
        let first = from / BLOCK;
        let start = first * BLOCK;
        let mut bytes = vec![0; end.next_multiple_of(BLOCK).min(self.length) - start];
        file.read_exact_at(&mut bytes, self.at + u64::try_from(start).unwrap_or(u64::MAX))?;
        let sums = self.sums.iter().skip(first);
        if bytes.chunks(BLOCK).zip(sums).any(|(block, sum)| crc32c::crc32c(block) != *sum) {
            return Err(damaged());
        }
        bytes.drain(..from - start);
        bytes.truncate(length);
        Ok(bytes)
    }
}
