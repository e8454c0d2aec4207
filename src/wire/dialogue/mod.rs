//! Dialogues of health checks: the messages to send to a server, and the answers that show that it is alive.
//!
//! Pure: a [`Dialogue`] receives the bytes that arrived and returns the next [`DialogueStep`]. The result depends on
//! the bytes alone, never on how they were cut; the only exception is a pattern that depends on the bytes after its
//! match. Each protocol has a file that defines which answers count as alive. No dialogue is longer than necessary,
//! and none needs a secret.
//!
//! Input is bounded: a dialogue fails after [`MOST_HEARD`] bytes without the expected answer; if a body is read, the
//! bound is [`MOST_BODY`] bytes more. The caller must bound the time.

mod body;
pub mod http;
mod mqtt;
mod mysql;
pub mod pattern;
mod postgres;
mod redis;
pub mod send_expect;
mod smtp;
mod ssh;
mod tls;

use std::borrow::Cow;
use std::sync::Arc;

use super::ServerName;
pub use body::MOST_BODY;
pub use http::{BodyMatch, HttpScript};
pub use pattern::{BytePattern, PatternFault};
pub use send_expect::ScriptStep;

/// The most bytes that a server may send in one dialogue. A greeting or a status line has a few hundred.
pub const MOST_HEARD: usize = 16 * 1024;

/// The kind of a dialogue with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// TLS. A ClientHello of TLS 1.2 and 1.3 is sent. Alive: the answer is a ServerHello. Not alive: an alert, or any
    /// other answer. The handshake is not completed and no certificate is verified.
    Tls {
        /// The server name in the hello; with `None` the hello has none.
        server_name: Option<ServerName>,
    },
    /// Steps that the operator wrote. Alive: all steps succeeded.
    SendExpect(Arc<[ScriptStep]>),
    /// A request of HTTP/1.1. Alive: the status is an expected status, and the body matches.
    Http(Arc<HttpScript>),
    /// PostgreSQL. Alive without a user: the answer to an SSLRequest is `S` or `N` alone. Alive with a user: the server
    /// requests authentication or accepts the user, perhaps after notices, or sends an error of another class than 57P.
    /// Class 57P means that the server is starting, stopping or recovering.
    Postgres {
        /// The user in the startup message; no password is sent.
        user: Option<Arc<str>>,
    },
    /// MySQL or MariaDB. Alive without a user: the server sends its greeting. Alive with a user: the server accepts the
    /// user without a password. An error instead means "too many connections" or "blocked".
    Mysql {
        /// The user that logs in.
        user: Option<Arc<str>>,
    },
    /// Redis, or another server with its protocol. Alive: the answer to PING is `+PONG`, or `-NOAUTH` if the server
    /// requires a password. Not alive: other errors, such as `-LOADING` and `-MASTERDOWN`.
    Redis,
    /// SMTP, LMTP, or another protocol with a 220 greeting. Alive: this greeting. Not alive: 421, 554 and others.
    Smtp,
    /// MQTT 3.1.1. Alive: the answer to CONNECT is a CONNACK, even one that refuses the client. Not alive: a CONNACK
    /// with the code "server unavailable".
    Mqtt,
    /// SSH. Alive: the server identifies itself as version 2.
    Ssh,
}

/// The next step of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialogueStep {
    /// Send these bytes, then call [`Dialogue::go_on`] again.
    Send(Cow<'static, [u8]>),
    /// Read, pass the bytes to [`Dialogue::receive`] or report an end by [`Dialogue::closed`], then call
    /// [`Dialogue::go_on`] again.
    Read,
    /// Read as in [`DialogueStep::Read`], but wait only for a moment; if no bytes come, call [`Dialogue::silent`]. A
    /// server that sends nothing more may have succeeded.
    Listen,
    /// The server is alive; close the connection.
    Done,
}

