//! The side of the running program: answers programs that connect, and hands over to a successor.
//!
//! Each program that connects has a thread. Control decides by its phase whether a successor is accepted, and gives the
//! thread an [`Offer`]. From then on the thread sends; control reacts to its reports.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::ask::is_same_group;
use super::link::{ReceivedMessage, SessionFault, SessionLink, unexpected};
use super::moving::Mover;
use super::refusals;
use super::session::{
    HandOverEvent, MainProcess, Offer, SessionEnd, SessionSender, SessionStop, SuccessorRequest,
};
use super::state;
use crate::server::service_manager::ServiceManager;
use crate::server::upgrade_state::millis_since_1970;
use crate::server::view::View;
use crate::sys::frames::{FrameSocket, MOST_DESCRIPTORS};
use crate::sys::process;
use crate::telemetry::{COMMIT, VERSION};
use crate::wire::handover::{
    Done, Go, HandedSocket, Hello, Message, PROTOCOLS, ProcessState, Protocols, Refused, Reloaded, Sockets,
    StatePart, Welcome, micros, millis,
};

/// The time in which a program that connects must send its first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(5);

/// The time in which a successor must be built: it reads its files and builds its tables.
const BUILDING: Duration = Duration::from_secs(60);

/// The time in which a successor must answer while connections move.
const ANSWER: Duration = Duration::from_secs(10);

/// The descriptors that a successor needs beside those of connections and listeners: files, epoll, pipes.
const FURTHER_DESCRIPTORS: u64 = 128;

/// The facts by which this program describes itself, besides those that change.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct WelcomeFacts {
    /// The service manager.
    pub(in crate::server) manager: ServiceManager,
    /// The address of `run --admin`, if it was given.
    pub(in crate::server) admin: Option<String>,
    /// The time that connections may take to end when the process stops.
    pub(in crate::server) drain: Duration,
}

/// Answers a program that connected. It ends with the connection.
pub(super) fn answer(socket: FrameSocket, facts: &WelcomeFacts, view: &Arc<View>, sender: &SessionSender) {
    let link = SessionLink::new(socket);
    if let Err(fault) = answer_link(&link, facts, view, sender) {
        tracing::debug!(%fault, "a program at the hand-over socket was not answered to the end");
    }
}

fn answer_link(
    link: &SessionLink,
    facts: &WelcomeFacts,
    view: &Arc<View>,
    sender: &SessionSender,
) -> Result<(), SessionFault> {
    link.set_timeout(FIRST_MESSAGE)?;
    match link.receive()?.message {
        Message::Query(query) => {
            // A program that is to start a successor gives it these outputs.
            let (output, errors) = (std::io::stdout(), std::io::stderr());
            let welcome = Message::Welcome(Box::new(welcome(facts, view, query.protocols)));
            link.send_with(&welcome, &[], &[output.as_fd(), errors.as_fd()])
        }
        Message::Reload(_) => reload(link, sender),
        Message::Hello(hello) => {
            hand_over(link, hello, facts, view, sender);
            Ok(())
        }
        other => {
            let fault = unexpected("Hello", &other);
            link.refuse(Refused { reason: fault.to_string() });
            Err(fault)
        }
    }
}

/// Returns the description of this program.
fn welcome(facts: &WelcomeFacts, view: &View, protocols: Protocols) -> Welcome {
    Welcome {
        protocol: PROTOCOLS.common(protocols),
        version: VERSION.to_owned(),
        commit: COMMIT.to_owned(),
        pid: std::process::id(),
        pid_namespace: process::pid_namespace(),
        started_ms: millis_since_1970(view.started),
        connections: view.bounds.connections.inside(),
        config_file: view.config().file.map(|file| file.display().to_string()),
        admin: facts.admin.clone(),
        directory: std::env::current_dir().ok().map(|directory| directory.display().to_string()),
        notify_socket: facts.manager.socket.as_deref().and_then(OsStr::to_str).map(str::to_owned),
        watchdog_us: facts.manager.watchdog.map(micros),
        cgroup: process::control_group(),
        drain_ms: millis(facts.drain),
    }
}

/// Reloads the configuration for a program that asked.
fn reload(link: &SessionLink, sender: &SessionSender) -> Result<(), SessionFault> {
    let (reply, result) = oneshot::channel();
    sender.send_hand_over(HandOverEvent::Reload(reply));
    let reloaded = match result.blocking_recv() {
        Ok(Ok(changes)) => Reloaded { changes: Some(changes.to_string()), fault: None },
        Ok(Err(fault)) => Reloaded { changes: None, fault: Some(fault.to_string()) },
        Err(_) => Reloaded { changes: None, fault: Some("the process is stopping".to_owned()) },
    };
    link.send(&Message::Reloaded(reloaded))
}

/// Hands over to a successor, or refuses it. Control gets the end of the session.
fn hand_over(
    link: &SessionLink,
    hello: Hello,
    facts: &WelcomeFacts,
    view: &Arc<View>,
    sender: &SessionSender,
) {
    let is_of_service = hello.cgroup.is_none()
        || is_same_group(&welcome(facts, view, hello.protocols), hello.cgroup.as_deref());
    if !is_of_service {
        return link.refuse(refusals::other_service(std::process::id()));
    }
    let listening = view.addresses().values().map(Vec::len).sum::<usize>() * view.workers;
    let needed = 2 * view.bounds.connections.inside() + listening as u64 + FURTHER_DESCRIPTORS;
    if hello.nofile < needed {
        return link.refuse(refusals::few_descriptors(hello.nofile, needed));
    }
    let Ok(stop) = SessionStop::of(link) else { return link.refuse(refusals::no_descriptor()) };
    let (reply, offered) = sync_channel(1);
    let protocols = hello.protocols;
    let pid = hello.pid;
    sender.send_hand_over(HandOverEvent::Asked(SuccessorRequest { hello, reply, stop }));
    let offer = match offered.recv() {
        Ok(Ok(offer)) => offer,
        Ok(Err(refused)) => return link.refuse(refused),
        Err(_) => return link.refuse(refusals::stopping()),
    };
    let welcome = welcome(facts, view, protocols);
    // The kernel's number holds in the namespace of this process.
    let pid = link.peer().map_or(pid, |peer| if peer.pid == 0 { pid } else { peer.pid });
    let session = Session { link, welcome, facts, view, sender, successor: pid };
    let mut end = EndOfSession { sender, end: None };
    end.end = Some(session.run(offer));
}

