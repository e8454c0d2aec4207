//! The connections that leave for a successor, and the queue between the workers and the thread that sends them.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::migration::Migration;

/// A connection that has left its worker. No reactor has its sockets, and no byte of it moves.
pub struct LeavingConnection {
    pub(super) worker: usize,
    pub(super) migration: Migration,
    pub(super) left: Instant,
}

/// The connections that have left their workers for the successor. Shared by the workers and the session thread. The
/// session thread asks for each connection, so the queue is short.
#[derive(Default)]
pub struct LeavingQueue {
    state: Mutex<LeavingState>,
    arrived: Condvar,
}

impl fmt::Debug for LeavingQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LeavingState { is_closed, connections } = &*self.state();
        let mut shown = f.debug_struct("LeavingQueue");
        shown.field("is_closed", is_closed).field("connections", &connections.len()).finish()
    }
}

#[derive(Default)]
struct LeavingState {
    is_closed: bool,
    connections: Vec<LeavingConnection>,
}

impl LeavingQueue {
    /// Returns an open queue.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, LeavingState> {
        // Each field is valid alone.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection, or returns it if the queue is closed.
    pub(super) fn push(&self, connection: LeavingConnection) -> Result<(), Box<LeavingConnection>> {
        let mut state = self.state();
        if state.is_closed {
            return Err(Box::new(connection));
        }
        state.connections.push(connection);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes the connections of the queue. Waits until there are `expected`, or none has come for `patience`.
    pub fn gather(&self, expected: usize, patience: Duration) -> Vec<LeavingConnection> {
        let mut state = self.state();
        while state.connections.len() < expected {
            let before = state.connections.len();
            let (after, wait) =
                self.arrived.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state = after;
            if wait.timed_out() && state.connections.len() == before {
                break;
            }
        }
        std::mem::take(&mut state.connections)
    }

    /// Closes the queue and takes its connections. From now on connections that were to leave go on in their workers.
    pub fn close(&self) -> Vec<LeavingConnection> {
        let mut state = self.state();
        state.is_closed = true;
        std::mem::take(&mut state.connections)
    }
}
