//! Whether descriptors or memory have run out of late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::rate::Moment;

/// Whether connections could not be accepted of late. Shared by the workers, as what runs out is the process's.
///
/// At the edge each connection that ends lets one in and the next one fails again, so a shortage lasts until nothing
/// has failed for [`Shortage::QUIET`].
#[derive(Debug, Default)]
pub struct Shortage {
    /// The last failure, in nanoseconds; 0 if there was none.
    last: AtomicU64,
}

impl Shortage {
    /// How long nothing may fail before it is over.
    pub const QUIET: Duration = Duration::from_secs(10);

    /// Something failed.
    pub fn strike(&self, now: Moment) {
        self.last.fetch_max(now.nanos().max(1), Ordering::Relaxed);
    }

    /// Whether it lasts.
    pub fn lasts(&self, now: Moment) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last != 0 && Duration::from_nanos(now.nanos().saturating_sub(last)) < Self::QUIET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn it_lasts_until_nothing_fails() {
        let shortage = Shortage::default();
        assert!(!shortage.lasts(at(1)));
        for second in 100..130 {
            shortage.strike(at(second));
            assert!(shortage.lasts(at(second)), "{second}");
        }
        shortage.strike(at(100));
        assert!(shortage.lasts(at(138)), "a thread with an older moment changes nothing");
        assert!(!shortage.lasts(at(139)));
    }
}
