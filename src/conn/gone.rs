//! Judges whether a client that has ended before its relay can still be served.
//!
//! A client that was reset is gone. A FIN says only that no more bytes come: it may be a half-close, whose client
//! still reads. So the judgement depends on the protocol, and on what the client has sent.
//!
//! - TLS, also behind STARTTLS or SSLRequest, and sessions of PostgreSQL: the client has to answer the server before
//!   anything useful happens, so it is gone.
//! - A request of PostgreSQL to cancel is whole, and goes on.
//! - Other protocols: a client that has sent bytes may have sent all of its request, and keeps its place. One that
//!   has sent nothing may read a banner. It is served where a backend is free, and does not wait in a queue.
//!
//! Nothing is asked of the kernel before the reactor has reported the end of the client.

use super::front::Wish;
use super::sniff::Sniffed;

/// What a client without a backend is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A place at a backend.
    Queue,
    /// The connection to a backend.
    Dial,
}

impl Sniffed {
    /// Whether the client is known to be gone.
    pub(super) fn is_gone(&self, step: Step) -> bool {
        if !self.client.has_ended() {
            return false;
        }
        if self.client.has_error() {
            return true;
        }
        match self.wish {
            Wish::Name | Wish::Plaintext(_) => true,
            Wish::Cancel => false,
            Wish::Spoken(_) | Wish::Silent => {
                let reads = step == Step::Dial && !self.client.is_shut();
                !reads && self.bytes.is_empty() && !self.client.has_unread()
            }
        }
    }

    /// Waits until the client is gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub(super) async fn gone(&self, step: Step) {
        self.client.ended().await;
        // Behind its end no more bytes come, so the judgement stands until the client is reset.
        if !self.is_gone(step) {
            self.client.failed().await;
        }
    }
}
