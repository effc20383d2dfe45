//! How a journal is kept, and who writes it.

use std::time::Duration;

/// When a record counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is on disk: it survives a loss of power.
    #[default]
    Disk,
    /// When the kernel has it: it survives the death of the process.
    Process,
    /// When the kernel has it, and another machine has it on its disk: it survives the loss of this one.
    Remote,
}

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// When a record counts as written.
    pub durability: Durability,
    /// A segment that is larger is followed by the next one.
    pub segment_bytes: u64,
    /// Room reserved ahead of what is written.
    pub allocate_bytes: u64,
    /// Bytes that may wait to be written; beyond them appending fails. Outcomes are beyond this limit: reserved room
    /// bounds them.
    pub queue_bytes: usize,
    /// How long a record that somebody waits for may wait for company: on a disk that is synced for it, while as many as came
    /// together of late have not come again (a sync costs as much processor time as several calls); where the kernel's word
    /// is enough, only while its worker has other calls to go on with. A lone caller never waits.
    pub gather: Duration,
    /// How long an outcome may wait for company: nobody waits for it, and the next intent takes it along.
    pub linger: Duration,
    /// How often a failed disk is tried again.
    pub retry: Duration,
    /// How long a record may wait for the other machine's disk, where it does; then it counts as not written.
    pub remote_within: Duration,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Disk,
            segment_bytes: 64 << 20,
            allocate_bytes: 4 << 20,
            queue_bytes: 16 << 20,
            gather: Duration::from_millis(1),
            linger: Duration::from_millis(10),
            retry: Duration::from_millis(250),
            remote_within: Duration::from_secs(2),
        }
    }
}

/// Who writes, for the record that opens each incarnation of the log.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Name and version of the program.
    pub program: String,
    /// The machine's boot.
    pub boot_id: String,
}
