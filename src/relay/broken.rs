//! Handles a side that breaks: a reset is passed on as a reset.
//!
//! Bytes that the broken side had sent before are still delivered, under back-pressure. This ends when the other
//! side's kernel has acknowledged them, or when `reset_linger` is over. Then the other side is reset. Without the
//! reset a transfer cut short would look complete to its receiver.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::flow::{self, Flow, FlowContext, FlowEnd};
use super::{Relay, RelayEnd, Side, peers};
use crate::executor::{sleep, timeout};
use crate::live::RegistryGuard;
use crate::sys::socket;

/// The first and the longest pause between two checks of the peer's acknowledgements.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause if the reader may take an hour.
const LONGEST_SLOW_PAUSE: Duration = Duration::from_millis(500);

/// A side that broke.
#[derive(Debug)]
pub(super) struct BrokenSide {
    side: Side,
    vanished: bool,
    /// True if its last bytes may still be unread.
    unread: bool,
    /// True if it had finished before it broke, even if its FIN is still unread.
    finished: bool,
}

impl BrokenSide {
    /// Returns the broken side for a fault of the direction that reads from `from`.
    pub(super) fn new(from: Side, fault: flow::BrokenEnd) -> Self {
        let (side, unread) = match (from, fault.end) {
            (side, FlowEnd::Source) => (side, false),
            (Side::Client, FlowEnd::Sink) => (Side::Backend, true),
            (Side::Backend, FlowEnd::Sink) => (Side::Client, true),
        };
        let finished = is_behind_end(&fault.error);
        Self { side, vanished: is_vanished(&fault.error), unread, finished }
    }

    /// Returns the broken side for an error that the reactor reported on a side that is not read. `error` is
    /// the error, if it is known.
    pub(super) fn noticed(side: Side, error: Option<io::Error>) -> Self {
        let vanished = error.as_ref().is_some_and(is_vanished);
        let finished = error.as_ref().is_some_and(is_behind_end);
        Self { side, vanished, unread: true, finished }
    }

    /// Returns the broken side for a peer that is gone. `unread` is true if bytes from it may wait in the
    /// kernel.
    pub(super) fn gone(side: Side, unread: bool) -> Self {
        Self { side, vanished: true, unread, finished: false }
    }

    /// Returns the end that the relay reports.
    pub(super) fn end(&self) -> RelayEnd {
        if self.vanished { RelayEnd::Vanished { side: self.side } } else { RelayEnd::Reset { by: self.side } }
    }
}

/// Delivers the last bytes of the broken side, then resets the other side. Returns the number of bytes
/// dropped.
///
/// If the side had finished before it broke, its bytes are complete. Then `reset_linger` does not apply, and the
/// bytes wait for their reader as in any half-closed connection. The wait ends if that reader is gone or stalled
/// for too long.
pub(super) async fn pass_on(relay: &mut Relay, broken: &mut BrokenSide, entry: &RegistryGuard) -> u64 {
    let other = match broken.side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    };
    // The broken side can no longer receive these bytes.
    let mut dropped = relay.parts(other, entry).0.abandon();
    let options = Arc::clone(&relay.settings.listener);
    let timeouts = relay.peer_timeouts(other);
    let (flow, context) = relay.parts(broken.side, entry);
    let finished = broken.finished || flow.has_ended();
    let limit =
        if finished { options.half_closed_timeout.max(options.idle_timeout) } else { options.reset_linger };
    tokio::select! {
        _ = timeout(limit, deliver(flow, context, broken, finished)) => {}
        () = peers::fails(context.sink, &timeouts) => {}
        _ = entry.closed() => {}
    }
    dropped += flow.abandon();
    let _ = socket::reset_on_close(context.sink);
    dropped as u64
}

async fn deliver(flow: &mut Flow, context: FlowContext<'_>, broken: &mut BrokenSide, finished: bool) {
    while broken.unread || flow.is_blocked() || (finished && !flow.is_done()) {
        let polled = if finished {
            std::future::poll_fn(|cx| flow.poll(cx, context)).await
        } else {
            std::future::poll_fn(|cx| flow.poll_to_end(cx, context)).await
        };
        match polled {
            Ok(()) => broken.unread = false,
            Err(fault) if fault.end == FlowEnd::Sink => return,
            Err(fault) => {
                // A read failed, so no bytes were held.
                broken.vanished |= is_vanished(&fault.error);
                break;
            }
        }
    }
    let mut pause = FIRST_PAUSE;
    while socket::unacknowledged(context.sink).is_ok_and(|bytes| bytes > 0) && !context.sink.has_error() {
        sleep(pause).await;
        pause = (pause * 2).min(if finished { LONGEST_SLOW_PAUSE } else { LONGEST_PAUSE });
    }
}

/// Returns true if an error means that a FIN came before the reset. The kernel then returns EPIPE instead of
/// ECONNRESET, once, to a write or to a query of the socket's error.
fn is_behind_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Returns true if an error means silence, not a reset.
fn is_vanished(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
    )
}
