//! `portcullis evidence verify`: a log in a directory or behind an address, or a proof in a file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::super::time::both;
use super::{Log, remote};
use crate::clock::SystemClock;
use crate::domain::{Clock as _, Timestamp};
use crate::evidence::checkpoint::{Checkpoint, VerifierKey};
use crate::evidence::cosignature::CosignerKey;
use crate::evidence::tlog_proof::{MAX_PROOF_BYTES, TlogProof};
use crate::evidence::tree::TreeHead;
use crate::evidence::verify::{self, Report, VerifyOptions};

/// Largest checkpoint file read.
const MAX_CHECKPOINT_BYTES: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(in super::super) struct Verify {
    /// The log's directory (a gateway's, or an export), the address of one that is served (C2SP tlog-tiles), or a file
    /// with a proof; the log of the dev directory's gateway if not given
    #[arg(value_name = "LOG|URL|FILE")]
    log: Option<PathBuf>,
    /// The control plane's log of the dev directory
    #[arg(long, conflicts_with = "log")]
    control: bool,
    /// The key that must have signed, NAME+ID+BASE64; without it the log's own word is taken
    #[arg(long, value_name = "KEY")]
    key: Option<VerifierKey>,
    /// A signed checkpoint that was kept elsewhere: the log must only have grown since (needs --key)
    #[arg(long, value_name = "FILE", requires = "key")]
    against: Option<PathBuf>,
    /// The control plane's key, NAME+ID+BASE64 (`control.vkey`): the log must have grown from a checkpoint that it
    /// cosigned, also where the log's own key is in wrong hands
    #[arg(long, value_name = "KEY")]
    cosigner: Option<CosignerKey>,
}

#[derive(Serialize)]
struct Verified {
    verified: bool,
    log: PathBuf,
    key: String,
    size: u64,
    root: String,
    records: u64,
    past_checkpoint: u64,
    open_intents: u64,
    in_flight_bytes: u64,
    /// Records under the latest cosigned checkpoint that is kept beside the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosigned_size: Option<u64>,
    /// When it was cosigned, by the given key.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosigned: Option<Timestamp>,
    incarnations: u64,
    /// What was pruned, and the first record that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<Pruned>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Timestamp>,
}

/// What a log says of records that are not there.
#[derive(Serialize)]
struct Pruned {
    /// The first record that is there.
    present_from: u64,
    /// Records before this one may be missing.
    before: u64,
    /// The record that says so.
    record: u64,
    at: Timestamp,
    policy: String,
}

/// A record whose proof holds.
#[derive(Serialize)]
struct Proven {
    verified: bool,
    file: PathBuf,
    /// The log that it is in.
    log: String,
    record: u64,
    kind: &'static str,
    time: Timestamp,
    /// Records under the checkpoint of the proof.
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cosigned: Option<Timestamp>,
    entry: serde_json::Value,
}

impl Verify {
    pub(in super::super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let against = self.remembered()?;
        let address = self.log.as_deref().and_then(Path::to_str).filter(|text| remote::is_address(text));
        if let Some(address) = address {
            let copy = remote::copy(address, self.key.as_ref()).await?;
            return self.check(context, copy.path(), address.into(), against);
        }
        match &self.log {
            Some(file) if file.is_file() => proof(context, file, self.key.as_ref(), self.cosigner.as_ref(), against),
            _ => {
                let log = Log { directory: self.log.clone(), control: self.control }.directory(context)?;
                self.check(context, &log, log.clone(), against)
            }
        }
    }

    fn remembered(&self) -> Result<Option<TreeHead>, Failure> {
        let (Some(key), Some(file)) = (&self.key, &self.against) else { return Ok(None) };
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", file.display()));
        let note = read(file, MAX_CHECKPOINT_BYTES)?;
        Ok(Some(Checkpoint::verify(&note, key).map_err(|error| wrong(&error))?.head))
    }

    fn check(
        &self,
        context: &Context,
        log: &Path,
        shown_as: PathBuf,
        against: Option<TreeHead>,
    ) -> Result<Exit, Failure> {
        let options = VerifyOptions { key: self.key.clone(), against, cosigner: self.cosigner.clone() };
        let verified = shown(shown_as, &verify::verify(log, &options)?);
        context.output.answer(&verified, || details(&verified))?;
        Ok(Exit::Done)
    }
}

fn read(file: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(max.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= max) {
        return Ok(bytes);
    }
    Err(Failure::usage(format!("{}: longer than {max} bytes", file.display())))
}

