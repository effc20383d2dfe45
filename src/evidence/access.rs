//! The access log: one line for each call that is over, put together from the records of the evidence.
//!
//! A view and no second truth: nothing is written for it, and it says nothing that the log does not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

use super::entry::{Denial, Ended, Entry, Event, Intent, Outcome};
use crate::domain::name::CallId;
use crate::domain::{Reason, Timestamp};

/// Calls whose outcome is waited for. A log with more of them open at once shows the oldest without their beginning.
const MAX_OPEN: usize = 1 << 20;

/// A call that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessLine {
    /// When it ended, or was refused.
    pub time: Timestamp,
    /// The call.
    pub call: CallId,
    /// Who made it, when that is known.
    #[serde(flatten)]
    pub request: Option<Asked>,
    /// The status that the caller got, when an answer began before the end was recorded: a cut is told afterwards.
    pub status: Option<u16>,
    /// How it ended; `denied` when it never went on.
    pub ended: &'static str,
    /// Why it was refused, cut or failed.
    pub reason: Option<Reason>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// How long it took, in microseconds; of a denial nothing is known.
    pub duration_us: Option<u64>,
    /// The records that say so: the intent, when there was one, and the end.
    pub records: Vec<u64>,
}

/// What a caller asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Whose call it is: the identity, or the credential's name for a caller that is none.
    pub caller: Option<String>,
    /// HTTP method.
    pub method: String,
    /// Host, without port.
    pub host: String,
    /// Path, without query.
    pub path: String,
}

/// Puts lines together as records come.
#[derive(Debug, Default)]
pub struct AccessLog {
    open: BTreeMap<u64, (CallId, Asked)>,
}

impl AccessLog {
    /// The calls that are over with this record. What came before the first record that was taken is not known.
    pub fn take(&mut self, entry: &Entry) -> Vec<AccessLine> {
        match &entry.event {
            Event::Intent(intent) => {
                if self.open.len() >= MAX_OPEN {
                    self.open.pop_first();
                }
                self.open.insert(entry.seq, (intent.call, of_intent(intent)));
                Vec::new()
            }
            Event::Outcome(outcome) => vec![self.ended(entry, outcome)],
            Event::Denial(denial) => vec![denied(entry, denial)],
            // Whoever wrote before is gone: what was open then has no other end.
            Event::LogOpened(_) => self.lost(entry.time),
            Event::Denials(_)
            | Event::Refusals(_)
            | Event::TokenIssued(_)
            | Event::TokenRevoked(_)
            | Event::Enforced(_)
            | Event::Change(_)
            | Event::Recovered(_)
            | Event::Pruned(_) => Vec::new(),
        }
    }

    fn ended(&mut self, entry: &Entry, outcome: &Outcome) -> AccessLine {
        let request = self.open.remove(&outcome.intent_seq).map(|(_, request)| request);
        let ending = &outcome.ending;
        AccessLine {
            time: entry.time,
            call: outcome.call,
            request,
            status: ending.status,
            ended: ending.ended.as_str(),
            reason: ending.reason,
            request_bytes: ending.request_bytes,
            response_bytes: ending.response_bytes,
            duration_us: Some(ending.duration_us),
            records: vec![outcome.intent_seq, entry.seq],
        }
    }

    fn lost(&mut self, time: Timestamp) -> Vec<AccessLine> {
        let line = |(seq, (call, request))| AccessLine {
            time,
            call,
            request: Some(request),
            status: None,
            ended: Ended::Unknown.as_str(),
            reason: None,
            request_bytes: 0,
            response_bytes: 0,
            duration_us: None,
            records: vec![seq],
        };
        std::mem::take(&mut self.open).into_iter().map(line).collect()
    }
}

fn of_intent(intent: &Intent<'_>) -> Asked {
    Asked {
        peer: intent.peer,
        caller: Some(intent.identity.to_string()),
        method: intent.method.to_string(),
        host: intent.host.to_string(),
        path: intent.path.to_string(),
    }
}

