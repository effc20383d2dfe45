//! The thread that reads the journal and sends what it reads, as far ahead of the answers as memory allows.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::evidence::EvidenceLog;
use crate::evidence::journal::segment::frame_header;
use crate::evidence::read::{JournalReader, Next};
use crate::evidence::storage::{DiskStorage, Storage};
use crate::wire::v1;
use v1::keep_message::Message as Sent;

/// Messages between the thread and the transport.
pub(super) const MAX_IN_FLIGHT: usize = 4;
/// Bytes of records in one message, and at most one record more.
const MESSAGE_BYTES: usize = 256 << 10;
/// Bytes of records that are on their way: sent, and not said to be kept.
const WINDOW_BYTES: usize = 4 << 20;
/// How often it looks whether there is a checkpoint to send, or nobody to send to.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The thread, as whoever started it knows it. It ends when nobody takes what it sends.
#[derive(Debug)]
pub(super) struct Sender {
    failed: tokio::sync::Mutex<mpsc::Receiver<String>>,
}

impl Sender {
    /// Sends everything from record `from` on.
    pub(super) fn start(
        log: Arc<EvidenceLog>,
        directory: &Path,
        from: u64,
        up: mpsc::Sender<v1::KeepMessage>,
    ) -> Result<Self, String> {
        let storage: Arc<dyn Storage> = Arc::new(DiskStorage::read_only(directory));
        let (tell, failed) = mpsc::channel(1);
        let reader = JournalReader::new(storage, from);
        let job = Job { log, reader, up, at: from, signed: 0, on_their_way: VecDeque::new(), bytes: 0 };
        let thread = std::thread::Builder::new().name("copy".into()).spawn(move || {
            if let Err(why) = job.run() {
                // There is room: it is the only one.
                let _ = tell.try_send(why);
            }
        });
        // It ends by itself: nobody waits for it.
        thread.map(drop).map_err(|error| error.to_string())?;
        Ok(Self { failed: tokio::sync::Mutex::new(failed) })
    }

    /// Why it ended, once it did.
    pub(super) async fn failed(&self) -> String {
        self.failed.lock().await.recv().await.unwrap_or_else(|| "nothing is sent any more".to_owned())
    }
}

struct Job {
    log: Arc<EvidenceLog>,
    reader: JournalReader,
    up: mpsc::Sender<v1::KeepMessage>,
    /// The record that is sent next.
    at: u64,
    /// Records under the checkpoint that was sent last.
    signed: u64,
    /// Ends of messages that were sent and are not said to be kept, with their bytes.
    on_their_way: VecDeque<(u64, usize)>,
    bytes: usize,
}

/// Nobody takes what is sent.
struct Over;

impl Job {
    fn run(mut self) -> Result<(), String> {
        while !self.up.is_closed() {
            let journal = self.log.journal();
            let kept = journal.remote().map_or(0, |remote| remote.kept);
            while let Some((_, bytes)) = self.on_their_way.pop_front_if(|(end, _)| *end <= kept) {
                self.bytes -= bytes;
            }
            let Ok(()) = self.checkpoint() else { break };
            if self.bytes >= WINDOW_BYTES {
                self.log.journal().news(LOOK_EVERY);
                continue;
            }
            let durable = self.log.journal().durable_seq();
            if durable <= self.at {
                self.log.journal().beyond(self.at, LOOK_EVERY);
                continue;
            }
            let records = self.records(durable)?;
            self.bytes += records.frames.len();
            self.on_their_way.push_back((self.at, records.frames.len()));
            let Ok(()) = self.send(Sent::Records(records)) else { break };
        }
        Ok(())
    }

    /// The next records before `durable`, as many as one message holds.
    fn records(&mut self, durable: u64) -> Result<v1::KeepRecords, String> {
        let mut records = v1::KeepRecords { first: self.at, frames: Vec::new() };
        // INVARIANT: only what was durable before it was read is sent.
        self.reader.look_again().map_err(|error| error.to_string())?;
        while self.at < durable && records.frames.len() < MESSAGE_BYTES {
            match self.reader.next().map_err(|error| error.to_string())? {
                Next::Record(record) => {
                    let header = frame_header(record.bytes.len(), crc32c::crc32c(record.bytes));
                    records.frames.extend_from_slice(&header);
                    records.frames.extend_from_slice(record.bytes);
                    self.at = record.place.seq + 1;
                }
                Next::CaughtUp { .. } => return Err(format!("record {} is not there", self.at)),
                Next::Damaged { place, why } => return Err(format!("{place}: {why}")),
            }
        }
        Ok(records)
    }

    /// Sends the latest checkpoint, once the records are sent that it covers.
    fn checkpoint(&mut self) -> Result<(), Over> {
        let Some((head, note)) = self.log.checkpoint() else { return Ok(()) };
        if head.size <= self.signed || head.size > self.at {
            return Ok(());
        }
        self.signed = head.size;
        self.send(Sent::Checkpoint(note))
    }

    fn send(&self, message: Sent) -> Result<(), Over> {
        self.up.blocking_send(v1::KeepMessage { message: Some(message) }).map_err(|_| Over)
    }
}
