//! A set of rules, compiled: parsed, named, valid against the schema, annotations read.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::OnceLock;

use cedar_policy::{ActionConstraint, Effect, Policy, PolicyId, Schema, ValidationMode, Validator};

use super::PolicyFile;
use super::evaluate::Need;
use crate::domain::grant::UNUSED;
use crate::domain::request::{Approvers, Escalation};
use crate::domain::resource::Span;

/// Rules of one set.
const MAX_RULES: usize = 1_000;
/// Approvers that one rule may need.
const MAX_APPROVERS: usize = 8;
/// Most of them that must agree.
const MAX_QUORUM: u32 = 10;
/// Stages that come one after the other.
const MAX_STAGE: u32 = 9;
/// Shortest and longest silence before others may answer.
const ESCALATES: std::ops::RangeInclusive<u64> = 60..=30 * 86_400;
/// What a rule may say in annotations.
const ANNOTATIONS: &str = "id, approvers, quorum, stage, escalate, max_duration, expires, finding, says";
/// Shortest and longest wait for approvals.
const EXPIRES: std::ops::RangeInclusive<u64> = 60..=30 * 86_400;

/// The schema that every rule is checked against.
pub(super) fn schema() -> Result<&'static Schema, String> {
    static SCHEMA: OnceLock<Result<Schema, String>> = OnceLock::new();
    let read = || {
        let text = include_str!("schema.cedarschema");
        Schema::from_cedarschema_str(text).map(|(schema, _)| schema).map_err(|error| error.to_string())
    };
    SCHEMA.get_or_init(read).as_ref().map_err(Clone::clone)
}

/// What a rule is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleOf {
    /// Asking, and whatever else it does not name alone.
    #[default]
    Requests,
    /// Approving alone.
    Approvals,
    /// Breaking glass alone.
    BreakGlass,
}

/// What the annotations of a rule say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What it is of.
    pub of: RuleOf,
    /// Whether it forbids.
    pub forbids: bool,
    /// Who must approve, of a rule that permits a request. Empty: nobody.
    pub approvers: Vec<Approvers>,
    /// How many of each.
    pub quorum: u32,
    /// After those of every lower order.
    pub stage: u32,
    /// Who else may answer when nobody of one of them does.
    pub escalate: Option<Escalation>,
    /// The longest that may be asked for.
    pub max_duration: Option<Span>,
    /// It ends when unused for so long.
    pub unused: Option<Span>,
    /// How long the request waits.
    pub expires: Option<Span>,
    /// What it is called when a rule forbids.
    pub finding: Option<String>,
    /// In words.
    pub says: Option<String>,
}

impl Rule {
    /// How its approvers are needed.
    pub(super) fn need(&self) -> Need {
        Need { quorum: self.quorum, order: self.stage, escalate: self.escalate.clone() }
    }

    /// Whether it parts duties: the one kind of rule that an exception can be from.
    pub fn parts_duties(&self) -> bool {
        self.forbids && self.finding.as_deref() == Some("separation_of_duties")
    }
}

/// A compiled set.
#[derive(Clone, Debug)]
pub struct PolicySet {
    pub(super) policies: cedar_policy::PolicySet,
    /// By the name that `@id` gives.
    pub rules: BTreeMap<String, Rule>,
}

