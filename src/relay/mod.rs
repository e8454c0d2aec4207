//! Moves bytes in both directions until both sides have finished.
//!
//! A [`Relay`] owns the two sockets and has two [`flow`]s, one for each direction, which one task polls. It
//! has no names, no TLS and no pools. It has no timer: the sweep of its worker notices silence and sends a
//! command through its [`ConnectionEntry`](crate::live::ConnectionEntry).
//!
//! Ends are exact. A FIN is passed on after the last byte, and the other direction goes on. A reset is passed
//! on as a reset ([`broken`]). Bytes that were read and could not be delivered are counted.

pub mod broken;
pub mod engine;
pub mod flow;
mod options;
mod peer_watch;
mod peers;
pub mod pipe_pool;
mod run;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::live::{ConnectionCommand, ConnectionLeg, ConnectionLegs, MoveTarget, RegistryGuard};
use crate::sys::{Stream, socket};
use crate::telemetry::{CloseReason, Direction};
use broken::BrokenSide;
pub use engine::Engines;
use flow::{Flow, FlowContext};
pub use flow::{FlowStage, NodelayDue, StoppedFlow};
pub use options::{EngineChoice, RelayOptions, RelaySettings};
use peers::{PeerFault, PeerTrackers};
pub use pipe_pool::PipePool;
pub use run::{RelayOwner, RelayRun};

/// The two sides of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client that connected to this process.
    Client,
    /// The backend that this process connected to.
    Backend,
}

impl Side {
    /// Both sides.
    const BOTH: [Self; 2] = [Self::Client, Self::Backend];

    /// Returns the side that this side exchanges bytes with.
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// The way in which a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both sides finished.
    Finished {
        /// The side that finished first.
        first: Side,
    },
    /// A side reset the connection; the other side was reset too.
    Reset {
        /// The side that sent the reset.
        by: Side,
    },
    /// A side no longer answers, neither keepalive probes nor data.
    Vanished {
        /// The side.
        side: Side,
    },
    /// A side answers, but took no byte for its stall timeout.
    Stalled {
        /// The side.
        side: Side,
    },
    /// No byte moved for the idle timeout.
    Idle,
    /// One side had finished, and the other side was silent for the half-closed timeout.
    HalfClosed,
    /// The worker closed it by a command.
    Closed {
        /// The reason in the command.
        reason: CloseReason,
    },
    /// It is to go on elsewhere; the caller must [`Relay::stop`] it.
    Moved {
        /// The destination.
        to: MoveTarget,
    },
}

/// The parts of a relay that is not running. [`Relay::new`] continues with them.
#[derive(Debug)]
pub struct RelayParts {
    /// The client's socket.
    pub client: Stream,
    /// The backend's socket.
    pub backend: Stream,
    /// The direction from the client to the backend.
    pub from_client: StoppedFlow,
    /// The direction from the backend to the client.
    pub from_backend: StoppedFlow,
}

impl RelayParts {
    /// Returns the parts of a relay between two new sockets. `held` has bytes of the client that were not yet
    /// sent to the backend.
    pub fn new(client: Stream, backend: Stream, held: Vec<u8>, nodelay: NodelayDue) -> Self {
        let from_client = StoppedFlow::new(held, nodelay);
        let from_backend = StoppedFlow::new(Vec::new(), NodelayDue::Never);
        Self { client, backend, from_client, from_backend }
    }
}

/// Two sockets and the bytes between them.
pub struct Relay {
    client: Stream,
    backend: Stream,
    from_client: Flow,
    from_backend: Flow,
    /// The side that finished first, if a side has finished.
    first: Option<Side>,
    /// True if the backend's socket still needs its late options.
    options_due: bool,
    peers: Option<Box<PeerTrackers>>,
    settings: RelaySettings,
    engines: Rc<Engines>,
}

/// The cause that stopped the two directions. [`Relay::end`] turns it into an end.
enum RelayStop {
    Finished(Side),
    Broken(BrokenSide),
    Command(ConnectionCommand),
    Stalled(Side),
}

