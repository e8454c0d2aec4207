//! Openings: the messages of a protocol before TLS or a tunnel begins, in the role of the server or of the client.
//!
//! Pure: an [`Opening`] receives the bytes that arrived and returns the next step, independent of how the bytes were
//! cut. In the role of the server, the peer is a client of this program. In the role of the client, the peer is a
//! backend.
//!
//! No byte from before TLS is ever carried into TLS. Bytes that follow the request for TLS, or the answer to it, end
//! the connection ([`OpeningFault::Pipelined`]). A tunnel is another case: the bytes that follow the request for it are
//! its first bytes, as its client alone decides what it carries. Input is bounded: a peer has failed if it has sent the maximal length
//! of a message and the message is not whole. The caller must bound the time.

use std::borrow::Cow;
use std::sync::Arc;

use super::starttls::{self, Starttls};
use super::tunnel::TunnelRequest;
use super::{http_connect, postgres, socks};

/// The next step of an opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpeningStep {
    /// Send these bytes, then call [`Opening::go_on`] again.
    Say(Cow<'static, [u8]>),
    /// Read at most [`Opening::room`] bytes, pass them to [`Opening::receive`], then call [`Opening::go_on`] again.
    Read,
    /// The opening is over.
    Over(OpeningOutcome),
}

/// The result of an opening: the protocol that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpeningOutcome {
    /// TLS. None of the received bytes belongs to it.
    Tls,
    /// TLS that began without a request; [`Opening::received`] has its first bytes.
    DirectTls,
    /// A session without TLS; [`Opening::received`] has its first bytes.
    Plaintext(postgres::Startup),
    /// Nothing: the peer sent only the request to cancel a query, which [`Opening::received`] has.
    Cancel,
    /// A tunnel to the host that the peer asks for. [`Opening::received`] has the first bytes of the tunnel. The peer has
    /// no answer to its request yet.
    Tunnel(TunnelRequest),
}

/// The fault that ends an opening. When it is returned, the last message to the peer has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningFault {
    /// Bytes came after the request for TLS, or after the answer to it.
    #[error("bytes came before TLS")]
    Pipelined,
    /// The peer's bytes are not valid in the protocol.
    #[error("the bytes are not valid in the protocol")]
    Malformed,
    /// A line or message is longer than allowed.
    #[error("a line or message is too long")]
    TooLong,
    /// The client sent the maximum number of commands, and no command requested TLS.
    #[error("too many commands before TLS")]
    TooMany,
    /// The client ended the session by a command.
    #[error("the client ended the session before TLS")]
    Quit,
    /// The client asks for something that is not served, such as another method of HTTP than CONNECT.
    #[error("the request is not served")]
    Unsupported,
    /// The client offers no method of authentication that is accepted.
    #[error("no method of authentication is acceptable")]
    NoMethod,
    /// The client asks for a tunnel to something that is not a host with a port.
    #[error("the requested host or port is not valid")]
    BadHost,
    /// The backend does not offer TLS, or not now.
    #[error("the backend does not offer TLS")]
    Refused,
    /// The backend sent an answer that is not valid at this point.
    #[error("the backend sent an unexpected answer")]
    Unexpected,
}

/// The reason that is sent to a client whose session this program ends before TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The opening took too long.
    Timeout,
    /// There is no room for the client now.
    Busy,
    /// The fault is [`OpeningFault::Pipelined`].
    Pipelined,
    /// The fault is [`OpeningFault::TooLong`].
    TooLong,
    /// The fault is [`OpeningFault::TooMany`].
    TooMany,
}

