//! The evidence: an append-only, signed log of every decision.
//!
//! A record becomes durable in the journal before what it stands for happens. From the journal, which alone is the
//! truth, a sequencer derives hash tiles and signed checkpoints, off the path of calls. Verification needs the
//! directory and a public key, and no running program. Knows nothing of gateways, control planes or networks.

pub mod checkpoint;
pub mod entry;
pub mod journal;
pub mod read;
pub mod storage;
pub mod tree;