impl Relay {
    /// Returns a relay that continues with these parts.
    pub fn new(parts: RelayParts, settings: RelaySettings, engines: Rc<Engines>) -> Self {
        let RelayParts { client, backend, from_client, from_backend } = parts;
        let engine = settings.listener.engine;
        let from_client = Flow::new(Direction::FromClient, engine, from_client);
        let from_backend = Flow::new(Direction::FromBackend, engine, from_backend);
        let first = match (from_client.is_done(), from_backend.is_done()) {
            (true, _) => Some(Side::Client),
            (_, true) => Some(Side::Backend),
            _ => None,
        };
        Self {
            client,
            backend,
            from_client,
            from_backend,
            first,
            options_due: true,
            peers: None,
            settings,
            engines,
        }
    }

    /// Returns the settings of the relay.
    pub fn settings(&self) -> RelaySettings {
        self.settings.clone()
    }

    /// Stops the relay between two polls of [`Relay::run`], and returns its parts.
    ///
    /// # Errors
    ///
    /// An error if the bytes in a pipe cannot be read back. Both sides are then reset.
    pub fn stop(mut self) -> io::Result<RelayParts> {
        self.unbound_peers();
        let Self { client, backend, from_client, from_backend, .. } = self;
        match from_client.stop().and_then(|from_client| Ok((from_client, from_backend.stop()?))) {
            Ok((from_client, from_backend)) => Ok(RelayParts { client, backend, from_client, from_backend }),
            Err(error) => {
                let _ = socket::reset_on_close(&client);
                let _ = socket::reset_on_close(&backend);
                Err(error)
            }
        }
    }

    /// Starts the wait for silence, or goes on with the wait of an earlier run.
    fn begin(&self, entry: &RegistryGuard) {
        entry.limit_silence(self.silence_limit());
        entry.needs_tick(self.needs_tick());
        // Bytes may have been sent before this relay began, also by another worker.
        entry.look_again(peers::MOVING);
    }

    /// Ends the connection when its directions have stopped.
    ///
    /// # Errors
    ///
    /// Returns a side that broke: [`BrokenSide::pass_on`] passes the break on to the other side, which takes
    /// time.
    fn end(&mut self, stop: RelayStop, entry: &RegistryGuard) -> Result<RelayEnd, BrokenSide> {
        match stop {
            RelayStop::Finished(first) => {
                self.unbound_peers();
                Ok(RelayEnd::Finished { first })
            }
            RelayStop::Stalled(side) => {
                self.reset_both(entry);
                Ok(RelayEnd::Stalled { side })
            }
            RelayStop::Broken(broken) => Err(broken),
            RelayStop::Command(ConnectionCommand::Move(to)) => Ok(RelayEnd::Moved { to }),
            RelayStop::Command(command) => Ok(self.cut(command, entry)),
        }
    }

    /// Moves the bytes that can be moved now. Ready when the directions have stopped.
    fn poll(&mut self, cx: &mut Context<'_>, entry: &RegistryGuard) -> Poll<RelayStop> {
        while let Poll::Ready(command) = entry.poll_command(cx) {
            match command {
                ConnectionCommand::Tick => {
                    if let Some(cause) = self.do_tick(entry) {
                        return Poll::Ready(cause);
                    }
                }
                ConnectionCommand::Describe => entry.describe(&self.legs()),
                ConnectionCommand::Expire if self.outlives_silence(entry, Instant::now()) => {}
                command => return Poll::Ready(RelayStop::Command(command)),
            }
        }
        for side in Side::BOTH {
            let (flow, context) = self.parts(side, entry);
            if flow.is_done() {
                continue;
            }
            match (flow.poll_to_end(cx, context), self.first) {
                // The sockets are closed next, which sends the last FIN without a call of its own.
                (Poll::Ready(Ok(())), Some(first)) => return Poll::Ready(RelayStop::Finished(first)),
                (Poll::Ready(Ok(())), None) => self.pass_first_end(side, entry),
                (Poll::Ready(Err(fault)), _) => {
                    return Poll::Ready(RelayStop::Broken(BrokenSide::new(side, &fault)));
                }
                (Poll::Pending, _) => {}
            }
        }
        entry.needs_tick(self.needs_tick());
        Poll::Pending
    }