impl PolicySet {
    /// Compiles the `*.cedar` files of a set.
    ///
    /// # Errors
    /// Every fault and every warning, each with its file.
    pub fn compile(files: &[PolicyFile]) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        super::small_enough(files)?;
        let (mut policies, mut rules) = (cedar_policy::PolicySet::new(), BTreeMap::new());
        for file in files.iter().filter(|file| file.name.ends_with(".cedar")) {
            let parsed = match cedar_policy::PolicySet::from_str(&file.text) {
                Ok(parsed) => parsed,
                Err(error) => {
                    faults.extend(error.iter().map(|error| located(file, error)));
                    continue;
                }
            };
            if parsed.num_of_templates() > 0 {
                faults.push(format!("{}: templates are not rules: write each out", file.name));
            }
            for policy in parsed.policies() {
                match rule(policy) {
                    Ok((id, rule)) => {
                        if rules.insert(id.clone(), rule).is_some() {
                            faults.push(format!("{}: @id(\"{id}\"): another rule has that name", file.name));
                        } else if let Err(error) = policies.add(policy.new_id(PolicyId::new(&id))) {
                            faults.push(format!("{}: @id(\"{id}\"): {error}", file.name));
                        }
                    }
                    Err(wrong) => faults.extend(wrong.into_iter().map(|fault| format!("{}: {fault}", file.name))),
                }
            }
        }
        if rules.len() > MAX_RULES {
            faults.push(format!("{} rules; at most {MAX_RULES}", rules.len()));
        }
        if rules.is_empty() && faults.is_empty() {
            faults.push("there is no rule: nothing could be asked for".to_owned());
        }
        match schema() {
            Ok(schema) => {
                let checked = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
                faults.extend(checked.validation_errors().map(ToString::to_string));
                // A warning is a rule that does not say what its author means: one that can never apply, for example.
                faults.extend(checked.validation_warnings().map(ToString::to_string));
            }
            Err(fault) => faults.push(format!("the schema: {fault}")),
        }
        if faults.is_empty() { Ok(Self { policies, rules }) } else { Err(faults) }
    }

    /// The longest that any rule lets be asked for, of those that say.
    pub fn longest_request(&self) -> Option<Span> {
        let requests = self.rules.values().filter(|rule| rule.of == RuleOf::Requests && !rule.forbids);
        requests.filter_map(|rule| rule.max_duration).max()
    }

    /// Whether silence brings others in anywhere.
    pub fn escalates(&self) -> bool {
        self.rules.values().any(|rule| rule.escalate.is_some())
    }

    /// Each rule as Cedar writes it, by name.
    pub fn texts(&self) -> BTreeMap<String, String> {
        self.policies.policies().map(|policy| (policy.id().to_string(), policy.to_string())).collect()
    }
}

fn located(file: &PolicyFile, error: &(impl std::fmt::Display + miette::Diagnostic)) -> String {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let before = offset.and_then(|offset| file.text.get(..offset));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("{}:{line}:{column}: {error}", file.name)
        }
        None => format!("{}: {error}", file.name),
    }
}