fn denied(entry: &Entry, denial: &Denial<'_>) -> AccessLine {
    let identity = denial.identity.as_ref().map(ToString::to_string);
    AccessLine {
        time: entry.time,
        call: denial.call,
        request: Some(Asked {
            peer: denial.peer,
            caller: identity.or_else(|| denial.principal.as_ref().map(ToString::to_string)),
            method: denial.method.to_string(),
            host: denial.host.to_string(),
            path: denial.path.to_string(),
        }),
        status: Some(denial.reason.info().status),
        ended: "denied",
        reason: Some(denial.reason),
        request_bytes: 0,
        response_bytes: 0,
        duration_us: None,
        records: vec![entry.seq],
    }
}

/// `PEER CALLER [TIME] "METHOD HOST PATH" STATUS BYTES MICROSECONDS ENDED REASON CALL`; `-` where nothing is known.
impl fmt::Display for AccessLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.request {
            Some(it) => {
                let caller = it.caller.as_deref().unwrap_or("-");
                write!(f, "{} {caller} [{}] \"{} {} {}\"", it.peer, self.time, it.method, it.host, it.path)?;
            }
            None => write!(f, "- - [{}] \"-\"", self.time)?,
        }
        let known = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
        let reason = self.reason.map_or("-", Reason::code);
        let (status, took) = (known(self.status.map(u64::from)), known(self.duration_us));
        write!(f, " {status} {} {took} {} {reason} {}", self.response_bytes, self.ended, self.call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::entry::{CredentialKind, LogOpened};
    use crate::evidence::journal::tests::{completed, intent};

    fn entry(seq: u64, event: Event<'static>) -> Entry {
        Entry { seq, time: Timestamp::from_unix_seconds(1_800_000_000), log: "l".into(), event }
    }

    fn outcome(call: u64, intent_seq: u64) -> Event<'static> {
        Event::Outcome(Outcome { call: CallId::from_bits(call.into()), intent_seq, ending: completed() })
    }

    #[test]
    fn a_call_is_one_line_when_it_is_over() {
        let mut log = AccessLog::default();
        assert!(log.take(&entry(5, Event::Intent(intent(1).into()))).is_empty());
        assert!(log.take(&entry(6, Event::Intent(intent(2).into()))).is_empty());
        let lines = log.take(&entry(7, outcome(1, 5)));
        assert_eq!(
            lines[0].to_string(),
            "10.0.0.1:1 billing [2027-01-15T08:00:00Z] \"GET orders.internal /v1/orders/7\" 200 2 3 completed - \
             00000000000000000000000001"
        );
        assert_eq!(lines[0].records, [5, 7]);
        // Its intent was written before the view began.
        assert_eq!(log.take(&entry(8, outcome(3, 2)))[0].request, None);
        let opened = LogOpened { boot_id: "b".into(), incarnation: 2, program: "p".into(), resumed_from: 9 };
        let lost = log.take(&entry(9, Event::LogOpened(opened)));
        assert_eq!((lost.len(), lost[0].ended, lost[0].status), (1, "unknown", None));
    }

    #[test]
    fn a_denial_is_a_line_with_its_reason() {
        let it = intent(4);
        let denial = Denial {
            call: it.call,
            reason: Reason::GrantMissing,
            identity: None,
            principal: Some("b@i".into()),
            credential: Some(CredentialKind::Token),
            route: None,
            resource: None,
            action: None,
            method: it.method,
            host: it.host,
            path: it.path,
            query: None,
            peer: it.peer,
            epoch: 1,
            revision: 1,
        };
        let line = AccessLog::default().take(&entry(1, Event::Denial(denial.into()))).remove(0);
        assert!(line.to_string().contains(" b@i ") && line.to_string().contains(" 403 0 - denied grant_missing "));
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(
            (&json["caller"], &json["reason"], &json["path"]),
            (&"b@i".into(), &"grant_missing".into(), &"/v1/orders/7".into())
        );
    }
}
