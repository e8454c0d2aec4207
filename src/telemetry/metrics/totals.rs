//! The totals of all connections of the process, for the history.
//!
//! The recorder returns no values of its counters. And a sum over the listeners would cost more with each listener. So
//! each event of a listener is counted here too.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::{CloseKind, CloseReason, Direction};

/// The totals of all connections of the process since its start. All workers and listeners share them.
#[derive(Debug, Default)]
pub struct ConnectionTotals {
    accepted: AtomicU64,
    ended: [AtomicU64; CloseKind::ALL.len()],
    bytes: [AtomicU64; Direction::ALL.len()],
}

/// The values of the totals at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalsReading {
    /// Accepted connections.
    pub accepted: u64,
    /// Connections that ended, by the index of their [`CloseKind`].
    pub ended: [u64; CloseKind::ALL.len()],
    /// Bytes moved, by the index of their [`Direction`]. The bytes of open connections are counted up to the last sweep.
    pub bytes: [u64; Direction::ALL.len()],
}

impl ConnectionTotals {
    /// Counts an accepted connection.
    pub(super) fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that ended.
    pub(super) fn end(&self, reason: CloseReason) {
        self.ended[CloseKind::of(reason) as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Adds bytes that were moved.
    pub(super) fn moved(&self, direction: Direction, bytes: u64) {
        self.bytes[direction as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the values now.
    pub fn read(&self) -> TotalsReading {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TotalsReading {
            accepted: value(&self.accepted),
            ended: self.ended.each_ref().map(value),
            bytes: self.bytes.each_ref().map(value),
        }
    }
}

impl TotalsReading {
    /// Returns a reading that has, for each total, a value made from both values of this total.
    pub fn with(self, other: Self, make: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            accepted: make(self.accepted, other.accepted),
            ended: std::array::from_fn(|at| make(self.ended[at], other.ended[at])),
            bytes: std::array::from_fn(|at| make(self.bytes[at], other.bytes[at])),
        }
    }
}
