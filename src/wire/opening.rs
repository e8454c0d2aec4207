//! What is said on a connection before TLS begins, on either side of it.
//!
//! Pure: an [`Opening`] is told what has arrived and answers what to do next, whatever way the bytes were cut.
//! As a host it plays the server towards a client; as a guest it plays the client towards a backend.
//!
//! Nothing that was said before TLS is ever carried into it: what stands behind the request for TLS, or behind
//! the answer to it, ends the connection ([`OpeningFault::Pipelined`]). Input is bounded: a peer that has sent as much
//! as its protocol's messages may have, and no whole message, has failed. Time is the caller's to bound.

use std::borrow::Cow;
use std::sync::Arc;

use super::postgres;
use super::starttls::{self, Starttls};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpeningStep {
    /// Send these bytes, then ask again.
    Say(Cow<'static, [u8]>),
    /// Read at most [`Opening::room`] bytes, hand them to [`Opening::receive`], then ask again.
    Read,
    /// All is said.
    Over(OpeningOutcome),
}

/// How a connection goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpeningOutcome {
    /// With TLS. Nothing of what was heard belongs to it.
    Tls,
    /// With TLS, of which [`Opening::heard`] is the beginning.
    DirectTls,
    /// Without TLS; [`Opening::heard`] is the beginning of the session.
    Plaintext(postgres::Startup),
    /// With nothing more than the request to cancel a query, which is what was heard.
    Cancel,
}

/// Why a connection cannot go on. What there is to say to the peer has been said by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningFault {
    /// Bytes came behind the request for TLS, or behind the answer to it.
    #[error("bytes came in front of TLS")]
    Pipelined,
    /// The peer's bytes are not its protocol.
    #[error("the bytes break the rules of the protocol")]
    Malformed,
    /// A line or message is longer than it may be.
    #[error("a line or message is too long")]
    TooLong,
    /// As many commands as there may be, and none that leads to TLS.
    #[error("too many commands before TLS")]
    TooMany,
    /// The client said goodbye.
    #[error("the client ended the session before TLS")]
    Quit,
    /// A backend does not offer TLS, or not now.
    #[error("it does not offer TLS")]
    Refused,
    /// A backend said something else than what was waited for.
    #[error("unexpected answer")]
    Unexpected,
}

/// What a client is told when this program, not its own words, ends its session before TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It took too long.
    Timeout,
    /// There is no room for it now.
    Busy,
    /// Of [`OpeningFault::Pipelined`].
    Pipelined,
    /// Of [`OpeningFault::TooLong`].
    TooLong,
    /// Of [`OpeningFault::TooMany`].
    TooMany,
}

