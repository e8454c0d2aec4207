//! Detects that descriptors or memory have run out recently.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::rate::Moment;

/// The last failure to accept a connection for lack of resources. Shared by the workers, because the
/// resources are the process's.
///
/// Near the limit each connection that ends makes room for one new connection, and then the next accept fails again.
/// So a shortage lasts until nothing has failed for [`Shortage::QUIET`].
#[derive(Debug, Default)]
pub struct Shortage {
    /// The last failure, in nanoseconds; 0 if there was none.
    last: AtomicU64,
}

impl Shortage {
    /// The time without a failure after which a shortage is over.
    pub const QUIET: Duration = Duration::from_secs(10);

    /// Records a failure.
    pub fn record(&self, now: Moment) {
        self.last.fetch_max(now.nanos().max(1), Ordering::Relaxed);
    }

    /// Returns true while the shortage lasts.
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
            shortage.record(at(second));
            assert!(shortage.lasts(at(second)), "{second}");
        }
        shortage.record(at(100));
        assert!(shortage.lasts(at(138)), "a thread with an older moment changes nothing");
        assert!(!shortage.lasts(at(139)));
    }
}
