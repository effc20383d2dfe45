//! A record in one line, for people. The whole of it is what `-o json` prints.

use crate::domain::Timestamp;
use crate::evidence::entry::{Basis, Denial, Denials, Ended, Ending, Event, Intent, RefusalCount};

/// What happened, in the words of the log.
pub(super) fn of(event: &Event<'_>) -> String {
    match event {
        Event::LogOpened(it) => {
            format!("incarnation {} by {}, {} records before", it.incarnation, it.program, it.resumed_from)
        }
        Event::Intent(it) => intent(it),
        Event::Outcome(it) => format!("{} of record {}: {}", it.call, it.intent_seq, ending(&it.ending)),
        Event::Denial(it) => denial(it),
        Event::Denials(it) => denials(it),
        Event::Refusals(it) => {
            let count = |count: &RefusalCount| format!("{} {}", count.count, count.reason);
            format!("strangers: {}", it.counts.iter().map(count).collect::<Vec<_>>().join(", "))
        }
        Event::TokenIssued(it) => {
            format!("{} token {} for {} under {} until {}", it.call, it.jti, it.identity, it.grant, second(it.expires))
        }
        Event::TokenRevoked(it) => format!("{} token {} by {}", it.call, it.jti, it.by),
        Event::Enforced(it) => format!(
            "revision {} of epoch {}: {} grants ended, {} calls cut, {}us",
            it.revision,
            it.epoch,
            it.grants_revoked.len(),
            it.cut.len(),
            it.took_us
        ),
        Event::Change(it) => {
            let reason = it.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("revision {}: {} {} {}/{}{reason}", it.revision, it.actor, it.operation, it.object_kind, it.object)
        }
        Event::Recovered(it) => {
            format!("from record {} on: {} frames dropped; {}", it.lost_from, it.discarded_frames, it.note)
        }
        Event::Pruned(it) => format!("records before {} may be gone: {}", it.before, it.policy),
    }
}

fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_seconds(at.unix_seconds())
}

fn intent(it: &Intent<'_>) -> String {
    let basis = match &it.basis {
        Basis::Grant(grant) => format!("grant {grant}"),
        Basis::Exception(exception) => format!("exception {exception}"),
    };
    let observed = it.would_refuse.map(|reason| format!(" (would refuse: {reason})")).unwrap_or_default();
    format!("{} {} {} {} by {basis}: {} {}{observed}", it.call, it.identity, it.action, it.resource, it.method, it.path)
}

fn denial(it: &Denial<'_>) -> String {
    let who = match (&it.identity, &it.principal) {
        (Some(identity), _) => identity.to_string(),
        (None, Some(principal)) => principal.to_string(),
        (None, None) => "somebody".to_owned(),
    };
    format!("{} {} {}: {} {}", it.call, it.reason, who, it.method, it.path)
}

fn denials(it: &Denials<'_>) -> String {
    let who = it.identity.as_ref().map_or("others".to_owned(), ToString::to_string);
    match &it.counted {
        None => format!("{} {who}: over its budget of records, counted from here on", it.reason),
        Some(counted) => {
            let (from, to) = (second(it.from), second(counted.to));
            format!("{} {who}: {} from {from} to {to}, since record {}", it.reason, counted.count, counted.opened_seq)
        }
    }
}

fn ending(it: &Ending) -> String {
    let how = match it.ended {
        Ended::Completed => "completed",
        Ended::ClientGone => "the caller left",
        Ended::UpstreamFailed => "the upstream failed",
        Ended::Cut => "cut",
        Ended::Panicked => "a fault of the gate",
        Ended::Unknown => "nobody said how it ended",
    };
    let status = it.status.map(|status| format!(" with {status}")).unwrap_or_default();
    let reason = it.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{how}{status}{reason}, {} bytes in {}us", it.response_bytes, it.duration_us)
}
