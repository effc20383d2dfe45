//! Whose turn it is, since when, and when their silence has lasted for long enough.
//!
//! A stage waits from when it opened, and goes on waiting whatever happens to the others. One that had been answered and is
//! not any more, because the word counts no longer, waits from when that was found: nobody could know before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Approvers, Request, Stage};
use crate::domain::Timestamp;

/// Whose turn it is, as of the last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Turn {
    /// The order of the stages that are open.
    pub order: u32,
    /// From when on they are; the first of them.
    pub since: Timestamp,
    /// Those of them of which somebody has answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<Approvers>,
    /// Those of them that opened later than the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<Opened>,
}

/// When a stage opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Opened {
    /// Whose.
    pub approvers: Approvers,
    /// When.
    pub at: Timestamp,
}

impl Turn {
    /// From when on the stage of these approvers is open.
    fn since_of(&self, approvers: &Approvers) -> Timestamp {
        let later = self.later.iter().find(|it| it.approvers == *approvers);
        later.map_or(self.since, |it| it.at)
    }
}

impl Request {
    /// Whose turn it is. Before the first word that of the lowest order, from the beginning.
    pub fn turn(&self) -> Turn {
        let lowest = self.analysis.stages.iter().map(|stage| stage.order).min().unwrap_or(1);
        let first = || Turn { order: lowest, since: self.created, answered: Vec::new(), later: Vec::new() };
        self.turn.clone().unwrap_or_else(first)
    }

    /// Whose turn it is at `now`, as words have it: of these stages the ones of this order, of which these have answered. What
    /// has waited in this request waits since then; the rest from now on.
    pub fn turn_by(&self, stages: &[Stage], order: u32, answered: Vec<Approvers>, now: Timestamp) -> Turn {
        let last = self.turn();
        let has_waited = |of: &Stage| {
            let is_same = |it: &&Stage| it.approvers == of.approvers && it.order == last.order;
            self.analysis.stages.iter().find(is_same).is_some_and(|it| !last.answered.contains(&it.approvers))
        };
        let waiting = stages.iter().filter(|stage| stage.order == order && !answered.contains(&stage.approvers));
        let opened = waiting.map(|stage| Opened {
            at: if has_waited(stage) { last.since_of(&stage.approvers) } else { now },
            approvers: stage.approvers.clone(),
        });
        let opened: Vec<Opened> = opened.collect();
        let first = opened.iter().map(|it| it.at).min();
        let since = first.unwrap_or(if last.order == order { last.since } else { now });
        let later = opened.into_iter().filter(|it| it.at > since).collect();
        Turn { order, since, answered, later }
    }

    /// The stages whose turn it is and of which nobody has answered; all whose turn it is where somebody has of each.
    pub fn open_stages(&self) -> Vec<Stage> {
        let turn = self.turn();
        let all = || self.analysis.stages.iter().filter(|stage| stage.order == turn.order);
        let open: Vec<Stage> = all().filter(|stage| !turn.answered.contains(&stage.approvers)).cloned().collect();
        if open.is_empty() { all().cloned().collect() } else { open }
    }

    /// Stages whose silence others may end, and when: those whose turn it is, of which nobody has answered.
    pub fn silent(&self) -> impl Iterator<Item = (Timestamp, &Stage)> {
        let turn = self.turn();
        let due = move |stage: &Stage| {
            let escalation = stage.escalate.as_ref()?;
            let is_silent = stage.order == turn.order && !turn.answered.contains(&stage.approvers);
            is_silent.then(|| turn.since_of(&stage.approvers).saturating_add(escalation.after.duration()))
        };
        let is_new = |stage: &&Stage| !self.escalated.iter().any(|it| it.stage == **stage);
        self.analysis.stages.iter().filter(is_new).filter_map(move |stage| due(stage).map(|at| (at, stage)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_unix_seconds(minutes * 60)
    }

    fn stage(order: u32, approvers: &str) -> Stage {
        let escalate = serde_json::from_value(serde_json::json!({ "after": "1h", "to": ["standing:security"] }));
        Stage { approvers: approvers.parse().unwrap(), quorum: 1, order, escalate: escalate.unwrap() }
    }

    /// Asked at the first minute.
    fn asked(stages: &[Stage]) -> Request {
        let json = serde_json::json!({
            "id": "01KAJ8XB80AKBCXCMTF9YMA0NR", "requester": { "person": "alice" },
            "ask": { "identity": "billing", "access": { "role": "reader" }, "duration": "1h", "reason": "r" },
            "created": at(0), "expires": at(10_000), "state": "pending",
            "analysis": { "verdict": "approve", "permissions": [], "policy": 1, "digest": "", "stages": stages },
        });
        serde_json::from_value(json).unwrap()
    }

    fn due(request: &Request) -> Vec<(i64, String)> {
        let due = request.silent().map(|(at, stage)| (at.unix_seconds() / 60, stage.approvers.to_string()));
        due.collect()
    }

    #[test]
    fn each_stage_waits_from_when_it_opened_and_no_other_puts_that_off() {
        let (one, two, three) = (stage(1, "owner:a"), stage(1, "owner:b"), stage(2, "owner:c"));
        let stages = [one.clone(), two.clone(), three.clone()];
        let then = |before: &Request, stages: &[Stage], order, answered: &[&Stage], minutes| {
            let answered = answered.iter().map(|stage| stage.approvers.clone()).collect();
            let turn = Some(before.turn_by(stages, order, answered, at(minutes)));
            let mut after = Request { turn, ..before.clone() };
            after.analysis.stages = stages.to_vec();
            after
        };
        let request = asked(&stages);
        assert_eq!(due(&request), [(60, "owner:a".into()), (60, "owner:b".into())]);
        let request = then(&request, &stages, 1, &[&one], 10);
        assert_eq!(due(&request), [(60, "owner:b".into())]);
        // The word of the one counts no more: it waits anew, and the other one as before.
        let again = then(&request, &stages, 1, &[], 50);
        assert_eq!(due(&again), [(110, "owner:a".into()), (60, "owner:b".into())]);
        assert_eq!(then(&again, &stages, 1, &[], 55).turn, again.turn, "to be looked at changes nothing");
        // Both have answered, and it is the next one's turn; then one of them has not.
        let next = then(&request, &stages, 2, &[], 20);
        assert_eq!(due(&next), [(80, "owner:c".into())]);
        let back = then(&next, &stages, 1, &[&two], 70);
        assert_eq!(due(&back), [(130, "owner:a".into())], "never by the time of what was not open");
        // Another policy: a new one waits from then on, one that is the same goes on.
        let other = [two.clone(), stage(1, "owner:d")];
        assert_eq!(due(&then(&again, &other, 1, &[], 58)), [(60, "owner:b".into()), (118, "owner:d".into())]);
        // Somebody of each has answered, and more have to: nobody is silent, however often it is looked at.
        let waits = then(&request, &stages, 1, &[&one, &two], 30);
        assert!(due(&waits).is_empty());
        assert_eq!(then(&waits, &stages, 1, &[&one, &two], 40).turn, waits.turn);
    }
}
