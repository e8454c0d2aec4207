//! The side of the new program: asks the running program, and adopts its connections.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::ask::{Takeover, query};
use super::link::{ReceivedMessage, SessionFault, SessionLink, unexpected};
use super::session::{SessionSender, SessionStop, SuccessorEnd, TakeOverEvent};
use crate::conn::handover::{AdoptFault, Adopter};
use crate::sys::process;
use crate::wire::handover::{
    Adopted, Batch, Declined, HandedSocket, Message, ProcessState, Ready, Rest, Welcome,
};

/// The time in which the next message with sockets or state must come.
const ANSWER: Duration = Duration::from_secs(10);

/// The time in which the running program must stop to accept, and in which the next batch must come.
const NEXT: Duration = Duration::from_secs(60);

/// The time that an incumbent may take to end after its sockets are closed.
const ENDING: Duration = Duration::from_secs(1);

/// The time between two checks at a process that ends.
const AGAIN: Duration = Duration::from_millis(10);

/// The most messages with state. Each is bounded, so this bounds the memory.
const MOST_PARTS: usize = 256;

/// The most messages with sockets.
const MOST_SOCKETS: usize = 1024;

/// The sockets and the state of the running program, which waits until this program is built.
///
/// If this is dropped, the running program goes on as before.
pub struct Inheritance {
    /// The running program.
    pub welcome: Welcome,
    /// Its listening sockets.
    pub sockets: Vec<(HandedSocket, OwnedFd)>,
    /// Its state.
    pub state: ProcessState,
    /// The session.
    pub session: SuccessorLink,
}

/// The program from which this one takes over.
pub(in crate::server) struct Incumbent {
    /// Its description.
    pub(in crate::server) welcome: Welcome,
    /// The session, until it starts.
    pub(in crate::server) link: Option<SuccessorLink>,
    /// Ends the session; `None` before it starts and after its end.
    pub(in crate::server) stop: Option<SessionStop>,
    /// True once this program is the main program.
    pub(in crate::server) is_main: bool,
    /// The time of the request.
    pub(in crate::server) asked: Instant,
    /// The listening sockets that came.
    pub(in crate::server) sockets: usize,
}

/// The connection to the running program while this program is built.
pub struct SuccessorLink {
    link: SessionLink,
    /// The path of the socket at which the running program listens.
    path: Arc<Path>,
    pid: u32,
    pid_namespace: Option<String>,
}

/// Receives the sockets and the state of a program that has agreed to hand over. Blocks until they have come.
///
/// # Errors
///
/// If the running program ends, or sends something else.
pub fn receive(takeover: Takeover) -> Result<Inheritance, SessionFault> {
    let Takeover { welcome, path, socket } = takeover;
    let link = SessionLink::new(socket);
    link.set_timeout(ANSWER)?;
    let sockets = receive_sockets(&link)?;
    let state = if welcome.protocol.is_some() { receive_state(&link)? } else { ProcessState::default() };
    let (pid, pid_namespace) = (welcome.pid, welcome.pid_namespace.clone());
    let session = SuccessorLink { link, path, pid, pid_namespace };
    Ok(Inheritance { welcome, sockets, state, session })
}

fn receive_sockets(link: &SessionLink) -> Result<Vec<(HandedSocket, OwnedFd)>, SessionFault> {
    let mut all = Vec::new();
    for _ in 0..MOST_SOCKETS {
        let ReceivedMessage { message, descriptors, .. } = link.receive()?;
        let Message::Sockets(list) = message else { return Err(unexpected("Sockets", &message)) };
        if list.sockets.len() != descriptors.len() {
            return Err(SessionFault::Refused(AdoptFault::Descriptors.to_string()));
        }
        all.extend(list.sockets.into_iter().zip(descriptors));
        if !list.more {
            return Ok(all);
        }
    }
    Err(SessionFault::Stopped("the running program sends too many sockets"))
}

fn receive_state(link: &SessionLink) -> Result<ProcessState, SessionFault> {
    let mut state = ProcessState::default();
    for _ in 0..MOST_PARTS {
        let ReceivedMessage { message, .. } = link.receive()?;
        let Message::ProcessState(part) = message else { return Err(unexpected("ProcessState", &message)) };
        state.join(part.state);
        if !part.more {
            return Ok(state);
        }
    }
    Err(SessionFault::Stopped("the running program sends too much state"))
}

