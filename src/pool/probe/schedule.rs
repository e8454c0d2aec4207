//! The schedule of checks: random intervals, so that many checks do not run at the same moment.

use std::time::Duration;

use siphasher::sip::SipHasher24;

/// An interval below this would be a busy loop against a backend that refuses at once.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

/// The upper bound of intervals in computations. It is so small that `Instant` plus an interval never
/// overflows.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The times of one backend's checks.
#[derive(Debug)]
pub(in crate::pool) struct Schedule {
    randomness: RandomNumbers,
}

impl Schedule {
    pub(in crate::pool) fn new(randomness: RandomNumbers) -> Self {
        Self { randomness }
    }

    /// The wait before the first check: at random, shorter than one interval.
    pub(in crate::pool) fn first(&mut self, interval: Duration) -> Duration {
        bounded(interval).mul_f64(self.randomness.fraction())
    }

    /// The time between the starts of two checks: the interval, longer or shorter by up to a tenth.
    pub(in crate::pool) fn period(&mut self, interval: Duration) -> Duration {
        bounded(interval).mul_f64(0.9 + 0.2 * self.randomness.fraction())
    }

    /// Bytes for values that must only look random.
    pub(super) fn bytes(&mut self) -> [u8; 64] {
        let mut bytes = [0; 64];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.randomness.next().to_ne_bytes());
        }
        bytes
    }
}

fn bounded(interval: Duration) -> Duration {
    interval.clamp(SHORTEST, LONGEST)
}

/// A sequence of numbers that is determined by its start: SipHash of a counter, keyed by that start.
#[derive(Debug)]
pub(in crate::pool) struct RandomNumbers {
    start: u64,
    drawn: u64,
}

impl RandomNumbers {
    pub(in crate::pool) fn new(start: u64) -> Self {
        Self { start, drawn: 0 }
    }

    pub(in crate::pool) fn next(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        SipHasher24::new_with_keys(self.start, self.drawn).hash(&[])
    }

    /// At least 0, below 1.
    fn fraction(&mut self) -> f64 {
        // The 53 bits that an f64 holds exactly.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_spreads() {
        let interval = Duration::from_secs(2);
        let mut schedule = Schedule::new(RandomNumbers::new(5));
        let (mut early, mut late, mut short, mut long) = (0, 0, 0, 0);
        for _ in 0..1000 {
            let first = schedule.first(interval);
            assert!(first < interval);
            early += u32::from(first < interval / 10);
            late += u32::from(first > interval / 10 * 9);
            let period = schedule.period(interval);
            assert!(period >= interval / 10 * 9 && period <= interval / 10 * 11, "{period:?}");
            short += u32::from(period < interval);
            long += u32::from(period > interval);
        }
        assert!(early > 50 && late > 50 && short > 400 && long > 400, "{early} {late} {short} {long}");
    }

    #[test]
    fn the_schedule_follows_from_its_random_numbers() {
        let first = |randomness| Schedule::new(RandomNumbers::new(randomness)).first(Duration::from_secs(2));
        assert_eq!(first(3), first(3));
        assert_ne!(first(3), first(4));
        let bytes = |randomness| Schedule::new(RandomNumbers::new(randomness)).bytes();
        assert_eq!(bytes(3), bytes(3));
        assert_ne!(bytes(3), bytes(4));
        assert_ne!(bytes(3)[..32], bytes(3)[32..]);
    }

    #[test]
    fn no_interval_panics_or_spins() {
        for interval in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let period = Schedule::new(RandomNumbers::new(1)).period(interval);
            assert!(period >= SHORTEST / 10 * 9 && period <= LONGEST * 2, "{period:?}");
            assert!(std::time::Instant::now().checked_add(period).is_some());
        }
    }
}
