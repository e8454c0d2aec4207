//! Whether descriptors or memory have run out, told as one episode however often they do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::rate::Moment;

/// Whether connections could not be accepted of late. Shared by the workers, as what runs out is the process's.
///
/// At the edge each connection that ends lets one in and the next one fails again, so an episode is over only when
/// that has not happened for [`Shortage::QUIET`].
#[derive(Debug, Default)]
pub struct Shortage {
    /// The last failure of an episode that nobody has been told is over, in nanoseconds; 0 if there is none.
    last: AtomicU64,
}

impl Shortage {
    /// How long nothing may fail before it is over.
    pub const QUIET: Duration = Duration::from_secs(10);

    /// Something failed; whether an episode begins with it.
    pub fn strike(&self, now: Moment) -> bool {
        let last = self.last.fetch_max(now.nanos().max(1), Ordering::Relaxed);
        last == 0 || is_quiet(last, now)
    }

    /// Whether it lasts.
    pub fn lasts(&self, now: Moment) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last != 0 && !is_quiet(last, now)
    }

    /// Whether an episode is over that nobody has been told of. The time is asked only where there was one.
    pub fn is_over(&self, now: impl FnOnce() -> Moment) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        // Another failure meanwhile, or another one who asks, leaves nothing to tell.
        last != 0
            && is_quiet(last, now())
            && self.last.compare_exchange(last, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn is_quiet(last: u64, now: Moment) -> bool {
    Duration::from_nanos(now.nanos().saturating_sub(last)) >= Shortage::QUIET
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
