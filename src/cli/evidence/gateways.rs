//! `evidence query` and `tail` over the control plane: every gateway's records in the order of their times, how far each
//! answer goes, and who did not answer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::escaped;
use super::summary;
use crate::client::Client;
use crate::domain::Timestamp;
use crate::evidence::entry::Entry;
use crate::wire::answers::GatewayStanding;
use crate::wire::v1;

/// How often `tail --follow` asks for more.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A record and whose it is.
#[derive(Serialize)]
struct Line<'l> {
    gateway: &'l str,
    record: &'l Value,
}

/// The last line of an answer.
#[derive(Serialize)]
struct Summary {
    gateways: Vec<GatewayStanding>,
}

fn line(standing: &GatewayStanding) -> String {
    let gateway = &standing.gateway;
    let whose = if standing.copy { " (the copy that the control plane has: it did not answer itself)" } else { "" };
    match (&standing.missing, standing.reached.zip(standing.size)) {
        (None, Some((reached, size))) if reached == size => {
            format!("{gateway}: all of its {size} records were asked{whose}")
        }
        (None, Some((reached, size))) => {
            format!(
                "{gateway}: the answer ends before record {reached} of {size}{whose}: narrow the question (--from, --to)"
            )
        }
        (missing, _) => {
            let why = missing.as_deref().unwrap_or("it did not answer");
            format!("{gateway}: MISSING: {why}; last heard {}", standing.heard)
        }
    }
}

/// What was heard of one round of questions.
struct Round {
    /// By time, then gateway and position.
    records: Vec<(Timestamp, String, u64, Vec<u8>)>,
    standing: Vec<GatewayStanding>,
}

async fn ask(client: &mut Client, request: v1::QueryEvidenceRequest) -> Result<Round, Failure> {
    let mut round = Round { records: Vec::new(), standing: Vec::new() };
    let mut answers = client.query_evidence(request).await?;
    while let Some(answer) = answers.next().await? {
        round.standing.push(GatewayStanding::of(&answer));
        for record in answer.records {
            // What is no entry stands at the end: it is shown, and named as what it is.
            let (seq, time) = Entry::place(&record).unwrap_or((u64::MAX, Timestamp::from_unix_micros(i64::MAX)));
            round.records.push((time, answer.gateway.clone(), seq, record));
        }
    }
    round.records.sort();
    round.standing.sort_by(|a, b| a.gateway.cmp(&b.gateway));
    Ok(round)
}

fn show(context: &Context, round: &Round) -> Result<(), Failure> {
    for (_, gateway, _, bytes) in &round.records {
        let damaged = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::VerificationFailed, format!("{gateway} answered with what is no record: {error}"))
        };
        let record: Value = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        let entry = Entry::parse(bytes).map_err(|error| damaged(&error))?;
        context.output.element(&Line { gateway, record: &record }, || {
            let kind = entry.event.kind().as_str();
            let text = summary::of(&entry.event);
            escaped(&format!("{gateway:<12}  {:>8}  {}  {kind:<13}  {text}", entry.seq, entry.time))
        })?;
    }
    Ok(())
}

fn sum_up(context: &Context, standing: &[GatewayStanding]) -> Result<(), Failure> {
    let summary = Summary { gateways: standing.to_vec() };
    context.output.element(&summary, || {
        let lines: Vec<String> = summary.gateways.iter().map(|it| escaped(&line(it))).collect();
        format!("-- {}", lines.join("\n-- "))
    })
}

/// Asks once. Unavailable when a gateway's part is missing or was cut short.
pub(super) async fn query(context: &Context, request: v1::QueryEvidenceRequest) -> Result<Exit, Failure> {
    let round = ask(&mut context.client().await?, request).await?;
    show(context, &round)?;
    sum_up(context, &round.standing)?;
    Ok(if round.standing.iter().all(GatewayStanding::is_whole) { Exit::Done } else { Exit::Unavailable })
}

/// The last records of every log, and those that come.
pub(super) async fn tail(
    context: &Context,
    mut request: v1::QueryEvidenceRequest,
    follow: bool,
) -> Result<Exit, Failure> {
    let mut client = context.client().await?;
    let mut told: BTreeMap<String, bool> = BTreeMap::new();
    loop {
        let round = ask(&mut client, request.clone()).await?;
        show(context, &round)?;
        for standing in &round.standing {
            // Who is missing is asked from where its last answer ended, when it is back.
            if let Some(reached) = standing.reached {
                request.after.insert(standing.gateway.clone(), reached);
            }
        }
        if !follow {
            sum_up(context, &round.standing)?;
            let is_there = round.standing.iter().all(|standing| standing.missing.is_none());
            return Ok(if is_there { Exit::Done } else { Exit::Unavailable });
        }
        // Said when it changes, not once a second.
        let there = |standing: &GatewayStanding| (standing.gateway.clone(), standing.missing.is_none());
        let changed = |it: &&GatewayStanding| told.get(&it.gateway).is_none_or(|was| *was != it.missing.is_none());
        let news: Vec<GatewayStanding> = round.standing.iter().filter(changed).cloned().collect();
        if !news.is_empty() {
            sum_up(context, &news)?;
        }
        told = round.standing.iter().map(there).collect();
        // Without a pause where an answer was cut short.
        if round.standing.iter().all(|standing| standing.missing.is_some() || standing.is_whole()) {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}
