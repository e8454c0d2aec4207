//! The traffic of a backend: what the connections of all workers write, and what is computed from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::handed::{add, words};
use crate::ids::BackendId;
use crate::pool::health::Trouble;
use crate::pool::latency::Latency;
use crate::pool::signals::PoolSignals;
use crate::telemetry::{BackendCounts, CloseKind, Direction};
use crate::wire::handover::HandedBackendCounts;

/// The value of a limit that means "no limit".
pub(super) const UNLIMITED: u64 = u64::MAX;

/// The traffic of a backend. Shared by each [`Backend`](super::Backend) of one server; it ends with the last of them.
#[derive(Debug)]
pub struct BackendTraffic {
    pub(super) id: BackendId,
    active: AtomicU64,
    /// The upper bound of `active`; [`UNLIMITED`] is no limit.
    limit: AtomicU64,
    connections: AtomicU64,
    counts: Arc<BackendCounts>,
    latency: Latency,
    /// The origin of the times in `latency`.
    born: Instant,
    /// The receiver of its reports: the signals of its pool.
    signals: ArcSwap<PoolSignals>,
    /// The counts of each trouble, indexed by [`Trouble`].
    troubles: [TroubleCount; Trouble::ALL.len()],
    /// The number of failures in a row that make a failure report; 0 is never.
    tolerated: AtomicU32,
    recent_troubles: RecentCount,
    recent_connections: RecentCount,
    recent_resets: RecentCount,
}

impl BackendTraffic {
    pub(super) fn new(now: Instant, limit: Option<u64>, signals: Arc<PoolSignals>) -> Self {
        Self {
            id: BackendId::next(),
            active: AtomicU64::new(0),
            limit: AtomicU64::new(limit.unwrap_or(UNLIMITED)),
            connections: AtomicU64::new(0),
            counts: Arc::default(),
            latency: Latency::default(),
            born: now,
            signals: ArcSwap::new(signals),
            troubles: Default::default(),
            tolerated: AtomicU32::new(0),
            recent_troubles: RecentCount::default(),
            recent_connections: RecentCount::default(),
            recent_resets: RecentCount::default(),
        }
    }

    /// Takes over the limit and the signals of the new configuration. They then apply to this server, also for
    /// connections that still hold its old `Backend`.
    pub(super) fn go_on(&self, new: &BackendTraffic) {
        self.signals.store(new.signals.load_full());
        if self.limit.swap(new.limit(), Ordering::SeqCst) != new.limit() {
            self.signals.load().queue.changed();
        }
    }

