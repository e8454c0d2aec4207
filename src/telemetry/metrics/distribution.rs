//! A histogram that costs two atomic additions and no memory for each observation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{MetricDoc, MetricKind};

/// Observed times in buckets. Shared by all workers and by scrapes.
#[derive(Debug)]
pub struct Distribution {
    /// The upper bounds in seconds, ascending.
    bounds: &'static [f64],
    /// One for each bound, and one for what is above all.
    counts: Box<[AtomicU64]>,
    micros: AtomicU64,
}

impl Distribution {
    /// An empty one with the bounds of a family of histograms.
    pub(super) fn new(metric: &MetricDoc) -> Self {
        let MetricKind::Histogram(bounds) = metric.kind else { panic!("{} is no histogram", metric.name) };
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, micros: AtomicU64::new(0) }
    }

    /// Adds one observation.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = self.bounds.iter().position(|&bound| seconds <= bound).unwrap_or(self.bounds.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The upper bound of each bucket but the last, and how many observations it and those before it have; then how
    /// many there are in all.
    pub fn buckets(&self) -> (Vec<(f64, u64)>, u64) {
        let mut sum = 0;
        let mut below = |count: &AtomicU64| {
            sum += count.load(Ordering::Relaxed);
            sum
        };
        let buckets =
            self.bounds.iter().zip(&self.counts).map(|(&bound, count)| (bound, below(count))).collect();
        let all = self.counts.last().map_or(0, below);
        (buckets, all)
    }

    /// All observed times together, in seconds.
    pub fn seconds(&self) -> f64 {
        Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::super::families::FIRST_BYTE_SECONDS;
    use super::*;

    #[test]
    fn times_are_sorted_into_buckets() {
        let distribution = Distribution::new(&FIRST_BYTE_SECONDS);
        for micros in [0, 1000, 1001, 400_000, 31_000_000] {
            distribution.observe(Duration::from_micros(micros));
        }
        let (buckets, all) = distribution.buckets();
        let below = |bound: f64| buckets.iter().find(|(own, _)| *own == bound).unwrap().1;
        assert_eq!((below(0.001), below(0.005), below(0.5), below(30.0), all), (2, 3, 4, 4, 5));
        assert!((distribution.seconds() - 31.402_001).abs() < 1e-9, "{}", distribution.seconds());
    }
}
