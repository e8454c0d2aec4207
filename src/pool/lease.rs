//! A backend held for one connection.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::{Backend, FailureReport, Trouble};

/// Holds a backend for one connection and counts it there from pick to drop, so a backend that hangs
/// in connecting is seen as loaded too. It keeps its backend alive over reloads.
///
/// It also tells the backend how the connection fares. Trouble that is met too often in a row makes a
/// [`FailureReport`], which is to be given to whoever applies changes.
#[derive(Debug)]
#[must_use = "a dropped lease is given back"]
pub struct Lease {
    backend: Arc<Backend>,
    /// Its connection is a client of the backend, and says something of it.
    is_telling: bool,
    /// It is connected, and the backend has not sent a byte.
    is_waiting: Cell<bool>,
}

impl Lease {
    /// Holds a backend, unless it has as many connections as it may.
    pub(super) fn take(backend: &Arc<Backend>) -> Option<Self> {
        backend.hold().then(|| Self::new(backend, true))
    }

    /// Holds a backend, as many connections as it may have, for a request to cancel. Anybody may send one, and servers
    /// close it without a word, so how it fares says nothing of the backend.
    pub(super) fn take_past_limits(backend: &Arc<Backend>) -> Self {
        backend.hold_past_limits();
        Self::new(backend, false)
    }

    fn new(backend: &Arc<Backend>, is_telling: bool) -> Self {
        Self { backend: Arc::clone(backend), is_telling, is_waiting: Cell::new(false) }
    }

    /// The backend it holds.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Counts an established connection ([`Backend::connections_total`]) that took so long to connect. To be
    /// called once, when the connect has succeeded: attempts that fail are no connections.
    pub fn connected(&self, took: Duration) {
        self.backend.connected(took);
        if self.is_telling && !self.is_waiting.replace(true) {
            self.backend.counts().wait();
        }
    }

    /// Notes that a connect has failed after so long. A backend that hangs is a slow one; one that refuses at
    /// once is not a fast one.
    pub fn failed(&self, took: Duration) {
        self.backend.failed(took);
    }

    /// The backend has sent a first byte. Returns whether that was waited for.
    pub fn spoke(&self) -> bool {
        self.backend.went_well(Trouble::EarlyReset);
        self.wait_no_more()
    }

    /// Whether the backend is connected and has not sent a byte.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting.get()
    }

    fn wait_no_more(&self) -> bool {
        let was_waiting = self.is_waiting.replace(false);
        if was_waiting {
            self.backend.counts().waited();
        }
        was_waiting
    }

    /// The connection met a trouble by the backend's fault.
    pub fn met(&self, trouble: Trouble) -> Option<FailureReport> {
        (self.is_telling && self.backend.met(trouble))
            .then(|| FailureReport { backend: Arc::clone(&self.backend), trouble })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.wait_no_more();
        self.backend.release();
    }
}
