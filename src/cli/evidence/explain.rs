//! `portcullis evidence explain`: one thing's whole story, with the logs that tell it verified.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::Log as LogOf;
use crate::domain::name::GrantId;
use crate::evidence::explain::{self, ApprovalStory, GrantStory, Log, Story};
use crate::evidence::storage::DiskStorage;
use crate::evidence::tlog_proof::EXTENSION;
use crate::evidence::verify::{self, VerifyOptions};
use crate::files;

#[derive(Debug, Args)]
pub(in super::super) struct Explain {
    /// A call, a grant, a request, a change, an approval or a break-glass
    id: GrantId,
    /// The control plane's log; that of the dev directory if not given
    #[arg(long, value_name = "LOG")]
    control_log: Option<PathBuf>,
    /// A gateway's log; may be repeated; that of the dev directory's gateway if not given
    #[arg(long, value_name = "LOG")]
    gateway_log: Vec<PathBuf>,
    /// Each record with the proof that it is in its log, so that the story can be checked without the logs: in `-o json`, or
    /// as files with --to
    #[arg(long)]
    proof: bool,
    /// Where the proofs go, LOG-RECORD.tlog-proof each
    #[arg(long, value_name = "DIR", requires = "proof")]
    to: Option<PathBuf>,
}

/// A log that was verified.
#[derive(Serialize)]
pub(super) struct Proof {
    log: String,
    /// Records under the signed checkpoint.
    size: u64,
    /// Their root, base64.
    root: String,
    /// The key that signed.
    key: String,
    /// Records that no checkpoint covers yet.
    past_checkpoint: u64,
    /// Records before this one were pruned: what they told is not in the story.
    #[serde(skip_serializing_if = "Option::is_none")]
    present_from: Option<u64>,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    story: Story,
    proofs: Vec<Proof>,
}

impl Explain {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        let control = LogOf { directory: self.control_log, control: true }.directory(context)?;
        let mut gateways = self.gateway_log;
        if gateways.is_empty() {
            gateways.push(LogOf { directory: None, control: false }.directory(context)?);
        }
        let mut proofs = Vec::new();
        for log in std::iter::once(&control).chain(&gateways) {
            proofs.push(proof(log)?);
        }
        let gateways: Vec<Log> = gateways.iter().map(|path| log(path)).collect();
        let control = log(&control);
        let story = explain::explain(self.id.bits(), &control, &gateways)?;
        let Some(mut story) = story else {
            return Err(Failure::new(Exit::NotFound, format!("no record of these logs names {}", self.id)));
        };
        if self.proof {
            let logs: Vec<&Log> = std::iter::once(&control).chain(&gateways).collect();
            explain::prove(&mut story, &logs)?;
            if let Some(directory) = &self.to {
                write(&story, &logs, directory)?;
            }
        }
        let answer = Answer { story, proofs };
        context.output.answer(&answer, || shown(&answer))?;
        Ok(Exit::Done)
    }
}

pub(super) fn log(path: &Path) -> Log {
    Log { name: path.display().to_string(), storage: Arc::new(DiskStorage::read_only(path)) }
}

pub(super) fn proof(log: &Path) -> Result<Proof, Failure> {
    use base64::Engine as _;
    let report = verify::verify(log, &VerifyOptions::default())?;
    Ok(Proof {
        log: log.display().to_string(),
        size: report.checkpoint.size,
        root: base64::engine::general_purpose::STANDARD.encode(report.checkpoint.root.0),
        key: report.key.to_string(),
        past_checkpoint: report.past_checkpoint,
        present_from: report.pruned.map(|(from, _)| from),
    })
}

/// A file for each proof, named for the log's place among those that were read, and the record.
fn write(story: &Story, logs: &[&Log], directory: &Path) -> Result<(), Failure> {
    for line in &story.timeline {
        let Some(proof) = &line.proof else { continue };
        let place = logs.iter().position(|log| log.name == line.log).unwrap_or_default();
        let log = if place == 0 { "control".to_owned() } else { format!("gateway{place}") };
        let file = directory.join(format!("{log}-{}.{EXTENSION}", line.seq));
        files::write(&file, proof.as_bytes(), files::PRIVATE)
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", file.display())))?;
    }
    Ok(())
}

