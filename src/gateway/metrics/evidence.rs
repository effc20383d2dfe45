//! What the evidence and its archive know of themselves.

use super::{Distribution, Families};
use crate::evidence::archive::LagStatus;
use crate::evidence::journal::{JournalStatus, RemoteStatus, SYNC_BUCKETS_US};

pub(super) fn journal(families: &mut Families, status: &JournalStatus) {
    let writable = if status.broken.is_none() { 1.0 } else { 0.0 };
    families.gauge(
        "portcullis_evidence_writable",
        "1 while evidence can be written; 0 means that calls are refused.",
        writable,
    );
    families.gauge(
        "portcullis_evidence_durable_seq",
        "Records of evidence that are durable: the position of the next one to become so.",
        status.durable as f64,
    );
    families.gauge(
        "portcullis_evidence_queued_bytes",
        "Bytes of evidence that wait to be written.",
        status.queued_bytes as f64,
    );
    families.gauge(
        "portcullis_evidence_open_intents",
        "Allowed calls whose outcome is not recorded yet.",
        status.open_intents as f64,
    );
    families.counter(
        "portcullis_evidence_errors_total",
        "Errors of the disk that evidence is written to.",
        status.errors,
    );
    families.counter(
        "portcullis_evidence_written_bytes_total",
        "Bytes of evidence written since the start.",
        status.written_bytes,
    );
    let sync = Distribution { bounds: &SYNC_BUCKETS_US, counts: status.sync.buckets.to_vec(), sum: status.sync.sum };
    families.histogram(
        "portcullis_evidence_fsync_seconds",
        "Time that each flush of evidence to the disk took.",
        &sync,
    );
}

pub(super) fn remote(families: &mut Families, status: &RemoteStatus) {
    families.gauge(
        "portcullis_evidence_remote_lag_records",
        "Records of evidence that are here and not on the disk of the machine that keeps the copy, by its last word.",
        status.records as f64,
    );
    families.gauge(
        "portcullis_evidence_remote_lag_seconds",
        "Time since which the oldest of them waits; 0 when all are there.",
        status.age.as_secs_f64(),
    );
    families.gauge(
        "portcullis_evidence_remote_records",
        "Records of evidence that are on that machine's disk.",
        status.kept as f64,
    );
    families.gauge(
        "portcullis_evidence_remote_connected",
        "1 while that machine is connected and takes records.",
        if status.attached { 1.0 } else { 0.0 },
    );
    families.counter(
        "portcullis_evidence_remote_failures_total",
        "Times that it did not take records in time, and calls were refused for it.",
        status.failures,
    );
}

pub(super) fn archive(families: &mut Families, status: &LagStatus) {
    families.gauge(
        "portcullis_archive_lag_records",
        "Durable records of evidence that are not in the archive yet, or were not read back from there.",
        status.records as f64,
    );
    families.gauge(
        "portcullis_archive_lag_seconds",
        "Time since which there may be a record that is not archived; 0 when all are.",
        status.age.as_secs_f64(),
    );
    families.gauge(
        "portcullis_archive_past_max_lag",
        "1 while the archive is further behind than the settings let it be.",
        if status.past { 1.0 } else { 0.0 },
    );
    families.gauge(
        "portcullis_archive_records",
        "Records of evidence that are archived and were read back.",
        status.archived as f64,
    );
    families.counter(
        "portcullis_archive_files_total",
        "Files that were put into the archive, or found there, and read back since the start.",
        status.files,
    );
    families.counter(
        "portcullis_archive_failures_total",
        "Times that the archive did not go on, or did not hold what was to be pruned here.",
        status.failures,
    );
    families.gauge(
        "portcullis_evidence_pruned_before",
        "Records before this one were pruned from this disk since the start, as the log itself says; 0 when none were.",
        status.pruned as f64,
    );
}
