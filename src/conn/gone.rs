//! Decides whether a client that ended before the relay can still be served.
//!
//! A client that sent a reset is gone. A FIN means only that no more bytes come: it may be a half-close,
//! whose client still reads. So the decision depends on the protocol, and on the bytes that the client has
//! sent.
//!
//! - TLS, also after STARTTLS or an SSLRequest, and sessions of PostgreSQL: the client has to answer the server before
//!   anything useful happens, so a client that sent a FIN is gone.
//! - A request of PostgreSQL to cancel a query is whole, and the client is served.
//! - Other protocols: a client that has sent bytes may have sent its whole request. It keeps its slot in the queue, or
//!   is served. A client that has sent nothing may wait for a banner. It is served if a backend is free, and does not
//!   wait in a queue.
//!
//! No system call is made before the reactor has reported the end of the client.

use super::sniffed::{Intent, SniffedClient};

/// The stage in which a client waits for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitStage {
    /// A slot of a backend.
    Queue,
    /// The connection to a backend.
    Dial,
}

impl SniffedClient {
    /// Returns true if the client is certainly gone.
    pub(super) fn is_gone(&self, awaited: WaitStage) -> bool {
        if !self.client.has_ended() {
            return false;
        }
        if self.client.has_error() {
            return true;
        }
        match self.intent {
            Intent::Name | Intent::Plaintext(_) => true,
            Intent::Cancel => false,
            Intent::Spoken(_) | Intent::Silent => {
                let reads = awaited == WaitStage::Dial && !self.client.is_shut();
                !reads && !self.has_bytes()
            }
        }
    }

    /// Waits until the client is gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub(super) async fn gone(&self, awaited: WaitStage) {
        self.client.ended().await;
        // After the FIN no more bytes come, so the decision holds until the client is reset.
        if !self.is_gone(awaited) {
            self.client.failed().await;
        }
    }
}