impl SuccessorLink {
    /// Starts the thread that takes over the connections. Returns the value that ends the session.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub(in crate::server) fn start(
        self,
        adopter: Adopter,
        sender: SessionSender,
    ) -> std::io::Result<SessionStop> {
        let Self { link, path, pid, pid_namespace } = self;
        let stop = SessionStop::of(&link)?;
        let mut session =
            SuccessorSession { link, path, pid, pid_namespace, adopter, sender, has_rest: false };
        let run = move || {
            if let Err(fault) = session.run() {
                session.fail(&fault);
            }
        };
        thread::Builder::new().name("handover".to_owned()).spawn(run)?;
        Ok(stop)
    }
}

struct SuccessorSession {
    link: SessionLink,
    path: Arc<Path>,
    /// The process id of the incumbent, and the namespace in which it has its meaning.
    pid: u32,
    pid_namespace: Option<String>,
    adopter: Adopter,
    sender: SessionSender,
    /// True once this program is the main program.
    has_rest: bool,
}

impl SuccessorSession {
    fn run(&mut self) -> Result<(), SessionFault> {
        self.link.set_timeout(NEXT)?;
        self.link.send(&Message::Ready(Ready {}))?;
        let ReceivedMessage { message, .. } = self.link.receive()?;
        let Message::Go(go) = message else { return Err(unexpected("Go", &message)) };
        self.sender.send_take_over(TakeOverEvent::Go(go));
        loop {
            let received = match self.link.receive() {
                // The other program stops to accept once it has sent the message. Only the numbers for the report are lost.
                Err(fault) if fault.is_unreadable_rest() => ReceivedMessage::from(Rest::default()),
                received => received?,
            };
            let ReceivedMessage { message, raw, descriptors } = received;
            match message {
                Message::Batch(batch) => self.adopt(batch, raw, descriptors)?,
                Message::Rest(rest) => {
                    self.has_rest = true;
                    // The rest may take as long as the drain of the other program.
                    self.link.set_no_timeout()?;
                    self.sender.send_take_over(TakeOverEvent::TookOver(rest.into()));
                }
                Message::Done(done) => {
                    self.sender.send_take_over(TakeOverEvent::Alone(Box::new(done.state)));
                    return Ok(());
                }
                other => return Err(unexpected("Batch, Rest or Done", &other)),
            }
        }
    }

    fn adopt(&mut self, batch: Batch, raw: Vec<u8>, descriptors: Vec<OwnedFd>) -> Result<(), SessionFault> {
        let number = batch.number;
        match self.adopter.adopt(batch, raw, descriptors) {
            Ok(adopted) => {
                let declined = adopted.declined().to_vec();
                // From now on the other program does not take them back, so no byte may move before.
                self.answer(&Message::Adopted(Adopted { number, declined }))?;
                let lost = self.adopter.deliver(adopted);
                if lost > 0 {
                    tracing::error!(
                        lost,
                        "this program ends: connections that it had just taken over are closed"
                    );
                }
                let departed = self.adopter.take_departed();
                if !departed.is_empty() {
                    self.sender.send_take_over(TakeOverEvent::Departed(departed));
                }
                Ok(())
            }
            Err(fault) => {
                tracing::warn!(%fault, "some connections cannot be taken over; they go on in the program before this one");
                self.answer(&Message::Declined(Declined { number, reason: fault.to_string() }))
            }
        }
    }

    /// Answers a batch. If the other program has ended, the answer has no use, and all that came from there is served here.
    fn answer(&self, answer: &Message) -> Result<(), SessionFault> {
        match self.link.send(answer) {
            Err(fault) if !self.is_of_a_program_that_is_gone(&fault) => Err(fault),
            _ => Ok(()),
        }
    }

    /// Returns true if the other program has ended. A program that goes on may have closed the connection too.
    fn is_of_a_program_that_is_gone(&self, fault: &SessionFault) -> bool {
        fault.is_of_a_closed_connection() && !self.incumbent_runs()
    }

    /// Returns true if the incumbent has not ended. Its process is looked up, or, from another namespace, it is asked.
    fn incumbent_runs(&self) -> bool {
        if self.pid_namespace.is_none() || self.pid_namespace != process::pid_namespace() {
            return query(&self.path).is_ok();
        }
        // A process that ends closes its sockets a moment before.
        let until = Instant::now() + ENDING;
        while process::is_running(self.pid) {
            if Instant::now() >= until {
                return true;
            }
            thread::park_timeout(AGAIN);
        }
        false
    }

    fn fail(&self, fault: &SessionFault) {
        self.link.shut_down();
        let end = match self.has_rest {
            true if self.incumbent_runs() => SuccessorEnd::Stopped,
            true => SuccessorEnd::Late,
            false if self.is_of_a_program_that_is_gone(fault) => SuccessorEnd::Gone,
            false => SuccessorEnd::Failed,
        };
        self.sender.send_take_over(TakeOverEvent::Left(end, fault.to_string()));
    }
}
