//! A disk in memory that keeps synced and unsynced bytes apart, fails when told, fills up, lies, and can lose power.
//!
//! For tests here and elsewhere. Of what was written into zeros and not synced, blocks survive in any order; of what made a
//! file longer, a prefix does.

mod fault;
mod file;
mod segment;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

pub use self::fault::{Fault, Operation};
use self::file::FakeFile;
use self::segment::FakeSegment;
use super::{Item, Persist, SegmentFile, Storage};

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
        let is_new = !state.files.contains_key(path);
        if fault == Some(Fault::Half) && persist == Persist::Unheard && is_new {
            // In its place already, as a process that is killed leaves it.
            let part = bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec();
            state.next_id += 1;
            let file = FakeFile { before: Some(Vec::new()), ..FakeFile::new(part, state.next_id) };
            state.files.insert(path.to_owned(), file);
        }
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
