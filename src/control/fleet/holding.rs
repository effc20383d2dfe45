//! What a gateway may hold grants of: nobody is left out of a receipt who may.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::name::ResourceName;

/// Resources that one part of the picture is about.
pub(in super::super) type Resources = Arc<BTreeSet<ResourceName>>;

/// The parts of the picture that were sent, each with its first revision, as far as the gateway may still go by them.
/// Empty: nothing is known, and it may hold anything.
#[derive(Debug, Default)]
pub(super) struct Holding {
    sent: Vec<(u64, Option<Resources>)>,
}

/// Changes of scope that one gateway is told of without acknowledging any: past it, nothing is known of it.
const MAX_SENT: usize = 1_000;

impl Holding {
    /// A part is about to be sent.
    pub(super) fn told(&mut self, revision: u64, resources: Option<Resources>) {
        if self.sent.len() >= MAX_SENT {
            self.sent.clear();
        }
        self.sent.push((revision, resources));
    }

    /// It enforces `applied`, and holds nothing of the parts before.
    pub(super) fn applied(&mut self, applied: u64) {
        let place = self.sent.iter().rposition(|(revision, _)| *revision <= applied);
        if let Some(place) = place {
            self.sent.drain(..place);
        }
    }

    /// Whether it may hold grants of one of these, having enforced `applied`.
    pub(super) fn may_have(&self, resources: &BTreeSet<ResourceName>, applied: u64) -> bool {
        let Some((first, _)) = self.sent.first() else { return true };
        let has = |part: &Option<Resources>| part.as_ref().is_none_or(|part| !part.is_disjoint(resources));
        *first > applied || self.sent.iter().any(|(_, part)| has(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_hold_a_grant_is_concerned_until_it_said_that_it_enforces_a_part_without_it() {
        let set = |name: &str| BTreeSet::from([name.parse::<ResourceName>().unwrap()]);
        let (orders, ledger) = (set("api/orders"), set("db/ledger"));
        let mut holding = Holding::default();
        assert!(holding.may_have(&orders, 100), "nothing is known");
        holding.told(5, Some(Arc::new(ledger.clone())));
        assert!(holding.may_have(&orders, 4), "it goes by what it had before");
        holding.applied(4);
        assert!(holding.may_have(&orders, 4));
        holding.applied(6);
        assert!(!holding.may_have(&orders, 6) && holding.may_have(&ledger, 6));
        // Widened, narrowed, and only then heard of.
        holding.told(8, None);
        assert!(holding.may_have(&orders, 6), "it may have it by now");
        holding.told(9, Some(Arc::new(ledger)));
        holding.applied(8);
        assert!(holding.may_have(&orders, 8), "until it says that it has not");
        holding.applied(9);
        assert!(!holding.may_have(&orders, 9));
        // Come back without its state.
        assert!(holding.may_have(&orders, 0));
    }

    #[test]
    fn what_is_not_acknowledged_is_not_kept_without_end() {
        let mut holding = Holding::default();
        for revision in 0..5_000 {
            holding.told(revision, Some(Resources::default()));
        }
        assert!(holding.sent.len() <= MAX_SENT);
    }
}
