//! The form of a segment: `journal/<first seq, 20 digits>.log`.
//!
//! ```text
//! header  magic 8 | version u32 | incarnation u64 | first seq u64 | origin length u16 | origin | crc32c u32
//! frame   length u16 | !length u16 | crc32c of the payload u32 | payload
//! ```
//!
//! Numbers are little-endian. The length stands there twice, once inverted: a changed length is told from a frame that
//! the writer has not finished. Behind the last frame of a segment that is being written there may be zeros, which the
//! next frames take the place of: no frame begins with eight of them, and no entry ends with one. A payload is an entry, or
//! a mark: byte 1 and the seq before which everything was synced when the frames that follow were written. One write begins
//! with one mark, so that recovery can tell what a crash may have torn from what somebody damaged.

use crate::evidence::entry::MAX_ENTRY_BYTES;

const MAGIC: [u8; 8] = *b"PCLSEVD1";
const VERSION: u32 = 1;
/// Bytes of a frame before its payload.
pub(crate) const FRAME_HEADER_BYTES: usize = 8;
const MARK: u8 = 1;
const MARK_PAYLOAD_BYTES: usize = 9;
/// Bytes of a mark with its frame.
pub(crate) const MARK_BYTES: usize = FRAME_HEADER_BYTES + MARK_PAYLOAD_BYTES;
/// Longest header.
pub(crate) const MAX_HEADER_BYTES: usize = 8 + 4 + 8 + 8 + 2 + crate::evidence::checkpoint::MAX_ORIGIN_BYTES + 4;

/// The directory of the segments.
pub(crate) const DIRECTORY: &str = "journal";

/// The path of the segment that begins with `first`.
pub(crate) fn path(first: u64) -> String {
    format!("{DIRECTORY}/{first:020}.log")
}

/// The first seq that a file's name tells.
pub(crate) fn first_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) incarnation: u64,
    pub(crate) first: u64,
    pub(crate) origin: String,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.origin.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(self.origin.as_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// The header at the beginning of `bytes`, and its length.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut rest = bytes;
        let magic: [u8; 8] = take(&mut rest)?;
        let version = u32::from_le_bytes(take(&mut rest)?);
        let incarnation = u64::from_le_bytes(take(&mut rest)?);
        let first = u64::from_le_bytes(take(&mut rest)?);
        let length = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let (origin, mut after) = rest.split_at_checked(length)?;
        let covered = bytes.len() - after.len();
        let crc = u32::from_le_bytes(take(&mut after)?);
        let good = magic == MAGIC && version == VERSION && crc32c::crc32c(bytes.get(..covered)?) == crc;
        let origin = std::str::from_utf8(origin).ok()?.to_owned();
        good.then_some((Self { incarnation, first, origin }, covered + 4))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// The header of a frame.
pub(crate) fn frame_header(length: usize, crc: u32) -> [u8; FRAME_HEADER_BYTES] {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    let ([a, b], [c, d], [e, f, g, h]) = (length.to_le_bytes(), (!length).to_le_bytes(), crc.to_le_bytes());
    [a, b, c, d, e, f, g, h]
}

/// A mark with its frame: everything before `synced` is on disk.
pub(crate) fn mark(synced: u64) -> [u8; MARK_BYTES] {
    let mut payload = [MARK; MARK_PAYLOAD_BYTES];
    let mut out = [0; MARK_BYTES];
    for (to, from) in payload.iter_mut().skip(1).zip(synced.to_le_bytes()) {
        *to = from;
    }
    let header = frame_header(payload.len(), crc32c::crc32c(&payload));
    for (to, from) in out.iter_mut().zip(header.into_iter().chain(payload)) {
        *to = from;
    }
    out
}

/// What stands at the beginning of some bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'b> {
    /// An entry.
    Entry(&'b [u8]),
    /// A mark.
    Mark(u64),
    /// Not all of it is there: `needed` bytes are, so far as can be told.
    Short { needed: usize },
    /// Zeros where a length should be.
    Blank,
    /// Not a frame.
    Bad(&'static str),
}

impl Frame<'_> {
    /// Reads the frame at the beginning of `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Frame<'_> {
        let mut rest = bytes;
        let Some(length) = take::<2>(&mut rest) else { return Frame::Short { needed: FRAME_HEADER_BYTES } };
        let Some(inverse) = take::<2>(&mut rest) else { return Frame::Short { needed: FRAME_HEADER_BYTES } };
        let Some(crc) = take::<4>(&mut rest) else { return Frame::Short { needed: FRAME_HEADER_BYTES } };
        if (length, inverse, crc) == ([0; 2], [0; 2], [0; 4]) {
            return Frame::Blank;
        }
        let (length, inverse) = (u16::from_le_bytes(length), u16::from_le_bytes(inverse));
        if length != !inverse || length == 0 {
            return Frame::Bad("the length does not hold");
        }
        let length = usize::from(length);
        let Some(payload) = rest.get(..length) else { return Frame::Short { needed: FRAME_HEADER_BYTES + length } };
        if crc32c::crc32c(payload) != u32::from_le_bytes(crc) {
            return Frame::Bad("the checksum does not hold");
        }
        match payload.split_first() {
            Some((b'{', _)) => Frame::Entry(payload),
            Some((&MARK, synced)) => match synced.try_into() {
                Ok(synced) => Frame::Mark(u64::from_le_bytes(synced)),
                Err(_) => Frame::Bad("a mark of another length"),
            },
            _ => Frame::Bad("neither an entry nor a mark"),
        }
    }

    /// Bytes of the frame at the beginning of `bytes`, by its own word; of its header where that does not hold.
    pub(crate) fn told_bytes(bytes: &[u8]) -> usize {
        let mut rest = bytes;
        match (take::<2>(&mut rest), take::<2>(&mut rest)) {
            (Some(length), Some(inverse)) if u16::from_le_bytes(length) == !u16::from_le_bytes(inverse) => {
                FRAME_HEADER_BYTES + usize::from(u16::from_le_bytes(length))
            }
            _ => FRAME_HEADER_BYTES,
        }
    }

    /// Bytes of a whole frame.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Entry(payload) => FRAME_HEADER_BYTES + payload.len(),
            Self::Mark(_) => MARK_BYTES,
            Self::Short { .. } | Self::Blank | Self::Bad(_) => 0,
        }
    }
}

