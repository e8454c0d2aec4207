//! The limit of checks under way at once. Each check takes a descriptor. If ten thousand backends do not
//! answer, their checks must not take all descriptors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::telemetry::Counter;

/// The slots for checks of the whole process. Shared by all checks; it ends with the last of them.
#[derive(Debug)]
pub struct CheckLimit {
    slots: Semaphore,
    /// Slots to remove as soon as they are free, because the limit fell while they were in use.
    surplus: AtomicUsize,
    limit: AtomicUsize,
    /// Checks that had to wait.
    delayed: Counter,
}

impl CheckLimit {
    /// Creates a limit of `limit` checks at once, which counts delayed checks in `delayed`.
    pub fn new(limit: usize, delayed: Counter) -> Arc<Self> {
        let limit = bounded(limit);
        Arc::new(Self {
            slots: Semaphore::new(limit),
            surplus: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            delayed,
        })
    }

    /// Changes the limit. Checks under way go on. Not for concurrent callers.
    pub fn set(&self, limit: usize) {
        let limit = bounded(limit);
        let before = self.limit.swap(limit, Ordering::Relaxed);
        if limit > before {
            let more = limit - before;
            let kept = self.surplus.load(Ordering::Relaxed).min(more);
            self.surplus.fetch_sub(kept, Ordering::Relaxed);
            self.slots.add_permits(more - kept);
        } else {
            let fewer = before - limit;
            let taken = self.slots.forget_permits(fewer);
            self.surplus.fetch_add(fewer - taken, Ordering::Relaxed);
        }
    }

    /// Waits for a slot, in the order of the calls. The slot is free again when the returned permit is dropped.
    ///
    /// # Cancel safety
    ///
    /// May be dropped while it waits: no slot is lost.
    pub(in crate::pool) async fn enter(&self) -> SemaphorePermit<'_> {
        if let Ok(slot) = self.slots.try_acquire()
            && let Some(slot) = self.keep(slot)
        {
            return slot;
        }
        self.delayed.increment(1);
        loop {
            let slot = self.slots.acquire().await.expect("it is never closed");
            if let Some(slot) = self.keep(slot) {
                return slot;
            }
        }
    }

    /// Returns the slot, unless it is to be removed.
    fn keep<'a>(&self, slot: SemaphorePermit<'a>) -> Option<SemaphorePermit<'a>> {
        let too_many =
            self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |surplus| surplus.checked_sub(1));
        if too_many.is_err() {
            return Some(slot);
        }
        slot.forget();
        None
    }
}

fn bounded(limit: usize) -> usize {
    limit.clamp(1, Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Takes a slot, if one is free now.
    fn enter(limit: &CheckLimit) -> Option<SemaphorePermit<'_>> {
        match pin!(limit.enter()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(slot) => Some(slot),
            Poll::Pending => None,
        }
    }

    fn limit(limit: usize) -> Arc<CheckLimit> {
        CheckLimit::new(limit, Counter::noop())
    }

    #[test]
    fn as_many_as_the_limit_enter() {
        let limit = limit(2);
        let (first, second) = (enter(&limit), enter(&limit));
        assert!(first.is_some() && second.is_some() && enter(&limit).is_none());
        drop(first);
        assert!(enter(&limit).is_some());
    }

    #[test]
    fn a_higher_limit_holds_at_once() {
        let limit = limit(1);
        let _first = enter(&limit).unwrap();
        limit.set(3);
        let more = [enter(&limit), enter(&limit), enter(&limit)];
        assert_eq!(more.iter().flatten().count(), 2);
    }

    #[test]
    fn a_lower_limit_holds_once_places_are_free() {
        let limit = limit(3);
        let [a, b, c] = [enter(&limit), enter(&limit), enter(&limit)].map(Option::unwrap);
        limit.set(1);
        drop(a);
        assert!(enter(&limit).is_none());
        drop(b);
        assert!(enter(&limit).is_none());
        drop(c);
        let only = enter(&limit);
        assert!(only.is_some() && enter(&limit).is_none());
    }

    #[test]
    fn what_was_to_go_may_stay() {
        let limit = limit(3);
        let [a, b, c] = [enter(&limit), enter(&limit), enter(&limit)].map(Option::unwrap);
        limit.set(1);
        limit.set(2);
        drop((a, b, c));
        let [a, b] = [enter(&limit), enter(&limit)];
        assert!(a.is_some() && b.is_some() && enter(&limit).is_none());
    }

    #[test]
    fn there_is_always_a_place() {
        let none = limit(0);
        assert!(enter(&none).is_some());
        none.set(usize::MAX);
        none.set(0);
        assert!(enter(&none).is_some());
    }
}
