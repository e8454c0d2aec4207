//! The lease: a backend held for one connection.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::changes::FailureReport;
use super::health::Trouble;

/// Holds a backend for one connection, and counts the connection there from the pick to the drop. So a backend at
/// which connects hang counts as loaded too. It keeps its backend alive over reloads.
///
/// It also records the troubles of the connection at the backend. Trouble that happens too often in a row makes a
/// [`FailureReport`] for the task that applies changes.
#[derive(Debug)]
#[must_use = "a dropped lease is given back"]
pub struct Lease {
    backend: Arc<Backend>,
    /// True if failures of the connection count for the backend, because it is the connection of a client.
    reports_troubles: bool,
    /// True if it is connected, and the backend has not sent a byte.
    is_waiting: Cell<bool>,
}

impl Lease {
    /// Takes a lease of a backend. Returns `None` if the backend is full.
    pub(super) fn take(backend: &Arc<Backend>) -> Option<Self> {
        backend.hold().then(|| Self::new(backend, true))
    }

    /// Takes a lease of a backend, full or not, for a request to cancel. Any client may send one, and servers close
    /// it without an answer, so its end does not count for the backend.
    pub(super) fn take_past_limits(backend: &Arc<Backend>) -> Self {
        backend.hold_past_limits();
        Self::new(backend, false)
    }

    /// Takes a lease for a connection that another program connected, also if the backend is full. `is_waiting` is true
    /// if the backend has sent nothing.
    pub fn handed(backend: &Arc<Backend>, reports_troubles: bool, is_waiting: bool) -> Self {
        backend.hold_past_limits();
        let lease = Self::new(backend, reports_troubles);
        if is_waiting && !lease.is_waiting.replace(true) {
            backend.traffic().counts().wait();
        }
        lease
    }

    /// Returns true if failures of the connection count for the backend.
    pub fn reports_troubles(&self) -> bool {
        self.reports_troubles
    }

    fn new(backend: &Arc<Backend>, reports_troubles: bool) -> Self {
        Self { backend: Arc::clone(backend), reports_troubles, is_waiting: Cell::new(false) }
    }

    /// The backend of the lease.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Counts an established connection and the time that its connect took; see
    /// [`BackendTraffic::connections_total`](super::backend::BackendTraffic::connections_total). To be called once, when
    /// the connect has succeeded: failed attempts are no connections.
    pub fn connected(&self, took: Duration) {
        self.backend.traffic().connected(took);
        if self.reports_troubles && !self.is_waiting.replace(true) {
            self.backend.traffic().counts().wait();
        }
    }

    /// Records the time after which a connect failed. A backend at which connects hang counts as slow. A
    /// backend that refuses connects at once does not count as fast.
    pub fn failed(&self, took: Duration) {
        self.backend.traffic().failed(took);
    }

    /// Counts a reset of the connection by the backend.
    pub fn was_reset(&self) {
        self.backend.traffic().was_reset();
    }

    /// Records the first byte of the backend. Returns true if the lease waited for it.
    pub fn spoke(&self) -> bool {
        self.backend.traffic().went_well(Trouble::EarlyReset);
        self.wait_no_more()
    }

    /// Returns true if the backend is connected and has not sent a byte.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting.get()
    }

    fn wait_no_more(&self) -> bool {
        let was_waiting = self.is_waiting.replace(false);
        if was_waiting {
            self.backend.traffic().counts().waited();
        }
        was_waiting
    }

    /// Records a trouble of the connection that the backend caused.
    pub fn met(&self, trouble: Trouble) -> Option<FailureReport> {
        (self.reports_troubles && self.backend.traffic().met(trouble))
            .then(|| FailureReport { backend: Arc::clone(&self.backend), trouble })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.wait_no_more();
        self.backend.release();
    }
}
