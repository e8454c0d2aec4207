//! The events and the requests between control and the threads of a hand-over.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tokio::sync::mpsc;

use super::link::SessionLink;
use super::moving::MoverParts;
use super::state::ControlCopies;
use crate::conn::handover::DepartedParts;
use crate::server::reload_queue::ReloadReply;
use crate::server::upgrade_state::MoveReport;
#[cfg(test)]
use crate::sys::frames::FrameSocket;
use crate::wire::handover::{Go, HandedSocket, Hello, ProcessState, Refused};

/// An event of a session.
pub(in crate::server) enum SessionEvent {
    /// This program is the incumbent.
    HandOver(HandOverEvent),
    /// This program is the successor.
    TakeOver(TakeOverEvent),
}

/// An event of the running program.
pub(in crate::server) enum HandOverEvent {
    /// A program asks to take over.
    Asked(SuccessorRequest),
    /// A program asks this one to reload its configuration.
    Reload(ReloadReply),
    /// The successor is built. It waits until this program has stopped to accept.
    Ready(ReadyReply),
    /// The connections that can move have moved.
    Moved(MoveReport, MainProcess),
    /// The session with the successor is over.
    Ended(SessionEnd),
}

/// An event of the new program.
pub(in crate::server) enum TakeOverEvent {
    /// This program may accept.
    Go(Go),
    /// Connections came whose listeners and backends are not configured here.
    Departed(DepartedParts),
    /// All connections that can move have come. This program is the main program.
    TookOver(MoveReport),
    /// The program before this one has ended. The state has its last counts.
    Alone(Box<ProcessState>),
    /// The session ended early.
    Left(SuccessorEnd, String),
}

/// The main process of the service after a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum MainProcess {
    /// The successor, or there is no service manager.
    Successor,
    /// The incumbent: the service manager did not take the successor. If it ended, the manager would end the service.
    Incumbent,
}

/// The end of a session in the incumbent.
#[derive(Debug)]
pub(in crate::server) enum SessionEnd {
    /// The successor did not take over. All connections that it had not acknowledged go on here.
    Failed {
        /// The reason.
        reason: String,
        /// The connections that it had acknowledged.
        moved: u64,
    },
    /// The successor has taken over, and this program has no connection left.
    Done,
}

/// The session with a successor that has the sockets and the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum SuccessorState {
    /// There is no such successor.
    None,
    /// The successor waits for the last counts.
    Counting,
    /// The session is over.
    Done,
}

/// The reply to a successor that is ready: the number of its first connection.
pub(in crate::server) type ReadyReply = SyncSender<u64>;

/// The request of a program to take over.
pub(in crate::server) struct SuccessorRequest {
    /// The program.
    pub(in crate::server) hello: Hello,
    /// Gets the offer, or the reason for a refusal.
    pub(in crate::server) reply: SyncSender<Result<Offer, Refused>>,
    /// Ends the session.
    pub(in crate::server) stop: SessionStop,
}

#[cfg(test)]
impl SuccessorRequest {
    /// Returns the request of a program that a test plays at the other end of the socket.
    pub(in crate::server) fn of(
        pid: u32,
        socket: std::os::unix::net::UnixStream,
        reply: SyncSender<Result<Offer, Refused>>,
    ) -> Self {
        let hello = Hello { pid, version: "9.9.9".to_owned(), ..Hello::default() };
        let stop = SessionStop(SessionLink::new(FrameSocket::new(socket).unwrap()));
        Self { hello, reply, stop }
    }
}

/// Ends a session from another thread.
pub(in crate::server) struct SessionStop(SessionLink);

impl SessionStop {
    /// Returns the value for a connection.
    pub(super) fn of(link: &SessionLink) -> io::Result<Self> {
        link.try_clone().map(Self)
    }

    /// Ends the session. Its thread then reports the end.
    pub(in crate::server) fn stop(&self) {
        self.0.shut_down();
    }
}

/// The sender of events to control. Events to a control loop that has ended are dropped.
#[derive(Clone)]
pub(in crate::server) struct SessionSender(mpsc::UnboundedSender<SessionEvent>);

impl SessionSender {
    /// Returns a sender, and the receiver for control.
    pub(super) fn channel() -> (Self, mpsc::UnboundedReceiver<SessionEvent>) {
        let (sender, events) = mpsc::unbounded_channel();
        (Self(sender), events)
    }

    pub(super) fn send_hand_over(&self, event: HandOverEvent) {
        let _ = self.0.send(SessionEvent::HandOver(event));
    }

    pub(super) fn send_take_over(&self, event: TakeOverEvent) {
        let _ = self.0.send(SessionEvent::TakeOver(event));
    }
}

/// The end of a session in the successor before the other program had no connection left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum SuccessorEnd {
    /// The other program refuses, or the session failed. It goes on, so this program must not accept.
    Failed,
    /// The other program has ended. This program is the only one.
    Gone,
    /// This program was the main program already, and the other program has ended.
    Late,
    /// This program was the main program already, and the other program goes on with its last connections.
    Stopped,
}

/// All that a session needs of the running program.
pub(in crate::server) struct Offer {
    /// The listening sockets.
    pub(in crate::server) sockets: Vec<(HandedSocket, Arc<OwnedFd>)>,
    /// The parts by which connections move.
    pub(in crate::server) mover: MoverParts,
    /// The state that only control has.
    pub(in crate::server) copies: ControlCopies,
}
