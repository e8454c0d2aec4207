//! Rate limits by the generic cell rate algorithm (GCRA), whose state is one number.
//!
//! The number is the theoretical arrival time: the moment at which the next event would be due if all
//! admitted events had come evenly. An event is refused while that moment is further ahead than the burst
//! allows. A refused event does not change the number.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A moment on the process's monotonic clock, in nanoseconds. Centuries fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Returns the moment this many nanoseconds after the beginning.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the moment of an instant. An instant before the beginning counts as the beginning.
    pub fn of(instant: Instant) -> Self {
        /// The time from the beginning to the first call, so that no moment in use is 0, which means "never".
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

/// The longest delay of a thread between reading the clock and using it, in nanoseconds. If an arrival time exceeds
/// the bound by this delay or less, another thread may have set it. An arrival time further beyond the bound comes from
/// the rate before a reload.
const CLOCK_DELAY: u64 = 1_000_000_000;

/// A number of events in a time, and the number that may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds between two events that come evenly.
    interval: u64,
    /// Nanoseconds by which an event may come too early.
    tolerance: u64,
}

impl Rate {
    /// Returns a rate of `number` events in each `per`. Up to `burst` events may come at once. Both numbers are at
    /// least 1.
    pub fn new(number: u32, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let interval = (per / u64::from(number.max(1))).max(1);
        Self { interval, tolerance: interval.saturating_mul(u64::from(burst.max(1)) - 1) }
    }

    /// Admits an event at `now`. Returns the new theoretical arrival time, or `None` if the event is refused.
    /// The initial arrival time is 0.
    pub fn admit(self, arrival: u64, now: Moment) -> Option<u64> {
        let due = arrival.max(now.0);
        (due - now.0 <= self.tolerance).then(|| due.saturating_add(self.interval))
    }

    /// Returns the arrival time, but at most the arrival time after a whole burst at this moment. The rate before a
    /// reload may have been slower. Its arrival time could refuse events for hours.
    pub fn clamp(self, arrival: u64, now: Moment) -> u64 {
        let latest = now.0.saturating_add(self.tolerance).saturating_add(self.interval);
        if arrival > latest.saturating_add(CLOCK_DELAY) { latest } else { arrival }
    }

    /// Returns the number of events in a second that come evenly.
    pub fn per_second(self) -> f64 {
        1e9 / self.interval as f64
    }

    /// Returns the number of events that may come at once.
    pub fn burst(self) -> u64 {
        self.tolerance / self.interval + 1
    }

    /// Returns the moment from which the next event is admitted.
    pub fn open_from(self, arrival: u64) -> u64 {
        arrival.saturating_sub(self.tolerance)
    }
}

/// A rate limit that threads share and that can change while it is in use.
#[derive(Debug, Default)]
pub struct RateGate {
    arrival: AtomicU64,
    /// 0 is no limit.
    interval: AtomicU64,
    tolerance: AtomicU64,
}

impl RateGate {
    /// Returns a rate limit; `None` is no limit.
    pub fn new(rate: Option<Rate>) -> Self {
        let gate = Self::default();
        gate.set(rate);
        gate
    }

    /// Changes the rate. Earlier events still count, at most as one burst.
    pub fn set(&self, rate: Option<Rate>) {
        let Rate { interval, tolerance } = rate.unwrap_or(Rate { interval: 0, tolerance: 0 });
        self.tolerance.store(tolerance, Ordering::Relaxed);
        self.interval.store(interval, Ordering::Relaxed);
    }

