//! A disk in memory that keeps synced and unsynced bytes apart, fails when told, fills up, lies, and can lose power.
//!
//! For tests here and elsewhere. Of what was written into zeros and not synced, blocks survive in any order; of what made a
//! file longer, a prefix does.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::{Item, Persist, SegmentFile, Storage};

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Creating a segment.
    Create,
    /// Appending to a segment.
    Append,
    /// Writing zeros behind the end of one.
    Fill,
    /// Reserving room.
    Allocate,
    /// `fdatasync`.
    Sync,
    /// Replacing a small file.
    Write,
    /// Truncating or removing.
    Cut,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`, and nothing was done.
    Error,
    /// `ENOSPC`, and nothing was done.
    Full,
    /// `EIO`, and half of it was done.
    Half,
    /// `EIO`, and it was done all the same.
    Done,
    /// `EIO`, and what was not synced before is gone (what Linux does to dirty pages after a failed `fsync`).
    Lost,
    /// No error, and nothing of it is on disk: what was synced, and each new name, goes with the power.
    Lie,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Full => io::Error::from(io::ErrorKind::StorageFull),
            Self::Error | Self::Half | Self::Done | Self::Lost | Self::Lie => io::Error::other("injected EIO"),
        }
    }

    /// What a whole file that was to be put looks like then: whether it stands there, and whether its name is on disk.
    fn put(fault: Option<Self>) -> (bool, bool) {
        match fault {
            None | Some(Self::Done) => (true, true),
            // Renamed, and the directory was not synced.
            Some(Self::Lost | Self::Lie) => (true, false),
            Some(Self::Error | Self::Full | Self::Half) => (false, false),
        }
    }

    /// What is said of it.
    fn said(fault: Option<Self>) -> io::Result<()> {
        match fault {
            None | Some(Self::Lie) => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }
}

/// What a disk writes at once: little, so that records are torn in many ways.
const BLOCK_BYTES: usize = 64;

#[derive(Clone, Debug, Default)]
struct FakeFile {
    bytes: Vec<u8>,
    /// How many of them are on disk.
    synced: usize,
    /// Zeros behind them, as the file is read.
    zeros: usize,
    /// As long as the file is on disk at least: where nothing else is, zeros are.
    synced_size: usize,
    /// What is on disk under this name instead, while the whole file is not.
    before: Option<Vec<u8>>,
    /// Bytes reserved, written ones included.
    reserved: u64,
    /// Tells a file from a later one of the same name.
    id: u64,
}

impl FakeFile {
    fn new(bytes: Vec<u8>, id: u64) -> Self {
        Self { synced: bytes.len(), bytes, id, ..Self::default() }
    }

    fn space(&self) -> u64 {
        self.reserved.max(self.size() as u64)
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.zeros
    }

    /// As it is read.
    fn read(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(self.size(), 0);
        bytes
    }

    /// What of it is found after a loss of power, by what `next` draws from 0 to a bound.
    fn survives(&self, mut next: impl FnMut(usize) -> usize) -> Vec<u8> {
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
        unsynced.chunks_mut(BLOCK_BYTES).filter(|_| next(1) == 0).for_each(|block| block.fill(0));
        found
    }
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, FakeFile>,
    /// Space in all; none is endless.
    capacity: Option<u64>,
    /// Faults to come: (operation, how many of it go well first, fault).
    planned: Vec<(Operation, u64, Fault)>,
    /// The operation of this number, counted over all kinds, fails.
    nth: Option<(u64, Fault)>,
    /// What every operation does, until mended.
    standing: Option<Fault>,
    /// The next operation of this kind panics.
    panics: Option<Operation>,
    /// How many wait now.
    waiting: usize,
    /// The operation that waits until it is released.
    held: Option<Operation>,
    /// Operations until the power goes.
    left: Option<u64>,
    operations: u64,
    syncs: u64,
    next_id: u64,
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(FakeFile::space).sum()
    }

    fn has_room(&self, more: u64) -> bool {
        self.capacity.is_none_or(|capacity| self.used().saturating_add(more) <= capacity)
    }

    /// Counts an operation and says how it is to fail.
    fn enter(&mut self, operation: Operation) -> io::Result<Option<Fault>> {
        self.operations += 1;
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return Err(io::Error::other("no power"));
            }
            *left -= 1;
        }
        if self.panics.take_if(|kind| *kind == operation).is_some() {
            #[expect(clippy::panic, reason = "it is what was asked for")]
            std::panic::panic_any("an injected panic");
        }
        if let Some(fault) = self.standing {
            return Ok(Some(fault));
        }
        if let Some((_, fault)) = self.nth.take_if(|(nth, _)| *nth <= self.operations) {
            return Ok(Some(fault));
        }
        let mut fault = None;
        self.planned.retain_mut(|(planned, after, how)| {
            if *planned != operation || fault.is_some() {
                return true;
            }
            if *after == 0 {
                fault = Some(*how);
                return false;
            }
            *after -= 1;
            true
        });
        Ok(fault)
    }
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct FakeStorage {
    state: Arc<Mutex<State>>,
    released: Arc<Condvar>,
}

impl FakeStorage {
    /// An empty, endless disk that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `operation` fail once, after it went well `after` times.
    pub fn fail(&self, operation: Operation, after: u64, fault: Fault) {
        self.state.lock().planned.push((operation, after, fault));
    }

    /// Lets the operation fail that comes behind `after` others from now on, whichever kind it is.
    pub fn fail_after(&self, after: u64, fault: Fault) {
        let mut state = self.state.lock();
        state.nth = Some((state.operations + after + 1, fault));
    }

    /// Lets everything but reading fail until [`mend`](Self::mend).
    pub fn fail_everything(&self, fault: Fault) {
        self.state.lock().standing = Some(fault);
    }

    /// The next such operation does nothing and panics, on whichever thread.
    pub fn panic_at(&self, operation: Operation) {
        self.state.lock().panics = Some(operation);
    }

    /// Ends every fault, standing or planned.
    pub fn mend(&self) {
        let mut state = self.state.lock();
        (state.standing, state.nth) = (None, None);
        state.planned.clear();
    }

    /// Limits the disk's space to what is used now and `more` bytes; `None` is endless.
    pub fn limit(&self, more: Option<u64>) {
        let mut state = self.state.lock();
        state.capacity = more.map(|more| state.used() + more);
    }

    /// Lets `operation` wait until [`release`](Self::release).
    pub fn hold(&self, operation: Operation) {
        self.state.lock().held = Some(operation);
    }

    /// Lets what waits go on.
    pub fn release(&self) {
        self.state.lock().held = None;
        self.released.notify_all();
    }

    /// Whether somebody waits for that.
    pub fn is_held_up(&self) -> bool {
        self.state.lock().waiting > 0
    }

    /// The power goes after that many more operations: each later one fails, and nothing changes any more.
    pub fn crash_after(&self, operations: u64) {
        self.state.lock().left = Some(operations);
    }

    /// Operations other than reading so far.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Syncs of segments that went well.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// The disk as it is found after a loss of power. Of what was not synced, a prefix drawn from `seed` is there; with
    /// `None` nothing of it.
    pub fn reboot(&self, seed: Option<u64>) -> Self {
        let state = self.state.lock();
        let mut draw = seed;
        let mut next = move |below: usize| -> usize {
            let Some(state) = &mut draw else { return 0 };
            // SplitMix64.
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((z ^ (z >> 31)) % (below as u64 + 1)).unwrap_or(0)
        };
        let files = state.files.iter().filter_map(|(path, file)| {
            let bytes = match &file.before {
                Some(before) if next(1) == 0 => before.clone(),
                Some(_) | None => file.survives(&mut next),
            };
            if bytes.is_empty() && file.before.is_some() {
                return None;
            }
            Some((path.clone(), FakeFile::new(bytes, file.id)))
        });
        let state = State { files: files.collect(), next_id: state.next_id, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), released: Arc::default() }
    }

    /// The disk as the next process finds it after this one was killed: nothing is lost, and nothing more is synced.
    pub fn kill(&self) -> Self {
        let state = self.state.lock();
        let state = State { files: state.files.clone(), next_id: state.next_id, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), released: Arc::default() }
    }

    /// Every file with its bytes, as a reader sees them.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.state.lock().files.iter().map(|(path, file)| (path.clone(), file.read())).collect()
    }

    /// Changes a file behind everybody's back: the way of an attacker.
    pub fn alter(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(file) = self.state.lock().files.get_mut(path) {
            let (mut bytes, written) = (file.read(), file.bytes.len());
            change(&mut bytes);
            // The writer goes on where it was, in what are still zeros.
            let blank = bytes.get(written..).filter(|rest| rest.iter().all(|byte| *byte == 0)).map_or(0, <[u8]>::len);
            bytes.truncate(bytes.len() - blank);
            (file.synced, file.synced_size, file.zeros) = (bytes.len(), bytes.len() + blank, blank);
            file.bytes = bytes;
        }
    }

    /// Deletes a file behind everybody's back.
    pub fn steal(&self, path: &str) {
        self.state.lock().files.remove(path);
    }

    fn enter(&self, operation: Operation) -> io::Result<(parking_lot::MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.state.lock();
        while state.held == Some(operation) {
            state.waiting += 1;
            self.released.wait(&mut state);
            state.waiting -= 1;
        }
        let fault = state.enter(operation)?;
        Ok((state, fault))
    }
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.to_owned())
}

impl Storage for FakeStorage {
    fn create_segment(&self, path: &str, header: &[u8], room: u64) -> io::Result<Box<dyn SegmentFile>> {
        let (mut state, fault) = self.enter(Operation::Create)?;
        let (put, named) = Fault::put(fault);
        if !put {
            return Err(fault.unwrap_or(Fault::Error).error());
        }
        let size = header.len() as u64 + room;
        if !state.has_room(size) {
            return Err(Fault::Full.error());
        }
        state.next_id += 1;
        let id = state.next_id;
        let old = state.files.remove(path);
        let before = (!named).then(|| old.map(|old| old.before.unwrap_or(old.bytes)).unwrap_or_default());
        let file = FakeFile { before, reserved: size, ..FakeFile::new(header.to_vec(), id) };
        state.files.insert(path.to_owned(), file);
        Fault::said(fault)?;
        Ok(Box::new(FakeSegment { disk: self.clone(), path: path.to_owned(), id }))
    }

    fn write_file(&self, path: &str, bytes: &[u8], persist: Persist) -> io::Result<()> {
        let (mut state, fault) = self.enter(Operation::Write)?;
        let (put, named) = Fault::put(fault);
        if !put {
            return Err(fault.unwrap_or(Fault::Error).error());
        }
        if !state.has_room(bytes.len() as u64) {
            return Err(Fault::Full.error());
        }
        state.next_id += 1;
        let id = state.next_id;
        let old = state.files.remove(path);
        let before = match persist {
            Persist::Now if named => None,
            Persist::Now | Persist::Later | Persist::Unheard => {
                Some(old.map(|old| old.before.unwrap_or(old.bytes)).unwrap_or_default())
            }
        };
        let file = FakeFile { before, ..FakeFile::new(bytes.to_vec(), id) };
        state.files.insert(path.to_owned(), file);
        Fault::said(fault)
    }

    fn read_at(&self, path: &str, offset: u64, max: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        let state = self.state.lock();
        let file = state.files.get(path).ok_or_else(|| not_found(path))?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.size());
        let end = from.saturating_add(max).min(file.size());
        let written = file.bytes.get(from.min(file.bytes.len())..end.min(file.bytes.len())).unwrap_or_default();
        into.extend_from_slice(written);
        into.resize(into.len() + (end - from - written.len()), 0);
        Ok(end - from)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Item>> {
        let state = self.state.lock();
        let mut items: BTreeMap<String, Item> = BTreeMap::new();
        for (path, file) in &state.files {
            let rest = match directory {
                "" => Some(path.as_str()),
                _ => path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(rest) = rest else { continue };
            let (name, directory) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
            let bytes = if directory { 0 } else { file.size() as u64 };
            items.insert(name.to_owned(), Item { name: name.to_owned(), bytes, directory });
        }
        Ok(items.into_values().collect())
    }

    fn truncate(&self, path: &str, bytes: u64) -> io::Result<()> {
        let (mut state, fault) = self.enter(Operation::Cut)?;
        if let Some(fault) = fault.filter(|fault| !Fault::put(Some(*fault)).0) {
            return Err(fault.error());
        }
        let file = state.files.get_mut(path).ok_or_else(|| not_found(path))?;
        let mut left = file.read();
        left.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        *file = FakeFile { before: file.before.take(), ..FakeFile::new(left, file.id) };
        Fault::said(fault)
    }

    fn sync_file(&self, path: &str) -> io::Result<()> {
        let (mut state, fault) = self.enter(Operation::Sync)?;
        let file = state.files.get_mut(path).ok_or_else(|| not_found(path))?;
        if fault.is_none_or(|fault| fault == Fault::Done) {
            (file.synced, file.synced_size, file.before) = (file.bytes.len(), file.size(), None);
        }
        Fault::said(fault)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (mut state, fault) = self.enter(Operation::Cut)?;
        if let Some(fault) = fault.filter(|fault| !Fault::put(Some(*fault)).0) {
            return Err(fault.error());
        }
        state.files.remove(path).map(drop).ok_or_else(|| not_found(path))?;
        Fault::said(fault)
    }
}

#[derive(Debug)]
struct FakeSegment {
    disk: FakeStorage,
    path: String,
    id: u64,
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
