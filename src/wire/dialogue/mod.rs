//! Dialogues that show whether a server is alive: what to say, what must be heard, when it is enough.
//!
//! Pure: a [`Dialogue`] is told what has arrived and answers what to do [`DialogueStep`]. The answer depends on
//! the bytes alone, never on how they were cut; only a pattern that looks at what follows it may depend on that. Each protocol has a file of its own that says what counts
//! as alive; none goes further than it must, and none needs a secret.
//!
//! Input is bounded: a dialogue that has heard [`MOST_HEARD`] bytes and is not satisfied has failed; where a body is
//! read, [`MOST_BODY`] bytes more.
//! Time is the caller's to bound.

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

/// Bytes that a server may send in one dialogue. A greeting or a status line has a few hundred.
pub const MOST_HEARD: usize = 16 * 1024;

/// Which dialogue, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// A ClientHello of TLS 1.2 and 1.3 is sent. Alive: the server answers with a ServerHello. Not: an
    /// alert, or anything else. Nothing is negotiated to its end and no certificate is judged.
    Tls {
        /// The name in the hello; `None` sends none.
        server_name: Option<ServerName>,
    },
    /// Steps in the operator's words. Alive: all are done.
    SendExpect(Arc<[ScriptStep]>),
    /// A request of HTTP/1.1. Alive: one of the expected statuses, and what is expected of the body.
    Http(Arc<HttpScript>),
    /// PostgreSQL. Alive, without a user: its SSLRequest is answered by `S` or `N` alone. With one: it asks that
    /// user to prove himself, or lets him in, perhaps behind notices, or there is an error whose class is not 57P,
    /// which says that it is starting, stopping or recovering.
    Postgres {
        /// Who seems to log in; no password is sent.
        user: Option<Arc<str>>,
    },
    /// MySQL or MariaDB. Alive, without a user: it greets. With one: it lets that user in without a
    /// password. An error in place of either is none: it says "too many connections" or "blocked".
    Mysql {
        /// Who logs in.
        user: Option<Arc<str>>,
    },
    /// Redis or what speaks its protocol. Alive: PING is answered by `+PONG`, or by `-NOAUTH` where a
    /// password is asked for. Not: other errors, such as `-LOADING` and `-MASTERDOWN`.
    Redis,
    /// SMTP, LMTP or what else greets with 220. Alive: that greeting. Not: 421, 554 and others.
    Smtp,
    /// MQTT 3.1.1. Alive: CONNECT is answered by a CONNACK, also one that refuses the client. Not: one that
    /// says that the server is unavailable.
    Mqtt,
    /// SSH. Alive: the server identifies itself as version 2.
    Ssh,
}

/// What to do next in a dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialogueStep {
    /// Send these bytes, then ask again.
    Send(Cow<'static, [u8]>),
    /// Read, hand over what was read to [`Dialogue::receive`] or an end to [`Dialogue::closed`], then ask again.
    Read,
    /// The same, but wait only for a moment; if nothing comes, call [`Dialogue::silent`] and ask again. It may be
    /// enough that the server has nothing more to say.
    Listen,
    /// The server is alive; close.
    Done,
}

/// Why a server is not taken for alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialogueFault {
    /// It said something else than what shows that it works.
    #[error("unexpected answer")]
    Unexpected,
    /// It said too much, and still not what was waited for.
    #[error("more than {MOST_HEARD} bytes without the expected answer")]
    Endless,
    /// It closed before it had answered.
    #[error("closed before it answered")]
    Closed,
    /// It refused the hello with this TLS alert.
    #[error("TLS alert {0}")]
    TlsAlert(u8),
}

/// A dialogue under way.
#[derive(Clone, Debug)]
pub struct Dialogue {
    talk: DialogueState,
    /// What is to be sent before anything else happens.
    say: Cow<'static, [u8]>,
    /// What was heard and not yet understood.
    heard: Vec<u8>,
    /// All that was heard, and the most that may be.
    total: usize,
    most: usize,
    /// Whether the server says no more, as far as is known.
    end: Option<ServerEnd>,
    is_done: bool,
}

/// Why a server says no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerEnd {
    /// It has not said anything for a moment.
    Silent,
    /// It has closed.
    Closed,
    /// It has said the most that it may.
    Full,
}

