//! Counts of backends and routes: plain atomics that are read at each scrape, because backends and routes come and
//! go.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The counts of the connections that matched one route. All workers share them. Reloads keep them while the listener
/// has a route of that name.
///
/// A listener may have a million routes, so the counts of a route without a name take 48 bytes of the heap.
#[derive(Debug)]
pub struct RouteCounts {
    connections: AtomicU64,
    /// The time of the last connection; 0 before the first. In seconds since 1970, until the year 2106.
    last_used: AtomicU32,
    /// The time since which the connections are counted.
    since: AtomicU32,
    /// The bytes of a route with a name. The metrics have no other routes.
    bytes: Option<Box<[AtomicU64; Direction::ALL.len()]>>,
}

impl RouteCounts {
    /// Returns the counts of a route with a name, from this time on.
    pub fn named(since: SystemTime) -> Self {
        Self { bytes: Some(Box::default()), ..Self::unnamed(since) }
    }

    /// Returns the counts of a route without a name, from this time on.
    pub fn unnamed(since: SystemTime) -> Self {
        let since = AtomicU32::new(seconds(since));
        Self { connections: AtomicU64::new(0), last_used: AtomicU32::new(0), since, bytes: None }
    }

    /// Returns true if these are the counts of a route with a name.
    pub fn is_named(&self) -> bool {
        self.bytes.is_some()
    }

    /// Counts a connection that matched the route at this time.
    pub fn take(&self, now: SystemTime) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let now = seconds(now);
        // Most connections of a busy route find the time of their second, and write nothing.
        if self.last_used.load(Ordering::Relaxed) != now {
            self.last_used.store(now, Ordering::Relaxed);
        }
    }

    /// Adds the connections that matched the route in another process: their number, and the time of the last. There they
    /// were counted since a time.
    pub fn add_taken(&self, count: u64, last_used: Option<SystemTime>, since: SystemTime) {
        self.connections.fetch_add(count, Ordering::Relaxed);
        self.last_used.fetch_max(last_used.map_or(0, seconds), Ordering::Relaxed);
        self.since.fetch_min(seconds(since), Ordering::Relaxed);
    }

    /// Returns the number of connections that matched the route.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the time of the last connection, to the second; `None` before the first.
    pub fn last_used(&self) -> Option<SystemTime> {
        Some(self.last_used.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0).map(time)
    }

    /// Returns the time since which the connections are counted, to the second.
    pub fn since(&self) -> SystemTime {
        time(self.since.load(Ordering::Relaxed))
    }

    /// Adds bytes that were relayed. Does nothing for a route without a name.
    pub fn moved(&self, direction: Direction, bytes: u64) {
        if let Some(counts) = &self.bytes {
            counts[direction as usize].fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Returns the bytes relayed. The bytes of open connections are counted up to the last sweep.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes.as_ref().map_or(0, |counts| counts[direction as usize].load(Ordering::Relaxed))
    }
}

/// Returns the whole seconds from 1970 to a time, at least 1.
fn seconds(time: SystemTime) -> u32 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

fn time(seconds: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_use_of_a_route_is_kept_to_the_second() {
        let at = |millis: u64| UNIX_EPOCH + Duration::from_millis(millis);
        let counts = RouteCounts::unnamed(at(5_700));
        assert_eq!((counts.connections(), counts.last_used(), counts.since()), (0, None, at(5_000)));
        counts.take(at(9_999));
        counts.take(at(9_000));
        assert_eq!((counts.connections(), counts.last_used()), (2, Some(at(9_000))));
        // The clock was set back.
        counts.take(at(7_000));
        assert_eq!(counts.last_used(), Some(at(7_000)));
        counts.add_taken(3, None, at(6_000));
        assert_eq!(
            (counts.connections(), counts.last_used(), counts.since()),
            (6, Some(at(7_000)), at(5_000))
        );
        counts.add_taken(1, Some(at(8_000)), at(1_000));
        assert_eq!((counts.last_used(), counts.since()), (Some(at(8_000)), at(1_000)));
        // No clock shows the time 0, which means never.
        counts.take(UNIX_EPOCH);
        assert_eq!(counts.last_used(), Some(at(1_000)));
    }

    #[test]
    fn only_named_routes_count_bytes() {
        let now = SystemTime::now();
        for (counts, expected) in [(RouteCounts::named(now), 7), (RouteCounts::unnamed(now), 0)] {
            counts.moved(Direction::FromClient, 7);
            assert_eq!((counts.bytes(Direction::FromClient), counts.is_named()), (expected, expected > 0));
        }
    }

    #[test]
    fn the_counts_of_a_route_have_the_size_that_their_documentation_states() {
        // An `Arc` has two numbers more, and the heap one.
        assert_eq!(size_of::<RouteCounts>() + 3 * size_of::<usize>(), 48);
    }
}
