//! The port of control to the threads of a hand-over: new programs that connect, and the reports of the threads.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::incumbent::{self, WelcomeFacts};
use super::listening::HandoverListener;
use super::session::{HandOverEvent, SessionEvent, SessionSender};
use crate::server::service_manager::ServiceManager;
use crate::server::view::View;
use crate::sys::frames::FrameSocket;
use crate::wire::handover::HandedSocket;

/// The time in which the successor must take the last counts.
const LAST_COUNTS: Duration = Duration::from_secs(2);

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
        let (sender, events) = SessionSender::channel();
        Self { listener, is_open: false, sender, events, facts: Arc::new(facts), view }
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
