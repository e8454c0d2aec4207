//! So many in a time, by the generic cell rate algorithm: one number says all of the past that matters.
//!
//! The number is the moment at which everything that came would have been due if it had come evenly. What comes
//! while that moment is further ahead than the burst allows is too much, and leaves the number as it is.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A moment of the process's life, in nanoseconds. Centuries fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// So many nanoseconds after the beginning.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment of an instant; what lies before the first question is the beginning.
    pub fn of(instant: Instant) -> Self {
        /// An hour back, so that no moment of use is the beginning itself, which stands for "never".
        const BEFORE: Duration = Duration::from_secs(3600);
        static BEGINNING: LazyLock<Instant> =
            LazyLock::new(|| Instant::now().checked_sub(BEFORE).unwrap_or_else(Instant::now));
        let since = instant.saturating_duration_since(*BEGINNING);
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Now, by the system's monotonic clock.
    pub fn now() -> Self {
        Self::of(Instant::now())
    }

    /// Nanoseconds since the beginning.
    pub const fn nanos(self) -> u64 {
        self.0
    }
}

/// How late a thread may come with its moment, in nanoseconds; what others did since is no past of another rate.
const LATE: u64 = 1_000_000_000;

/// A number of events in a time, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds between two events that come evenly.
    interval: u64,
    /// Nanoseconds that an event may come too early.
    tolerance: u64,
}

impl Rate {
    /// `number` events, at least 1, in each `per`, of which `burst`, at least 1, may come at once.
    pub fn new(number: u32, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let interval = (per / u64::from(number.max(1))).max(1);
        Self { interval, tolerance: interval.saturating_mul(u64::from(burst.max(1)) - 1) }
    }

    /// What the past is when an event comes now, or `None` if that is one too many. The past of nothing is 0.
    pub fn admit(self, past: u64, now: Moment) -> Option<u64> {
        let due = past.max(now.0);
        (due - now.0 <= self.tolerance).then(|| due.saturating_add(self.interval))
    }

    /// What the past is to this rate, if perhaps another one, before a reload, left it: nothing further ahead than a
    /// burst that was used up now, or one would wait for hours by a rate that is no longer meant.
    pub fn known(self, past: u64, now: Moment) -> u64 {
        let furthest = now.0.saturating_add(self.tolerance).saturating_add(self.interval);
        if past > furthest.saturating_add(LATE) { furthest } else { past }
    }

    /// From when on the next event is not too many.
    pub fn open_from(self, past: u64) -> u64 {
        past.saturating_sub(self.tolerance)
    }
}

/// A rate that many threads share and that can change while it is in use.
#[derive(Debug, Default)]
pub struct RateGate {
    past: AtomicU64,
    /// 0 is no limit.
    interval: AtomicU64,
    tolerance: AtomicU64,
}

impl RateGate {
    /// A gate that lets so many in; `None` is no limit.
    pub fn new(rate: Option<Rate>) -> Self {
        let gate = Self::default();
        gate.set(rate);
        gate
    }

    /// Changes the rate. What came before still counts, as a burst at the most.
    pub fn set(&self, rate: Option<Rate>) {
        let Rate { interval, tolerance } = rate.unwrap_or(Rate { interval: 0, tolerance: 0 });
        self.tolerance.store(tolerance, Ordering::Relaxed);
        self.interval.store(interval, Ordering::Relaxed);
    }

