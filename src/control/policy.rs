//! Policy: who may ask for what, for how long, and whose word it takes.
//!
//! Written in Cedar against a schema of ours, apart from what enforces it. A set is files: rules and test cases. It is
//! published as a whole, when it is strictly valid without a warning, every case holds and every rule decides one. What
//! Cedar cannot return stands in annotations of the rules: the strictest holds. It knows nothing of requests as they are
//! kept, nor of a store.

mod cases;
mod evaluate;
mod publish;
mod set;

use std::sync::Arc;

pub use cases::Outcome;
pub(super) use evaluate::needed;
pub use evaluate::{Actor, Answer, Need, Proof, Question, Step};
pub use publish::{check, plan_publish, plan_publish_as};
pub use set::{PolicySet, Rule, RuleOf};

use super::record::{PolicyFile, PolicyRecord};

/// Most files of a set.
pub const MAX_FILES: usize = 64;
/// Bytes of all of them: with the event that tells of it they fit one transaction.
pub const MAX_BYTES: usize = 256 * 1024;

/// Whether a set is small enough to be read at all.
fn small_enough(files: &[PolicyFile]) -> Result<(), Vec<String>> {
    let bytes: usize = files.iter().map(|file| file.name.len().saturating_add(file.text.len())).sum();
    if files.len() > MAX_FILES || bytes > MAX_BYTES {
        return Err(vec![format!("at most {MAX_FILES} files of {MAX_BYTES} bytes in all")]);
    }
    Ok(())
}

/// A version of the policy that is in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// As it was published.
    pub record: Arc<PolicyRecord>,
    /// Compiled. `Err`: this program cannot read it, and everything is refused.
    pub set: Arc<Result<PolicySet, Vec<String>>>,
}

impl InForce {
    /// The later one of what is in force and a version that was read.
    pub fn later(current: Option<Self>, record: &PolicyRecord) -> Option<Self> {
        if current.as_ref().is_some_and(|current| current.record.version >= record.version) {
            return current;
        }
        let set = PolicySet::compile(&record.files);
        if let Err(faults) = &set {
            tracing::error!(version = record.version, ?faults, "the policy cannot be read: every request is refused");
        }
        Some(Self { record: Arc::new(record.clone()), set: Arc::new(set) })
    }
}

/// A policy to begin with, and its cases.
pub fn starter() -> Vec<PolicyFile> {
    [
        ("access.cedar", include_str!("policy/starter/access.cedar")),
        ("cases.yaml", include_str!("policy/starter/cases.yaml")),
    ]
    .map(|(name, text)| PolicyFile { name: name.to_owned(), text: text.to_owned() })
    .to_vec()
}

#[cfg(test)]
mod tests;
