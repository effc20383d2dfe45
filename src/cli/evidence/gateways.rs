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
use crate::wire::answers::{Followed, GatewayStanding};
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
    if let Some(why) = &standing.damaged {
        return format!("{}: DAMAGED: it answered with what is no record: {why}", standing.gateway);
    }
    let gateway = &standing.gateway;
    let whose = if standing.copy { " (the copy that the control plane has: it did not answer itself)" } else { "" };
    match (&standing.missing, standing.reached.zip(standing.size)) {
        (None, Some((reached, size))) if reached >= size => match standing.present_from {
            None => format!("{gateway}: all of its {size} records were asked{whose}"),
            Some(from) => format!(
                "{gateway}: all that is there of its {size} records was asked{whose}: those before {from} were pruned"
            ),
        },
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

/// A record of a gateway.
struct Told {
    gateway: String,
    entry: Entry,
    record: Value,
}

/// What was heard of one round of questions.
struct Round {
    /// By time, then gateway and position.
    records: Vec<Told>,
    standing: Vec<GatewayStanding>,
}

impl Told {
    fn place(&self) -> (Timestamp, &str, u64) {
        (self.entry.time, &self.gateway, self.entry.seq)
    }
}

impl Round {
    /// Takes a gateway's answer, up to its first record that is none: the others' stand, whatever one of them says.
    fn take(&mut self, answer: v1::GatewayEvidence) {
        let mut standing = GatewayStanding::of(&answer);
        let mut good = None;
        for (at, bytes) in answer.records.iter().enumerate() {
            let read = Entry::parse(bytes).map_err(|error| error.to_string());
            let record = serde_json::from_slice(bytes).map_err(|error| error.to_string());
            match (read, record) {
                (Ok(entry), Ok(record)) => {
                    good = Some(entry.seq.saturating_add(1));
                    self.records.push(Told { gateway: answer.gateway.clone(), entry, record });
                }
                (Err(why), _) | (_, Err(why)) => {
                    let named = Entry::place(bytes).map(|(seq, _)| format!("record {seq}: {why}"));
                    // Those from there on were not told, whatever the answer says.
                    standing.reached = good;
                    standing.damaged =
                        Some(named.unwrap_or_else(|| format!("the record at place {at} of its answer: {why}")));
                    break;
                }
            }
        }
        self.standing.push(standing);
    }

    /// Leaves what is news to whoever follows, and says whether to ask for more at once: where an answer was cut short and
    /// told something. What a gateway says of its size alone makes nobody ask without a pause.
    fn follow(&mut self, followed: &mut Followed) -> bool {
        let begins: BTreeMap<String, Option<u64>> =
            self.standing.iter().map(|it| (it.gateway.clone(), followed.take(it))).collect();
        let begin = |gateway: &String| begins.get(gateway).copied().flatten();
        self.records.retain(|it| begin(&it.gateway).is_some_and(|from| it.entry.seq >= from));
        let is_cut = |it: &GatewayStanding| it.missing.is_none() && it.damaged.is_none() && !it.is_whole();
        self.standing.iter().filter(|it| is_cut(it)).any(|it| {
            followed.reached(&it.gateway) > begin(&it.gateway)
                && self.records.iter().any(|told| told.gateway == it.gateway)
        })
    }

    /// Whose answers are no records, and where.
    fn damage(&self) -> Option<Failure> {
        let said = |it: &GatewayStanding| {
            it.damaged.as_ref().map(|why| format!("{} answered with what is no record: {why}", it.gateway))
        };
        let all: Vec<String> = self.standing.iter().filter_map(said).collect();
        (!all.is_empty()).then(|| Failure::new(Exit::VerificationFailed, all.join("; ")))
    }
}

async fn ask(client: &mut Client, request: v1::QueryEvidenceRequest) -> Result<Round, Failure> {
    let mut round = Round { records: Vec::new(), standing: Vec::new() };
    let mut answers = client.query_evidence(request).await?;
    while let Some(answer) = answers.next().await? {
        round.take(answer);
    }
    round.records.sort_by(|a, b| a.place().cmp(&b.place()));
    round.standing.sort_by(|a, b| a.gateway.cmp(&b.gateway));
    Ok(round)
}

fn show(context: &Context, round: &Round) -> Result<(), Failure> {
    for Told { gateway, entry, record } in &round.records {
        context.output.element(&Line { gateway, record }, || {
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

/// Asks once. Unavailable when a gateway's part is missing or was cut short; what is no record fails last, when everything
/// else is told.
pub(super) async fn query(context: &Context, request: v1::QueryEvidenceRequest) -> Result<Exit, Failure> {
    let round = ask(&mut context.client().await?, request).await?;
    show(context, &round)?;
    sum_up(context, &round.standing)?;
    if let Some(damage) = round.damage() {
        return Err(damage);
    }
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
    let mut followed = Followed::from(std::mem::take(&mut request.after));
    loop {
        request.after = followed.after().collect();
        let mut round = match ask(&mut client, request.clone()).await {
            // Others have all places just now: who follows waits for the next round.
            Err(failure) if !told.is_empty() && failure.reason.as_deref() == Some("limit") => {
                tokio::time::sleep(ASK_EVERY).await;
                continue;
            }
            round => round?,
        };
        // Who is missing is asked from where its last answer ended, when it is back.
        let goes_on = round.follow(&mut followed);
        show(context, &round)?;
        if !follow {
            sum_up(context, &round.standing)?;
            if let Some(damage) = round.damage() {
                return Err(damage);
            }
            let is_there = round.standing.iter().all(|standing| standing.missing.is_none());
            return Ok(if is_there { Exit::Done } else { Exit::Unavailable });
        }
        // Said when it changes, not once a second.
        let is_there = |it: &GatewayStanding| it.missing.is_none() && it.damaged.is_none();
        let there = |standing: &GatewayStanding| (standing.gateway.clone(), is_there(standing));
        let changed = |it: &&GatewayStanding| told.get(&it.gateway).is_none_or(|was| *was != is_there(it));
        let news: Vec<GatewayStanding> = round.standing.iter().filter(changed).cloned().collect();
        if !news.is_empty() {
            sum_up(context, &news)?;
        }
        told = round.standing.iter().map(there).collect();
        if !goes_on {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::entry::{TokenRevoked, encode_body, encode_suffix};

    fn record(seq: u64) -> Vec<u8> {
        let call = crate::domain::name::CallId::from_bits(9);
        let mut bytes = Vec::new();
        encode_body(&TokenRevoked { call, jti: "a".into(), by: "b".into() }, "portcullis/gateway/edge", &mut bytes);
        encode_suffix(seq, 1_800_000_000_000_000, &mut bytes);
        bytes
    }

    fn answer(gateway: &str, records: Vec<Vec<u8>>) -> v1::GatewayEvidence {
        let size = records.len() as u64;
        v1::GatewayEvidence { gateway: gateway.into(), records, reached: size, size, ..v1::GatewayEvidence::default() }
    }

    #[test]
    fn what_is_no_record_is_named_and_keeps_nobodys_records_back() {
        let mut round = Round { records: Vec::new(), standing: Vec::new() };
        round.take(answer("edge", vec![record(0), record(1)]));
        assert!(round.damage().is_none());
        let mut other = String::from_utf8(record(1)).unwrap();
        other = other.replace("token_revoked", "something_else");
        round.take(answer("far", vec![record(0), other.into_bytes(), record(2)]));
        round.take(answer("near", vec![b"{".to_vec()]));
        let told: Vec<_> = round.records.iter().map(|it| (it.gateway.as_str(), it.entry.seq)).collect();
        assert_eq!(told, [("edge", 0), ("edge", 1), ("far", 0)]);
        let damage = round.damage().unwrap();
        let text = damage.message;
        assert!(text.contains("far answered with what is no record: record 1: "), "{text}");
        assert!(text.contains("near answered with what is no record: the record at place 0"), "{text}");
        let pruned = v1::GatewayEvidence { present_from: Some(1), ..answer("edge", vec![record(0), record(1)]) };
        let told = line(&GatewayStanding::of(&pruned));
        assert_eq!(told, "edge: all that is there of its 2 records was asked: those before 1 were pruned");
        let [edge, far, near] = &round.standing[..] else { panic!("three") };
        assert!(edge.is_whole() && !far.is_whole() && !near.is_whole());
        assert!(line(far).contains("DAMAGED"));
    }

    #[test]
    fn who_follows_misses_nothing_of_a_new_log_or_behind_damage_and_is_told_nothing_twice() {
        let mut followed = Followed::default();
        let mut round = |answer: v1::GatewayEvidence| {
            let mut round = Round { records: Vec::new(), standing: Vec::new() };
            round.take(answer);
            let goes_on = round.follow(&mut followed);
            let told: Vec<u64> = round.records.iter().map(|it| it.entry.seq).collect();
            (told, followed.reached("edge"), goes_on)
        };
        let records = |from: u64, to: u64| (from..to).map(record).collect::<Vec<_>>();
        let of = |log: &str, records: Vec<Vec<u8>>, reached: u64, size: u64| v1::GatewayEvidence {
            log: log.into(),
            reached,
            size,
            ..answer("edge", records)
        };
        assert_eq!(round(of("a", records(0, 3), 3, 9)), (vec![0, 1, 2], Some(3), true));
        // A record that is none, among good ones: it is where the answer ends, also in the next round.
        let mut damaged = records(3, 9);
        damaged[2] = b"{".to_vec();
        assert_eq!(round(of("a", damaged, 9, 9)), (vec![3, 4], Some(5), false));
        assert_eq!(round(of("a", vec![b"{".to_vec()], 9, 9)), (vec![], Some(5), false));
        assert_eq!(round(of("a", records(5, 9), 9, 9)), (vec![5, 6, 7, 8], Some(9), false));
        // Its copy is behind, and then it is back.
        let copy = v1::GatewayEvidence { copy: true, ..of("a", vec![], 7, 7) };
        assert_eq!(round(copy), (vec![], Some(9), false));
        assert_eq!(round(of("a", records(7, 10), 10, 10)), (vec![9], Some(10), false));
        // A new log, of which the answer has the end.
        assert_eq!(round(of("b", records(10, 12), 12, 12)), (vec![], Some(0), false));
        assert_eq!(round(of("b", records(0, 12), 12, 12)).0, (0..12).collect::<Vec<_>>());
        // Who says for ever that there is more, and tells nothing, is asked with a pause.
        for reached in [12, 5, 20, u64::MAX - 1] {
            assert!(!round(of("b", vec![], reached, u64::MAX)).2, "{reached}");
        }
    }
}