    /// Lets one in, or not.
    pub fn admit(&self, now: Moment) -> bool {
        let interval = self.interval.load(Ordering::Relaxed);
        if interval == 0 {
            return true;
        }
        let rate = Rate { interval, tolerance: self.tolerance.load(Ordering::Relaxed) };
        let admit = |past| rate.admit(past, now);
        let Err(past) = self.past.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit) else {
            return true;
        };
        let known = rate.known(past, now);
        if known != past {
            // Where another thread was quicker, it has done the same.
            let _ = self.past.compare_exchange(past, known, Ordering::Relaxed, Ordering::Relaxed);
        }
        false
    }

    /// Forgets one that was let in just now, as if it had not come: one interval is all that it had added.
    pub fn forget_one(&self) {
        let interval = self.interval.load(Ordering::Relaxed);
        let forget = |past: u64| Some(past.saturating_sub(interval));
        let _ = self.past.fetch_update(Ordering::Relaxed, Ordering::Relaxed, forget);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(number: u32, seconds: u64, burst: u32) -> Rate {
        Rate::new(number, Duration::from_secs(seconds), burst)
    }

    /// How many of those that come at these moments are let in.
    fn admitted(rate: Rate, moments: impl IntoIterator<Item = u64>) -> usize {
        let gate = RateGate::new(Some(rate));
        moments.into_iter().filter(|nanos| gate.admit(Moment::from_nanos(*nanos))).count()
    }

    fn check(rate: Rate, moments: impl IntoIterator<Item = u64>, expected: usize) {
        assert_eq!(admitted(rate, moments), expected, "{rate:?}");
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        check(rate(10, 1, 1), [SECOND; 5], 1);
        check(rate(10, 1, 5), [SECOND; 50], 5);
        check(rate(10, 1, 1), (0..=10).map(|n| SECOND + n * SECOND / 10), 11);
        check(rate(10, 1, 1), (0..=20).map(|n| SECOND + n * SECOND / 20), 11);
        // A minute of a flood: the burst, and one for each interval.
        check(rate(2, 60, 3), (0..60_000).map(|n| SECOND + n * SECOND / 1000), 3 + 1);
        check(rate(1, 1, 100), [u64::MAX; 3], 3);
    }

    #[test]
    fn who_was_refused_owes_nothing_for_it() {
        let gate = RateGate::new(Some(rate(1, 1, 1)));
        assert!(gate.admit(Moment::from_nanos(SECOND)));
        assert!((0..1000).all(|_| !gate.admit(Moment::from_nanos(SECOND + 5))));
        assert!(gate.admit(Moment::from_nanos(2 * SECOND)));
    }

    #[test]
    fn who_is_forgotten_is_as_if_he_had_not_come() {
        let gate = RateGate::new(Some(rate(1, 1, 2)));
        let now = Moment::from_nanos(SECOND);
        assert!((0..10).all(|_| {
            let admitted = gate.admit(now);
            gate.forget_one();
            admitted
        }));
        assert!(gate.admit(now) && gate.admit(now) && !gate.admit(now));
        let unlimited = RateGate::new(None);
        unlimited.forget_one();
        assert!(unlimited.admit(now));
    }

    #[test]
    fn a_changed_rate_keeps_the_past() {
        let gate = RateGate::new(Some(rate(1, 60, 1)));
        let at = |seconds| Moment::from_nanos(seconds * SECOND);
        assert!(gate.admit(at(1)));
        gate.set(Some(rate(1, 1, 1)));
        assert!(!gate.admit(at(2)));
        gate.set(None);
        assert!((0..100).all(|_| gate.admit(at(2))));
    }

    #[test]
    fn a_faster_rate_does_not_wait_for_a_slower_one() {
        let gate = RateGate::new(Some(rate(1, 60, 1000)));
        let at = |seconds| Moment::from_nanos(seconds * SECOND);
        assert!((0..1000).all(|_| gate.admit(at(1))) && !gate.admit(at(1)));
        gate.set(Some(rate(10, 1, 10)));
        assert!(!gate.admit(at(2)), "a burst was used up");
        assert_eq!((0..100).filter(|_| gate.admit(at(3))).count(), 10);
    }

    proptest! {
        /// In no stretch of time more than the burst and what the rate brings in it.
        #[test]
        fn no_stretch_has_more(number in 1_u32..50, burst in 1_u32..20, gaps in prop::collection::vec(0_u64..SECOND, 1..200)) {
            let rate = rate(number, 1, burst);
            let gate = RateGate::new(Some(rate));
            let mut now = SECOND;
            let mut came = Vec::new();
            for gap in gaps {
                now += gap / 10;
                if gate.admit(Moment::from_nanos(now)) {
                    came.push(now);
                }
            }
            prop_assert!(!came.is_empty());
            for (first, start) in came.iter().enumerate() {
                for (count, end) in (1..).zip(&came[first..]) {
                    let allowed = u64::from(burst) + (end - start) * u64::from(number) / SECOND + 1;
                    prop_assert!(count <= allowed, "{count} in {}", end - start);
                }
            }
        }
    }
}
