//! The average connect time of a backend: it rises at once and falls slowly.
//!
//! A moving average whose weights fade with time, not with the number of connections (peak EWMA). A longer time
//! counts at once and whole. A shorter time counts only as far as the old average has faded. Without connections
//! the average fades towards zero, so a slow backend is tried again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The time after which about a third of an old average is left; the value of Finagle and linkerd.
const FADES_IN: Duration = Duration::from_secs(10);

/// The average and its time, in one atomic: microseconds in the low half, milliseconds in the high half, both of 32
/// bits. 0 before the first measurement.
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

impl Latency {
    /// Adds the time of a connect; `at` counts from any fixed moment. If two measurements are added at the same
    /// moment, one of them may be lost.
    pub(super) fn observe(&self, took: Duration, at: Duration) {
        let now = moment(at);
        let took = micros(took);
        let average = match Average::of(self.0.load(Ordering::Relaxed)) {
            Some(old) if old.micros > took => {
                let left = old.left(now);
                (f64::from(old.micros) * left + f64::from(took) * (1.0 - left)) as u32
            }
            _ => took,
        };
        self.0.store(Average { micros: average, moment: now }.word(), Ordering::Relaxed);
    }

    /// Adds a connect that failed after this time: a connect takes at least this time.
    pub(super) fn at_least(&self, took: Duration, at: Duration) {
        if Average::of(self.0.load(Ordering::Relaxed)).is_none_or(|old| old.micros < micros(took)) {
            self.observe(took, at);
        }
    }

    /// The expected time of a connect; zero before the first measurement.
    pub(super) fn estimate(&self, at: Duration) -> Duration {
        let Some(average) = Average::of(self.0.load(Ordering::Relaxed)) else { return Duration::ZERO };
        let micros = f64::from(average.micros) * average.left(moment(at));
        // A measured value is at least 1, because 0 means "not measured".
        Duration::from_nanos(((micros * 1000.0) as u64).max(1))
    }
}

#[derive(Clone, Copy)]
struct Average {
    micros: u32,
    moment: u32,
}

impl Average {
    fn of(word: u64) -> Option<Self> {
        let average = Self { micros: word as u32, moment: (word >> 32) as u32 };
        (average.micros > 0).then_some(average)
    }

    fn word(self) -> u64 {
        u64::from(self.moment) << 32 | u64::from(self.micros.max(1))
    }

    /// The part of it that has not faded. The clock wraps after 49 days; the value has faded by then.
    fn left(self, now: u32) -> f64 {
        let age = f64::from(now.wrapping_sub(self.moment));
        (-age / FADES_IN.as_millis() as f64).exp()
    }
}

fn micros(took: Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1)
}

fn moment(at: Duration) -> u32 {
    at.as_millis() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the estimate: connect times in milliseconds, each at a second, and the expected microseconds at another
    /// second.
    fn check(observed: &[(u64, u64)], at: u64, expected: u64) {
        let latency = Latency::default();
        for &(millis, second) in observed {
            latency.observe(Duration::from_millis(millis), Duration::from_secs(second));
        }
        let found = latency.estimate(Duration::from_secs(at)).as_micros() as u64;
        assert!(found.abs_diff(expected) <= expected / 1000, "{observed:?} at {at}: {found}");
    }

    #[test]
    fn worse_counts_at_once_and_better_with_time() {
        check(&[], 5, 0);
        check(&[(10, 1)], 1, 10_000);
        check(&[(10, 1), (50, 1)], 1, 50_000);
        check(&[(50, 1), (10, 1)], 1, 50_000);
        // 50 e^-1 + 10 (1 - e^-1)
        check(&[(50, 1), (10, 11)], 11, 24_715);
        check(&[(50, 1), (10, 100)], 100, 10_002);
    }

    #[test]
    fn it_fades_but_stays_known() {
        check(&[(50, 1)], 11, 18_394);
        let latency = Latency::default();
        latency.observe(Duration::ZERO, Duration::ZERO);
        assert!(latency.estimate(Duration::from_secs(86_400)) > Duration::ZERO);
    }

    #[test]
    fn a_failure_makes_it_only_worse() {
        let at = Duration::from_secs(1);
        let latency = Latency::default();
        latency.at_least(Duration::from_millis(3), at);
        assert_eq!(latency.estimate(at), Duration::from_millis(3));
        latency.at_least(Duration::from_millis(1), at);
        assert_eq!(latency.estimate(at), Duration::from_millis(3));
        latency.at_least(Duration::from_secs(5), at);
        assert_eq!(latency.estimate(at), Duration::from_secs(5));
    }
}
