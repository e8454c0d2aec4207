//! The counts of a connection besides the counts of its listener.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::telemetry::{BackendCounts, CloseKind, Direction, PoolMetrics, RouteCounts};

/// The counts of a connection's route, pool and backend, as far as they are known. They move with the
/// connection to another worker.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTallies {
    route: OnceCell<Arc<RouteCounts>>,
    pool: OnceCell<Arc<PoolMetrics>>,
    backend: OnceCell<Arc<BackendCounts>>,
}

impl ConnectionTallies {
    /// Sets the route with a name that took the connection.
    pub fn follow(&self, route: &Arc<RouteCounts>) {
        _ = self.route.set(Arc::clone(route));
    }

    /// Sets the pool that is to serve the connection.
    pub fn ask(&self, pool: &Arc<PoolMetrics>) {
        _ = self.pool.set(Arc::clone(pool));
    }

    /// Sets the connected backend.
    pub fn connect(&self, backend: &Arc<BackendCounts>) {
        _ = self.backend.set(Arc::clone(backend));
    }

    /// Returns the counts of its named route, if it has one.
    pub fn route(&self) -> Option<&Arc<RouteCounts>> {
        self.route.get()
    }

    /// Returns its pool, once that is known.
    pub fn pool(&self) -> Option<&PoolMetrics> {
        self.pool.get().map(|pool| &**pool)
    }

    /// Counts the end of the connection at its pool and its backend, if they are known. `is_silent` means
    /// that the backend was connected and has sent nothing.
    pub fn close(&self, kind: CloseKind, is_silent: bool) {
        if let Some(pool) = self.pool.get() {
            pool.close(kind);
            if is_silent {
                pool.silent.increment(1);
            }
        }
        if let Some(backend) = self.backend.get() {
            backend.close(kind);
        }
    }

    /// Adds bytes that moved.
    pub(super) fn moved(&self, direction: Direction, bytes: u64) {
        if let Some(pool) = self.pool.get() {
            pool.moved(direction, bytes);
        }
        if let Some(backend) = self.backend.get() {
            backend.moved(direction, bytes);
        }
        if let Some(route) = self.route.get() {
            route.moved(direction, bytes);
        }
    }
}
