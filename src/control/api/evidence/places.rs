//! Places for questions that are under way: so many of all who ask, fewer of each, and a wait in order for the others.
//!
//! A place is held by the work itself, also when whoever asked is gone. Whoever waits holds none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions that are under way at once, of all who ask: each may hold an answer of each gateway's in memory.
const AT_ONCE: usize = 8;
/// Of one caller. The others find a place.
const AT_ONCE_OF_ONE: usize = 4;
/// Questions of one caller that are under way or wait.
const MAX_OF_ONE: usize = 32;
/// How long a question waits for its place.
const WAIT: Duration = Duration::from_secs(5);

/// All places.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    callers: Callers,
}

type Callers = Arc<Mutex<HashMap<String, Caller>>>;

#[derive(Debug)]
struct Caller {
    share: Arc<Semaphore>,
    here: usize,
}

/// A place, for as long as it is not dropped.
#[derive(Debug)]
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
    _here: Here,
}

/// That somebody has a question here.
#[derive(Debug)]
struct Here {
    callers: Callers,
    name: String,
}

impl Drop for Here {
    fn drop(&mut self) {
        let mut callers = self.callers.lock();
        if let Some(caller) = callers.get_mut(&self.name) {
            caller.here -= 1;
            if caller.here == 0 {
                callers.remove(&self.name);
            }
        }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    /// The caller has all that they may.
    #[error("{MAX_OF_ONE} questions of yours are under way or wait: let them end, or ask less often")]
    Yours,
    /// None became free.
    #[error("questions of others have all {AT_ONCE} places, or yours {AT_ONCE_OF_ONE}, for 5 s now: try again later")]
    Busy,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), callers: Callers::default() }
    }

    /// A place for a question of this caller, waited for when there is none just now.
    pub(super) async fn take(&self, caller: &str) -> Result<Place, NoPlace> {
        let (here, share) = self.enter(caller)?;
        let taken = async {
            // First within their own: whoever asks much waits behind themselves, and not before others.
            let share = share.acquire_owned().await.ok()?;
            Some((share, self.all.clone().acquire_owned().await.ok()?))
        };
        match tokio::time::timeout(WAIT, taken).await {
            Ok(Some((share, all))) => Ok(Place { _all: all, _share: share, _here: here }),
            Ok(None) | Err(_) => Err(NoPlace::Busy),
        }
    }

    fn enter(&self, name: &str) -> Result<(Here, Arc<Semaphore>), NoPlace> {
        let mut callers = self.callers.lock();
        let new = || Caller { share: Arc::new(Semaphore::new(AT_ONCE_OF_ONE)), here: 0 };
        let caller = callers.entry(name.to_owned()).or_insert_with(new);
        if caller.here >= MAX_OF_ONE {
            return Err(NoPlace::Yours);
        }
        caller.here += 1;
        Ok((Here { callers: self.callers.clone(), name: name.to_owned() }, caller.share.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_everybodys_places_and_who_waits_gets_the_next() {
        let places = Places::new();
        let mut of_one = Vec::new();
        for _ in 0..AT_ONCE_OF_ONE {
            of_one.push(places.take("alice").await.unwrap());
        }
        assert_eq!(places.take("alice").await.unwrap_err(), NoPlace::Busy, "her share, after a wait");
        let _bob = places.take("bob").await.unwrap();
        // A question that waits takes the place of one that ends.
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.take("alice").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        of_one.pop();
        of_one.push(waiting.await.unwrap().unwrap());
        // Many wait, a bounded number of them, and none of them is in another's way.
        let many = (0..100).map(|_| places.take("alice"));
        let ended = futures_util::future::join_all(many).await;
        let refused = ended.iter().filter(|it| matches!(it, Err(NoPlace::Yours))).count();
        assert_eq!(refused, 100 - (MAX_OF_ONE - AT_ONCE_OF_ONE));
        places.take("carol").await.unwrap();
        drop((of_one, ended));
        places.take("alice").await.unwrap();
        assert_eq!(places.callers.lock().len(), 1, "who has nothing here is forgotten");
    }
}
