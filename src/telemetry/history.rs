//! The history of the process: ten minutes of its connections and bytes, with a sample for each second.
//!
//! A history has a fixed memory and no clock. Its reader may be late. So the totals at the end of each second are
//! interpolated between the two readings around it. If readings are missing, the events between the two readings are
//! spread evenly over the seconds between them. So no event is lost or counted twice, and no second has the events of
//! several seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use super::TotalsReading;

/// The time between two samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// The samples that are kept: ten minutes. Each takes 112 bytes, so a history takes 66 KiB.
pub const KEPT_SAMPLES: usize = 600;

/// The connections and bytes of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistorySample {
    /// Open connections at the end of the second.
    pub open: u64,
    /// The events of the second.
    pub events: TotalsReading,
}

/// The open connections and the totals at one time.
#[derive(Clone, Copy)]
struct HistoryPoint {
    at: Instant,
    open: u64,
    totals: TotalsReading,
}

/// The samples of the last ten minutes.
pub struct History {
    samples: VecDeque<HistorySample>,
    /// The last reading.
    last: HistoryPoint,
    /// The end of the last sample, with the totals at this time. Before the first sample it is the begin.
    boundary: HistoryPoint,
    /// The end of the last sample by the clock of the host.
    end: SystemTime,
}

impl History {
    /// Begins a history at this time by both clocks, with totals of 0. Samples end at whole seconds after it.
    pub fn begin(at: Instant, time: SystemTime) -> Self {
        let first = HistoryPoint { at, open: 0, totals: TotalsReading::default() };
        let samples = VecDeque::with_capacity(KEPT_SAMPLES);
        Self { samples, last: first, boundary: first, end: time }
    }

    /// Adds the samples of the seconds that have ended since the last reading.
    pub fn read(&mut self, at: Instant, time: SystemTime, open: u64, totals: TotalsReading) {
        let now = HistoryPoint { at, open, totals };
        let elapsed = at.saturating_duration_since(self.boundary.at);
        let ended = u32::try_from(elapsed.as_secs() / SAMPLE_INTERVAL.as_secs()).unwrap_or(u32::MAX);
        let kept = KEPT_SAMPLES as u32;
        if ended > kept {
            // Older samples would be dropped at once.
            self.boundary = self.last.until(&now, self.boundary.at + SAMPLE_INTERVAL * (ended - kept));
        }
        for _ in 0..ended.min(kept) {
            let next = self.last.until(&now, self.boundary.at + SAMPLE_INTERVAL);
            self.push(HistorySample {
                open: next.open,
                events: next.totals.with(self.boundary.totals, u64::saturating_sub),
            });
            self.boundary = next;
        }
        self.last = now;
        if ended > 0 {
            self.end = time - at.saturating_duration_since(self.boundary.at);
        }
    }

