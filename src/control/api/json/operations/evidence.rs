//! Questions about every gateway's evidence: the records stay where they are.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::super::problem::Problem;
use super::super::shapes::{EvidenceQuestion, EvidenceTail};
use super::super::{Operation, Received, Served, Takes, Verb};
use crate::domain::Timestamp;
use crate::domain::resource::Span;
use crate::evidence::entry::Entry;
use crate::wire::answers::{EvidenceAnswer, Followed, GatewayRecord, GatewayStanding};
use crate::wire::v1;
use v1::evidence_server::Evidence as _;

/// Bytes of records in one answer. What is beyond is asked for with `after`, as each gateway's standing says.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Longest wait for a record.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The code of a question that found no place.
const LIMIT: &str = "limit";
/// How often gateways are asked meanwhile.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Every operation on it.
pub(super) fn all() -> Vec<Operation> {
    let query = (
        "queryEvidence",
        "Asks gateways what they recorded: records by time, how far each answer goes, and whose part is missing. It is what \
         gateways say; to be sure, verify their logs.",
    );
    let tail = ("tailEvidence", "The last records of every gateway, or those since the answer before.");
    vec![
        Operation::new(
            Verb::Post,
            "/v1/evidence/query",
            query,
            Takes::Body,
            |served, it: Received<EvidenceQuestion>| async move {
                let (it, input) = it.split();
                ask(&served, &it, input.into()).await
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/evidence/tail",
            tail,
            Takes::Body,
            |served, it: Received<EvidenceTail>| async move {
                let (it, input) = it.split();
                let wait = input.wait.map_or(Duration::ZERO, Span::duration);
                if wait > MAX_WAIT {
                    return Err(Problem::invalid("wait: at most 1m".to_owned()));
                }
                let mut question: v1::QueryEvidenceRequest = input.into();
                let until = tokio::time::Instant::now() + wait;
                let mut before: Option<EvidenceAnswer> = None;
                let mut followed = Followed::from(std::mem::take(&mut question.after));
                loop {
                    question.after = followed.after().collect();
                    let answer = match (ask(&served, &it, question.clone()).await, before) {
                        // Others have all places just now: for who waits anyhow, nothing has come.
                        (Err(problem), Some(before)) if problem.code() == LIMIT => before,
                        (answer, _) => news(answer?, &mut followed),
                    };
                    let next = tokio::time::Instant::now() + ASK_EVERY;
                    if !answer.records.is_empty() || next > until {
                        return Ok(answer);
                    }
                    before = Some(answer);
                    // Without a place: others may ask meanwhile.
                    tokio::time::sleep_until(next).await;
                }
            },
        ),
    ]
}

async fn ask(
    served: &Served,
    it: &Received<()>,
    question: v1::QueryEvidenceRequest,
) -> Result<EvidenceAnswer, Problem> {
    let mut answers = served.evidence.query(it.message(question)).await?.into_inner();
    let (mut records, mut gateways, mut bytes) = (Vec::new(), Vec::new(), 0);
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        let mut standing = GatewayStanding::of(&answer);
        let Read { taken, size, ends, damaged } = read(&answer, MAX_ANSWER_BYTES - bytes);
        // What comes behind a record that is none was not told, whatever the answer says.
        let good = taken.last().map(|((_, _, seq), _)| seq.saturating_add(1));
        standing.reached = if damaged.is_some() { good } else { ends.or(standing.reached) };
        standing.damaged = damaged;
        bytes += size;
        records.extend(taken);
        gateways.push(standing);
    }
    records.sort_by(|(one, ..), (other, ..): &(Key, GatewayRecord)| one.cmp(other));
    gateways.sort_by(|one, other| one.gateway.cmp(&other.gateway));
    let whole = gateways.iter().all(GatewayStanding::is_whole);
    Ok(EvidenceAnswer { records: records.into_iter().map(|(_, record)| record).collect(), gateways, whole })
}

/// By time, then gateway and position.
type Key = (Timestamp, String, u64);

struct Read {
    taken: Vec<(Key, GatewayRecord)>,
    size: usize,
    /// The first record that there was no room for.
    ends: Option<u64>,
    /// The first that is none, and why: those before it are taken.
    damaged: Option<String>,
}

/// As many records of a gateway's answer as there is room for, up to its first that is none.
fn read(answer: &v1::GatewayEvidence, room: usize) -> Read {
    let mut read = Read { taken: Vec::new(), size: 0, ends: None, damaged: None };
    let damaged = |error: &dyn std::fmt::Display| format!("it answered with what is no record: {error}");
    for bytes in &answer.records {
        let entry = match Entry::parse(bytes) {
            Ok(entry) => entry,
            Err(error) => {
                read.damaged = Some(damaged(&error));
                break;
            }
        };
        if read.size + bytes.len() > room {
            read.ends = Some(entry.seq);
            break;
        }
        let record = match serde_json::from_slice(bytes) {
            Ok(record) => record,
            Err(error) => {
                read.damaged = Some(damaged(&error));
                break;
            }
        };
        read.size += bytes.len();
        let gateway = answer.gateway.clone();
        read.taken.push(((entry.time, gateway.clone(), entry.seq), GatewayRecord { gateway, record }));
    }
    read
}

/// What of an answer is news to whoever follows, and where they go on: in a log that is new, with its beginning.
fn news(mut answer: EvidenceAnswer, followed: &mut Followed) -> EvidenceAnswer {
    for standing in &mut answer.gateways {
        let begins = followed.take(standing);
        let seq = |record: &GatewayRecord| record.record.get("seq").and_then(serde_json::Value::as_u64);
        let is_news = |it: &GatewayRecord| begins.is_some_and(|from| seq(it) >= Some(from));
        answer.records.retain(|it| it.gateway != standing.gateway || is_news(it));
        if standing.reached.is_some() {
            standing.reached = followed.reached(&standing.gateway);
        }
    }
    answer.whole = answer.gateways.iter().all(GatewayStanding::is_whole);
    answer
}