/// The result of parsing the bytes that are not yet consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ParsedMessage {
    /// The message is not whole.
    More,
    /// The first `used` bytes are consumed, and `reply` is the answer, which may be empty.
    Reply { used: usize, reply: Cow<'static, [u8]> },
    /// The first `used` bytes request TLS, or agree to it, and `reply` is the answer.
    Tls { used: usize, reply: Cow<'static, [u8]> },
    /// The first `used` bytes request a tunnel. The other received bytes belong to the tunnel.
    Tunnel { used: usize, request: TunnelRequest },
    /// The opening ends without a request for TLS, and the received bytes belong to the protocol that follows.
    Other(OpeningOutcome),
    /// The opening fails after `reply` is sent.
    End { fault: OpeningFault, reply: Cow<'static, [u8]> },
}

/// An empty reply.
pub(super) const NOTHING: Cow<'static, [u8]> = Cow::Borrowed(&[]);

/// The role, the protocol and its state.
#[derive(Clone, Debug)]
enum OpeningState {
    PostgresServer(postgres::PostgresServer),
    PostgresClient,
    StarttlsServer(starttls::StarttlsServer),
    StarttlsClient(starttls::StarttlsClient),
    SocksServer(socks::SocksServer),
    ConnectServer(http_connect::ConnectServer),
}

/// One opening in progress.
#[derive(Clone, Debug)]
pub struct Opening {
    state: OpeningState,
    /// The bytes to send before the next step.
    outgoing: Cow<'static, [u8]>,
    /// The received bytes that are not yet consumed.
    received: Vec<u8>,
    /// The result, once it is known.
    end: Option<Result<OpeningOutcome, OpeningFault>>,
}

/// The opening that a backend requires before it gets a client's hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendGreeting {
    /// An SSLRequest, which the backend answers with `S`.
    Postgres,
    /// The greeting, the capabilities, STARTTLS and its answer.
    Starttls {
        /// The protocol of the backend.
        protocol: Starttls,
        /// The name that this program uses for itself.
        name: Arc<str>,
    },
}

impl Opening {
    /// Creates the opening of a PostgreSQL server.
    pub fn postgres_host() -> Self {
        Self::new(OpeningState::PostgresServer(postgres::PostgresServer::default()), NOTHING)
    }

    /// Creates the opening of a mail server that has the name `name` and offers nothing but STARTTLS.
    pub fn starttls_host(protocol: Starttls, name: Arc<str>) -> Self {
        let (host, greeting) = starttls::StarttlsServer::new(protocol, name);
        Self::new(OpeningState::StarttlsServer(host), greeting)
    }

    /// Creates the opening of a SOCKS server, for version 5 and, if `reads_version_4` is true, for versions 4 and 4a.
    pub fn socks_host(reads_version_4: bool) -> Self {
        Self::new(OpeningState::SocksServer(socks::SocksServer::new(reads_version_4)), NOTHING)
    }

    /// Creates the opening of an HTTP proxy that serves the method CONNECT alone.
    pub fn connect_host() -> Self {
        Self::new(OpeningState::ConnectServer(http_connect::ConnectServer::default()), NOTHING)
    }

    /// Creates the opening in the role of the client, for a connection to a backend.
    pub fn client_role(greeting: &BackendGreeting) -> Self {
        match greeting {
            BackendGreeting::Postgres => {
                Self::new(OpeningState::PostgresClient, Cow::Borrowed(postgres::SSL_REQUEST))
            }
            BackendGreeting::Starttls { protocol, name } => Self::new(
                OpeningState::StarttlsClient(starttls::StarttlsClient::new(*protocol, Arc::clone(name))),
                NOTHING,
            ),
        }
    }

    fn new(state: OpeningState, outgoing: Cow<'static, [u8]>) -> Self {
        Self { state, outgoing, received: Vec::new(), end: None }
    }

    /// Returns the next step.
    ///
    /// # Errors
    ///
    /// Returns the fault that ended the opening.
    pub fn go_on(&mut self) -> Result<OpeningStep, OpeningFault> {
        loop {
            if !self.outgoing.is_empty() {
                return Ok(OpeningStep::Say(std::mem::take(&mut self.outgoing)));
            }
            if let Some(end) = &self.end {
                return end.clone().map(OpeningStep::Over);
            }
            match self.state.receive(&self.received) {
                ParsedMessage::More if self.room() == 0 => {
                    self.fail(OpeningFault::TooLong, Farewell::TooLong)
                }
                ParsedMessage::More => return Ok(OpeningStep::Read),
                ParsedMessage::Reply { used, reply } => {
                    self.consume(used);
                    self.outgoing = reply;
                }
                ParsedMessage::Tls { used, .. } if self.received.len() > used => {
                    self.fail(OpeningFault::Pipelined, Farewell::Pipelined);
                }
                ParsedMessage::Tls { used, reply } => {
                    self.consume(used);
                    self.outgoing = reply;
                    self.end = Some(Ok(OpeningOutcome::Tls));
                }
                ParsedMessage::Tunnel { used, request } => {
                    self.consume(used);
                    self.end = Some(Ok(OpeningOutcome::Tunnel(request)));
                }
                ParsedMessage::Other(opened) => self.end = Some(Ok(opened)),
                ParsedMessage::End { fault, reply } => {
                    self.outgoing = reply;
                    self.end = Some(Err(fault));
                }
            }
        }
    }

    fn fail(&mut self, fault: OpeningFault, farewell: Farewell) {
        self.outgoing = self.farewell(farewell);
        self.end = Some(Err(fault));
    }

    /// Stores the bytes that the peer sent. Bytes beyond [`Opening::room`] are dropped.
    pub fn receive(&mut self, bytes: &[u8]) {
        let room = self.room();
        self.received.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Returns the number of bytes that may be read now.
    pub fn room(&self) -> usize {
        self.most().saturating_sub(self.received.len())
    }

    /// Returns the largest number of received bytes that are held at once.
    pub fn most(&self) -> usize {
        match &self.state {
            OpeningState::PostgresServer(_) => postgres::LONGEST_STARTUP,
            // The first byte is the answer, and a second byte is a fault.
            OpeningState::PostgresClient => 2,
            OpeningState::StarttlsServer(_) => starttls::LONGEST_COMMAND,
            OpeningState::StarttlsClient(_) => starttls::LONGEST_ANSWER,
            // The messages of SOCKS are shorter, and the first bytes of the tunnel may come with them.
            OpeningState::SocksServer(_) | OpeningState::ConnectServer(_) => http_connect::LONGEST_HEAD,
        }
    }

    /// Returns true if the opening ends with a tunnel.
    pub fn is_for_tunnel(&self) -> bool {
        matches!(self.state, OpeningState::SocksServer(_) | OpeningState::ConnectServer(_))
    }

    /// Returns the received bytes that are not consumed.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Returns the received bytes that are not consumed, as an owned value.
    pub fn into_received(self) -> Vec<u8> {
        self.received
    }

    /// Returns the last message to a client, in its protocol; for a backend it is empty.
    pub fn farewell(&self, farewell: Farewell) -> Cow<'static, [u8]> {
        match &self.state {
            OpeningState::PostgresServer(_) => postgres::farewell(farewell).into(),
            OpeningState::StarttlsServer(host) => host.farewell(farewell).into(),
            OpeningState::SocksServer(host) => host.farewell(farewell).into(),
            OpeningState::ConnectServer(_) => http_connect::farewell(farewell).into(),
            OpeningState::PostgresClient | OpeningState::StarttlsClient(_) => NOTHING,
        }
    }

    fn consume(&mut self, used: usize) {
        if used >= self.received.len() {
            // An idle client must not occupy memory.
            self.received = Vec::new();
        } else {
            self.received.drain(..used);
        }
    }
}

impl OpeningState {
    fn receive(&mut self, received: &[u8]) -> ParsedMessage {
        match self {
            Self::PostgresServer(host) => host.receive(received),
            Self::PostgresClient => postgres::read_answer(received),
            Self::StarttlsServer(host) => host.receive(received),
            Self::StarttlsClient(client_role) => client_role.receive(received),
            Self::SocksServer(host) => host.receive(received),
            Self::ConnectServer(host) => host.receive(received),
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Runs an opening on `bytes` in pieces of this length; returns all that was sent, and the end.
    pub(in crate::wire) fn run(opening: Opening, bytes: &[u8], piece: usize) -> (String, String) {
        let (sent, end, _) = run_bytes(opening, bytes, piece);
        (String::from_utf8_lossy(&sent).into_owned(), end)
    }

    /// Runs an opening as [`run`] does; returns all that was sent, the end, and the bytes that were not consumed.
    pub(in crate::wire) fn run_bytes(
        mut opening: Opening,
        bytes: &[u8],
        piece: usize,
    ) -> (Vec<u8>, String, Vec<u8>) {
        let mut sent = Vec::new();
        let mut pieces = bytes.chunks(piece.max(1));
        let mut rest: &[u8] = &[];
        let end = loop {
            match opening.go_on() {
                Ok(OpeningStep::Say(reply)) => sent.extend_from_slice(&reply),
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
                        assert_eq!(opening.received(), b"", "nothing is carried into TLS");
                    }
                    break match opened {
                        OpeningOutcome::Tunnel(TunnelRequest { target, protocol }) => {
                            format!("{protocol:?} {target}")
                        }
                        opened => format!("{opened:?}"),
                    };
                }
                Err(fault) => {
                    assert_eq!(opening.go_on(), Err(fault));
                    // The number of bytes that were read before a fault depends on the pieces.
                    return (sent, format!("{fault:?}"), Vec::new());
                }
            }
            assert!(opening.received().len() <= opening.most());
        };
        let rest = [opening.received(), rest].concat().into_iter().chain(pieces.flatten().copied());
        (sent, end, rest.collect())
    }
}
