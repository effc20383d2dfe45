//! `portcullis evidence access`: who had access to a resource in a span of time, with the logs that tell it verified.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::explain::{Proof, log, proof, proven};
use super::{Log as LogOf, moment};
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::domain::Timestamp;
use crate::domain::name::ResourceName;
use crate::evidence::explain::Log;
use crate::evidence::explain::access::{Accesses, Gap, Held, InForce, Missing, Span, Untold, Used, access};

#[derive(Debug, Args)]
pub(in super::super) struct Access {
    /// The resource
    resource: ResourceName,
    /// Access that was there at this moment or after it
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Timestamp>,
    /// And that had begun before this one
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Timestamp>,
    /// The control plane's log; that of the dev directory if not given
    #[arg(long, value_name = "LOG")]
    control_log: Option<PathBuf>,
    /// A gateway's log; may be repeated; that of the dev directory's gateway if not given
    #[arg(long, value_name = "LOG")]
    gateway_log: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    resource: ResourceName,
    #[serde(flatten)]
    span: Span,
    #[serde(flatten)]
    accesses: Accesses,
    proofs: Vec<Proof>,
}

impl Access {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return Err(Failure::usage("--from is not before --to"));
        }
        let control = LogOf { directory: self.control_log, control: true }.directory(context)?;
        let mut gateways = self.gateway_log;
        if gateways.is_empty() {
            gateways.push(LogOf { directory: None, control: false }.directory(context)?);
        }
        let proofs = std::iter::once(&control).chain(&gateways).map(|it| proof(it)).collect::<Result<Vec<_>, _>>()?;
        let gateways: Vec<Log> = gateways.iter().map(|path| log(path)).collect();
        let span = Span { from: self.from, to: self.to };
        let accesses = access(&self.resource, span, SystemClock.now(), &log(&control), &gateways)?;
        let answer = Answer { resource: self.resource, span, accesses, proofs };
        context.output.answer(&answer, || shown(&answer))?;
        Ok(Exit::Done)
    }
}

fn second(at: Timestamp) -> String {
    Timestamp::from_unix_seconds(at.unix_seconds()).to_string()
}

fn calls(used: &Used) -> String {
    let last = used.last.map(|at| format!(", last {}", second(at))).unwrap_or_default();
    let late = if used.late > 0 { format!(", {} LATE", used.late) } else { String::new() };
    let unsent = if used.never_sent > 0 { format!(", {} never sent", used.never_sent) } else { String::new() };
    format!("{}{last}{late}{unsent}", used.calls)
}

fn actions(it: &Held) -> String {
    match (it.actions.is_empty(), it.actions_left_out) {
        (true, _) => "not told".to_owned(),
        (false, 0) => it.actions.join(","),
        (false, more) => format!("{},+{more} more", it.actions.join(",")),
    }
}

fn untold(it: &Untold) -> Vec<String> {
    vec![it.identity.clone(), it.actions.join(","), calls(&it.used), it.grant.to_string()]
}

/// That the answer may lack something, in words.
fn warned(gap: &Gap, span: Span) -> String {
    let (log, record) = (&gap.log, gap.present_from);
    let said = |at: Option<Timestamp>| at.map_or_else(|| "nothing, as it is empty".to_owned(), second);
    let (begins, ends) = (said(gap.begins), said(gap.ends));
    let asked = span.from.map_or_else(|| "from the beginning".to_owned(), |from| format!("from {}", second(from)));
    match gap.missing {
        Missing::Pruned => format!(
            "WARNING: {log} tells nothing of before {begins} (record {record}), and the span is {asked}: access before that may \
             not be listed. Ask a copy or an archive that has it"
        ),
        Missing::Given => format!(
            "WARNING: {log} begins with {begins} (record {record}): what was given before and neither used nor ended since is \
             not listed, be it a grant or an exception. Ask a copy or an archive that has it"
        ),
        Missing::Earlier => format!(
            "WARNING: {log} begins with {begins}, the span is {asked}, and no log that its gateway had before is given, nor is \
             it told that there was none: calls before that may not be listed. Give that log too"
        ),
        Missing::Between => format!(
            "WARNING: what comes before {log} (record {record}, {begins}) is in no copy of this log that is given: calls until \
             then may not be listed"
        ),
        Missing::Later => {
            format!("NOTE: {log}: its last record is of {ends}: if it is a copy, what came later is not listed")
        }
        Missing::Next => format!(
            "WARNING: {log}: its last record is of {ends}, and its gateway went on in another log, which is not given: calls \
             after that may not be listed. Give that log too"
        ),
        Missing::Unasked => {
            format!(
                "WARNING: no log of gateway {log} is given: calls through it are not listed. Give it too (--gateway-log)"
            )
        }
    }
}

fn in_force(it: &InForce) -> Vec<String> {
    let InForce { exception, route, route_untold, owner, reason, since, until } = it;
    let route = if *route_untold { format!("{route} (not told where it led)") } else { route.clone() };
    vec![exception.clone(), route, second(*since), second(*until), owner.clone(), reason.clone()]
}

fn held(it: &Held) -> Vec<String> {
    let end = match &it.ended {
        None => "not ended".to_owned(),
        Some(end) if end.how == "expired" => "expired".to_owned(),
        Some(end) => {
            let reason = end.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{} {} by {}{reason}", end.how, second(end.at), end.by)
        }
    };
    let approved = if it.approved_by.is_empty() { "nobody needed".to_owned() } else { it.approved_by.join(", ") };
    let approved = if it.basis.starts_with("request") { approved } else { it.basis.clone() };
    vec![
        it.identity.clone(),
        actions(it),
        second(it.since),
        second(it.until),
        end,
        it.requested_by.clone(),
        approved,
        calls(&it.used),
        it.grant.to_string(),
    ]
}

fn shown(answer: &Answer) -> Human {
    let Accesses { grants, exceptions, exceptions_in_force, untold: not_told, gaps } = &answer.accesses;
    let excepted = exceptions.iter().map(|it| vec![it.identity.clone(), it.exception.clone(), calls(&it.used)]);
    Human::Parts(vec![
        Human::Table {
            headers: &["WHO", "ACTIONS", "SINCE", "UNTIL", "ENDED", "ASKED BY", "APPROVED BY", "CALLS", "GRANT"],
            rows: grants.iter().map(held).collect(),
            empty: "nobody had a grant",
        },
        Human::Table {
            headers: &["ANYBODY, BY EXCEPTION", "ON ROUTE", "SINCE", "UNTIL", "OWNER", "REASON"],
            rows: exceptions_in_force.iter().map(in_force).collect(),
            empty: "",
        },
        Human::Table { headers: &["WHO", "BY EXCEPTION", "CALLS"], rows: excepted.collect(), empty: "" },
        Human::Table {
            headers: &["WHO", "ACTIONS", "CALLS", "UNDER A GRANT THAT THIS LOG DOES NOT TELL OF"],
            rows: not_told.iter().map(untold).collect(),
            empty: "",
        },
        Human::Lines(gaps.iter().map(|gap| warned(gap, answer.span)).collect()),
        Human::Lines(answer.proofs.iter().map(proven).collect()),
    ])
}
