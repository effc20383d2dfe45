//! Whether words are enough, and whose turn it is.
//!
//! Knows stages and words alone: whose a word is, and for what it counts, was found elsewhere. Stages of one order go side by
//! side; those of the next order begin when they are complete, and count only what is said from then on.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::Timestamp;
use crate::domain::request::Stage;

/// Somebody's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Whose: words of one voice count once.
    pub voice: usize,
    /// When it was given.
    pub at: Timestamp,
    /// The stages that it counts for, by their place.
    pub of: BTreeSet<usize>,
}

/// How far words have brought a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The order of the stages that are open; `None` when all are complete.
    pub open: Option<u32>,
    /// From when on they are.
    pub since: Timestamp,
    /// Those of them of which somebody has answered, by their place.
    pub answered: BTreeSet<usize>,
}

/// How far `words`, in the order in which they came, have brought a request that was made at `began`.
pub fn progress(stages: &[Stage], words: &[Word], began: Timestamp) -> Progress {
    let orders: BTreeSet<u32> = stages.iter().map(|stage| stage.order).collect();
    let mut spent: BTreeSet<usize> = BTreeSet::new();
    let (mut since, mut rest) = (began, words.iter());
    for order in orders {
        let is_open = |stage: &Stage| stage.order == order;
        let mut voices: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut complete = None;
        for word in rest.by_ref().filter(|word| !spent.contains(&word.voice)) {
            let of = word.of.iter().copied().filter(|place| stages.get(*place).is_some_and(is_open));
            let of: BTreeSet<usize> = of.collect();
            if of.is_empty() {
                continue;
            }
            voices.entry(word.voice).or_default().extend(of);
            let people: Vec<BTreeSet<usize>> = voices.values().cloned().collect();
            if is_enough_of(stages, is_open, &people) {
                complete = Some(word.at);
                break;
            }
        }
        match complete {
            // INVARIANT: whoever was counted for a stage is counted for no later one.
            Some(at) => {
                spent.extend(voices.keys());
                since = at;
            }
            None => return Progress { open: Some(order), since, answered: voices.into_values().flatten().collect() },
        }
    }
    Progress { open: None, since, answered: BTreeSet::new() }
}

/// Whether every place of every stage can have a person of its own: a matching, found place by place (Kuhn).
pub fn is_enough(stages: &[Stage], people: &[BTreeSet<usize>]) -> bool {
    is_enough_of(stages, |_| true, people)
}

/// The same of some of the stages.
fn is_enough_of(stages: &[Stage], some: impl Fn(&Stage) -> bool, people: &[BTreeSet<usize>]) -> bool {
    let places: Vec<usize> = stages
        .iter()
        .enumerate()
        .filter(|(_, stage)| some(stage))
        .flat_map(|(index, stage)| std::iter::repeat_n(index, usize::try_from(stage.quorum).unwrap_or(usize::MAX)))
        .collect();
    // Whose place each person has.
    let mut taken: Vec<Option<usize>> = vec![None; people.len()];
    (0..places.len()).all(|place| place_found(place, &places, people, &mut taken, &mut vec![false; people.len()]))
}

fn place_found(
    place: usize,
    places: &[usize],
    people: &[BTreeSet<usize>],
    taken: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for person in 0..people.len() {
        let counts = places.get(place).is_some_and(|stage| people.get(person).is_some_and(|of| of.contains(stage)));
        if !counts || tried.get(person).copied().unwrap_or(true) {
            continue;
        }
        if let Some(tried) = tried.get_mut(person) {
            *tried = true;
        }
        let free = match taken.get(person).copied().flatten() {
            None => true,
            Some(other) => place_found(other, places, people, taken, tried),
        };
        if free {
            if let Some(taken) = taken.get_mut(person) {
                *taken = Some(place);
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(quorum: u32) -> Stage {
        Stage { approvers: "standing:security".parse().unwrap(), quorum, order: 1, escalate: None }
    }

    /// Words, one second after the other: whose, for which stages.
    fn said(words: &[(usize, &[usize])]) -> Vec<Word> {
        let word = |(place, (voice, of)): (usize, &(usize, &[usize]))| Word {
            voice: *voice,
            at: Timestamp::from_unix_seconds(place as i64 + 1),
            of: of.iter().copied().collect(),
        };
        words.iter().enumerate().map(word).collect()
    }

    fn open(stages: &[Stage], words: &[(usize, &[usize])]) -> Option<u32> {
        progress(stages, &said(words), Timestamp::from_unix_seconds(0)).open
    }

    #[test]
    fn a_stage_counts_words_that_came_when_the_one_before_was_complete() {
        let stages = [stage(1), Stage { order: 2, ..stage(1) }];
        assert_eq!(open(&stages, &[]), Some(1));
        assert_eq!(open(&stages, &[(0, &[1])]), Some(1), "out of turn");
        assert_eq!(open(&stages, &[(0, &[1]), (1, &[0])]), Some(2), "what was said before its turn is not kept for it");
        assert_eq!(open(&stages, &[(0, &[1]), (1, &[0]), (0, &[1])]), None, "said again, it counts");
        assert_eq!(open(&stages, &[(0, &[0, 1]), (0, &[0, 1])]), Some(2), "nobody counts for two, over stages too");
        assert_eq!(open(&stages, &[(0, &[0, 1]), (1, &[0, 1])]), None);
        let found = progress(&stages, &said(&[(0, &[0])]), Timestamp::from_unix_seconds(0));
        assert_eq!((found.since.unix_seconds(), found.answered.len()), (1, 0));
        let two = [stage(2), stage(1)];
        let found = progress(&two, &said(&[(0, &[0])]), Timestamp::from_unix_seconds(0));
        assert_eq!((found.open, found.answered), (Some(1), BTreeSet::from([0])));
    }

    #[test]
    fn nobody_counts_for_two() {
        let of = |stages: &[usize]| stages.iter().copied().collect::<BTreeSet<_>>();
        let two = [stage(1), stage(1)];
        assert!(!is_enough(&two, &[of(&[0, 1])]));
        assert!(!is_enough(&two, &[of(&[0]), of(&[0])]));
        assert!(is_enough(&two, &[of(&[0, 1]), of(&[0])]), "whoever counts for both makes room");
        assert!(is_enough(&two, &[of(&[0]), of(&[0, 1])]));
        assert!(!is_enough(&[stage(2)], &[of(&[0])]));
        assert!(is_enough(&[stage(2), stage(1)], &[of(&[0]), of(&[1, 0]), of(&[0])]));
        assert!(is_enough(&[], &[]));
    }
}
