//! What clients have met at a backend, and how long it is left alone for that.

use std::time::{Duration, Instant};

use super::{CheckFault, CheckOutcome, Trouble};
use crate::pool::EjectionSpec;

/// The ejections of a backend, the present one among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ejections {
    present: Option<Ejection>,
    /// How many there were in a row, the present one included.
    row: u32,
    /// When the last one ended.
    ended: Option<Instant>,
}

/// A backend that is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// What clients met.
    pub trouble: Trouble,
    /// How long it lasts.
    pub time: Duration,
    /// When it ends.
    pub until: Instant,
    /// Which one in a row it is, from 1.
    pub in_a_row: u32,
    /// How many clients in a row met the trouble.
    pub failures: u32,
    /// Checks passed in a row since it began.
    passed: u32,
}

impl Ejections {
    pub(super) fn present(&self) -> Option<Ejection> {
        self.present
    }

    /// Begins an ejection, the longer the more there were in a row. One of these is forgotten for each
    /// base time that the backend has been back.
    pub(super) fn begin(&mut self, trouble: Trouble, spec: &EjectionSpec, now: Instant) {
        let back = self.ended.map_or(Duration::ZERO, |ended| now.saturating_duration_since(ended));
        let forgotten = back.as_nanos() / spec.base_time.as_nanos().max(1);
        self.row = self.row.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX)).saturating_add(1);
        let time = spec.base_time.saturating_mul(self.row).min(spec.max_time);
        let until = now.checked_add(time).unwrap_or(now);
        let (in_a_row, failures) = (self.row, spec.consecutive_failures);
        self.present = Some(Ejection { trouble, time, until, in_a_row, failures, passed: 0 });
    }

    /// Takes in the result of a check; whether it ends the ejection.
    ///
    /// A check makes a connection, so `rise` passed ones disprove that none can be made. What the backend
    /// does to a connection later they cannot see, so a reset is forgotten by time alone.
    pub(super) fn observe(&mut self, outcome: CheckOutcome, rise: u32, now: Instant) -> bool {
        let Some(present) = &mut self.present else { return false };
        match outcome {
            CheckOutcome::Passed => present.passed = present.passed.saturating_add(1),
            CheckOutcome::Failed(CheckFault::Local) => {}
            CheckOutcome::Failed(_) => present.passed = 0,
        }
        let disproved = present.trouble == Trouble::Connect && present.passed >= rise.max(1);
        disproved && self.end(now)
    }

    /// Ends an ejection whose time is over; whether there was one.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.present.is_some_and(|present| present.until <= now) && self.end(now)
    }

    /// Ends an ejection, which still counts in the row; whether there was one.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        let ended = self.present.take().is_some();
        if ended {
            self.ended = Some(now);
        }
        ended
    }
}
