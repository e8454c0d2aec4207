//! The progress of the interval records of a connection: the access log has a record of an open relay for each interval.
//!
//! The intervals of a connection begin with its accept, so the records of many connections are spread as their accepts
//! were. A record is due from the end of an interval until it is made. So a record whose command was lost is ordered
//! again.

use std::cell::{Cell, OnceCell};
use std::num::NonZeroU32;
use std::time::Duration;

/// The time from one record of an open relay to the next: whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogInterval(NonZeroU32);

impl LogInterval {
    /// Returns the interval of this time, rounded down; `None` below a second.
    pub(super) fn of(time: Duration) -> Option<Self> {
        NonZeroU32::new(seconds(time)).map(Self)
    }

    /// Returns the number of intervals that have ended at an age in seconds.
    fn ended(self, age: u32) -> u32 {
        age / self.0
    }
}

/// A round over all connections of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogRound {
    /// Records are ordered where they are due.
    Order(LogInterval),
    /// The interval is new, so no record is ordered: else the records of all connections would be due at once.
    Skip,
}

/// The progress of the interval records of a connection that goes on elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoggedProgress {
    /// The time of the last record in seconds after the accept, 0 before the first. `None` where no interval records are
    /// made: the next interval that ends makes the next record.
    pub after: Option<u32>,
    /// The bytes that the interval records so far have counted, by direction.
    pub counted: [u64; 2],
}

/// The progress in the entry of a connection. Boxed, as it is a part of the memory of each idle connection, and most
/// processes make no interval records.
#[derive(Default)]
pub(super) struct LoggedState(OnceCell<Box<KeptProgress>>);

#[derive(Default)]
struct KeptProgress {
    after: Cell<u32>,
    counted: [Cell<u64>; 2],
}

impl LoggedState {
    /// Returns the state of a connection that comes from elsewhere at this age. `is_in_use` is true where interval records
    /// are made.
    pub(super) fn restored(progress: LoggedProgress, age: Duration, is_in_use: bool) -> Self {
        let state = Self::default();
        if is_in_use {
            state.made(progress.after.map_or(age, |after| Duration::from_secs(after.into())));
        }
        if progress.counted != [0; 2] {
            state.count(progress.counted);
        }
        state
    }

    /// Returns the progress for another worker or program. `is_in_use` is true where interval records are made.
    pub(super) fn progress(&self, is_in_use: bool) -> LoggedProgress {
        LoggedProgress { after: is_in_use.then_some(self.after()), counted: self.counted() }
    }

    /// Returns true if an interval has ended since the last record.
    pub(super) fn is_due(&self, age: Duration, interval: LogInterval) -> bool {
        interval.ended(seconds(age)) > interval.ended(self.after())
    }

    /// Records that no record is due at this age.
    pub(super) fn made(&self, age: Duration) {
        self.kept().after.set(seconds(age));
    }

    /// Counts all bytes up to these totals.
    pub(super) fn count(&self, totals: [u64; 2]) {
        self.kept().counted.iter().zip(totals).for_each(|(counted, total)| counted.set(total));
    }

    /// Returns the bytes that no interval record has counted.
    pub(super) fn uncounted(&self, totals: [u64; 2]) -> [u64; 2] {
        let counted = self.counted();
        [0, 1].map(|at: usize| totals[at].saturating_sub(counted[at]))
    }

    fn kept(&self) -> &KeptProgress {
        self.0.get_or_init(Box::default)
    }

    fn after(&self) -> u32 {
        self.0.get().map_or(0, |kept| kept.after.get())
    }

    fn counted(&self) -> [u64; 2] {
        self.0.get().map_or([0; 2], |kept| [kept.counted[0].get(), kept.counted[1].get()])
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_millis(seconds * 1000 + 999)
    }

    fn interval(seconds: u64) -> LogInterval {
        LogInterval::of(Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn a_record_is_due_once_for_each_interval_that_has_ended() {
        let (state, interval) = (LoggedState::default(), interval(10));
        assert!(!state.is_due(at(9), interval));
        assert!(state.is_due(at(10), interval));
        assert!(state.is_due(at(11), interval), "until it is made");
        state.made(at(11));
        assert!(!state.is_due(at(19), interval), "a late record does not move the next one");
        assert!(state.is_due(at(20), interval));
        state.made(at(57));
        assert!(!state.is_due(at(59), interval), "intervals that were missed are not made up for");
        assert!(state.is_due(at(60), interval));
        assert_eq!(LogInterval::of(Duration::from_millis(999)), None);
    }

    #[test]
    fn bytes_are_counted_once() {
        let state = LoggedState::default();
        assert_eq!(state.uncounted([5, 7]), [5, 7]);
        state.count([5, 7]);
        assert_eq!(state.uncounted([5, 9]), [0, 2]);
        let moved = LoggedState::restored(state.progress(true), at(3), false);
        assert_eq!(moved.uncounted([6, 9]), [1, 2]);
    }

    #[test]
    fn a_move_keeps_the_intervals() {
        let state = LoggedState::default();
        state.made(at(20));
        let moved = LoggedState::restored(state.progress(true), at(31), true);
        assert!(moved.is_due(at(31), interval(10)), "the interval ended on the way");
        let moved = LoggedState::restored(state.progress(false), at(31), true);
        assert!(!moved.is_due(at(39), interval(10)), "records begin with the next interval");
        assert!(moved.is_due(at(40), interval(10)));
    }
}
