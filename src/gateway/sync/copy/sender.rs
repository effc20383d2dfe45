//! The thread that reads the journal and sends what it reads, as far ahead of the answers as memory allows.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::evidence::EvidenceLog;
use crate::evidence::copy::MAX_UNSIGNED;
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

/// Records that are sent and not signed for, at most, before the log signs for them on the way: half of what a copy takes.
const SIGN_EVERY: u64 = MAX_UNSIGNED as u64 / 2;

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
        Self::start_with(log, directory, from, up, SIGN_EVERY)
    }

    fn start_with(
        log: Arc<EvidenceLog>,
        directory: &Path,
        from: u64,
        up: mpsc::Sender<v1::KeepMessage>,
        sign_every: u64,
    ) -> Result<Self, String> {
        let storage: Arc<dyn Storage> = Arc::new(DiskStorage::read_only(directory));
        let (tell, failed) = mpsc::channel(1);
        let reader = JournalReader::new(storage, from);
        // What the copy has may not be signed for: nobody here knows.
        let signed = (from == 0).then_some(0);
        let job = Job { log, reader, up, at: from, signed, sign_every, on_their_way: VecDeque::new(), bytes: 0 };
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
    /// Records under the checkpoint that was sent last on this connection.
    signed: Option<u64>,
    sign_every: u64,
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

    /// Sends the latest checkpoint, once the records are sent that it covers. On the way there the log signs for what was
    /// sent: a copy takes only so much that nobody has signed for.
    fn checkpoint(&mut self) -> Result<(), Over> {
        let Some((head, note)) = self.log.checkpoint() else { return Ok(()) };
        if head.size <= self.at {
            if self.signed.is_some_and(|signed| head.size <= signed) {
                return Ok(());
            }
            self.signed = Some(head.size);
            return self.send(Sent::Checkpoint(note));
        }
        if self.signed.is_some_and(|signed| self.at - signed < self.sign_every) {
            return Ok(());
        }
        match self.log.checkpoint_of(self.at) {
            Ok(note) => {
                self.signed = Some(self.at);
                self.send(Sent::Checkpoint(note))
            }
            Err(error) => {
                // Tiles may be renewed meanwhile: it is tried again with the next records.
                tracing::debug!(%error, records = self.at, "what was sent to the copy is not signed for yet");
                Ok(())
            }
        }
    }

    fn send(&self, message: Sent) -> Result<(), Over> {
        self.up.blocking_send(v1::KeepMessage { message: Some(message) }).map_err(|_| Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::checkpoint::EvidenceKey;
    use crate::evidence::copy::LogCopy;
    use crate::evidence::journal::tests::{clock, note, origin, small, writer};

    /// Takes what is sent until the copy has `size` records and none of them is unsigned; how much was unsigned at most.
    async fn taken(copy: &mut LogCopy, from: &mut mpsc::Receiver<v1::KeepMessage>, size: u64) -> u64 {
        let mut most = 0;
        while copy.signed() < size {
            match from.recv().await.unwrap().message.unwrap() {
                Sent::Records(records) => copy.put(records.first, &records.frames).unwrap(),
                Sent::Checkpoint(note) => copy.checkpoint(&note).unwrap(),
                other => panic!("{other:?}"),
            }
            most = most.max(copy.size() - copy.signed());
        }
        most
    }

    #[tokio::test]
    async fn a_copy_that_is_far_behind_is_signed_for_on_the_way() {
        let (home, key) = (tempfile::tempdir().unwrap(), EvidenceKey::generate().unwrap().0);
        let (ours, theirs) = (home.path().join("log"), home.path().join("copy"));
        let (log, _) = EvidenceLog::open(&ours, origin(), key, &writer(), small(), clock()).unwrap();
        let log = Arc::new(log);
        for n in 0..9000 {
            let _ = log.journal().append(&note(n)).unwrap();
        }
        log.journal().flush().unwrap();
        let size = log.checkpoint_now().unwrap().0.size;
        let mut copy = LogCopy::open(&theirs, log.verifier_key().clone(), 0, 64 << 20).unwrap();
        // One message, and a copy that takes hardly more than two of them unsigned.
        let (up, mut sent) = mpsc::channel(1);
        let sender = Sender::start_with(log.clone(), &ours, 0, up, 1000).unwrap();
        let Sent::Records(records) = sent.recv().await.unwrap().message.unwrap() else { panic!("no records") };
        copy.put(records.first, &records.frames).unwrap();
        copy.sync().unwrap();
        let one = copy.size();
        assert!(one > 500 && one * 3 < size, "{one} of {size}");
        drop((sender, sent));
        // The connection breaks off with everything unsigned: it is signed for before anything else comes.
        copy.at_most_unsigned(usize::try_from(one).unwrap() + 1000);
        let (up, mut sent) = mpsc::channel(1);
        let _sender = Sender::start_with(log.clone(), &ours, one, up, 1000).unwrap();
        let most = taken(&mut copy, &mut sent, size).await;
        assert!(most <= one + 1000, "{most}");
        assert_eq!((copy.size(), copy.root()), (size, log.checkpoint().unwrap().0.root));
    }
}
