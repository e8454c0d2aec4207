//! The times of the questions to the DNS: by the TTL of the answer within bounds, sooner after a failure.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::pool::discover_spec::DnsSpec;

/// The wait after the first failure. It doubles with each further failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest wait after a failure, within `min_ttl` and `max_ttl`: a name that failed for hours is found again
/// within seconds.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The schedule of one source. `randomness` is at least 0 and below 1. Randomness only adds time: before a
/// resolver's cached answer expires, the resolver returns the rest of the TTL, which may be 0.
#[derive(Debug)]
pub(super) struct LookSchedule {
    floor: Duration,
    ceiling: Duration,
    jitter: f64,
    /// Failures in a row.
    failures: u32,
}

impl LookSchedule {
    pub(super) fn new(spec: &DnsSpec) -> Self {
        let jitter = f64::from(spec.jitter) / 100.0;
        Self { floor: spec.min_ttl, ceiling: spec.max_ttl.max(spec.min_ttl), jitter, failures: 0 }
    }

    /// Returns the wait after an answer with this TTL, and resets the count of failures.
    pub(super) fn after_answer(&mut self, ttl: Duration, randomness: f64) -> Duration {
        self.failures = 0;
        self.within(ttl, randomness)
    }

    /// Returns the wait after an answer with this TTL, while other answers are missing or failed. Keeps the count of
    /// failures.
    pub(super) fn within(&self, ttl: Duration, randomness: f64) -> Duration {
        self.stretch(ttl.clamp(self.floor, self.ceiling), randomness)
    }

    /// Returns the wait after a failure, and counts the failure.
    pub(super) fn after_failure(&mut self, randomness: f64) -> Duration {
        let doubled = FIRST_RETRY.min(self.floor).saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.stretch(doubled.min(LONGEST_RETRY.clamp(self.floor, self.ceiling)), randomness)
    }

    fn stretch(&self, time: Duration, randomness: f64) -> Duration {
        time.mul_f64(1.0 + self.jitter * randomness)
    }
}

/// Returns a random number of at least 0 and below 1, good enough to spread questions over time.
pub(super) fn randomness() -> f64 {
    // The 53 bits that an f64 holds exactly.
    (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pool::discover_spec::RecordKind;

    fn pace(min_ttl: u64, max_ttl: u64, jitter: u8) -> LookSchedule {
        LookSchedule::new(&DnsSpec {
            name: "app.internal".into(),
            records: RecordKind::Services,
            resolvers: Vec::new(),
            min_ttl: Duration::from_millis(min_ttl),
            max_ttl: Duration::from_millis(max_ttl),
            jitter,
        })
    }

    #[test]
    fn a_ttl_is_kept_within_its_bounds() {
        let check = |ttl: u64, randomness: f64, expected: u64| {
            let wait = pace(5000, 300_000, 10).after_answer(Duration::from_secs(ttl), randomness);
            assert_eq!(wait, Duration::from_millis(expected), "{ttl} {randomness}");
        };
        check(0, 0.0, 5000);
        check(4, 0.0, 5000);
        check(60, 0.0, 60_000);
        check(60, 0.5, 63_000);
        check(86_400, 0.0, 300_000);
        check(u64::MAX, 0.5, 315_000);
    }

    #[test]
    fn failures_are_asked_again_sooner_then_later() {
        let check = |min_ttl: u64, max_ttl: u64, expected: &[u64]| {
            let mut pace = pace(min_ttl, max_ttl, 0);
            let waits: Vec<_> = expected.iter().map(|_| pace.after_failure(0.9).as_millis() as u64).collect();
            assert_eq!(waits, expected, "{min_ttl} {max_ttl}");
        };
        check(5000, 300_000, &[1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        check(100, 300_000, &[100, 200, 400]);
        check(100, 150, &[100, 150, 150]);
        check(60_000, 60_000, &[1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn an_answer_ends_a_row_of_failures() {
        let mut pace = pace(5000, 300_000, 0);
        let first = pace.after_failure(0.0);
        assert!(pace.after_failure(0.0) > first);
        pace.after_answer(Duration::from_secs(60), 0.0);
        assert_eq!(pace.after_failure(0.0), first);
    }

    proptest! {
        #[test]
        fn no_wait_leaves_its_bounds(
            floor in 1_u64..100_000, more in 0_u64..100_000, jitter in 0_u8..=100,
            ttl in any::<u32>(), randomness in 0.0..1.0_f64, failures in 0_u32..100,
        ) {
            let mut pace = pace(floor, floor + more, jitter);
            let (floor, most) = (Duration::from_millis(floor), Duration::from_millis(2 * (floor + more)));
            for _ in 0..failures {
                let wait = pace.after_failure(randomness);
                prop_assert!(wait >= FIRST_RETRY.min(floor) && wait <= most, "{wait:?}");
            }
            let wait = pace.after_answer(Duration::from_secs(ttl.into()), randomness);
            prop_assert!(wait >= floor && wait <= most, "{wait:?}");
        }
    }
}
