//! Whether descriptors or memory have run out, told as one episode however often they do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::rate::Moment;

/// Whether connections could not be accepted of late. Shared by the workers, as what runs out is the process's.
///
/// At the edge each connection that ends lets one in and the next one fails again, so an episode is over only when
/// that has not happened for [`Shortage::QUIET`].
#[derive(Debug, Default)]
pub struct Shortage {
    is_on: AtomicBool,
    /// The last failure, in nanoseconds.
    last: AtomicU64,
}

impl Shortage {
    /// How long nothing may fail before it is over.
    pub const QUIET: Duration = Duration::from_secs(10);

    /// Something failed; whether an episode begins with it.
    pub fn strike(&self, now: Moment) -> bool {
        let lasted = self.lasts(now);
        // The time comes first: who sees that there is an episode does not take it for an old one.
        self.last.fetch_max(now.nanos(), Ordering::AcqRel);
        !self.is_on.swap(true, Ordering::AcqRel) || !lasted
    }

    /// Whether it lasts.
    pub fn lasts(&self, now: Moment) -> bool {
        self.is_on.load(Ordering::Acquire) && self.since_last(now) < Self::QUIET
    }

    /// Whether an episode is over that nobody has been told of. The time is asked only where there was one.
    pub fn is_over(&self, now: impl FnOnce() -> Moment) -> bool {
        if !self.is_on.load(Ordering::Relaxed) {
            return false;
        }
        let now = now();
        self.since_last(now) >= Self::QUIET
            && self.is_on.swap(false, Ordering::AcqRel)
            && self.stays_over(now)
    }

    /// Whether nothing failed while the end was noted; else it lasts.
    fn stays_over(&self, now: Moment) -> bool {
        let is_over = self.since_last(now) >= Self::QUIET;
        if !is_over {
            self.is_on.store(true, Ordering::Release);
        }
        is_over
    }

    fn since_last(&self, now: Moment) -> Duration {
        Duration::from_nanos(now.nanos().saturating_sub(self.last.load(Ordering::Acquire)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn an_episode_is_told_once() {
        let shortage = Shortage::default();
        assert!(!shortage.lasts(at(1)) && !shortage.is_over(|| unreachable!("there was none")));
        assert!(shortage.strike(at(100)));
        for second in 100..130 {
            assert!(!shortage.strike(at(second)), "{second}");
            assert!(shortage.lasts(at(second)) && !shortage.is_over(|| at(second)), "{second}");
        }
        assert!(shortage.lasts(at(138)) && !shortage.is_over(|| at(138)));
        assert!(!shortage.lasts(at(139)), "whoever asks need not wait for the next connection");
        assert!(shortage.is_over(|| at(139)) && !shortage.is_over(|| at(139)));
        assert!(shortage.strike(at(140)));
        assert!(shortage.strike(at(3600)), "nobody came between two episodes");
        assert!(!shortage.strike(at(3500)), "a thread with an older moment");
    }
}
