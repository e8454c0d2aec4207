//! The loads of all workers: the number of connections of each, and the bytes that it moved in the last tick.
//!
//! The kernel spreads connections over the workers without regard to load. By these figures an overloaded
//! worker gives connections away: new connections by number, streams by bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A worker gives a new connection away if it has far more connections than the worker with the fewest. The
/// difference must exceed this number plus a quarter of the fewest connections.
///
/// Below this difference it is cheaper to serve a connection where it was accepted than to move it.
const CROWDED: u64 = 32;

/// A worker that moves this many bytes more in a tick than another worker gives streams away. The value is about 16
/// MiB/s, a small part of the bytes that a worker can move.
pub(super) const BUSY: u64 = 8 * 1024 * 1024;

/// The load of each worker. Shared by all workers of a process.
#[derive(Debug)]
pub struct Loads {
    workers: Box<[WorkerLoad]>,
}

/// One worker's load, alone on its cache lines, because it changes with every connection.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerLoad {
    connections: AtomicU64,
    /// Bytes moved in the last tick.
    bytes: AtomicU64,
}

impl Loads {
    /// Returns the loads of this many workers, all idle.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers: (0..workers).map(|_| WorkerLoad::default()).collect() })
    }

    /// The open connections of a worker, including those on their way to it.
    pub fn connections(&self, worker: usize) -> u64 {
        self.workers[worker].connections.load(Ordering::Relaxed)
    }

    /// Returns the worker that a new connection of `from` should go to, if that is another worker.
    ///
    /// It is the worker with the fewest connections. The difference to `from` must exceed `CROWDED` (32) plus a
    /// quarter of the fewest connections.
    pub fn less_loaded(&self, from: usize) -> Option<usize> {
        let own = self.connections(from);
        if own < CROWDED {
            return None;
        }
        let (fewest, worker) =
            (0..self.workers.len()).map(|worker| (self.connections(worker), worker)).min()?;
        (own > fewest + fewest / 4 + CROWDED).then_some(worker)
    }

    /// Returns the worker with the fewest connections.
    pub fn fewest(&self) -> usize {
        (0..self.workers.len()).min_by_key(|&worker| self.connections(worker)).unwrap_or_default()
    }

    /// Counts a connection of a worker.
    pub(super) fn arrive(&self, worker: usize) {
        self.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a connection.
    pub(super) fn leave(&self, worker: usize) {
        self.workers[worker].connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets the number of bytes that a worker moved in its last tick.
    pub(super) fn moved(&self, worker: usize, bytes: u64) {
        self.workers[worker].bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns the worker to which streams of `from` should move. The second value is the number of bytes in a
    /// tick that would make both loads equal.
    pub(super) fn less_busy(&self, from: usize) -> Option<(usize, u64)> {
        let bytes = |worker: usize| self.workers[worker].bytes.load(Ordering::Relaxed);
        let (least, worker) = (0..self.workers.len()).map(|worker| (bytes(worker), worker)).min()?;
        let own = bytes(from);
        (own > 2 * least + BUSY).then_some((worker, (own - least) / 2))
    }
}

/// The slot of a connection at a worker; returned on drop.
#[derive(Debug)]
pub struct WorkerSlot {
    loads: Arc<Loads>,
    worker: usize,
}

impl WorkerSlot {
    /// Takes a slot at a worker.
    pub fn take(loads: &Arc<Loads>, worker: usize) -> Self {
        loads.arrive(worker);
        Self { loads: Arc::clone(loads), worker }
    }
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        self.loads.leave(self.worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_goes_where_there_are_far_fewer() {
        let check = |counts: [u64; 3], expected: Option<usize>| {
            let loads = Loads::new(3);
            let seats: Vec<_> = (0..3)
                .flat_map(|at| (0..counts[at]).map(move |_| at))
                .map(|at| WorkerSlot::take(&loads, at))
                .collect();
            assert_eq!(loads.less_loaded(0), expected, "{counts:?}");
            drop(seats);
            assert_eq!(loads.connections(0), 0);
        };
        check([0, 0, 0], None);
        check([CROWDED, 0, 0], None);
        check([CROWDED + 1, 5, 0], Some(2));
        check([CROWDED + 1, 0, 5], Some(1));
        check([500, 400, 400], None);
        check([533, 400, 401], Some(1));
        check([1, 900, 900], None);
    }
}
