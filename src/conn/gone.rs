//! Decides whether a client that ended before the relay can still be served.
//!
//! A client that sent a reset is gone. A FIN means only that no more bytes come. It may be a half-close, after
//! which the client still reads. So the decision depends on the plan ([`EarlyFin`]), and on the bytes that the
//! client has sent. Where a FIN is unclear, a client that has sent bytes keeps its slot in the queue, or is
//! served. A client that has sent nothing is served if a backend is free, and does not wait in a queue.
//!
//! No system call is made before the reactor has reported the end of the client.

use super::plan::{EarlyFin, RoutedClient};

/// The stage in which a client waits for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitStage {
    /// A slot of a backend.
    Queue,
    /// The connection to a backend.
    Dial,
}

impl RoutedClient {
    /// Returns true if the client is certainly gone.
    pub(super) fn is_gone(&self, awaited: WaitStage) -> bool {
        let client = &self.sniffed.client;
        if !client.has_ended() {
            return false;
        }
        if client.has_error() {
            return true;
        }
        match self.plan.early_fin {
            EarlyFin::Left => true,
            EarlyFin::Whole => false,
            EarlyFin::Unanswered => !self.sniffed.has_bytes(),
            EarlyFin::Unclear => {
                let reads = awaited == WaitStage::Dial && !client.is_shut();
                !reads && !self.sniffed.has_bytes()
            }
        }
    }

    /// Waits until the client is gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub(super) async fn gone(&self, awaited: WaitStage) {
        let client = &self.sniffed.client;
        client.ended().await;
        // After the FIN no more bytes come, so the decision holds until the client is reset.
        if !self.is_gone(awaited) {
            client.failed().await;
        }
    }
}
