//! Mail protocols up to STARTTLS: SMTP, IMAP and POP3, in the role of the server or of the client.
//!
//! As a server this program greets, offers only STARTTLS, and answers other commands with the error that STARTTLS
//! must come first. As a client it sends the same commands to a backend. No message of one side is passed to the
//! other side: the session begins again inside TLS, as each of these protocols requires (RFC 3207, section 4.2; RFC
//! 9051, section 6.2.1; RFC 2595, section 4).

mod imap;
mod pop3;
mod smtp;

use std::borrow::Cow;
use std::sync::Arc;

use super::opening::{Farewell, NOTHING, OpeningFault, ParsedMessage};

/// The longest command of a client in bytes. SMTP requires 512. IMAP requires more, but only for commands that are
/// refused here.
pub(super) const LONGEST_COMMAND: usize = 2048;

/// The longest answer of a backend to one command in bytes.
pub(super) const LONGEST_ANSWER: usize = 8 * 1024;

/// The most commands that a client may send before STARTTLS. Some programs query the capabilities more than once, and
/// no program needs as many.
const MOST_COMMANDS: u32 = 16;

/// A mail protocol that changes to TLS by a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starttls {
    /// SMTP (RFC 5321, RFC 3207), for submission and between servers.
    Smtp,
    /// IMAP (RFC 9051).
    Imap,
    /// POP3 (RFC 1939, RFC 2449, RFC 2595).
    Pop3,
}

/// The first byte of TLS (RFC 8446, section 5.1: a handshake record). No command begins with it.
const TLS: u8 = 22;

/// The state of the server role.
#[derive(Clone, Debug)]
pub(super) struct StarttlsServer {
    protocol: Starttls,
    name: Arc<str>,
    commands: u32,
}

/// The answer of the server role to one command.
enum CommandReply {
    Text(String),
    Tls(String),
    Quit(String),
}

impl StarttlsServer {
    /// Creates the server role; returns it and its greeting.
    pub(super) fn new(protocol: Starttls, name: Arc<str>) -> (Self, Cow<'static, [u8]>) {
        let greeting = match protocol {
            Starttls::Smtp => smtp::greeting(&name),
            Starttls::Imap => imap::greeting(&name),
            Starttls::Pop3 => pop3::greeting(&name),
        };
        (Self { protocol, name, commands: 0 }, greeting.into_bytes().into())
    }

    pub(super) fn receive(&mut self, received: &[u8]) -> ParsedMessage {
        // A client that should use another port: it begins TLS without a greeting, and sends no line.
        if received.first() == Some(&TLS) {
            return ParsedMessage::End { fault: OpeningFault::Malformed, reply: NOTHING };
        }
        let Some((line, used)) = line(received) else { return ParsedMessage::More };
        self.commands += 1;
        if self.commands > MOST_COMMANDS {
            return ParsedMessage::End {
                fault: OpeningFault::TooMany,
                reply: self.farewell(Farewell::TooMany).into(),
            };
        }
        let reply = match self.protocol {
            Starttls::Smtp => smtp::reply(line, &self.name),
            Starttls::Imap => imap::reply(line),
            Starttls::Pop3 => pop3::reply(line),
        };
        match reply {
            CommandReply::Text(reply) => ParsedMessage::Reply { used, reply: reply.into_bytes().into() },
            CommandReply::Tls(reply) => ParsedMessage::Tls { used, reply: reply.into_bytes().into() },
            CommandReply::Quit(reply) => {
                ParsedMessage::End { fault: OpeningFault::Quit, reply: reply.into_bytes().into() }
            }
        }
    }

    pub(super) fn farewell(&self, farewell: Farewell) -> Vec<u8> {
        let reason = match farewell {
            Farewell::Timeout => "waited too long for STARTTLS",
            Farewell::Busy => "too busy, try again later",
            Farewell::Pipelined => "nothing may be sent after the request for TLS",
            Farewell::TooLong => "line too long",
            Farewell::TooMany => "too many commands before STARTTLS",
        };
        match self.protocol {
            Starttls::Smtp => smtp::farewell(farewell, reason, &self.name),
            Starttls::Imap => format!("* BYE {reason}\r\n"),
            Starttls::Pop3 => format!("-ERR {reason}\r\n"),
        }
        .into_bytes()
    }
}

/// The answer of the backend that is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AwaitedReply {
    Greeting,
    /// The answer to EHLO. Only SMTP needs it, because a server may refuse STARTTLS before EHLO.
    Capabilities,
    GoAhead,
}

/// The state of the client role.
#[derive(Clone, Debug)]
pub(super) struct StarttlsClient {
    protocol: Starttls,
    name: Arc<str>,
    awaited: AwaitedReply,
}

/// The meaning of a backend's answer.
enum StarttlsAnswer {
    /// The answer is not whole.
    More,
    /// The first `used` bytes are to be ignored.
    Pass { used: usize },
    /// The answer is the awaited one.
    Good { used: usize },
    /// TLS is not offered, or not now.
    Refused,
    /// The answer is not valid at this point.
    Unexpected,
}

impl StarttlsClient {
    pub(super) fn new(protocol: Starttls, name: Arc<str>) -> Self {
        Self { protocol, name, awaited: AwaitedReply::Greeting }
    }

    pub(super) fn receive(&mut self, received: &[u8]) -> ParsedMessage {
        let answer = match self.protocol {
            Starttls::Smtp => smtp::answer(received, self.awaited),
            Starttls::Imap => imap::answer(received, self.awaited),
            Starttls::Pop3 => pop3::answer(received, self.awaited),
        };
        let end = |fault| ParsedMessage::End { fault, reply: NOTHING };
        match answer {
            StarttlsAnswer::More => ParsedMessage::More,
            StarttlsAnswer::Pass { used } => ParsedMessage::Reply { used, reply: NOTHING },
            StarttlsAnswer::Good { used } if self.awaited == AwaitedReply::GoAhead => {
                ParsedMessage::Tls { used, reply: NOTHING }
            }
            StarttlsAnswer::Good { used } => {
                ParsedMessage::Reply { used, reply: self.next().into_bytes().into() }
            }
            StarttlsAnswer::Refused => end(OpeningFault::Refused),
            StarttlsAnswer::Unexpected => end(OpeningFault::Unexpected),
        }
    }

    /// Returns the next command.
    fn next(&mut self) -> String {
        self.awaited = match (self.protocol, self.awaited) {
            (Starttls::Smtp, AwaitedReply::Greeting) => AwaitedReply::Capabilities,
            _ => AwaitedReply::GoAhead,
        };
        match self.protocol {
            Starttls::Smtp if self.awaited == AwaitedReply::Capabilities => format!("EHLO {}\r\n", self.name),
            Starttls::Smtp => "STARTTLS\r\n".to_owned(),
            Starttls::Imap => imap::STARTTLS.to_owned(),
            Starttls::Pop3 => "STLS\r\n".to_owned(),
        }
    }
}

/// Returns the first line without its end, and the length with the end. The carriage return is optional, because the
/// line is not passed on to other programs.
fn line(received: &[u8]) -> Option<(&[u8], usize)> {
    let end = received.iter().position(|&byte| byte == b'\n')?;
    let line = &received[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// Splits a line into its first word and the text after the space.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|&byte| byte == b' ') {
        Some(space) => (&line[..space], line[space + 1..].trim_ascii()),
        None => (line.trim_ascii_end(), b""),
    }
}

#[cfg(test)]
mod tests;
