//! The ejections of a backend: their duration, their number in a row, and their end.

use std::time::{Duration, Instant};

use super::outcome::{CheckFault, CheckOutcome};
use super::trouble::Trouble;
use crate::wire::handover::{HandedEjection, HandedEjections, from_millis, left_millis, millis};

/// Ejection: a backend at which several clients in a row failed gets no clients for a while, even if its checks
/// pass. Names and defaults are the same as in Envoy's outlier detection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectionSpec {
    /// Failed connects, or resets before the backend has sent a byte, in a row. Default 5.
    pub consecutive_failures: u32,
    /// The duration of the first ejection. An ejection right after it lasts twice as long, the next ejection
    /// three times as long. Default 30 s.
    pub base_time: Duration,
    /// The longest duration of one ejection. Default 300 s.
    pub max_time: Duration,
    /// The part of the pool that may be ejected at once, in percent. One backend may always be ejected, unless
    /// no other backend is available. Default 10.
    pub max_ejected: u8,
}

impl Default for EjectionSpec {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_ejected: 10,
        }
    }
}

/// The ejections of a backend, including the present ejection.
#[derive(Clone, Debug, Default)]
pub(super) struct Ejections {
    present: Option<Ejection>,
    /// The number of ejections in a row, the present ejection included.
    row: u32,
    /// The time at which the last ejection ended.
    ended: Option<Instant>,
}

/// An ejection: a backend that gets no connections for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// The trouble of the clients.
    pub trouble: Trouble,
    /// The duration.
    pub time: Duration,
    /// The time at which it ends.
    pub until: Instant,
    /// Its number among the ejections in a row, from 1.
    pub in_a_row: u32,
    /// The number of clients in a row that had the trouble.
    pub failures: u32,
    /// Checks passed in a row since it began.
    passed: u32,
}

impl Ejections {
    pub(super) fn present(&self) -> Option<Ejection> {
        self.present
    }

    /// Begins an ejection. Its duration grows with the number of ejections in a row. Each base time that has passed
    /// since the end of the last ejection takes one from that number.
    pub(super) fn begin(&mut self, trouble: Trouble, spec: &EjectionSpec, now: Instant) {
        let back = self.ended.map_or(Duration::ZERO, |ended| now.saturating_duration_since(ended));
        let forgotten = back.as_nanos() / spec.base_time.as_nanos().max(1);
        self.row = self.row.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX)).saturating_add(1);
        let time = spec.base_time.saturating_mul(self.row).min(spec.max_time);
        let until = now.checked_add(time).unwrap_or(now);
        let (in_a_row, failures) = (self.row, spec.consecutive_failures);
        self.present = Some(Ejection { trouble, time, until, in_a_row, failures, passed: 0 });
    }

    /// Applies the result of a check. Returns true if it ends the ejection.
    ///
    /// A check makes a connection, so `rise` passed checks in a row disprove that connects fail. Checks cannot see a
    /// later reset of a connection, so an ejection for resets ends by time alone.
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

    /// Ends an ejection whose time is over. Returns true if an ejection ended.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.present.is_some_and(|present| present.until <= now) && self.end(now)
    }

    /// Ends an ejection. The ended ejection still counts for the duration of the next ejection. Returns true if
    /// an ejection ended.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        let ended = self.present.take().is_some();
        if ended {
            self.ended = Some(now);
        }
        ended
    }

    /// Returns the ejections for a hand-over.
    pub(super) fn hand_over(&self, now: Instant) -> HandedEjections {
        let present = self.present.map(|present| HandedEjection {
            trouble: present.trouble.word().to_owned(),
            time_ms: millis(present.time),
            left_ms: left_millis(present.until.saturating_duration_since(now)),
            in_a_row: present.in_a_row,
            failures: present.failures,
            passed: present.passed,
        });
        let ended_age_ms = self.ended.map(|ended| millis(now.saturating_duration_since(ended)));
        HandedEjections { present, row: self.row, ended_age_ms }
    }

    /// Returns the ejections that were handed over.
    pub(super) fn restored(handed: &HandedEjections, now: Instant) -> Self {
        let present = handed.present.as_ref().and_then(|present| {
            Some(Ejection {
                trouble: Trouble::of_word(&present.trouble)?,
                time: from_millis(present.time_ms),
                until: now + from_millis(present.left_ms),
                in_a_row: present.in_a_row,
                failures: present.failures,
                passed: present.passed,
            })
        });
        let ended = handed.ended_age_ms.and_then(|age| now.checked_sub(from_millis(age)));
        Self { present, row: handed.row, ended }
    }
}
