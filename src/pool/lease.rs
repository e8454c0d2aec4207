//! A backend held for one connection.

use std::sync::Arc;

use super::Backend;

/// Holds a backend for one connection and counts it there from pick to drop, so a backend that hangs
/// in connecting is seen as loaded too. It keeps its backend alive over reloads.
#[derive(Debug)]
#[must_use = "a dropped lease is given back"]
pub struct Lease {
    backend: Arc<Backend>,
}

impl Lease {
    pub(super) fn new(backend: &Arc<Backend>) -> Self {
        backend.hold();
        Self { backend: Arc::clone(backend) }
    }

    /// The backend it holds.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Counts an established connection ([`Backend::connections_total`]). To be called once, when
    /// the connect has succeeded: attempts that fail are no connections.
    pub fn connected(&self) {
        self.backend.connected();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.release();
    }
}
