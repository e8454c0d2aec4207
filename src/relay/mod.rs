//! Moves bytes both ways until both sides are done.
//!
//! A [`Relay`] owns the two sockets and is two [`flow`]s, one per direction, polled in one task. It
//! knows no names, no TLS and no pools. It holds no timer: its worker's sweep notices silence and
//! tells it through its [`live::Entry`](crate::live::Entry).
//!
//! Ends are exact. A FIN is passed on behind the last byte, and the other direction goes on. A reset
//! is passed on as a reset ([`broken`]). What was read and could not be delivered is counted.

pub mod broken;
pub mod flow;
mod peer_watch;
mod peers;
pub mod pipe_pool;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::live::{ConnectionCommand, PeerTimeouts, RegistryGuard};
use crate::sys::{Stream, socket};
use crate::telemetry::{CloseReason, Direction};
use broken::BrokenSide;
pub use flow::{Engines, FlowStage};
use flow::{Flow, FlowContext};
use peers::{PeerFault, PeerTrackers};
pub use pipe_pool::PipePool;

/// How a relay works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    /// Which engine moves the bytes. Default [`EngineChoice::Auto`].
    pub engine: EngineChoice,
    /// Closed when no byte moved either way for so long. Default 1 h.
    pub idle_timeout: Duration,
    /// Closed when one side is finished and the other silent for so long. Default 60 s.
    pub half_closed_timeout: Duration,
    /// After a reset: how long what was already read may still be delivered. Default 1 s.
    pub reset_linger: Duration,
    /// The timeouts of a client that does not answer or does not read.
    pub client: PeerTimeouts,
}

/// Which engine moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// Copies what is small and splices what streams.
    Auto,
    /// Splices from the first byte.
    Splice,
    /// Copies always.
    Copy,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            idle_timeout: Duration::from_secs(3600),
            half_closed_timeout: Duration::from_secs(60),
            reset_linger: Duration::from_secs(1),
            client: PeerTimeouts::default(),
        }
    }
}

/// The settings of a relay: the options of its listener, and the timeouts of its pool for the backend.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// The options of the listener.
    pub listener: Arc<RelayOptions>,
    /// The timeouts of the pool.
    pub backend: Arc<PeerTimeouts>,
}

/// The two sides of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Backend,
}

impl Side {
    /// Both sides.
    const BOTH: [Self; 2] = [Self::Client, Self::Backend];
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both sides finished.
    Finished {
        /// Who finished first.
        first: Side,
    },
    /// A side reset the connection; the other was reset in turn.
    Reset {
        /// Who did.
        by: Side,
    },
    /// A side no longer answers: neither keepalive probes nor data.
    Vanished {
        /// Who.
        side: Side,
    },
    /// A side answers, but took no byte for its stall timeout.
    Stalled {
        /// The side.
        side: Side,
    },
    /// No byte moved for too long.
    Idle,
    /// One side had finished and the other was silent for too long.
    HalfClosed,
    /// The worker said so.
    Closed {
        /// And why.
        reason: CloseReason,
    },
    /// It is to go on in another worker: [`Relay::stop`] it.
    Moved {
        /// The worker's number.
        to: usize,
    },
}

/// What a stopped relay gives back; [`Relay::resume`] goes on with it.
#[derive(Debug)]
pub struct RelayParts {
    /// The client's socket.
    pub client: Stream,
    /// The backend's socket.
    pub backend: Stream,
    /// Bytes read from the client and not yet written, and how far that direction had come.
    pub from_client: (Vec<u8>, FlowStage),
    /// Bytes read from the backend and not yet written, and how far that direction had come.
    pub from_backend: (Vec<u8>, FlowStage),
}

