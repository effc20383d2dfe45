//! The segment that is being written, on that disk.

use std::io;

use super::{FakeStorage, Fault, Operation};
use crate::evidence::storage::SegmentFile;

#[derive(Debug)]
pub(super) struct FakeSegment {
    pub(super) disk: FakeStorage,
    pub(super) path: String,
    pub(super) id: u64,
}

impl SegmentFile for FakeSegment {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut state, fault) = self.disk.enter(Operation::Append)?;
        let more = match state.files.get(&self.path) {
            Some(file) => ((file.bytes.len() + bytes.len()) as u64).saturating_sub(file.space()),
            None => 0,
        };
        if fault.is_none() && more > 0 && !state.has_room(more) {
            return Err(Fault::Full.error());
        }
        let part = match fault {
            None | Some(Fault::Done | Fault::Lie) => bytes,
            Some(Fault::Half) => bytes.get(..bytes.len() / 2).unwrap_or_default(),
            Some(Fault::Error | Fault::Full | Fault::Lost) => &[],
        };
        // A file without a name takes writes all the same.
        if let Some(file) = state.files.get_mut(&self.path).filter(|file| file.id == self.id) {
            file.bytes.extend_from_slice(part);
            file.zeros = file.zeros.saturating_sub(part.len());
        }
        Fault::said(fault)
    }

    fn fill(&mut self, room: u64) -> io::Result<()> {
        let (mut state, fault) = self.disk.enter(Operation::Fill)?;
        let Some(file) = state.files.get(&self.path) else { return Fault::said(fault) };
        let more = (file.bytes.len() as u64 + room).saturating_sub(file.space());
        if fault == Some(Fault::Full) || !state.has_room(more) {
            return Ok(());
        }
        let room = match fault {
            None | Some(Fault::Done | Fault::Lie) => usize::try_from(room).unwrap_or(usize::MAX),
            Some(Fault::Half) => usize::try_from(room / 2).unwrap_or(usize::MAX),
            Some(Fault::Error | Fault::Full | Fault::Lost) => 0,
        };
        if let Some(file) = state.files.get_mut(&self.path).filter(|file| file.id == self.id) {
            file.zeros = file.zeros.max(room);
        }
        Fault::said(fault)
    }

    fn allocate(&mut self, room: u64) -> io::Result<()> {
        let (mut state, fault) = self.disk.enter(Operation::Allocate)?;
        if let Some(fault) = fault.filter(|fault| !Fault::put(Some(*fault)).0) {
            return Err(fault.error());
        }
        let Some(file) = state.files.get(&self.path) else { return Ok(()) };
        let wanted = file.bytes.len() as u64 + room;
        let more = wanted.saturating_sub(file.space());
        if more > 0 && !state.has_room(more) {
            return Err(Fault::Full.error());
        }
        if let Some(file) = state.files.get_mut(&self.path).filter(|file| file.id == self.id) {
            file.reserved = file.reserved.max(wanted);
        }
        Fault::said(fault)
    }

    fn sync(&mut self) -> io::Result<()> {
        let (mut state, fault) = self.disk.enter(Operation::Sync)?;
        let file = state.files.get_mut(&self.path).filter(|file| file.id == self.id);
        if let Some(file) = file {
            match fault {
                None | Some(Fault::Done) => (file.synced, file.synced_size) = (file.bytes.len(), file.size()),
                Some(Fault::Lost) => {
                    file.bytes.truncate(file.synced);
                    file.zeros = file.synced_size.saturating_sub(file.synced);
                }
                Some(Fault::Half) => file.synced += (file.bytes.len() - file.synced) / 2,
                Some(Fault::Error | Fault::Full | Fault::Lie) => {}
            }
        }
        if fault.is_none() {
            state.syncs += 1;
        }
        Fault::said(fault)
    }

    fn is_whole(&self) -> io::Result<bool> {
        self.in_place()
    }

    fn in_place(&self) -> io::Result<bool> {
        Ok(self.disk.state.lock().files.get(&self.path).is_some_and(|file| file.id == self.id))
    }

    fn finish(&mut self) -> io::Result<()> {
        let (mut state, fault) = self.disk.enter(Operation::Cut)?;
        if let Some(fault) = fault.filter(|fault| !Fault::put(Some(*fault)).0) {
            return Err(fault.error());
        }
        if let Some(file) = state.files.get_mut(&self.path).filter(|file| file.id == self.id) {
            (file.reserved, file.zeros) = (0, 0);
            file.synced_size = file.synced_size.min(file.bytes.len());
        }
        Fault::said(fault)
    }
}