    /// Takes a token. Returns false if there is none.
    pub fn admit(&self, now: Moment) -> bool {
        let Some(rate) = self.rate() else { return true };
        let admit = |arrival| rate.admit(arrival, now);
        let Err(arrival) = self.arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit) else {
            return true;
        };
        let clamped = rate.clamp(arrival, now);
        if clamped != arrival {
            // If another thread was quicker, it has stored the same value.
            let _ = self.arrival.compare_exchange(arrival, clamped, Ordering::Relaxed, Ordering::Relaxed);
        }
        false
    }

    /// Returns true if [`RateGate::admit`] would take a token now. Takes nothing.
    pub fn has_token(&self, now: Moment) -> bool {
        self.rate().is_none_or(|rate| rate.admit(self.arrival.load(Ordering::Relaxed), now).is_some())
    }

    /// Returns the rate; `None` is no limit.
    pub fn rate(&self) -> Option<Rate> {
        let interval = self.interval.load(Ordering::Relaxed);
        (interval != 0).then(|| Rate { interval, tolerance: self.tolerance.load(Ordering::Relaxed) })
    }

    /// Returns the time until the rate has recovered, in nanoseconds; 0 without a limit.
    pub fn recovers_in(&self, now: Moment) -> u64 {
        match self.interval.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.arrival.load(Ordering::Relaxed).saturating_sub(now.0),
        }
    }

    /// Puts a rate in the state of a rate that recovers in this many nanoseconds. A state in which it recovers later
    /// stays.
    pub fn restore(&self, recovers_in: u64, now: Moment) {
        self.arrival.fetch_max(now.0.saturating_add(recovers_in), Ordering::Relaxed);
    }

    /// Refunds the token of an event that was admitted just now: one interval.
    pub fn refund(&self) {
        let interval = self.interval.load(Ordering::Relaxed);
        let refund = |arrival: u64| Some(arrival.saturating_sub(interval));
        let _ = self.arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, refund);
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

    /// Returns the number of events at these moments that are admitted.
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
        // A minute with an event each millisecond: the burst is admitted, then one event after each interval of
        // 30 s.
        check(rate(2, 60, 3), (0..60_000).map(|n| SECOND + n * SECOND / 1000), 3 + 1);
        check(rate(1, 1, 100), [u64::MAX; 3], 3);
    }

    #[test]
    fn a_refused_event_takes_no_token() {
        let gate = RateGate::new(Some(rate(1, 1, 1)));
        assert!(gate.admit(Moment::from_nanos(SECOND)));
        assert!((0..1000).all(|_| !gate.admit(Moment::from_nanos(SECOND + 5))));
        assert!(gate.admit(Moment::from_nanos(2 * SECOND)));
    }

    #[test]
    fn a_refunded_token_can_be_taken_again() {
        let gate = RateGate::new(Some(rate(1, 1, 2)));
        let now = Moment::from_nanos(SECOND);
        assert!((0..10).all(|_| {
            let admitted = gate.admit(now);
            gate.refund();
            admitted
        }));
        assert!(gate.admit(now) && gate.admit(now) && !gate.admit(now));
        let unlimited = RateGate::new(None);
        unlimited.refund();
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

    #[test]
    fn a_restored_rate_goes_on() {
        let at = |seconds| Moment::from_nanos(seconds * SECOND);
        let gates = [(); 2].map(|()| RateGate::new(Some(rate(1, 1, 5))));
        assert!((0..4).all(|_| gates[0].admit(at(10))));
        // The clock of the other process has another beginning.
        gates[1].restore(gates[0].recovers_in(at(11)), at(1000));
        let admitted = |gate: &RateGate, now| (0..9).filter(|_| gate.admit(now)).count();
        assert_eq!((admitted(&gates[0], at(11)), admitted(&gates[1], at(1000))), (2, 2));
        assert_eq!(RateGate::new(None).recovers_in(at(1)), 0);
        let hostile = RateGate::new(Some(rate(1, 1, 5)));
        hostile.restore(u64::MAX, at(1));
        assert_eq!((admitted(&hostile, at(1)), admitted(&hostile, at(6))), (0, 5), "a burst is its bound");
    }

    proptest! {
        /// In any time at most the burst and the events of the rate are admitted.
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