/// What a protocol makes of the bytes that it has not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ParsedMessage {
    /// More must come.
    More,
    /// The first `used` bytes are done with, and this is the reply, which may be empty.
    Say { used: usize, words: Cow<'static, [u8]> },
    /// The first `used` bytes ask for TLS, or agree to it, and this is the reply.
    Tls { used: usize, words: Cow<'static, [u8]> },
    /// It goes on in another way, and what was heard is the beginning of that.
    Other(OpeningOutcome),
    /// It ends, after these words.
    End { fault: OpeningFault, words: Cow<'static, [u8]> },
}

/// Nothing is replied.
pub(super) const NOTHING: Cow<'static, [u8]> = Cow::Borrowed(&[]);

/// Where each protocol keeps what it must remember.
#[derive(Clone, Debug)]
enum OpeningState {
    PostgresHost(postgres::PostgresServer),
    PostgresGuest,
    StarttlsHost(starttls::StarttlsServer),
    StarttlsGuest(starttls::StarttlsClient),
}

/// An opening under way.
#[derive(Clone, Debug)]
pub struct Opening {
    talk: OpeningState,
    /// What is to be sent before anything else happens.
    say: Cow<'static, [u8]>,
    /// What was heard and is not yet done with.
    heard: Vec<u8>,
    /// How it ends, once that is known.
    end: Option<Result<OpeningOutcome, OpeningFault>>,
}

/// What a backend must hear and say before it gets a client's hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendGreeting {
    /// An SSLRequest, answered by `S`.
    Postgres,
    /// Greeting, capabilities, STARTTLS and its answer.
    Starttls {
        /// In which protocol.
        protocol: Starttls,
        /// The name that this program gives for itself.
        name: Arc<str>,
    },
}

impl Opening {
    /// Plays a PostgreSQL server.
    pub fn postgres_host() -> Self {
        Self::new(OpeningState::PostgresHost(postgres::PostgresServer::default()), NOTHING)
    }

    /// Plays a server of mail that calls itself `name` and offers nothing but STARTTLS.
    pub fn starttls_host(protocol: Starttls, name: Arc<str>) -> Self {
        let (host, greeting) = starttls::StarttlsServer::new(protocol, name);
        Self::new(OpeningState::StarttlsHost(host), greeting)
    }

    /// Plays the client of a backend.
    pub fn guest(greeting: &BackendGreeting) -> Self {
        match greeting {
            BackendGreeting::Postgres => {
                Self::new(OpeningState::PostgresGuest, Cow::Borrowed(postgres::SSL_REQUEST))
            }
            BackendGreeting::Starttls { protocol, name } => Self::new(
                OpeningState::StarttlsGuest(starttls::StarttlsClient::new(*protocol, Arc::clone(name))),
                NOTHING,
            ),
        }
    }

    fn new(talk: OpeningState, say: Cow<'static, [u8]>) -> Self {
        Self { talk, say, heard: Vec::new(), end: None }
    }

    /// What to do next.
    ///
    /// # Errors
    ///
    /// Why it cannot go on. It is over then.
    pub fn go_on(&mut self) -> Result<OpeningStep, OpeningFault> {
        loop {
            if !self.say.is_empty() {
                return Ok(OpeningStep::Say(std::mem::take(&mut self.say)));
            }
            if let Some(end) = &self.end {
                return end.clone().map(OpeningStep::Over);
            }
            match self.talk.receive(&self.heard) {
                ParsedMessage::More if self.room() == 0 => {
                    self.part(OpeningFault::TooLong, Farewell::TooLong)
                }
                ParsedMessage::More => return Ok(OpeningStep::Read),
                ParsedMessage::Say { used, words } => {
                    self.forget(used);
                    self.say = words;
                }
                ParsedMessage::Tls { used, .. } if self.heard.len() > used => {
                    self.part(OpeningFault::Pipelined, Farewell::Pipelined);
                }
                ParsedMessage::Tls { used, words } => {
                    self.forget(used);
                    self.say = words;
                    self.end = Some(Ok(OpeningOutcome::Tls));
                }
                ParsedMessage::Other(opened) => self.end = Some(Ok(opened)),
                ParsedMessage::End { fault, words } => {
                    self.say = words;
                    self.end = Some(Err(fault));
                }
            }
        }
    }

    fn part(&mut self, fault: OpeningFault, farewell: Farewell) {
        self.say = self.farewell(farewell);
        self.end = Some(Err(fault));
    }

    /// Takes in what the peer sent. What is more than [`Opening::room`] is dropped.
    pub fn receive(&mut self, bytes: &[u8]) {
        let room = self.room();
        self.heard.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// How many bytes may be read now.
    pub fn room(&self) -> usize {
        self.most().saturating_sub(self.heard.len())
    }

    /// How many bytes of the peer are ever held at once.
    pub fn most(&self) -> usize {
        match &self.talk {
            OpeningState::PostgresHost(_) => postgres::LONGEST_STARTUP,
            // One byte decides, and a second one is one too many.
            OpeningState::PostgresGuest => 2,
            OpeningState::StarttlsHost(_) => starttls::LONGEST_COMMAND,
            OpeningState::StarttlsGuest(_) => starttls::LONGEST_ANSWER,
        }
    }

    /// What was heard and is not done with.
    pub fn heard(&self) -> &[u8] {
        &self.heard
    }

    /// The same, to keep.
    pub fn into_heard(self) -> Vec<u8> {
        self.heard
    }

    /// The last words to a client, in its protocol; to a backend there are none.
    pub fn farewell(&self, farewell: Farewell) -> Cow<'static, [u8]> {
        match &self.talk {
            OpeningState::PostgresHost(_) => postgres::farewell(farewell).into(),
            OpeningState::StarttlsHost(host) => host.farewell(farewell).into(),
            OpeningState::PostgresGuest | OpeningState::StarttlsGuest(_) => NOTHING,
        }
    }

    fn forget(&mut self, used: usize) {
        if used >= self.heard.len() {
            // An idle client holds no memory.
            self.heard = Vec::new();
        } else {
            self.heard.drain(..used);
        }
    }
}

impl OpeningState {
    fn receive(&mut self, heard: &[u8]) -> ParsedMessage {
        match self {
            Self::PostgresHost(host) => host.receive(heard),
            Self::PostgresGuest => postgres::answered(heard),
            Self::StarttlsHost(host) => host.receive(heard),
            Self::StarttlsGuest(guest) => guest.receive(heard),
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// An opening from its first word to its end, and all that was said in it.
    pub(in crate::wire) fn run(mut opening: Opening, bytes: &[u8], piece: usize) -> (String, String) {
        let mut said = Vec::new();
        let mut pieces = bytes.chunks(piece.max(1));
        let mut rest: &[u8] = &[];
        let end = loop {
            match opening.go_on() {
                Ok(OpeningStep::Say(words)) => said.extend_from_slice(&words),
                Ok(OpeningStep::Read) => {
                    if rest.is_empty() {
                        match pieces.next() {
                            Some(next) => rest = next,
                            None => break "more".to_owned(),
                        }
                    }
                    let (now, later) = rest.split_at(rest.len().min(opening.room()));
                    assert!(!now.is_empty(), "a read without room");
                    opening.receive(now);
                    rest = later;
                }
                Ok(OpeningStep::Over(opened)) => {
                    assert_eq!(
                        opening.go_on(),
                        Ok(OpeningStep::Over(opened.clone())),
                        "the end stays the end"
                    );
                    if opened == OpeningOutcome::Tls {
                        assert_eq!(opening.heard(), b"", "nothing is carried into TLS");
                    }
                    break format!("{opened:?}");
                }
                Err(fault) => {
                    assert_eq!(opening.go_on(), Err(fault));
                    break format!("{fault:?}");
                }
            }
            assert!(opening.heard().len() <= opening.most());
        };
        (String::from_utf8_lossy(&said).into_owned(), end)
    }
}
