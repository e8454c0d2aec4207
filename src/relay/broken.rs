//! What happens when a side breaks: a reset is passed on as a reset.
//!
//! Bytes that the broken side had sent before are still delivered, under back-pressure, until the
//! other side's kernel has acknowledged them or `reset_linger` is over. Then the other side is reset.
//! Without that a transfer cut short would look complete to whoever receives it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::flow::{self, Flow, FlowContext, FlowEnd};
use super::{Relay, RelayEnd, Side, peers};
use crate::executor::{sleep, timeout};
use crate::live::RegistryGuard;
use crate::sys::socket;

/// The first and the longest pause between two looks at the peer's acknowledgements.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause if a paused reader may take an hour.
const LONGEST_PATIENT_PAUSE: Duration = Duration::from_millis(500);

/// A side that broke.
#[derive(Debug)]
pub(super) struct BrokenSide {
    side: Side,
    vanished: bool,
    /// Whether its last bytes may still be unread.
    unread: bool,
    /// Whether it had finished before it broke, even if that is still unread.
    finished: bool,
}

impl BrokenSide {
    /// A direction reading from `from` reported a fault.
    pub(super) fn new(from: Side, fault: flow::BrokenEnd) -> Self {
        let (side, unread) = match (from, fault.end) {
            (side, FlowEnd::Source) => (side, false),
            (Side::Client, FlowEnd::Sink) => (Side::Backend, true),
            (Side::Backend, FlowEnd::Sink) => (Side::Client, true),
        };
        let finished = is_behind_end(&fault.error);
        Self { side, vanished: is_vanished(&fault.error), unread, finished }
    }

    /// The reactor saw an error on a side that is not being read; `error` is what it was, if that is known.
    pub(super) fn noticed(side: Side, error: Option<io::Error>) -> Self {
        let vanished = error.as_ref().is_some_and(is_vanished);
        let finished = error.as_ref().is_some_and(is_behind_end);
        Self { side, vanished, unread: true, finished }
    }

    /// The relay found that a side is gone. `unread` says that bytes from that side may wait in the kernel.
    pub(super) fn gone(side: Side, unread: bool) -> Self {
        Self { side, vanished: true, unread, finished: false }
    }

    /// The end that the relay reports.
    pub(super) fn end(&self) -> RelayEnd {
        if self.vanished { RelayEnd::Vanished { side: self.side } } else { RelayEnd::Reset { by: self.side } }
    }
}

/// Delivers what the broken side still had to say, then resets the other. Returns the bytes dropped.
///
/// If the side had finished before it broke, its bytes are complete. They are then not cut off after `reset_linger`,
/// but wait for their reader as long as in any half-closed connection, unless that reader is gone or stalled for too
/// long.
pub(super) async fn pass_on(relay: &mut Relay, broken: &mut BrokenSide, entry: &RegistryGuard) -> u64 {
    let other = match broken.side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    };
    // Nobody is there to receive these.
    let mut dropped = relay.parts(other, entry).0.abandon();
    let options = Arc::clone(&relay.settings.listener);
    let timeouts = relay.peer_timeouts(other);
    let (flow, place) = relay.parts(broken.side, entry);
    let finished = broken.finished || flow.has_ended();
    let patience =
        if finished { options.half_closed_timeout.max(options.idle_timeout) } else { options.reset_linger };
    tokio::select! {
        _ = timeout(patience, deliver(flow, place, broken, finished)) => {}
        () = peers::fails(place.sink, &timeouts) => {}
        _ = entry.closed() => {}
    }
    dropped += flow.abandon();
    let _ = socket::reset_on_close(place.sink);
    dropped as u64
}

async fn deliver(flow: &mut Flow, place: FlowContext<'_>, broken: &mut BrokenSide, finished: bool) {
    while broken.unread || flow.is_blocked() || (finished && !flow.is_done()) {
        let polled = if finished {
            std::future::poll_fn(|cx| flow.poll(cx, place)).await
        } else {
            std::future::poll_fn(|cx| flow.poll_to_end(cx, place)).await
        };
        match polled {
            Ok(()) => broken.unread = false,
            Err(fault) if fault.end == FlowEnd::Sink => return,
            Err(fault) => {
                // It was read because nothing was held.
                broken.vanished |= is_vanished(&fault.error);
                break;
            }
        }
    }
    let mut pause = FIRST_PAUSE;
    while socket::unacknowledged(place.sink).is_ok_and(|bytes| bytes > 0) && !place.sink.has_error() {
        sleep(pause).await;
        pause = (pause * 2).min(if finished { LONGEST_PATIENT_PAUSE } else { LONGEST_PAUSE });
    }
}

/// Whether an error means that a FIN had come before the reset: the kernel then says so, instead of
/// ECONNRESET, once, to a write or when it is asked.
fn is_behind_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Whether an error means silence and not a reset.
fn is_vanished(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
    )
}
