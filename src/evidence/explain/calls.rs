//! The calls under a grant: all are counted, the first, the last and the one that is asked about are told.

use std::collections::{BTreeSet, VecDeque};

use super::super::entry::Event;
use super::super::query::{Filter, QueryError};
use super::{GrantStory, LISTED, Line, Log, call_line, line, walk};
use crate::domain::name::{CallId, GrantId};

/// The calls under a grant in one log, and what enforced its end.
pub(super) fn of(
    log: &Log,
    id: GrantId,
    about: CallId,
    grant: &mut GrantStory,
    timeline: &mut Vec<Line>,
) -> Result<(), QueryError> {
    let (mut first, mut last, mut asked) = (Vec::new(), VecDeque::new(), Vec::new());
    let mut intents = BTreeSet::new();
    walk(log, Filter { grant: Some(id), ..Filter::default() }, |found| {
        let told = match &found.entry.event {
            Event::Intent(intent) => {
                let calls = &mut grant.calls;
                calls.count = calls.count.saturating_add(1);
                calls.first = Some(calls.first.map_or(found.entry.time, |at| at.min(found.entry.time)));
                calls.last = Some(calls.last.map_or(found.entry.time, |at| at.max(found.entry.time)));
                calls.enforced.entry(log.name.clone()).or_insert(intent.revision);
                if intent.call == about {
                    intents.insert(found.entry.seq);
                    asked.push(call_line(log, found, intent));
                    return;
                }
                call_line(log, found, intent)
            }
            Event::Outcome(outcome) => {
                let ended = format!("{:?}", outcome.ending.ended).to_lowercase();
                if ended == "cut" {
                    grant.calls.cut = grant.calls.cut.saturating_add(1);
                }
                let status = outcome.ending.status.map(|status| format!(" with {status}")).unwrap_or_default();
                let why = outcome.ending.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                let text = format!("call {} ended: {ended}{status}{why}", outcome.call);
                let line = line(log, found, "gateway", "call.ended", &text);
                if intents.contains(&outcome.intent_seq) {
                    asked.push(line);
                    return;
                }
                line
            }
            // Its end: that a gateway obeyed it is no sign that the grant had taken effect there.
            Event::Enforced(enforced) => {
                let (cut, took) = (enforced.cut.len(), enforced.took_us);
                let text = format!("the end of grant {id}, {cut} calls cut, after {took}us");
                line(log, found, "gateway", "grant.enforced", &text)
            }
            _ => return,
        };
        if first.len() < 2 * LISTED {
            first.push(told);
        } else {
            last.push_back(told);
            if last.len() > 2 * LISTED {
                last.pop_front();
            }
        }
    })?;
    timeline.extend(first.into_iter().chain(last).chain(asked));
    Ok(())
}
