//! Handles a side that breaks: a reset is passed on as a reset.
//!
//! Bytes that the broken side had sent before are still delivered, under back-pressure. This ends when the other
//! side's kernel has acknowledged them, or when `reset_linger` is over. Then the other side is reset. Without the
//! reset a transfer cut short would look complete to its receiver.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::flow::{self, Flow, FlowContext, FlowEnd};
use super::{Relay, RelayEnd, Side, peers};
use crate::executor::{sleep, timeout};
use crate::live::RegistryGuard;
use crate::sys::{Stream, socket};

/// The first and the longest pause between two checks of the peer's acknowledgements.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause if the reader may take an hour.
const LONGEST_SLOW_PAUSE: Duration = Duration::from_millis(500);

/// A side that broke.
#[derive(Debug)]
pub(super) struct BrokenSide {
    side: Side,
    fault: SideFault,
    last_bytes: LastBytes,
}

/// The way in which a side broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SideFault {
    /// It sent a reset.
    Reset,
    /// It no longer answers.
    Vanished,
}

/// The last bytes of a side that broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastBytes {
    /// The bytes that arrived were read.
    Read,
    /// Some of the bytes that arrived may still be unread.
    Unread,
    /// The bytes are complete: the side had finished before it broke, even if its FIN is still unread.
    Complete,
}

impl BrokenSide {
    /// Returns the broken side for a fault of the direction that reads from `from`.
    pub(super) fn new(from: Side, fault: &flow::BrokenEnd) -> Self {
        match fault.end {
            FlowEnd::Source => Self::of(from, Some(&fault.error), LastBytes::Read),
            FlowEnd::Sink => Self::of(from.other(), Some(&fault.error), LastBytes::Unread),
        }
    }

    /// Returns the broken side for an error that the reactor reported on a side that is not read. `error` is
    /// the error, if it is known.
    pub(super) fn noticed(side: Side, error: Option<&io::Error>) -> Self {
        Self::of(side, error, LastBytes::Unread)
    }

    /// Returns the broken side for a peer that is gone. `flow` is the direction that reads from it; while it is blocked,
    /// bytes may wait in the kernel.
    pub(super) fn gone(side: Side, flow: &Flow) -> Self {
        let last_bytes = if flow.is_blocked() { LastBytes::Unread } else { LastBytes::Read };
        Self { side, fault: SideFault::Vanished, last_bytes }
    }

    fn of(side: Side, error: Option<&io::Error>, last_bytes: LastBytes) -> Self {
        let fault = error.map_or(SideFault::Reset, SideFault::of);
        let last_bytes = if error.is_some_and(is_behind_end) { LastBytes::Complete } else { last_bytes };
        Self { side, fault, last_bytes }
    }

    /// Delivers the last bytes of the side, then resets the other side. Returns the end that the relay reports. Bytes
    /// that are not delivered are counted as dropped.
    ///
    /// If the side had finished before it broke, its bytes are complete. Then `reset_linger` does not apply, and the
    /// bytes wait for their reader as in any half-closed connection. The wait ends if that reader is gone or stalled
    /// for too long.
    pub(super) async fn pass_on(mut self, relay: &mut Relay, entry: &RegistryGuard) -> RelayEnd {
        let other = self.side.other();
        // The broken side can no longer receive these bytes.
        let undeliverable = relay.parts(other, entry).0.abandon();
        let options = Arc::clone(&relay.settings.listener);
        let timeouts = relay.peer_timeouts(other);
        let (flow, context) = relay.parts(self.side, entry);
        if flow.has_ended() {
            self.last_bytes = LastBytes::Complete;
        }
        let limit = match self.last_bytes {
            LastBytes::Complete => options.half_closed_timeout.max(options.idle_timeout),
            LastBytes::Read | LastBytes::Unread => options.reset_linger,
        };
        tokio::select! {
            _ = timeout(limit, self.deliver(flow, context)) => {}
            () = peers::fails(context.sink, &timeouts) => {}
            _ = entry.closed() => {}
        }
        let undelivered = flow.abandon();
        let _ = socket::reset_on_close(context.sink);
        entry.dropped((undeliverable + undelivered) as u64);
        match self.fault {
            SideFault::Reset => RelayEnd::Reset { by: self.side },
            SideFault::Vanished => RelayEnd::Vanished { side: self.side },
        }
    }

    /// Writes the last bytes to the other side, and waits until its kernel has acknowledged them.
    async fn deliver(&mut self, flow: &mut Flow, context: FlowContext<'_>) {
        while self.has_more(flow) {
            let polled = match self.last_bytes {
                LastBytes::Complete => poll_fn(|cx| flow.poll(cx, context)).await,
                LastBytes::Read | LastBytes::Unread => poll_fn(|cx| flow.poll_to_end(cx, context)).await,
            };
            match polled {
                Ok(()) if self.last_bytes == LastBytes::Unread => self.last_bytes = LastBytes::Read,
                Ok(()) => {}
                Err(fault) if fault.end == FlowEnd::Sink => return,
                Err(fault) => {
                    // A read failed, so no bytes were held.
                    if SideFault::of(&fault.error) == SideFault::Vanished {
                        self.fault = SideFault::Vanished;
                    }
                    break;
                }
            }
        }
        self.wait_for_acknowledgement(context.sink).await;
    }

    /// Returns true if bytes of the side, or its end, are still to be passed on.
    fn has_more(&self, flow: &Flow) -> bool {
        match self.last_bytes {
            LastBytes::Read => flow.is_blocked(),
            LastBytes::Unread => true,
            LastBytes::Complete => !flow.is_done(),
        }
    }

    async fn wait_for_acknowledgement(&self, sink: &Stream) {
        let longest = match self.last_bytes {
            LastBytes::Complete => LONGEST_SLOW_PAUSE,
            LastBytes::Read | LastBytes::Unread => LONGEST_PAUSE,
        };
        let mut pause = FIRST_PAUSE;
        while socket::unacknowledged(sink).is_ok_and(|bytes| bytes > 0) && !sink.has_error() {
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

impl SideFault {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::Vanished
            }
            _ => Self::Reset,
        }
    }
}

/// Returns true if an error means that a FIN came before the reset. The kernel then returns EPIPE instead of
/// ECONNRESET, once, to a write or to a query of the socket's error.
fn is_behind_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}
