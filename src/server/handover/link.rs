//! Messages between the two programs of a hand-over, over a socket.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::sys::frames::{FrameFault, FrameSocket, PeerCredentials};
use crate::wire::handover::{Message, MessageFault, Refused, Rest};

/// The reason for which a hand-over ended early.
#[derive(Debug, thiserror::Error)]
pub enum SessionFault {
    /// A frame could not be sent or received.
    #[error(transparent)]
    Frame(#[from] FrameFault),
    /// A frame has no readable message.
    #[error("the other program sent {0}")]
    Message(#[from] MessageFault),
    /// The message is not the one that must come now.
    #[error("the other program sent {found} where {expected} is expected")]
    Unexpected {
        /// The names of the messages that may come.
        expected: &'static str,
        /// The name of the message that came.
        found: &'static str,
    },
    /// The other program refuses, or has stopped the hand-over.
    #[error("{0}")]
    Refused(String),
    /// This program ends or stopped the hand-over.
    #[error("the hand-over was stopped here: {0}")]
    Stopped(&'static str),
}

impl SessionFault {
    /// Returns true if the other program has closed the connection, or has ended.
    pub(super) fn is_of_a_closed_connection(&self) -> bool {
        matches!(self, Self::Frame(FrameFault::Closed | FrameFault::Truncated))
    }

    /// Returns true if the fault is a message [`Rest`](Message::Rest) that cannot be read.
    pub(super) fn is_unreadable_rest(&self) -> bool {
        matches!(self, Self::Message(MessageFault::Json { kind: "Rest", .. }))
    }
}

impl From<io::Error> for SessionFault {
    fn from(error: io::Error) -> Self {
        Self::Frame(error.into())
    }
}

/// A message with the parts of its frame.
pub(super) struct ReceivedMessage {
    pub(super) message: Message,
    pub(super) raw: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl From<Rest> for ReceivedMessage {
    fn from(rest: Rest) -> Self {
        Self { message: Message::Rest(rest), raw: Vec::new(), descriptors: Vec::new() }
    }
}

/// The connection to the other program. All calls block, so only threads of their own use it.
#[derive(Debug)]
pub(super) struct SessionLink(FrameSocket);

impl SessionLink {
    pub(super) fn new(socket: FrameSocket) -> Self {
        Self(socket)
    }

    /// Returns a second value for the same connection.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sets the longest time without progress of a call.
    pub(super) fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_timeout(Some(timeout))
    }

    /// Lets calls wait for ever.
    pub(super) fn set_no_timeout(&self) -> io::Result<()> {
        self.0.set_timeout(None)
    }

    /// Returns the process at the other end.
    pub(super) fn peer(&self) -> io::Result<PeerCredentials> {
        self.0.peer()
    }

    /// Ends the reading side: the other program can send no more. What it has sent can still be received.
    pub(super) fn close_reading(&self) {
        self.0.close_reading();
    }

    /// Ends the connection: a call on another thread returns.
    pub(super) fn shut_down(&self) {
        self.0.shut_down();
    }

    pub(super) fn send(&self, message: &Message) -> Result<(), SessionFault> {
        self.send_with(message, &[], &[])
    }

    /// Sends a message with bytes and descriptors.
    pub(super) fn send_with(
        &self,
        message: &Message,
        raw: &[&[u8]],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), SessionFault> {
        let (kind, json) = message.encode();
        Ok(self.0.send(kind, &json, raw, descriptors)?)
    }

    /// Refuses the other program. It may be gone.
    pub(super) fn refuse(&self, refused: Refused) {
        let _ = self.send(&Message::Refused(refused));
    }

    /// Receives a message. A [`Message::Refused`] is a fault.
    pub(super) fn receive(&self) -> Result<ReceivedMessage, SessionFault> {
        let frame = self.0.receive()?;
        match Message::decode(frame.kind, &frame.json)? {
            Message::Refused(Refused { reason }) => Err(SessionFault::Refused(reason)),
            // The other program takes it back if descriptors are missing.
            message @ Message::Batch(_) => {
                Ok(ReceivedMessage { message, raw: frame.raw, descriptors: frame.descriptors })
            }
            message => {
                let frame = frame.whole()?;
                Ok(ReceivedMessage { message, raw: frame.raw, descriptors: frame.descriptors })
            }
        }
    }
}

/// Returns the fault of a message that must not come now.
pub(super) fn unexpected(expected: &'static str, found: &Message) -> SessionFault {
    SessionFault::Unexpected { expected, found: found.name() }
}
