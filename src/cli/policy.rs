//! `portcullis policy`: who may ask for what, and whose word it takes; checked where it is written, then published.

mod replay;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use crate::app::policy::{self, NamedText, Outcome};
use crate::client::Refusal;
use crate::client::answers::PolicyAnswer;
use crate::domain::name::GrantId;
use crate::files;
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Check rules against the schema, strictly: a warning is a fault
    Validate(Files),
    /// Check rules and ask every case, as publishing does
    Test(Files),
    /// Put a set into force. From the first one on, nobody makes grants by hand, and the next one waits for another person
    Publish(Publish),
    /// Show which rules a set would add, change and take away, and which live grants it would end
    Diff(Files),
    /// Show what a set would change of what was asked before: who would newly be denied, wait, or get access
    Replay(replay::Replay),
    /// Print a version of the policy, or write its files
    Show(Show),
    /// Write the policy to begin with into a directory, to be changed
    Starter {
        /// The directory
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Files {
    /// A directory with *.cedar and *.yaml files, or one file
    #[arg(short, long = "file", value_name = "PATH")]
    file: PathBuf,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("set").required(true).args(["file", "starter"]))]
pub(super) struct Publish {
    /// A directory with *.cedar and *.yaml files, or one file
    #[arg(short, long = "file", value_name = "PATH")]
    file: Option<PathBuf>,
    /// The policy to begin with
    #[arg(long)]
    starter: bool,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only if this version is in force; 0: only if none is
    #[arg(long, value_name = "VERSION")]
    expect_version: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The version; the one that is in force if not given
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    version: u64,
    /// Write its files into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Valid {
    valid: bool,
    rules: Vec<String>,
}

#[derive(Serialize)]
struct Tested {
    passed: bool,
    cases: Vec<Outcome>,
}

#[derive(Serialize)]
struct Differences {
    version: u64,
    rules: Vec<Difference>,
    /// Live grants that it would end, so many of them listed.
    ends: u64,
    grants: Vec<Ending>,
    /// Live grants that were not judged.
    #[serde(skip_serializing_if = "is_none")]
    unjudged: u64,
}

#[derive(Serialize)]
struct Ending {
    id: GrantId,
    identity: String,
    why: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_none(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct Difference {
    rule: String,
    /// added, changed or removed
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

impl Policy {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Validate(Files { file }) => {
                let rules = policy::validate(&policy::read(&file)?).map_err(faults)?;
                let answer = Valid { valid: true, rules };
                let line = format!("{} rules are valid", answer.rules.len());
                context.output.answer(&answer, || Human::Lines(vec![line]))?;
                Ok(Exit::Done)
            }
            Self::Test(Files { file }) => {
                let answer = Tested { passed: true, cases: policy::test(&policy::read(&file)?).map_err(faults)? };
                let row =
                    |case: &Outcome| vec![case.name.clone(), case.rules.iter().cloned().collect::<Vec<_>>().join(", ")];
                context.output.answer(&answer, || {
                    Human::Parts(vec![
                        Human::Table {
                            headers: &["CASE", "DECIDED BY"],
                            rows: answer.cases.iter().map(row).collect(),
                            empty: "no cases",
                        },
                        Human::Lines(vec![format!("{} cases hold", answer.cases.len())]),
                    ])
                })?;
                Ok(Exit::Done)
            }
            Self::Publish(command) => command.run(context).await,
            Self::Replay(command) => command.run(context).await,
            Self::Diff(Files { file }) => diff(context, &policy::read(&file)?).await,
            Self::Show(Show { version, out }) => {
                let found = context.client().await?.policy(version).await?;
                if let Some(out) = out {
                    write(&out, found.files.iter())?;
                }
                print(context, &found, true)
            }
            Self::Starter { out } => {
                let files = policy::starter();
                write(&out, files.iter().map(|(name, text)| (name, text)))?;
                let names: Vec<String> = files.iter().map(|(name, _)| out.join(name).display().to_string()).collect();
                context.output.answer(&names, || Human::Lines(names.clone()))?;
                Ok(Exit::Done)
            }
        }
    }
}

impl Publish {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let files = match &self.file {
            Some(file) => policy::read(file)?,
            None => Vec::new(),
        };
        let message = v1::PublishPolicyRequest {
            files: files.into_iter().map(|(name, text)| v1::PolicyFile { name, text }).collect(),
            reason: self.reason,
            expected_version: self.expect_version,
            starter: self.starter,
        };
        let answer = context.client().await?.publish_policy(message).await.map_err(|error| {
            // What does not hold is its author's to mend.
            let unfit = error.refusal() == Some(Refusal::Unfit);
            let failure = Failure::from(error);
            if unfit { Failure { exit: Exit::Usage, ..failure } } else { failure }
        })?;
        print(context, &answer, false)
    }
}

