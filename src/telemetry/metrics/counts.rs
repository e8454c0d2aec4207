//! Counts of backends and routes: plain atomics that are read at each scrape, because backends and routes come and
//! go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::telemetry::{CloseKind, Direction};

/// The counts of the connections of one backend. All workers share them. Reloads keep them while the backend is the
/// same server.
#[derive(Debug, Default)]
pub struct BackendCounts {
    bytes: [AtomicU64; Direction::ALL.len()],
    closed: [AtomicU64; CloseKind::ALL.len()],
    waiting: AtomicU64,
    /// The duration of the last check, in microseconds plus one; 0 before the first check.
    check: AtomicU64,
}

impl BackendCounts {
    /// Adds bytes that were relayed.
    pub fn moved(&self, direction: Direction, bytes: u64) {
        self.bytes[direction as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes relayed. The bytes of open connections are counted up to the last sweep.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].load(Ordering::Relaxed)
    }

    /// Counts a connection that ended at the backend, or an attempt to connect that failed there.
    pub fn close(&self, kind: CloseKind) {
        self.closed[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Adds connections that ended in this way in another process.
    pub fn add_closed(&self, kind: CloseKind, count: u64) {
        self.closed[kind as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the number of connections that ended in this way.
    pub fn closed(&self, kind: CloseKind) -> u64 {
        self.closed[kind as usize].load(Ordering::Relaxed)
    }

    /// Records the duration of the last check.
    pub fn checked(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX - 1);
        self.check.store(micros.saturating_add(1), Ordering::Relaxed);
    }

    /// Returns the duration of the last check, or `None` before the first.
    pub fn last_check(&self) -> Option<Duration> {
        self.check.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros)
    }

    /// Counts a connection that begins to wait for the first byte of the backend.
    pub fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the wait of a connection. Must be called once for each [`wait`](Self::wait).
    pub fn waited(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the number of connections that wait for the first byte now.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The counts of the connections that matched one named route. All workers share them. Reloads keep them while the
/// listener has a route of that name.
#[derive(Debug, Default)]
pub struct RouteCounts {
    connections: AtomicU64,
    bytes: [AtomicU64; Direction::ALL.len()],
}

impl RouteCounts {
    /// Counts a connection that matched the route.
    pub fn take(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds connections that matched the route in another process.
    pub fn add_taken(&self, count: u64) {
        self.connections.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the number of connections that matched the route.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Adds bytes that were relayed.
    pub fn moved(&self, direction: Direction, bytes: u64) {
        self.bytes[direction as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes relayed. The bytes of open connections are counted up to the last sweep.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].load(Ordering::Relaxed)
    }
}
