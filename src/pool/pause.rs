//! The pause of a pool: new connections wait until the pause is over.
//!
//! An operator pauses a pool for the time in which none of its backends may get a new connection, such as the failover
//! of a database. A pause needs no queue in the configuration. A waiter is bounded by the end of the pause, and then by
//! the timeout of the queue, which begins at the end of the pause.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The pause of a pool. Shared by all pools of one name.
#[derive(Debug)]
pub(super) struct Pause {
    is_on: AtomicBool,
    /// The end of the last pause, in milliseconds after `born`; 0 if there was none.
    ended: AtomicU64,
    born: Instant,
}

impl Default for Pause {
    fn default() -> Self {
        Self { is_on: AtomicBool::new(false), ended: AtomicU64::new(0), born: Instant::now() }
    }
}

impl Pause {
    /// Returns true while new connections wait.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::SeqCst)
    }

    /// Begins the pause, or lets it go on.
    pub(super) fn begin(&self) {
        self.is_on.store(true, Ordering::SeqCst);
    }

    /// Ends the pause. Returns false if there was none.
    pub(super) fn end(&self, now: Instant) -> bool {
        if !self.is_on() {
            return false;
        }
        let after = now.saturating_duration_since(self.born).as_millis();
        // Rounded up, so that no wait ends too early.
        self.ended.store(u64::try_from(after).unwrap_or(u64::MAX).saturating_add(1), Ordering::SeqCst);
        self.is_on.store(false, Ordering::SeqCst);
        true
    }

    /// Returns the time from which a wait that began at `began` counts for its timeout. While the pause is on, this is
    /// the present.
    pub(super) fn counts_from(&self, began: Instant, now: Instant) -> Instant {
        if self.is_on() {
            return now;
        }
        let ended = Duration::from_millis(self.ended.load(Ordering::SeqCst));
        began.max(self.born.checked_add(ended).unwrap_or(began)).min(now.max(began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Pool, PoolSpec, QueueSpec};

    #[test]
    fn a_wait_counts_from_the_end_of_the_pause() {
        let (pause, began) = (Pause::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(pause.counts_from(began, at(3)), began, "there was no pause");
        assert!(!pause.end(at(1)), "there is none to end");
        pause.begin();
        assert!(pause.is_on());
        assert_eq!(pause.counts_from(began, at(7)), at(7), "the pause is on");
        assert!(pause.end(at(10)));
        let from = pause.counts_from(began, at(20));
        assert!((at(10)..at(11)).contains(&from), "{:?}", from - began);
        assert_eq!(pause.counts_from(at(15), at(20)), at(15), "it began after the pause");
    }

    /// A waiter of a pool with a short timeout asks again, and is neither refused nor woken all the time.
    #[test]
    fn a_waiter_asks_again_while_the_pause_is_on() {
        let queue = Some(QueueSpec { length: 9, timeout: Duration::from_millis(1) });
        let spec = PoolSpec { queue, ..PoolSpec::new("p".into(), Vec::new()) };
        let pool = Pool::build(spec, None, 0);
        let (began, before) = (Instant::now(), Duration::from_millis(1));
        let now = began + Duration::from_secs(60);
        assert_eq!(pool.wait_deadline(began, before, now), began, "its time is over");
        pool.pause();
        assert_eq!(pool.wait_deadline(began, before, now), now + Duration::from_secs(1));
    }
}