    fn push(&mut self, sample: HistorySample) {
        if self.samples.len() == KEPT_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Returns the samples, the oldest first.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = &HistorySample> {
        self.samples.iter()
    }

    /// Returns the time of the last sample; before the first sample, the begin.
    pub fn end(&self) -> SystemTime {
        self.end
    }
}

impl HistoryPoint {
    /// Returns the values at a time between two readings.
    fn until(&self, later: &Self, at: Instant) -> Self {
        let (part, whole) =
            (at.saturating_duration_since(self.at), later.at.saturating_duration_since(self.at));
        let value = |from: u64, to: u64| interpolate(from, to, part, whole);
        Self { at, open: value(self.open, later.open), totals: self.totals.with(later.totals, value) }
    }
}

/// Returns the value at a part of the way between two values, rounded to the nearest number.
fn interpolate(from: u64, to: u64, part: Duration, whole: Duration) -> u64 {
    let (part, whole) = (part.as_nanos().min(whole.as_nanos()), whole.as_nanos());
    if whole == 0 {
        return to;
    }
    let step = (u128::from(from.abs_diff(to)).saturating_mul(part) + whole / 2) / whole;
    // A part of the way is at most the way.
    let step = u64::try_from(step).unwrap_or(u64::MAX).min(from.abs_diff(to));
    if from <= to { from + step } else { from - step }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::CloseKind;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A history that is read at times in milliseconds after its begin.
    struct ReadHistory {
        history: History,
        begin: Instant,
    }

    impl ReadHistory {
        fn new() -> Self {
            let begin = Instant::now();
            Self { history: History::begin(begin, SystemTime::UNIX_EPOCH), begin }
        }

        fn read(&mut self, millis: u32, open: u64, accepted: u64) {
            let after = MILLISECOND * millis;
            self.history.read(self.begin + after, SystemTime::UNIX_EPOCH + after, open, totals(accepted));
        }

        fn samples(&self) -> Vec<(u64, u64)> {
            self.history.samples().map(|sample| (sample.open, sample.events.accepted)).collect()
        }

        fn end(&self) -> u128 {
            self.history.end().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
        }
    }

    fn totals(accepted: u64) -> TotalsReading {
        TotalsReading { accepted, ..TotalsReading::default() }
    }

    #[test]
    fn each_second_has_its_own_events() {
        let mut history = ReadHistory::new();
        assert_eq!((history.samples(), history.end()), (vec![], 0));
        history.read(1001, 9, 3);
        history.read(2001, 4, 3);
        history.read(3002, 4, 10);
        assert_eq!(history.samples(), [(9, 3), (4, 0), (4, 7)]);
        assert_eq!(history.end(), 3000);
        // Two readings in one second add no sample.
        history.read(3500, 9, 11);
        assert_eq!((history.samples().len(), history.end()), (3, 3000));
        history.read(4000, 9, 12);
        assert_eq!(history.samples()[3], (9, 2));
    }

    #[test]
    fn events_are_spread_over_seconds_that_nobody_read() {
        let mut history = ReadHistory::new();
        history.read(1000, 10, 10);
        history.read(4000, 40, 70);
        assert_eq!(history.samples(), [(10, 10), (20, 20), (30, 20), (40, 20)]);
        // A late reading gives the second before it no events of the second after it.
        history.read(5500, 40, 220);
        history.read(6000, 40, 220);
        assert_eq!(history.samples()[4..], [(40, 100), (40, 50)]);
    }

    #[test]
    fn a_history_is_bounded() {
        let mut history = ReadHistory::new();
        for second in 1..=700 {
            history.read(second * 1000, second.into(), u64::from(second) * 2);
        }
        let samples = history.samples();
        assert_eq!((samples.len(), samples[0], samples[599]), (KEPT_SAMPLES, (101, 2), (700, 2)));
        // A pause of days is as much work as one of ten minutes.
        history.read(700_000 + 100_000_000, 700, 1400 + 200_000);
        let samples = history.samples();
        assert_eq!((samples.len(), samples[0], samples[599]), (KEPT_SAMPLES, (700, 2), (700, 2)));
        assert_eq!(history.end(), 100_700_000);
    }

    #[test]
    fn a_sample_has_the_size_that_its_documentation_states() {
        assert_eq!(size_of::<HistorySample>(), 112);
    }

    #[test]
    fn all_totals_are_sampled() {
        let begin = Instant::now();
        let mut history = History::begin(begin, SystemTime::UNIX_EPOCH);
        let ended = std::array::from_fn(|at| at as u64 + 1);
        let totals = TotalsReading { accepted: 20, ended, bytes: [30, u64::MAX] };
        history.read(begin + SAMPLE_INTERVAL, SystemTime::UNIX_EPOCH, 0, totals);
        assert_eq!(history.samples().next().unwrap().events, totals);
        assert_eq!(ended.len(), CloseKind::ALL.len());
    }

    proptest! {
        /// The samples up to the end of a second have all events up to this time, however late the readings are.
        #[test]
        fn no_event_is_lost(gaps in proptest::collection::vec((1_u32..5000, 0_u64..1 << 40), 1..40)) {
            let mut history = ReadHistory::new();
            let (mut millis, mut accepted) = (0, 0);
            for (gap, count) in gaps {
                millis += gap;
                accepted += count;
                history.read(millis, 0, accepted);
                prop_assert_eq!(history.samples().len(), (millis as usize / 1000).min(KEPT_SAMPLES));
            }
            history.read(millis.div_ceil(1000) * 1000, 0, accepted);
            prop_assert_eq!(history.samples().iter().map(|sample| sample.1).sum::<u64>(), accepted);
        }
    }
}
