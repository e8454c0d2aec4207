//! The history of the process, shared by its sampler and its readers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use crate::telemetry::{History, HistorySample, TotalsReading};

/// The history of the process. Control adds samples, and admin reads them.
pub struct SharedHistory {
    begin: Instant,
    /// Locked for a moment by each reading of the totals, once a second, and by each copy.
    history: Mutex<History>,
}

/// A copy of the last samples of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryCopy {
    /// The time of the last sample; the begin of the history if there is no sample.
    pub end: SystemTime,
    /// The samples, the oldest first.
    pub samples: Vec<HistorySample>,
}

impl SharedHistory {
    /// Begins a history now.
    pub(super) fn begin(time: SystemTime) -> Self {
        let begin = Instant::now();
        Self { begin, history: Mutex::new(History::begin(begin, time)) }
    }

    /// Returns the time of its begin. Its samples end at whole seconds after it.
    pub(super) fn begin_time(&self) -> Instant {
        self.begin
    }

    /// Adds the samples of the seconds that have ended, with the open connections and the totals of this moment.
    pub(super) fn read(&self, open: u64, totals: TotalsReading) {
        self.lock().read(Instant::now(), SystemTime::now(), open, totals);
    }

    /// Returns at most this many samples, the last ones.
    pub fn last(&self, most: usize) -> HistoryCopy {
        let history = self.lock();
        let skipped = history.samples().len().saturating_sub(most);
        HistoryCopy { end: history.end(), samples: history.samples().skip(skipped).copied().collect() }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        // Code under the lock cannot panic.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
