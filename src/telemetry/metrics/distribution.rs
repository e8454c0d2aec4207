//! A histogram that costs two atomic additions and no memory for each observation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::family::{MetricDoc, MetricKind};

/// Observed times in buckets. All workers and scrapes share them.
#[derive(Debug)]
pub struct Distribution {
    /// The upper bounds in seconds, ascending.
    bounds: &'static [f64],
    /// The counts of the buckets: one for each bound, and one for times above all bounds.
    counts: Box<[AtomicU64]>,
    micros: AtomicU64,
}

impl Distribution {
    /// Returns an empty distribution with the bounds of a family of histograms.
    ///
    /// # Panics
    ///
    /// Panics if the family is not a histogram.
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

    /// Returns the upper bound of each bucket but the last, with the number of observations up to this bound; then
    /// the number of all observations.
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

    /// Returns the sum of all observed times, in seconds.
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
