//! Where the bytes of a connection are counted besides its listener.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::telemetry::{BackendCounts, CloseKind, Direction, PoolMetrics, RouteCounts};

/// The counts of a connection's route, pool and backend, as far as they are known. They go along when the connection
/// goes to another worker.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTallies {
    route: OnceCell<Arc<RouteCounts>>,
    pool: OnceCell<Arc<PoolMetrics>>,
    backend: OnceCell<Arc<BackendCounts>>,
}

impl ConnectionTallies {
    /// A route with a name took the connection.
    pub fn follow(&self, route: &Arc<RouteCounts>) {
        _ = self.route.set(Arc::clone(route));
    }

    /// The connection asks a pool for a backend.
    pub fn ask(&self, pool: &Arc<PoolMetrics>) {
        _ = self.pool.set(Arc::clone(pool));
    }

    /// A backend is connected.
    pub fn connect(&self, backend: &Arc<BackendCounts>) {
        _ = self.backend.set(Arc::clone(backend));
    }

    /// Its pool, once it has asked one.
    pub fn pool(&self) -> Option<&PoolMetrics> {
        self.pool.get().map(|pool| &**pool)
    }

    /// Counts the end of the connection at its pool and its backend, as far as it came to them. `is_silent` means
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
