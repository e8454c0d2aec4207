//! The last hand-over of the process, for the status and the admin API.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::wire::handover::{CountsByWord, millis};

/// Returns the milliseconds from 1970 to a time.
pub(super) fn millis_since_1970(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The part of this process in a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeRole {
    /// It handed over, or was to hand over.
    Incumbent,
    /// It took over.
    Successor,
}

impl UpgradeRole {
    /// The word in the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Incumbent => "incumbent",
            Self::Successor => "successor",
        }
    }
}

/// The result of a move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveReport {
    /// The connections that moved.
    pub moved: u64,
    /// The connections that remain in the incumbent.
    pub remaining: u64,
    /// Those that remain, by the word of their stage.
    pub stages: CountsByWord,
    /// The time from the first batch to the last acknowledgement.
    pub took: Duration,
    /// The longest time for which a connection stood still.
    pub longest_pause: Duration,
    /// The 99th percentile of these times.
    pub p99_pause: Duration,
}

/// A hand-over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeReport {
    /// The time of its end.
    pub at: SystemTime,
    /// The part of this process.
    pub role: UpgradeRole,
    /// The process id of the other program.
    pub other: u32,
    /// The version of the other program.
    pub other_version: String,
    /// The connections that moved, or the reason for which the successor did not take over.
    pub result: Result<MoveReport, String>,
    /// True once the incumbent has ended.
    pub is_over: bool,
}

/// The last hand-over. Shared by control and admin.
#[derive(Debug, Default)]
pub struct UpgradeState(Mutex<Option<UpgradeReport>>);

impl UpgradeState {
    /// Returns the last hand-over; `None` if there was none.
    pub fn last(&self) -> Option<UpgradeReport> {
        self.lock().clone()
    }

    /// Stores the end of a hand-over.
    pub(super) fn note(&self, role: UpgradeRole, other: (u32, &str), result: Result<MoveReport, String>) {
        let is_over = result.as_ref().map_or(true, |report| report.remaining == 0);
        let (other, other_version) = (other.0, other.1.to_owned());
        *self.lock() =
            Some(UpgradeReport { at: SystemTime::now(), role, other, other_version, result, is_over });
    }

    /// Stores that the incumbent has ended.
    pub(super) fn is_over(&self) {
        if let Some(last) = &mut *self.lock() {
            last.is_over = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<UpgradeReport>> {
        // The report is replaced whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