    /// Returns the state of both sockets.
    fn legs(&self) -> ConnectionLegs {
        let Self { client, backend, from_client, from_backend, .. } = self;
        ConnectionLegs {
            client: ConnectionLeg::of(client, from_backend.is_blocked(), from_client.has_ended()),
            backend: ConnectionLeg::of(backend, from_client.is_blocked(), from_backend.has_ended()),
        }
    }

    /// Returns the direction that reads from a side, and the context that it works in.
    fn parts<'a>(&'a mut self, from: Side, entry: &'a RegistryGuard) -> (&'a mut Flow, FlowContext<'a>) {
        let engines = &*self.engines;
        let (client, backend) = (&self.client, &self.backend);
        match from {
            Side::Client => {
                (&mut self.from_client, FlowContext { source: client, sink: backend, engines, entry })
            }
            Side::Backend => {
                (&mut self.from_backend, FlowContext { source: backend, sink: client, engines, entry })
            }
        }
    }

    fn pass_first_end(&mut self, side: Side, entry: &RegistryGuard) {
        let (flow, context) = self.parts(side, entry);
        flow.pass_end(context);
        self.first = Some(side);
        entry.expire_after(self.silence_limit());
    }

    /// Returns true if a tick has work to do: an option to set, or a side that is not read.
    fn needs_tick(&self) -> bool {
        self.options_due || self.from_client.has_stopped_reading() || self.from_backend.has_stopped_reading()
    }

    /// Does the work of a tick.
    ///
    /// A direction does not read while its sink is blocked, or after its source has ended. So it does not
    /// notice a reset of its source. The socket's error is checked here instead.
    fn do_tick(&mut self, entry: &RegistryGuard) -> Option<RelayStop> {
        if self.options_due {
            self.options_due = false;
            self.set_late_options();
        }
        entry.needs_tick(self.needs_tick());
        for side in Side::BOTH {
            let (flow, context) = self.parts(side, entry);
            if flow.has_stopped_reading() && context.source.has_error() {
                return Some(RelayStop::Broken(BrokenSide::noticed(
                    side,
                    context.source.take_error().as_ref(),
                )));
            }
        }
        if !entry.look_is_due() {
            return None;
        }
        self.look_at_peers(entry, Instant::now()).map(|fault| match fault {
            PeerFault::Gone(side) => RelayStop::Broken(self.give_up(side)),
            PeerFault::Stalled(side) => RelayStop::Stalled(side),
        })
    }

    /// Ends the connection by a decision of this process.
    ///
    /// A side that still expected bytes is reset, so that a transfer cut short never looks complete.
    fn cut(&mut self, command: ConnectionCommand, entry: &RegistryGuard) -> RelayEnd {
        let half_closed = self.first.is_some();
        let is_blocked = self.from_client.is_blocked() || self.from_backend.is_blocked();
        if is_blocked
            || half_closed
            || self.waits_for_peer()
            || matches!(command, ConnectionCommand::Close(_))
        {
            self.reset_both(entry);
        }
        match command {
            ConnectionCommand::Close(reason) => RelayEnd::Closed { reason },
            _ if half_closed && !self.has_waited() => RelayEnd::HalfClosed,
            _ => RelayEnd::Idle,
        }
    }

    /// Resets both sides, and counts the bytes that are discarded.
    fn reset_both(&mut self, entry: &RegistryGuard) {
        let waiting = self.from_client.abandon() + self.from_backend.abandon();
        entry.dropped(waiting as u64);
        let _ = socket::reset_on_close(&self.client);
        let _ = socket::reset_on_close(&self.backend);
    }
}

#[cfg(test)]
mod tests;