/// That a log was verified, in words.
pub(super) fn proven(proof: &Proof) -> String {
    let Proof { log, size, past_checkpoint, .. } = proof;
    let pruned = proof.present_from.map_or_else(String::new, |from| {
        format!("; what was recorded before record {from} was pruned and is not told here")
    });
    format!("verified: {log}: {size} records under its signed checkpoint, {past_checkpoint} after it{pruned}")
}

/// A record as a line names it, and whether it is proven.
fn recorded(line: &explain::Line) -> String {
    let proven = if line.proof.is_some() { ", proven" } else { "" };
    let not = if line.unproven.is_some() { ", not proven" } else { "" };
    format!("record {}{proven}{not}", line.seq)
}

fn shown(answer: &Answer) -> Human {
    let story = &answer.story;
    let kind = match story.subject {
        explain::Subject::Call => "call",
        explain::Subject::Grant => "grant",
        explain::Subject::Request => "request",
        explain::Subject::Approval => "approval",
        explain::Subject::Change => "change",
        explain::Subject::BreakGlass => "break-glass",
    };
    let mut parts = vec![Human::Lines(vec![format!("{kind} {}", story.id)]), Human::Details(asked(story))];
    if !story.approvals.is_empty() {
        parts.push(Human::Lines(story.approvals.iter().flat_map(approved).collect()));
    }
    parts.extend(story.grants.iter().map(|grant| Human::Lines(granted(grant))));
    let row = |line: &explain::Line| {
        let at = crate::domain::Timestamp::from_unix_seconds(line.at.unix_seconds());
        vec![at.to_string(), line.who.clone(), line.what.clone(), line.text.clone(), recorded(line)]
    };
    parts.push(Human::Table {
        headers: &["AT", "WHO", "WHAT", "", "EVIDENCE"],
        rows: story.timeline.iter().map(row).collect(),
        empty: "",
    });
    parts.push(Human::Lines(answer.proofs.iter().map(proven).collect()));
    let unproven = story.timeline.iter().filter_map(|line| Some((line, line.unproven.as_ref()?)));
    parts.push(Human::Lines(unproven.map(|(line, why)| format!("not proven: {}: {why}", line.log)).collect()));
    Human::Parts(parts)
}

/// Of a change: who wanted it, and whose word it took.
fn changed(change: &serde_json::Value) -> Vec<(&'static str, String)> {
    let text = |pointer: &str| change.pointer(pointer).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
    let list = |pointer: &str, keys: &[&str]| {
        let items = change.pointer(pointer).and_then(|it| it.as_array()).into_iter().flatten();
        let of = |it: &serde_json::Value| {
            let parts = keys.iter().filter_map(|key| it.get(key).and_then(|it| it.as_str()));
            parts.collect::<Vec<_>>().join(" ")
        };
        items.map(of).collect::<Vec<_>>().join(", ")
    };
    vec![
        ("change", text("/id")),
        ("state", text("/state")),
        ("proposed by", text("/author")),
        ("reason", text("/reason")),
        ("of", list("/objects", &["kind", "name", "change"])),
        (
            "policy",
            change.get("version").filter(|it| !it.is_null()).map(|it| format!("version {it}")).unwrap_or_default(),
        ),
        ("approved by", list("/approvals", &["by"])),
        ("settled", text("/settled/reason")),
    ]
}

/// Of a break-glass: who opened it, how they proved who they are, and what its review came to.
fn broken(it: &serde_json::Value) -> Vec<(&'static str, String)> {
    let text = |pointer: &str| it.pointer(pointer).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
    let list = |pointer: &str| {
        let items = it.pointer(pointer).and_then(|it| it.as_array()).into_iter().flatten();
        items.filter_map(|it| it.as_str()).collect::<Vec<_>>().join(", ")
    };
    let review = match it.get("review") {
        Some(_) => format!("{} by {}: {}", text("/review/verdict"), text("/review/by"), text("/review/comment")),
        None => format!("open, due {}", text("/due")),
    };
    let closed = it.get("closed").map(|_| format!("by {}: {}", text("/closed/by"), text("/closed/reason")));
    let besides = it.get("concerned_besides").map(|more| format!(", and {more} more")).unwrap_or_default();
    vec![
        ("break-glass", text("/id")),
        ("opened by", text("/opener")),
        ("signed in", format!("{} at {}", text("/signed_in/at"), text("/signed_in/issuer"))),
        ("identity", text("/ask/identity")),
        ("reason", text("/ask/reason")),
        ("for", text("/ask/duration")),
        ("policy", it.get("policy").map(|version| format!("version {version}")).unwrap_or_default()),
        ("rules", list("/rules")),
        ("concerned", format!("{}{besides}", list("/concerned"))),
        ("closed", closed.unwrap_or_default()),
        ("review", review),
    ]
}