    /// The number of leases on all workers now.
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Connections established since it was first configured.
    pub fn connections_total(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The bytes of its connections, their ends, and the connections that wait for its first byte.
    pub fn counts(&self) -> &Arc<BackendCounts> {
        &self.counts
    }

    /// The number of times that clients had this trouble at the backend.
    pub fn troubles(&self, trouble: Trouble) -> u64 {
        self.troubles[trouble as usize].total.load(Ordering::Relaxed)
    }

    /// Returns the counts for a hand-over to another process.
    pub(super) fn hand_over(&self) -> HandedBackendCounts {
        let counts = &self.counts;
        HandedBackendCounts {
            connections: self.connections_total(),
            troubles: words(Trouble::ALL, Trouble::word, |trouble| self.troubles(trouble)),
            bytes: words(Direction::ALL, Direction::word, |direction| counts.bytes(direction)),
            closed: words(CloseKind::ALL, CloseKind::word, |kind| counts.closed(kind)),
            last_check_us: counts
                .last_check()
                .map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            ..HandedBackendCounts::default()
        }
    }

    /// Adds the counts of another process.
    pub(super) fn add_counts(&self, handed: &HandedBackendCounts) {
        add(&self.connections, Some(&handed.connections));
        for trouble in Trouble::ALL {
            add(&self.troubles[trouble as usize].total, handed.troubles.get(trouble.word()));
        }
        for direction in Direction::ALL {
            let bytes = handed.bytes.get(direction.word()).copied().unwrap_or_default();
            self.counts.moved(direction, bytes);
        }
        for kind in CloseKind::ALL {
            let count = handed.closed.get(kind.word()).copied().unwrap_or_default();
            self.counts.add_closed(kind, count);
        }
        if let Some(micros) = handed.last_check_us.filter(|_| self.counts.last_check().is_none()) {
            self.counts.checked(Duration::from_micros(micros));
        }
    }

    /// The expected time of a connect; zero before the first connect.
    pub fn latency(&self, now: Instant) -> Duration {
        self.latency.estimate(now.saturating_duration_since(self.born))
    }

    /// The most leases at once by its configuration; [`UNLIMITED`] is no limit.
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::SeqCst)
    }

    /// Takes one more lease, unless `limit` leases are taken already. Returns true if it took one.
    pub(super) fn hold(&self, limit: u64) -> bool {
        if limit == UNLIMITED {
            self.active.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let one_more = |active| (active < limit).then_some(active + 1);
        self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Returns a lease. Then the caller reports it with [`BackendTraffic::freed`], if the number of leases has a limit.
    pub(super) fn release(&self) {
        self.active.fetch_sub(1, Ordering::SeqCst);
    }

    /// Reports a returned lease to the connections that wait.
    pub(super) fn freed(&self) {
        self.signals.load().queue.freed();
    }

    /// Reports a change of the backend's availability to its pool.
    pub(super) fn changed(&self) {
        self.signals.load().changed();
    }

    /// Counts an established connection and the time that its connect took.
    pub(in crate::pool) fn connected(&self, took: Duration) {
        let age = self.born.elapsed();
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.recent_connections.add(minute(age));
        self.latency.observe(took, age);
        self.went_well(Trouble::Connect);
    }

    /// Records a connect that failed after this time.
    pub(in crate::pool) fn failed(&self, took: Duration) {
        self.latency.at_least(took, self.born.elapsed());
    }

    /// Sets the number of failures in a row that make a failure report; 0 is never.
    pub(in crate::pool) fn tolerate(&self, failures: u32) {
        self.tolerated.store(failures, Ordering::Relaxed);
    }

    /// Counts a trouble of a client. Returns true if too many came in a row. The count then begins again at 0.
    pub(in crate::pool) fn met(&self, trouble: Trouble) -> bool {
        self.recent_troubles.add(self.minute());
        self.troubles[trouble as usize].meet(self.tolerated.load(Ordering::Relaxed))
    }

    /// The number of troubles in this minute and the one before.
    pub fn recent_troubles(&self) -> u64 {
        self.recent_troubles.sum(self.minute())
    }

    /// The number of connections established in this minute and the one before.
    pub fn recent_connections(&self) -> u64 {
        self.recent_connections.sum(self.minute())
    }

    /// Counts a connection that the backend reset, at any time of its life.
    pub(in crate::pool) fn was_reset(&self) {
        self.recent_resets.add(self.minute());
    }

    /// The number of connections that the backend reset in this minute and the one before.
    pub fn recent_resets(&self) -> u64 {
        self.recent_resets.sum(self.minute())
    }

    /// The whole minutes since it was first configured.
    fn minute(&self) -> u32 {
        minute(self.born.elapsed())
    }

    /// Resets the count of a trouble in a row, because a client did not have the trouble.
    pub(in crate::pool) fn went_well(&self, trouble: Trouble) {
        self.troubles[trouble as usize].break_row();
    }

    /// Resets the counts of all troubles in a row.
    pub(super) fn break_rows(&self) {
        self.troubles.iter().for_each(TroubleCount::break_row);
    }
}

/// Returns the whole minutes of an age.
fn minute(age: Duration) -> u32 {
    u32::try_from(age.as_secs() / 60).unwrap_or(u32::MAX)
}

/// The number of events in this minute and the one before. Two threads at the begin of a minute may lose an event of the other.
#[derive(Debug, Default)]
struct RecentCount {
    /// A minute in the high half, the events in it in the low half.
    present: AtomicU64,
    before: AtomicU64,
}

impl RecentCount {
    fn add(&self, minute: u32) {
        let present = self.present.load(Ordering::Relaxed);
        if (present >> 32) as u32 == minute {
            self.present.fetch_add(1, Ordering::Relaxed);
        } else {
            self.before.store(present, Ordering::Relaxed);
            self.present.store(u64::from(minute) << 32 | 1, Ordering::Relaxed);
        }
    }

    fn sum(&self, minute: u32) -> u64 {
        let counts = [&self.present, &self.before].map(|count| count.load(Ordering::Relaxed));
        let is_recent = |count: &u64| minute - ((count >> 32) as u32).min(minute) <= 1;
        counts.iter().filter(|count| is_recent(count)).map(|count| count & u64::from(u32::MAX)).sum()
    }
}

/// The counts of one trouble of clients.
#[derive(Debug, Default)]
struct TroubleCount {
    total: AtomicU64,
    row: AtomicU32,
}

impl TroubleCount {
    /// Counts one trouble. Returns true if `tolerated` troubles came in a row. Two threads at once may both get
    /// true; only the first report causes an ejection.
    fn meet(&self, tolerated: u32) -> bool {
        self.total.fetch_add(1, Ordering::Relaxed);
        if tolerated == 0 {
            return false;
        }
        let is_full = self.row.fetch_add(1, Ordering::Relaxed) + 1 >= tolerated;
        if is_full {
            self.row.store(0, Ordering::Relaxed);
        }
        is_full
    }

    /// Resets the count in a row. Nearly always it is 0, and then nothing is written.
    fn break_row(&self) {
        if self.row.load(Ordering::Relaxed) != 0 {
            self.row.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_events_are_those_of_two_minutes() {
        let recent = RecentCount::default();
        assert_eq!(recent.sum(0), 0);
        let add = |minute, count| (0..count).for_each(|_| recent.add(minute));
        add(0, 3);
        assert_eq!([0, 1, 2].map(|minute| recent.sum(minute)), [3, 3, 0]);
        add(1, 2);
        assert_eq!([1, 2, 3].map(|minute| recent.sum(minute)), [5, 2, 0]);
        // The minutes between had no event.
        add(9, 4);
        assert_eq!([9, 10, 11].map(|minute| recent.sum(minute)), [4, 4, 0]);
    }
}