async fn diff(context: &Context, set: &[NamedText]) -> Result<Exit, Failure> {
    let after = policy::rules(set).map_err(faults)?;
    let (version, before) = match context.client().await?.policy(0).await {
        Ok(found) => {
            let files: Vec<NamedText> = found.files.into_iter().collect();
            (found.version, policy::rules(&files).map_err(faults)?)
        }
        Err(error) if error.refusal() == Some(Refusal::NotFound) => (0, BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let mut rules = Vec::new();
    for name in names {
        let (old, new) = (before.get(name).cloned(), after.get(name).cloned());
        let change = match (&old, &new) {
            (None, _) => "added",
            (_, None) => "removed",
            (old, new) if old == new => continue,
            _ => "changed",
        };
        rules.push(Difference { rule: name.clone(), change, before: old, after: new });
    }
    let files = set.iter().map(|(name, text)| v1::PolicyFile { name: name.clone(), text: text.clone() }).collect();
    let preview = context.client().await?.preview_policy(files).await?;
    let ending = |it: v1::EndingGrant| {
        let id = crate::wire::grant_id(&it.id).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        Ok::<_, Failure>(Ending { id, identity: it.identity, why: it.why })
    };
    let grants = preview.grants.into_iter().map(ending).collect::<Result<Vec<_>, _>>()?;
    let answer = Differences { version, rules, ends: preview.ends, grants, unjudged: preview.unjudged };
    context.output.answer(&answer, || {
        let mut parts = vec![Human::Table {
            headers: &["RULE", "CHANGE"],
            rows: answer.rules.iter().map(|it| vec![it.rule.clone(), it.change.to_owned()]).collect(),
            empty: "no rule differs from those in force",
        }];
        for it in &answer.rules {
            let signed = |sign: &str, text: &Option<String>| {
                text.iter().flat_map(|text| text.lines()).map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
            };
            parts.push(Human::Lines([signed("-", &it.before), signed("+", &it.after)].concat()));
        }
        if answer.ends > 0 {
            parts.push(Human::Table {
                headers: &["ENDS", "IDENTITY", "WHY"],
                rows: answer
                    .grants
                    .iter()
                    .map(|it| vec![it.id.to_string(), it.identity.clone(), it.why.clone()])
                    .collect(),
                empty: "",
            });
        }
        let judged = match answer.unjudged {
            0 => String::new(),
            more => format!("; {more} were not judged"),
        };
        parts.push(Human::Lines(vec![format!("{} live grants would end{judged}", answer.ends)]));
        Human::Parts(parts)
    })?;
    Ok(Exit::Done)
}

fn faults(faults: Vec<String>) -> Failure {
    Failure::usage(faults.join("\n"))
}

fn print(context: &Context, found: &PolicyAnswer, whole: bool) -> Result<Exit, Failure> {
    context.output.answer(found, || {
        let by_change = found.change_id.map(|id| format!(", as change {id}")).unwrap_or_default();
        let mut lines = vec![format!("version {} by {}{by_change}: {}", found.version, found.by, found.reason)];
        lines.extend(found.change.as_ref().map(super::change::waits));
        let mut parts = vec![Human::Lines(lines)];
        for (name, text) in found.files.iter().filter(|_| whole) {
            parts.push(Human::Lines([vec![format!("# {name}")], text.lines().map(str::to_owned).collect()].concat()));
        }
        Human::Parts(parts)
    })?;
    Ok(Exit::Done)
}

fn write<'a>(dir: &std::path::Path, set: impl Iterator<Item = (&'a String, &'a String)>) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|e| Failure::usage(format!("{}: {e}", dir.display())))?;
    for (name, text) in set {
        // A name from elsewhere is a name and never a path.
        if name.contains('/') || name.starts_with('.') {
            return Err(Failure::new(Exit::Failed, format!("`{name}` is not a file's name")));
        }
        let path = dir.join(name);
        files::create_new(&path, text.as_bytes(), files::PUBLIC)
            .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    }
    Ok(())
}