/// The highest mark anywhere in `bytes`, aligned or not: what was synced before something that stands in there.
pub(crate) fn highest_mark(bytes: &[u8]) -> Option<u64> {
    let begin = frame_header(MARK_PAYLOAD_BYTES, 0);
    let begin = begin.get(..4).unwrap_or_default();
    let frames = memchr::memmem::find_iter(bytes, begin).filter_map(|at| bytes.get(at..).map(Frame::read));
    frames.filter_map(|frame| if let Frame::Mark(synced) = frame { Some(synced) } else { None }).max()
}

/// The longest frame.
pub(crate) const MAX_FRAME_BYTES: usize = FRAME_HEADER_BYTES + MAX_ENTRY_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_every_changed_byte_shows() {
        let header = SegmentHeader { incarnation: 3, first: 77, origin: "gate.example/log".into() };
        let bytes = header.encode();
        assert!(bytes.len() <= MAX_HEADER_BYTES);
        assert_eq!(SegmentHeader::decode(&bytes), Some((header, bytes.len())));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut altered = bytes.clone();
                altered[at] ^= 1 << bit;
                assert_eq!(SegmentHeader::decode(&altered), None, "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_changed_frame_is_bad_and_never_short() {
        let payload = b"{\"data\":1}";
        let mut frame = frame_header(payload.len(), crc32c::crc32c(payload)).to_vec();
        frame.extend_from_slice(payload);
        assert_eq!(Frame::read(&frame), Frame::Entry(payload));
        for frame in [frame, mark(9).to_vec()] {
            for at in 0..frame.len() {
                for bit in 0..8 {
                    let mut altered = frame.clone();
                    altered[at] ^= 1 << bit;
                    assert!(matches!(Frame::read(&altered), Frame::Bad(_)), "byte {at} bit {bit}");
                }
            }
            for cut in 0..frame.len() {
                assert!(matches!(Frame::read(&frame[..cut]), Frame::Short { .. }));
            }
        }
    }

    #[test]
    fn marks_are_found_among_other_bytes() {
        let mut bytes = b"{\"torn".to_vec();
        bytes.extend_from_slice(&mark(5));
        bytes.extend_from_slice(&mark(4));
        assert_eq!(highest_mark(&bytes), Some(5));
        assert_eq!(highest_mark(b"nothing of that kind in here"), None);
    }
}