fn asked(story: &Story) -> Vec<(&'static str, String)> {
    if let Some(it) = &story.break_glass {
        return broken(it);
    }
    if let Some(change) = &story.change {
        return changed(change);
    }
    let Some(request) = &story.request else {
        let by = story.grants.first().and_then(|grant| grant.made.as_ref());
        let of =
            |pointer: &str| by.and_then(|made| made.pointer(pointer)).and_then(|it| it.as_str()).unwrap_or_default();
        let Some(lineage) = by.and_then(|made| made.get("lineage")) else { return Vec::new() };
        if let Some(origin) = lineage.get("origin") {
            let asked = origin.get("request").and_then(|it| it.as_str()).unwrap_or_default();
            return vec![("request", format!("{asked}, of which this log has no record"))];
        }
        return vec![
            ("made by hand", format!("by {}, without a request", of("/lineage/created_by"))),
            ("reason", of("/lineage/reason").to_owned()),
        ];
    };
    let text = |pointer: &str| request.pointer(pointer).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
    let list = |pointer: &str, key: &str| {
        let items = request.pointer(pointer).and_then(|it| it.as_array()).into_iter().flatten();
        items.map(|it| it.get(key).unwrap_or(it).as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>().join(", ")
    };
    let requester = request.get("requester").and_then(|it| it.as_object()).and_then(|it| it.values().next().cloned());
    let published = story.policy.as_ref().map(|policy| {
        let of = |key: &str| policy.get(key).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
        let change = policy.get("change").and_then(|it| it.as_str()).map(|id| format!(", as change {id}"));
        format!(", published by {}{}: {}", of("by"), change.unwrap_or_default(), of("reason"))
    });
    let version = request.pointer("/analysis/policy").map(ToString::to_string).unwrap_or_default();
    vec![
        ("request", text("/id")),
        ("state", text("/state")),
        ("requested by", requester.and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default()),
        ("identity", text("/ask/identity")),
        ("reason", text("/ask/reason")),
        ("ticket", text("/ask/ticket")),
        ("for", text("/ask/duration")),
        ("policy", format!("version {version}{}", published.unwrap_or_default())),
        ("rules", list("/analysis/rules", "")),
        ("findings", list("/analysis/findings", "text")),
        ("approved by", list("/approvals", "by")),
        ("settled", text("/settled/reason")),
    ]
}

fn approved(approval: &ApprovalStory) -> Vec<String> {
    let ApprovalStory { id, by, enforced, without_effect } = approval;
    let none = without_effect.iter().map(|why| format!("approval {id} by {by} had no effect: {why}"));
    let first = |(log, revision): (&String, &u64)| {
        format!("approval {id} by {by} was enforced from revision {revision} on, by {log}")
    };
    none.chain(enforced.iter().map(first)).collect()
}

fn granted(grant: &GrantStory) -> Vec<String> {
    let of = |pointer: &str| {
        grant
            .made
            .as_ref()
            .and_then(|made| made.pointer(pointer))
            .and_then(|it| it.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let ended = grant.ended.as_ref().map(|how| format!(", {how}")).unwrap_or_default();
    let calls = &grant.calls;
    let mut lines = vec![format!(
        "grant {} on {} from {} until {}{ended}",
        grant.id,
        of("/resource"),
        of("/window/starts"),
        of("/window/ends")
    )];
    if calls.enforced.is_empty() {
        lines.push("  no gateway of these logs has decided on it: it has had no effect".to_owned());
    }
    for (log, revision) in &calls.enforced {
        lines.push(format!("  enforced by {log}, first on revision {revision}"));
    }
    lines.push(format!("  {} calls allowed, {} cut", calls.count, calls.cut));
    lines
}