/// Reads the annotations of a rule.
fn rule(policy: &Policy) -> Result<(String, Rule), Vec<String>> {
    let mut faults = Vec::new();
    let mut rule =
        Rule { of: of(policy), forbids: policy.effect() == Effect::Forbid, quorum: 1, stage: 1, ..Rule::default() };
    let mut id = None;
    let mut says_who = false;
    for (key, value) in policy.annotations() {
        let mut fault = |why: String| faults.push(format!("@{key}(\"{value}\"): {why}"));
        match key {
            "id" => {
                let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
                if value.is_empty() || value.len() > 64 || !value.chars().all(good) {
                    fault("1 to 64 lower-case letters, digits and . _ -".to_owned());
                }
                id = Some(value.to_owned());
            }
            "approvers" => {
                says_who = true;
                if value != "none" {
                    for name in value.split(',').map(str::trim) {
                        match name.parse() {
                            Ok(approvers) if !rule.approvers.contains(&approvers) => rule.approvers.push(approvers),
                            Ok(_) => fault(format!("{name} stands twice")),
                            Err(error) => fault(format!("{error}; or none")),
                        }
                    }
                }
                if rule.approvers.len() > MAX_APPROVERS {
                    fault(format!("at most {MAX_APPROVERS}"));
                }
            }
            "quorum" => match value.parse() {
                Ok(quorum) if (1..=MAX_QUORUM).contains(&quorum) => rule.quorum = quorum,
                _ => fault(format!("1 to {MAX_QUORUM}")),
            },
            "stage" => match value.parse() {
                Ok(stage) if (1..=MAX_STAGE).contains(&stage) => rule.stage = stage,
                _ => fault(format!("1 to {MAX_STAGE}: the approvers of a lower one answer first")),
            },
            "escalate" => match escalation(value) {
                Ok(escalation) => rule.escalate = Some(escalation),
                Err(error) => fault(error),
            },
            "max_duration" => match value.parse() {
                Ok(span) => rule.max_duration = Some(span),
                Err(error) => fault(format!("{error}")),
            },
            "unused" => match value.parse::<Span>() {
                Ok(span) if UNUSED.contains(&span.duration()) => rule.unused = Some(span),
                Ok(_) => fault("5s to 366d".to_owned()),
                Err(error) => fault(format!("{error}")),
            },
            "expires" => match value.parse::<Span>() {
                Ok(span) if EXPIRES.contains(&span.duration().as_secs()) => rule.expires = Some(span),
                Ok(_) => fault("1m to 30d".to_owned()),
                Err(error) => fault(format!("{error}")),
            },
            "finding" => rule.finding = Some(value.to_owned()),
            "says" => rule.says = Some(value.to_owned()),
            _ => fault(format!("is not an annotation: {ANNOTATIONS}")),
        }
    }
    let permits_requests = !rule.forbids && rule.of == RuleOf::Requests;
    let permits_breaking = !rule.forbids && rule.of == RuleOf::BreakGlass;
    if permits_requests && !says_who {
        faults.push("@approvers is missing: a rule that permits a request says who must approve, or none".to_owned());
    }
    if rule.unused.is_some() && !permits_requests {
        faults.push("@unused is for rules that permit a request".to_owned());
    }
    if permits_breaking && (says_who || rule.expires.is_some()) {
        faults
            .push("@approvers and @expires are for requests: break-glass waits for nobody, it is reviewed".to_owned());
    } else if !permits_requests
        && !permits_breaking
        && (says_who || rule.max_duration.is_some() || rule.expires.is_some())
    {
        faults.push("@approvers, @max_duration and @expires are for rules that permit a request".to_owned());
    }
    let told = [("quorum", rule.quorum > 1), ("stage", rule.stage > 1), ("escalate", rule.escalate.is_some())];
    for (annotation, _) in told.iter().filter(|(_, is_said)| *is_said && rule.approvers.is_empty()) {
        faults.push(format!("@{annotation} goes with @approvers"));
    }
    let to = rule.escalate.as_ref().map(|escalation| escalation.to.as_slice()).unwrap_or_default();
    if let Some(both) = to.iter().find(|to| rule.approvers.contains(to)) {
        faults.push(format!("@escalate: {both} may answer already, by @approvers"));
    }
    match id {
        None => Err([vec!["a rule without @id(\"NAME\")".to_owned()], faults].concat()),
        Some(id) if faults.is_empty() => Ok((id, rule)),
        Some(id) => Err(faults.into_iter().map(|fault| format!("rule {id}: {fault}")).collect()),
    }
}

/// `2h standing:security`: how long nobody answers, and who may then, parted by commas.
fn escalation(text: &str) -> Result<Escalation, String> {
    let (after, to) = text.trim().split_once(' ').ok_or("a time, and who may answer then: `2h standing:security`")?;
    let after: Span = after.parse().map_err(|error| format!("{error}"))?;
    if !ESCALATES.contains(&after.duration().as_secs()) {
        return Err("1m to 30d".to_owned());
    }
    let to: Result<Vec<Approvers>, _> = to.split(',').map(|name| name.trim().parse()).collect();
    let to = to.map_err(|error| format!("{error}"))?;
    if to.len() > MAX_APPROVERS {
        return Err(format!("at most {MAX_APPROVERS}"));
    }
    Ok(Escalation { after, to })
}

/// What a rule is of: one that does not name its action alone is of requests too.
fn of(policy: &Policy) -> RuleOf {
    match policy.action_constraint() {
        ActionConstraint::Eq(uid) => match uid.id().unescaped() {
            "approve" => RuleOf::Approvals,
            "break_glass" => RuleOf::BreakGlass,
            _ => RuleOf::Requests,
        },
        ActionConstraint::Any | ActionConstraint::In(_) => RuleOf::Requests,
    }
}
