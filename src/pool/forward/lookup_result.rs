//! The results of look-ups, and their counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::cache::{CachedAnswer, LookupFault};

/// The result of a look-up, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LookupResult {
    /// The name was in the cache, or a look-up was already in progress.
    Cached,
    /// The DNS gave addresses.
    Resolved,
    /// The name does not exist.
    NoName,
    /// The name has no address.
    NoAddress,
    /// No resolver answered in time.
    Timeout,
    /// The resolvers could not be queried, or answered with an error.
    Failed,
    /// Too many look-ups were in progress.
    Busy,
}

impl LookupResult {
    /// All results, in the order of the declaration.
    pub const ALL: [Self; 7] = [
        Self::Cached,
        Self::Resolved,
        Self::NoName,
        Self::NoAddress,
        Self::Timeout,
        Self::Failed,
        Self::Busy,
    ];

    /// Returns the value of the label `result`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Resolved => "resolved",
            Self::NoName => "no_name",
            Self::NoAddress => "no_address",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Busy => "busy",
        }
    }

    pub(super) fn of(answer: &CachedAnswer) -> Self {
        match answer {
            Ok(_) => Self::Resolved,
            Err(LookupFault::NoName) => Self::NoName,
            Err(LookupFault::NoAddress) => Self::NoAddress,
            Err(LookupFault::Timeout) => Self::Timeout,
            Err(LookupFault::Failed) => Self::Failed,
            Err(LookupFault::Busy) => Self::Busy,
        }
    }
}

/// The number of look-ups by their results.
#[derive(Debug, Default)]
pub(super) struct ForwardCounts([AtomicU64; LookupResult::ALL.len()]);

impl ForwardCounts {
    pub(super) fn count(&self, result: LookupResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Adds look-ups of another process.
    pub(super) fn add(&self, result: LookupResult, count: u64) {
        self.0[result as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn of(&self, result: LookupResult) -> u64 {
        self.0[result as usize].load(Ordering::Relaxed)
    }
}
