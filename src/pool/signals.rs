//! The reports of backends to their pool: a state that changed, a slot that is free again.
//!
//! A backend is shared with the pools of earlier and later snapshots, so it has no reference to a pool. It reports here,
//! and all pools of one name share the value.

use std::sync::atomic::{AtomicU64, Ordering};

use super::pause::Pause;
use super::queue::Queue;

/// The receiver of the reports of a pool's backends. Shared by the backends and by all pools of one name; it ends with
/// the last of them.
#[derive(Debug, Default)]
pub(super) struct PoolSignals {
    /// The connections that wait for room at a backend.
    pub(super) queue: Queue,
    /// The pause in which new connections wait.
    pub(super) pause: Pause,
    /// The number of changes of the availability of backends. A pool that has read the present number has seen every
    /// change. So a pick costs one load, instead of one load for each backend.
    changes: AtomicU64,
}

impl PoolSignals {
    /// Returns the number of changes of the availability of backends so far.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Reports a change of a backend's availability, after the change: picks read the states of the backends again,
    /// and waiters may get a backend.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.queue.changed();
    }
}
