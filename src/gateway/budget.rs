//! Memory for inspected bodies: one number of bytes for all of them, of which each takes its part before it fills it.
//!
//! Nothing waits here: bodies that each hold a part and wait for the rest would hold each other up for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is left of the memory.
#[derive(Debug)]
pub(crate) struct Budget {
    all: u64,
    left: AtomicU64,
}

/// All of it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A part of it. Its drop gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { all: bytes, left: AtomicU64::new(bytes) })
    }

    /// Bytes that are taken.
    pub(crate) fn taken(&self) -> u64 {
        self.all.saturating_sub(self.left.load(Ordering::Relaxed))
    }

    /// A share of nothing yet.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Makes it at least this large.
    ///
    /// # Errors
    /// [`Full`]; it is as large as before.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.bytes);
        let take = |left: u64| left.checked_sub(more);
        self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| Full)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_never_more_than_there_is() {
        let budget = Budget::new(10);
        let (mut one, mut two) = (budget.share(), budget.share());
        assert_eq!((one.grow_to(6), two.grow_to(5)), (Ok(()), Err(Full)));
        assert_eq!((one.grow_to(3), two.grow_to(4)), (Ok(()), Ok(())), "a share never shrinks");
        assert_eq!((budget.taken(), one.grow_to(7)), (10, Err(Full)));
        drop(two);
        assert_eq!((one.grow_to(10), budget.taken()), (Ok(()), 10));
        drop(one);
        assert_eq!(budget.taken(), 0);
    }
}
