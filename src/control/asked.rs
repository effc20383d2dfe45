//! The gateways that stand by for questions about their evidence, and the questions that are under way.
//!
//! In memory only, and bounded: a gateway has one place, a question one answer or none.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::domain::name::GatewayName;
use crate::wire::v1;

/// Questions that a gateway may have before it: one more is not asked.
pub(super) const MAX_WAITING: usize = 16;

/// Those who stand by.
#[derive(Debug, Default)]
pub(super) struct StandingBy(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    by_name: BTreeMap<GatewayName, Place>,
    next: u64,
}

#[derive(Debug)]
struct Place {
    session: u64,
    log: String,
    questions: mpsc::Sender<v1::EvidenceQuestion>,
    waiting: HashMap<u64, oneshot::Sender<v1::EvidenceAnswer>>,
}

/// Why a gateway is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAsked {
    /// It is not there.
    #[error("it is not connected")]
    Away,
    /// It has as many questions before it as it may.
    #[error("it has too many questions before it")]
    Busy,
}

/// A question under way. Dropped, its answer is not waited for any more.
#[derive(Debug)]
pub(super) struct UnderWay<'s> {
    places: &'s StandingBy,
    name: GatewayName,
    number: u64,
    pub(super) log: String,
    pub(super) answer: oneshot::Receiver<v1::EvidenceAnswer>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.places.0.lock().by_name.get_mut(&self.name) {
            place.waiting.remove(&self.number);
        }
    }
}

impl StandingBy {
    /// A gateway stands by; an earlier stream of it is over. Its number, and the questions as they come.
    pub(super) fn enter(&self, name: &GatewayName, log: String) -> (u64, mpsc::Receiver<v1::EvidenceQuestion>) {
        let (questions, asked) = mpsc::channel(MAX_WAITING);
        let mut places = self.0.lock();
        places.next += 1;
        let session = places.next;
        places.by_name.insert(name.clone(), Place { session, log, questions, waiting: HashMap::new() });
        (session, asked)
    }

    /// Its stream is over.
    pub(super) fn leave(&self, name: &GatewayName, session: u64) {
        let mut places = self.0.lock();
        if places.by_name.get(name).is_some_and(|place| place.session == session) {
            places.by_name.remove(name);
        }
    }

    /// Asks a gateway.
    ///
    /// # Errors
    /// [`NotAsked`].
    pub(super) fn ask(&self, name: &GatewayName, question: v1::EvidenceQuestion) -> Result<UnderWay<'_>, NotAsked> {
        let mut places = self.0.lock();
        places.next += 1;
        let number = places.next;
        let place = places.by_name.get_mut(name).ok_or(NotAsked::Away)?;
        place.questions.try_send(v1::EvidenceQuestion { number, ..question }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotAsked::Busy,
            mpsc::error::TrySendError::Closed(_) => NotAsked::Away,
        })?;
        let (tell, answer) = oneshot::channel();
        place.waiting.insert(number, tell);
        Ok(UnderWay { places: self, name: name.clone(), number, log: place.log.clone(), answer })
    }

    /// A gateway answers. What nobody asked, or nobody waits for any more, is dropped.
    pub(super) fn answered(&self, name: &GatewayName, session: u64, answer: v1::EvidenceAnswer) {
        let mut places = self.0.lock();
        let place = places.by_name.get_mut(name).filter(|place| place.session == session);
        if let Some(tell) = place.and_then(|place| place.waiting.remove(&answer.number)) {
            // Whoever asked may be gone.
            let _ = tell.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(number: u64) -> v1::EvidenceAnswer {
        v1::EvidenceAnswer { number, ..v1::EvidenceAnswer::default() }
    }

    #[test]
    fn a_question_goes_to_one_gateway_and_only_its_stream_answers_it() {
        let standing = StandingBy::default();
        let (edge, other): (GatewayName, GatewayName) = ("edge".parse().unwrap(), "other".parse().unwrap());
        let ask = || standing.ask(&edge, v1::EvidenceQuestion::default());
        assert_eq!(ask().unwrap_err(), NotAsked::Away);
        let (first, mut asked) = standing.enter(&edge, "log".into());
        let (second, _others) = standing.enter(&other, "log".into());
        let mut waiting = ask().unwrap();
        let number = asked.try_recv().unwrap().number;
        standing.answered(&other, second, answer(number));
        standing.answered(&edge, second, answer(number));
        standing.answered(&edge, first, answer(number + 1));
        assert!(waiting.answer.try_recv().is_err());
        standing.answered(&edge, first, answer(number));
        assert_eq!(waiting.answer.try_recv().unwrap().number, number);
        drop(waiting);
        let all: Vec<_> = std::iter::from_fn(|| ask().ok()).take(100).collect();
        assert_eq!((all.len(), ask().unwrap_err()), (MAX_WAITING, NotAsked::Busy));
        drop(all);
        assert!(standing.0.lock().by_name[&edge].waiting.is_empty(), "who waits no more is forgotten");
        // A new stream takes the place of the old one, whose end then changes nothing.
        let (third, _asked) = standing.enter(&edge, "log".into());
        standing.leave(&edge, first);
        assert!(ask().is_ok());
        standing.leave(&edge, third);
        assert_eq!(ask().unwrap_err(), NotAsked::Away);
    }
}