/// Reports the end of a session to control, also if its thread panics: control waits for it.
struct EndOfSession<'a> {
    sender: &'a SessionSender,
    end: Option<SessionEnd>,
}

impl Drop for EndOfSession<'_> {
    fn drop(&mut self) {
        let panicked =
            || SessionEnd::Failed { reason: "the thread of the session panicked".to_owned(), moved: 0 };
        self.sender.send_hand_over(HandOverEvent::Ended(self.end.take().unwrap_or_else(panicked)));
    }
}

/// A session with a successor that control has accepted.
struct Session<'a> {
    link: &'a SessionLink,
    welcome: Welcome,
    facts: &'a WelcomeFacts,
    view: &'a Arc<View>,
    sender: &'a SessionSender,
    /// The process id of the successor.
    successor: u32,
}

impl Session<'_> {
    /// Runs the session to its end.
    fn run(self, offer: Offer) -> SessionEnd {
        let Offer { sockets, mover, copies } = offer;
        let state = state::export(self.view, &copies);
        let next_id = match self.offer(&sockets, state.clone()) {
            Ok(next_id) => next_id,
            Err(fault) => {
                self.link.refuse(Refused { reason: fault.to_string() });
                return SessionEnd::Failed { reason: fault.to_string(), moved: 0 };
            }
        };
        // From now on the successor accepts. Control keeps the sockets until the successor has the connections.
        drop(sockets);
        let mut mover = Mover::new(mover, self.link, self.view);
        let additions = state::export_additions(&self.view.snapshot.load(), Instant::now());
        let moved = self.link.send(&Message::Go(Go { next_id, additions })).and_then(|()| {
            match self.welcome.protocol {
                Some(_) => mover.move_all(),
                // Only the sockets are handed over.
                None => Ok(()),
            }
        });
        if let Err(fault) = moved {
            let moved = mover.abandon();
            self.link.refuse(Refused { reason: fault.to_string() });
            return SessionEnd::Failed { reason: fault.to_string(), moved };
        }
        let main = match self.facts.manager.make_main(self.successor) {
            Ok(()) => MainProcess::Successor,
            Err(fault) => {
                let successor = self.successor;
                tracing::error!(
                    %fault, successor,
                    "the service manager does not take the successor as its main process: this process stays, without \
                     connections, until the service is stopped"
                );
                MainProcess::Incumbent
            }
        };
        let report = mover.report();
        if let Err(fault) = self.link.send(&Message::Rest((&report).into())) {
            let moved = mover.abandon();
            return SessionEnd::Failed { reason: fault.to_string(), moved };
        }
        self.sender.send_hand_over(HandOverEvent::Moved(report, main));
        if let Err(fault) = mover.move_rest(self.welcome.protocol.is_some()) {
            tracing::warn!(%fault, "the successor is gone; the remaining connections end here");
            mover.abandon();
            return SessionEnd::Done;
        }
        let counts = state::export(self.view, &copies).counts_since(&state);
        if let Err(fault) = self.link.send(&Message::Done(Done { state: counts })) {
            tracing::warn!(%fault, "the successor did not take the last counts");
        }
        SessionEnd::Done
    }

    /// Sends the sockets and the state. Waits until the successor is built and control has stopped to accept.
    fn offer(
        &self,
        sockets: &[(HandedSocket, Arc<OwnedFd>)],
        state: ProcessState,
    ) -> Result<u64, SessionFault> {
        self.link.set_timeout(ANSWER)?;
        self.link.send(&Message::Welcome(Box::new(self.welcome.clone())))?;
        let mut chunks = sockets.chunks(MOST_DESCRIPTORS).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let more = chunks.peek().is_some();
            let list = chunk.iter().map(|(socket, _)| socket.clone()).collect();
            let descriptors: Vec<_> = chunk.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
            self.link.send_with(&Message::Sockets(Sockets { sockets: list, more }), &[], &descriptors)?;
            if !more {
                break;
            }
        }
        if self.welcome.protocol.is_some() {
            let mut parts = state.split(ProcessState::ITEMS_OF_PART).into_iter().peekable();
            while let Some(state) = parts.next() {
                let more = parts.peek().is_some();
                self.link.send(&Message::ProcessState(Box::new(StatePart { state, more })))?;
            }
        }
        self.link.set_timeout(BUILDING)?;
        let ReceivedMessage { message, .. } = self.link.receive()?;
        let Message::Ready(_) = message else { return Err(unexpected("Ready", &message)) };
        self.link.set_timeout(ANSWER)?;
        let (reply, paused) = sync_channel(1);
        self.sender.send_hand_over(HandOverEvent::Ready(reply));
        paused.recv_timeout(ANSWER).map_err(|error| match error {
            RecvTimeoutError::Timeout => SessionFault::Stopped("a worker does not stop to accept"),
            RecvTimeoutError::Disconnected => SessionFault::Stopped("the process is stopping"),
        })
    }
}
