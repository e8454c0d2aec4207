//! A backend held for one connection.

use std::sync::Arc;
use std::time::Duration;

use super::Backend;

/// Holds a backend for one connection and counts it there from pick to drop, so a backend that hangs
/// in connecting is seen as loaded too. It keeps its backend alive over reloads.
#[derive(Debug)]
#[must_use = "a dropped lease is given back"]
pub struct Lease {
    backend: Arc<Backend>,
}

impl Lease {
    /// Holds a backend, unless it has as many connections as it may.
    pub(super) fn take(backend: &Arc<Backend>) -> Option<Self> {
        backend.hold().then(|| Self { backend: Arc::clone(backend) })
    }

    /// The backend it holds.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Counts an established connection ([`Backend::connections_total`]) that took so long to connect. To be
    /// called once, when the connect has succeeded: attempts that fail are no connections.
    pub fn connected(&self, took: Duration) {
        self.backend.connected(took);
    }

    /// Notes that a connect has failed after so long. A backend that hangs is a slow one; one that refuses at
    /// once is not a fast one.
    pub fn failed(&self, took: Duration) {
        self.backend.failed(took);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.release();
    }
}