/// Two sockets and the bytes between them.
pub struct Relay {
    client: Stream,
    backend: Stream,
    from_client: Flow,
    from_backend: Flow,
    /// Who finished first, once somebody has.
    first: Option<Side>,
    /// Whether the backend's socket still lacks its late options.
    options_due: bool,
    peers: Option<Box<PeerTrackers>>,
    settings: RelaySettings,
    engines: Rc<Engines>,
}

/// What stopped the two directions; [`Relay::end`] says what is to be done about it.
pub struct RelayStop(StopCause);

/// A side that broke while bytes moved.
pub struct RelayBreak(BrokenSide);

enum StopCause {
    Finished(Side),
    Broken(BrokenSide),
    Told(ConnectionCommand),
    Stalled(Side),
}

impl Relay {
    /// A relay between two fresh sockets. `first_bytes_sent` says that the backend has already been
    /// written to.
    pub fn new(
        client: Stream,
        backend: Stream,
        first_bytes_sent: bool,
        settings: RelaySettings,
        engines: Rc<Engines>,
    ) -> Self {
        let engine = settings.listener.engine;
        let mut from_client = Flow::new(Direction::FromClient, engine);
        from_client.writes = u8::from(first_bytes_sent);
        let from_backend = Flow::new(Direction::FromBackend, engine);
        Self {
            client,
            backend,
            from_client,
            from_backend,
            first: None,
            options_due: true,
            peers: None,
            settings,
            engines,
        }
    }

    /// A relay that goes on where another was stopped.
    pub fn resume(parts: RelayParts, settings: RelaySettings, engines: Rc<Engines>) -> Self {
        let mut relay = Self::new(parts.client, parts.backend, true, settings, engines);
        relay.from_client.resume(parts.from_client.0, parts.from_client.1);
        relay.from_backend.resume(parts.from_backend.0, parts.from_backend.1);
        relay.first = match (relay.from_client.is_done(), relay.from_backend.is_done()) {
            (true, _) => Some(Side::Client),
            (_, true) => Some(Side::Backend),
            _ => None,
        };
        relay
    }

    /// What it obeys.
    pub fn settings(&self) -> RelaySettings {
        self.settings.clone()
    }

    /// Stops and gives everything back, between two polls of [`Relay::run`].
    ///
    /// # Errors
    ///
    /// When the bytes in a pipe cannot be read back; both sides are then reset.
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

    /// Moves bytes until the connection has ended, and closes nothing before that: dropping the relay does.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost while bytes move: call it again, or [`Relay::stop`] it. Once a side is broken,
    /// cancelling cuts short what was still to be delivered.
    pub async fn run(&mut self, entry: &RegistryGuard) -> RelayEnd {
        self.begin(entry);
        let stopped = std::future::poll_fn(|cx| self.poll(cx, entry)).await;
        match self.end(stopped, entry) {
            Ok(end) => end,
            Err(breach) => self.pass_on(breach, entry).await,
        }
    }

    /// Starts the wait for silence. To be called once before [`Relay::poll`].
    pub fn begin(&self, entry: &RegistryGuard) {
        entry.expire_after(self.silence_limit());
        entry.wants_tick(self.wants_tick());
        // Bytes may have been sent before this relay began, also by another worker.
        entry.look_again(peers::MOVING);
    }

    /// Ends the connection when its directions have stopped.
    ///
    /// # Errors
    ///
    /// A side broke: [`Relay::pass_on`] takes time to tell the other.
    pub fn end(&mut self, stopped: RelayStop, entry: &RegistryGuard) -> Result<RelayEnd, RelayBreak> {
        match stopped.0 {
            StopCause::Finished(first) => {
                self.unbound_peers();
                Ok(RelayEnd::Finished { first })
            }
            StopCause::Stalled(side) => {
                self.reset_both(entry);
                Ok(RelayEnd::Stalled { side })
            }
            StopCause::Broken(broken) => Err(RelayBreak(broken)),
            StopCause::Told(ConnectionCommand::Move(to)) => Ok(RelayEnd::Moved { to }),
            StopCause::Told(command) => Ok(self.cut(command, entry)),
        }
    }