/// The reason why a server does not count as alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialogueFault {
    /// The server sent another answer than the expected ones.
    #[error("unexpected answer")]
    Unexpected,
    /// The server sent too many bytes without the expected answer.
    #[error("more than {MOST_HEARD} bytes without the expected answer")]
    Endless,
    /// The server closed before it answered.
    #[error("closed before it answered")]
    Closed,
    /// The server refused the hello with this TLS alert.
    #[error("TLS alert {0}")]
    TlsAlert(u8),
}

/// One dialogue in progress.
#[derive(Clone, Debug)]
pub struct Dialogue {
    state: DialogueState,
    /// The bytes to send before the next step.
    outgoing: Cow<'static, [u8]>,
    /// The received bytes that are not yet consumed.
    received: Vec<u8>,
    /// The number of all received bytes.
    total: usize,
    /// The upper bound of `total`.
    most: usize,
    /// The reason for which no more bytes are expected, if any.
    end: Option<ServerEnd>,
    is_done: bool,
}

/// The reason for which a server sends no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerEnd {
    /// The server has sent nothing for a moment.
    Silent,
    /// The server has closed.
    Closed,
    /// The server has sent as much as it may.
    Full,
}

/// The result of parsing the bytes that are not yet consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DialogueReply {
    /// The first `used` bytes are consumed, and the rest is to be parsed again. If `used` is 0, more bytes are needed.
    Read { used: usize },
    /// The first `used` bytes are consumed, and `reply` is to be sent.
    Reply { used: usize, reply: Cow<'static, [u8]> },
    /// The result is open until more bytes come, or until no bytes come for a moment.
    Listen,
    /// The server is alive. The farewell, which may be empty, ends the session by the rules of the protocol.
    Done { farewell: &'static [u8] },
}

/// More bytes are needed.
const MORE: DialogueReply = DialogueReply::Read { used: 0 };

/// The server is alive, and needs no farewell.
const ALIVE: DialogueReply = DialogueReply::Done { farewell: &[] };

/// No bytes to send: the server sends first.
const NOTHING: Cow<'static, [u8]> = Cow::Borrowed(&[]);

/// The protocol and its state between two answers.
#[derive(Clone, Debug)]
enum DialogueState {
    Tls,
    SendExpect(send_expect::ScriptState),
    Http(http::HttpState),
    PostgresRequest,
    PostgresLogin,
    Mysql(mysql::MysqlState),
    Redis,
    Smtp,
    Mqtt,
    Ssh,
}

impl Dialogue {
    /// Begins a dialogue. `authority` is the address of the server, for a `Host` header without a configured value.
    /// `random` need not be secret, because no key that depends on it is ever used.
    pub fn new(script: &Script, authority: &str, random: &[u8; 64]) -> Self {
        let (state, outgoing) = match script {
            Script::Tls { server_name } => {
                (DialogueState::Tls, tls::hello(server_name.as_ref(), random).into())
            }
            Script::SendExpect(steps) => {
                (DialogueState::SendExpect(send_expect::ScriptState::new(Arc::clone(steps))), NOTHING)
            }
            Script::Http(script) => (
                DialogueState::Http(http::HttpState::new(Arc::clone(script))),
                script.request(authority).into(),
            ),
            Script::Postgres { user: None } => {
                (DialogueState::PostgresRequest, Cow::Borrowed(postgres::SSL_REQUEST))
            }
            Script::Postgres { user: Some(user) } => {
                (DialogueState::PostgresLogin, postgres::startup(user).into())
            }
            Script::Mysql { user } => (DialogueState::Mysql(mysql::MysqlState::new(user.clone())), NOTHING),
            Script::Redis => (DialogueState::Redis, Cow::Borrowed(redis::PING)),
            Script::Smtp => (DialogueState::Smtp, NOTHING),
            Script::Mqtt => (DialogueState::Mqtt, Cow::Borrowed(mqtt::CONNECT)),
            Script::Ssh => (DialogueState::Ssh, NOTHING),
        };
        let reads_body = matches!(script, Script::Http(script) if script.body.is_some());
        let most = MOST_HEARD + if reads_body { MOST_BODY } else { 0 };
        Self { state, outgoing, received: Vec::new(), total: 0, most, end: None, is_done: false }
    }

    /// Returns the next step.
    ///
    /// # Errors
    ///
    /// Returns the fault of the server, which ends the dialogue.
    pub fn go_on(&mut self) -> Result<DialogueStep, DialogueFault> {
        loop {
            if !self.outgoing.is_empty() {
                // A silence before these bytes does not count after them.
                self.end = self.end.filter(|end| *end == ServerEnd::Closed);
                return Ok(DialogueStep::Send(std::mem::take(&mut self.outgoing)));
            }
            if self.is_done {
                return Ok(DialogueStep::Done);
            }
            let end = if self.total >= self.most { Some(ServerEnd::Full) } else { self.end };
            match self.state.receive(&self.received, end)? {
                DialogueReply::Read { used: 0 } | DialogueReply::Listen if end == Some(ServerEnd::Full) => {
                    return Err(DialogueFault::Endless);
                }
                DialogueReply::Read { used: 0 } if end == Some(ServerEnd::Closed) => {
                    return Err(DialogueFault::Closed);
                }
                DialogueReply::Read { used: 0 } => return Ok(DialogueStep::Read),
                DialogueReply::Listen => return Ok(DialogueStep::Listen),
                DialogueReply::Read { used } => self.consume(used),
                DialogueReply::Reply { used, reply } => {
                    self.consume(used);
                    self.outgoing = reply;
                }
                DialogueReply::Done { farewell } => {
                    self.is_done = true;
                    self.outgoing = Cow::Borrowed(farewell);
                }
            }
        }
    }

    /// Stores the bytes that the server sent. Bytes beyond the bound of the dialogue are dropped.
    pub fn receive(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.most - self.total)];
        self.total += bytes.len();
        // The server is not silent any more.
        self.end = None;
        self.received.extend_from_slice(bytes);
    }

    /// Reports that nothing came for a moment after [`DialogueStep::Listen`].
    pub fn silent(&mut self) {
        self.end = Some(ServerEnd::Silent);
    }

    /// Reports that the server has closed.
    pub fn closed(&mut self) {
        self.end = Some(ServerEnd::Closed);
    }

    /// Returns true if the server has shown that it is alive. The bytes that may still be sent then are a farewell.
    pub fn is_alive(&self) -> bool {
        self.is_done
    }

    /// Returns the last received bytes that were not consumed, for a log. They may be any bytes.
    pub fn heard(&self) -> &[u8] {
        match &self.state {
            DialogueState::Http(http) => http.body().unwrap_or(&self.received),
            _ => &self.received,
        }
    }

    fn consume(&mut self, used: usize) {
        self.received.drain(..used.min(self.received.len()));
    }
}

impl DialogueState {
    fn receive(&mut self, received: &[u8], end: Option<ServerEnd>) -> Result<DialogueReply, DialogueFault> {
        match self {
            Self::Tls => tls::receive(received),
            Self::SendExpect(state) => state.receive(received, end),
            Self::Http(state) => state.receive(received, end),
            Self::PostgresRequest => postgres::parse_ssl_answer(received, end),
            Self::PostgresLogin => postgres::parse_login_answer(received),
            Self::Mysql(state) => state.receive(received),
            Self::Redis => redis::receive(received),
            Self::Smtp => smtp::receive(received),
            Self::Mqtt => mqtt::receive(received),
            Self::Ssh => ssh::receive(received),
        }
    }
}

/// Returns the first line, including its end, if it is whole.
fn line(received: &[u8]) -> Option<&[u8]> {
    let end = received.iter().position(|&byte| byte == b'\n')?;
    Some(&received[..=end])
}

/// Returns true if `received` begins with `expected`, or is a beginning of it.
fn may_begin(received: &[u8], expected: &[u8]) -> bool {
    received.iter().zip(expected).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests;