/// What one protocol makes of the bytes it has not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DialogueReply {
    /// The first `used` bytes are done with. If there were any, the rest may tell more; else more must come.
    Hear { used: usize },
    /// The first `used` bytes are done with, and this is the reply.
    Say { used: usize, words: Cow<'static, [u8]> },
    /// The answer is open until more bytes come, or until no bytes come for a moment.
    Silence,
    /// The server is alive. The farewell, which may be empty, ends the talk in the protocol's own way.
    Done { farewell: &'static [u8] },
}

/// Nothing can be told from these bytes yet.
const MORE: DialogueReply = DialogueReply::Hear { used: 0 };

/// Alive, and the protocol has no farewell or the server needs none.
const ALIVE: DialogueReply = DialogueReply::Done { farewell: &[] };

/// The server speaks first.
const NOTHING: Cow<'static, [u8]> = Cow::Borrowed(&[]);

/// Where each protocol keeps what it must remember between two answers.
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
    /// Begins a dialogue. `authority` is the address that is asked, for a `Host` header that was left
    /// open; `random` need not be secret, as nothing that follows from it is ever used.
    pub fn new(script: &Script, authority: &str, random: &[u8; 64]) -> Self {
        let (talk, say) = match script {
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
        Self { talk, say, heard: Vec::new(), total: 0, most, end: None, is_done: false }
    }

    /// What to do next.
    ///
    /// # Errors
    ///
    /// What the server said that it should not have. The dialogue is over then.
    pub fn go_on(&mut self) -> Result<DialogueStep, DialogueFault> {
        loop {
            if !self.say.is_empty() {
                // The server has not been silent since these words.
                self.end = self.end.filter(|end| *end == ServerEnd::Closed);
                return Ok(DialogueStep::Send(std::mem::take(&mut self.say)));
            }
            if self.is_done {
                return Ok(DialogueStep::Done);
            }
            let end = if self.total >= self.most { Some(ServerEnd::Full) } else { self.end };
            match self.talk.receive(&self.heard, end)? {
                DialogueReply::Hear { used: 0 } | DialogueReply::Silence if end == Some(ServerEnd::Full) => {
                    return Err(DialogueFault::Endless);
                }
                DialogueReply::Hear { used: 0 } if end == Some(ServerEnd::Closed) => {
                    return Err(DialogueFault::Closed);
                }
                DialogueReply::Hear { used: 0 } => return Ok(DialogueStep::Read),
                DialogueReply::Silence => return Ok(DialogueStep::Listen),
                DialogueReply::Hear { used } => self.forget(used),
                DialogueReply::Say { used, words } => {
                    self.forget(used);
                    self.say = words;
                }
                DialogueReply::Done { farewell } => {
                    self.is_done = true;
                    self.say = Cow::Borrowed(farewell);
                }
            }
        }
    }

    /// Takes in what the server sent. Beyond the most that may be heard in all, the rest is dropped.
    pub fn receive(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.most - self.total)];
        self.total += bytes.len();
        // A silence before them is over.
        self.end = None;
        self.heard.extend_from_slice(bytes);
    }

    /// Takes in that nothing came for a moment, when [`DialogueStep::Listen`] asked for that.
    pub fn silent(&mut self) {
        self.end = Some(ServerEnd::Silent);
    }

    /// Takes in that the server has closed.
    pub fn closed(&mut self) {
        self.end = Some(ServerEnd::Closed);
    }

    /// Whether the server has shown that it is alive. What is still to be sent then is only polite.
    pub fn is_alive(&self) -> bool {
        self.is_done
    }

    /// What was heard last and not understood, for a log. It is the server's, so it may be anything.
    pub fn heard(&self) -> &[u8] {
        match &self.talk {
            DialogueState::Http(talk) => talk.words().unwrap_or(&self.heard),
            _ => &self.heard,
        }
    }

    fn forget(&mut self, used: usize) {
        self.heard.drain(..used.min(self.heard.len()));
    }
}

impl DialogueState {
    fn receive(&mut self, heard: &[u8], end: Option<ServerEnd>) -> Result<DialogueReply, DialogueFault> {
        match self {
            Self::Tls => tls::receive(heard),
            Self::SendExpect(talk) => talk.receive(heard, end),
            Self::Http(talk) => talk.receive(heard, end),
            Self::PostgresRequest => postgres::hear_request(heard, end),
            Self::PostgresLogin => postgres::hear_login(heard),
            Self::Mysql(talk) => talk.receive(heard),
            Self::Redis => redis::receive(heard),
            Self::Smtp => smtp::receive(heard),
            Self::Mqtt => mqtt::receive(heard),
            Self::Ssh => ssh::receive(heard),
        }
    }
}

/// The first line, its end included, if it is whole.
fn line(heard: &[u8]) -> Option<&[u8]> {
    let end = heard.iter().position(|&byte| byte == b'\n')?;
    Some(&heard[..=end])
}

/// Whether `heard` can still become something that begins with `words`.
fn may_begin(heard: &[u8], words: &[u8]) -> bool {
    heard.iter().zip(words).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests;