    /// Passes a reset on, behind what was still to be delivered.
    ///
    /// # Cancel safety
    ///
    /// As [`Relay::run`].
    pub async fn pass_on(&mut self, breach: RelayBreak, entry: &RegistryGuard) -> RelayEnd {
        let RelayBreak(mut broken) = breach;
        let dropped = broken::pass_on(self, &mut broken, entry).await;
        entry.dropped(dropped);
        broken.end()
    }

    /// Moves what can be moved now; ready when the directions have stopped.
    pub fn poll(&mut self, cx: &mut Context<'_>, entry: &RegistryGuard) -> Poll<RelayStop> {
        self.poll_steady(cx, entry).map(RelayStop)
    }

    fn poll_steady(&mut self, cx: &mut Context<'_>, entry: &RegistryGuard) -> Poll<StopCause> {
        while let Poll::Ready(command) = entry.poll_command(cx) {
            match command {
                ConnectionCommand::Tick => {
                    if let Some(why) = self.look_after(entry) {
                        return Poll::Ready(why);
                    }
                }
                ConnectionCommand::Expire if self.outlives_silence(entry, Instant::now()) => {}
                command => return Poll::Ready(StopCause::Told(command)),
            }
        }
        for side in Side::BOTH {
            let (flow, place) = self.parts(side, entry);
            if flow.is_done() {
                continue;
            }
            match (flow.poll_to_end(cx, place), self.first) {
                // The sockets are closed now, which sends the last end without a call of its own.
                (Poll::Ready(Ok(())), Some(first)) => return Poll::Ready(StopCause::Finished(first)),
                (Poll::Ready(Ok(())), None) => self.pass_first_end(side, entry),
                (Poll::Ready(Err(fault)), _) => {
                    return Poll::Ready(StopCause::Broken(BrokenSide::new(side, fault)));
                }
                (Poll::Pending, _) => {}
            }
        }
        entry.wants_tick(self.wants_tick());
        Poll::Pending
    }

    /// The direction that reads from a side, and where it works.
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
        let (flow, place) = self.parts(side, entry);
        flow.pass_end(place);
        self.first = Some(side);
        entry.expire_after(self.silence_limit());
    }

    /// Whether there is something to look after: an option to set, or a side that is not being read.
    fn wants_tick(&self) -> bool {
        self.options_due || self.from_client.is_deaf() || self.from_backend.is_deaf()
    }

    /// The housekeeping of a connection that has lived for a while.
    ///
    /// A direction whose sink is blocked or whose source has ended does not read, so it does not hear
    /// that its source was reset; here it is asked.
    fn look_after(&mut self, entry: &RegistryGuard) -> Option<StopCause> {
        if self.options_due {
            self.options_due = false;
            self.set_late_options();
        }
        entry.wants_tick(self.wants_tick());
        for side in Side::BOTH {
            let (flow, place) = self.parts(side, entry);
            if flow.is_deaf() && place.source.has_error() {
                return Some(StopCause::Broken(BrokenSide::noticed(side, place.source.take_error())));
            }
        }
        if !entry.look_is_due() {
            return None;
        }
        self.look_at_peers(entry, Instant::now()).map(|fault| match fault {
            PeerFault::Gone(side) => StopCause::Broken(self.give_up(side)),
            PeerFault::Stalled(side) => StopCause::Stalled(side),
        })
    }

    /// Ends the connection on our own decision.
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

    /// Resets both sides, and counts the bytes that are thrown away.
    fn reset_both(&mut self, entry: &RegistryGuard) {
        let waiting = self.from_client.abandon() + self.from_backend.abandon();
        entry.dropped(waiting as u64);
        let _ = socket::reset_on_close(&self.client);
        let _ = socket::reset_on_close(&self.backend);
    }
}

#[cfg(test)]
mod tests;