/// A proof verifies alone: with the file and a key, and without the log.
fn proof(
    context: &Context,
    file: &Path,
    key: Option<&VerifierKey>,
    cosigner: Option<&CosignerKey>,
    against: Option<TreeHead>,
) -> Result<Exit, Failure> {
    if key.is_none() && cosigner.is_none() {
        return Err(Failure::usage(
            "a proof is verified with a key that you trust: give the log's with --key (`vkey` of its log.json), the \
             control plane's with --cosigner, or both",
        ));
    }
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::VerificationFailed, format!("verification failed: {}: {error}", file.display()))
    };
    let text = read(file, u64::try_from(MAX_PROOF_BYTES).unwrap_or(u64::MAX))?;
    let text = String::from_utf8(text).map_err(|_| failed(&"not a proof: not UTF-8"))?;
    let proof: TlogProof = text.parse().map_err(|error| failed(&error))?;
    let proven = proof.verify(key, cosigner).map_err(|error| failed(&error))?;
    let head = proven.checkpoint.head;
    match against {
        Some(known) if known.size == head.size && known.root != head.root => {
            return Err(failed(&"its checkpoint contradicts the remembered one: the log has two histories"));
        }
        Some(known) if known.size != head.size => {
            return Err(Failure::usage(format!(
                "the proof is under a checkpoint of {} records and the remembered one is of {}: whether one grew from \
                 the other shows only the log itself",
                head.size, known.size
            )));
        }
        Some(_) | None => {}
    }
    let answer = Proven {
        verified: true,
        file: file.to_owned(),
        log: proven.checkpoint.origin.to_string(),
        record: proof.index,
        kind: proven.entry.event.kind().as_str(),
        time: proven.entry.time,
        size: head.size,
        cosigned: proven.cosigned,
        entry: serde_json::from_slice(&proof.record).map_err(|error| failed(&error))?,
    };
    context.output.answer(&answer, || {
        let now = SystemClock.now();
        Human::Parts(vec![
            Human::Lines(vec![format!("verified: record {} is in the log {}", answer.record, answer.log)]),
            Human::Details(vec![
                ("record", format!("{}: {}", answer.kind, super::summary::of(&proven.entry.event))),
                ("time", both(answer.time, now)),
                ("checkpoint", format!("{} records", answer.size)),
                ("cosigned", answer.cosigned.map_or("not asked (give --cosigner)".to_owned(), |at| both(at, now))),
            ]),
        ])
    })?;
    Ok(Exit::Done)
}

fn shown(log: PathBuf, report: &Report) -> Verified {
    use base64::Engine as _;
    Verified {
        verified: true,
        log,
        key: report.key.to_string(),
        size: report.checkpoint.size,
        root: base64::engine::general_purpose::STANDARD.encode(report.checkpoint.root.0),
        records: report.records,
        past_checkpoint: report.past_checkpoint,
        open_intents: report.open_intents,
        in_flight_bytes: report.in_flight_bytes,
        cosigned_size: report.cosigned.map(|(size, _)| size),
        cosigned: report.cosigned.and_then(|(_, at)| at),
        incarnations: report.incarnations,
        pruned: report.pruned.as_ref().map(|(first, horizon)| Pruned {
            present_from: *first,
            before: horizon.before,
            record: horizon.seq,
            at: horizon.at,
            policy: horizon.policy.clone(),
        }),
        from: report.times.map(|(from, _)| from),
        to: report.times.map(|(_, to)| to),
    }
}

fn details(verified: &Verified) -> Human {
    let now = SystemClock.now();
    let at = |time: Option<Timestamp>| time.map(|at| both(at, now)).unwrap_or_default();
    Human::Parts(vec![
        Human::Lines(vec![format!("verified: {} records, nothing changed, dropped or reordered", verified.records)]),
        Human::Details(vec![
            ("log", verified.log.display().to_string()),
            ("key", verified.key.clone()),
            ("checkpoint", format!("{} records, root {}", verified.size, verified.root)),
            ("cosigned", cosigned(verified, now)),
            ("since then", format!("{} records", verified.past_checkpoint)),
            ("pruned", pruned(verified, now)),
            ("open calls", verified.open_intents.to_string()),
            ("opened", format!("{} times", verified.incarnations)),
            ("first record", at(verified.from)),
            ("last record", at(verified.to)),
        ]),
    ])
}

/// From where on records are present, and by whose word.
fn pruned(verified: &Verified, now: Timestamp) -> String {
    match &verified.pruned {
        None => "nothing".to_owned(),
        Some(it) => format!(
            "records are present from {} on; those before {} may be gone: `{}`, {}, in record {}",
            it.present_from,
            it.before,
            it.policy.escape_default(),
            both(it.at, now),
            it.record
        ),
    }
}

/// How much of it the control plane cosigned: by the kept checkpoint's word, or by the cosigner's where its key is given.
fn cosigned(verified: &Verified, now: Timestamp) -> String {
    match (verified.cosigned_size, verified.cosigned) {
        (None, _) => "not yet".to_owned(),
        (Some(size), Some(at)) => format!("{size} records, {}", both(at, now)),
        (Some(size), None) => format!("{size} records (give --cosigner to check by whom)"),
    }
}

impl From<verify::Failure> for Failure {
    fn from(failure: verify::Failure) -> Self {
        let text = match failure.record() {
            // The texts of places name it already; those of tiles and cuts only in passing.
            Some(record) => format!("verification failed at record {record}: {failure}"),
            None => format!("verification failed: {failure}"),
        };
        Self::new(Exit::VerificationFailed, text)
    }
}
