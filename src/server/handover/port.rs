//! The port of control to the threads of a hand-over: new programs that connect, and the reports of the threads.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::incumbent::{self, Offer, WelcomeFacts};
use super::link::SessionLink;
use super::listening::HandoverListener;
use super::moving::MoveReport;
use super::successor::SuccessorEnd;
use crate::conn::handover::DepartedParts;
use crate::server::reload_queue::ReloadReply;
use crate::server::service_manager::ServiceManager;
use crate::server::view::View;
use crate::sys::frames::FrameSocket;
use crate::wire::handover::{Go, HandedSocket, Hello, Refused, World};

/// The time in which the successor must take the last counts.
const LAST_COUNTS: Duration = Duration::from_secs(2);

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
    /// The program before this one has ended. The world has its last counts.
    Alone(Box<World>),
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
    pub(super) fn send_hand_over(&self, event: HandOverEvent) {
        let _ = self.0.send(SessionEvent::HandOver(event));
    }

    pub(super) fn send_take_over(&self, event: TakeOverEvent) {
        let _ = self.0.send(SessionEvent::TakeOver(event));
    }
}

/// The port of control.
pub(in crate::server) struct HandoverPort {
    /// `None` if no hand-over is configured, and after this program has handed over its socket. A successor has it before
    /// it is the main program, and accepts nothing until then.
    listener: Option<HandoverListener>,
    is_open: bool,
    sender: SessionSender,
    events: mpsc::UnboundedReceiver<SessionEvent>,
    facts: Arc<WelcomeFacts>,
    view: Arc<View>,
}

impl HandoverPort {
    /// Returns the port of a process with this listener.
    pub(in crate::server) fn new(
        listener: Option<HandoverListener>,
        facts: WelcomeFacts,
        view: Arc<View>,
    ) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        Self { listener, is_open: false, sender: SessionSender(sender), events, facts: Arc::new(facts), view }
    }

    /// Answers programs that connect from now on. They see this service manager.
    pub(in crate::server) fn open(&mut self, manager: ServiceManager) {
        self.facts = Arc::new(WelcomeFacts { manager, ..WelcomeFacts::clone(&self.facts) });
        self.listener.iter().for_each(HandoverListener::own);
        self.is_open = true;
    }

    /// Returns the socket for the successor.
    pub(in crate::server) fn lend(&self) -> Option<(HandedSocket, Arc<OwnedFd>)> {
        self.listener.as_ref().map(HandoverListener::lend)
    }

    /// Takes the socket, so that another process can listen at its path once it is dropped. To drop it may wait for a file
    /// system.
    pub(in crate::server) fn take_listener(&mut self) -> Option<HandoverListener> {
        self.listener.take()
    }

    /// Lets go of the socket: the successor has it.
    pub(in crate::server) fn disarm(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.disarm();
        }
    }

    /// Waits until the session with the successor is over, for at most [`LAST_COUNTS`].
    pub(in crate::server) async fn ended(&mut self) {
        let ended = async {
            while !matches!(
                self.events.recv().await,
                Some(SessionEvent::HandOver(HandOverEvent::Ended(_))) | None
            ) {}
        };
        let _ = timeout(LAST_COUNTS, ended).await;
    }

    /// Waits for the next event. Starts a thread for each program that connects.
    ///
    /// # Cancel safety
    ///
    /// No event is lost.
    pub(in crate::server) async fn next(&mut self) -> SessionEvent {
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => return event,
                socket = accept(self.listener.as_mut().filter(|_| self.is_open)) => self.answer(socket),
            }
        }
    }

    /// Starts the thread that answers a program.
    fn answer(&self, socket: FrameSocket) {
        let (facts, view, sender) = (Arc::clone(&self.facts), Arc::clone(&self.view), self.sender.clone());
        let answering = move || incumbent::answer(socket, &facts, &view, &sender);
        if let Err(error) = thread::Builder::new().name("handover".to_owned()).spawn(answering) {
            tracing::error!(%error, "no thread for a program that asks to take over; it is refused");
        }
    }

    /// Returns another sender of events.
    pub(in crate::server) fn sender(&self) -> SessionSender {
        self.sender.clone()
    }
}

async fn accept(listener: Option<&mut HandoverListener>) -> FrameSocket {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
