//! Mail protocols up to STARTTLS: SMTP, IMAP and POP3, on the server's side and on the client's.
//!
//! As a host this program greets, offers STARTTLS and nothing else, and answers every other command that it must
//! come first. As a guest it goes the same way with a backend. Neither side's words are carried over to the
//! other: the session proper begins anew inside TLS, as each of these protocols asks for (RFC 3207, section 4.2;
//! RFC 9051, section 6.2.1; RFC 2595, section 4).

mod imap;
mod pop3;
mod smtp;

use std::borrow::Cow;
use std::sync::Arc;

use super::opening::{Farewell, NOTHING, OpeningFault, ParsedMessage};

/// Bytes of a client's command. SMTP asks for 512, IMAP for more only with what is refused here.
pub(super) const LONGEST_COMMAND: usize = 2048;

/// Bytes of a backend's answer to one command.
pub(super) const LONGEST_ANSWER: usize = 8 * 1024;

/// Commands that a client may send before STARTTLS: some programs ask for capabilities more than once, and none
/// needs as many.
const MOST_COMMANDS: u32 = 16;

/// A protocol that changes to TLS by a command.
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

/// The server's side.
#[derive(Clone, Debug)]
pub(super) struct StarttlsServer {
    protocol: Starttls,
    name: Arc<str>,
    commands: u32,
}

/// What a host makes of one command.
enum CommandReply {
    Say(String),
    Tls(String),
    Quit(String),
}

impl StarttlsServer {
    /// The host and its greeting.
    pub(super) fn new(protocol: Starttls, name: Arc<str>) -> (Self, Cow<'static, [u8]>) {
        let greeting = match protocol {
            Starttls::Smtp => smtp::greeting(&name),
            Starttls::Imap => imap::greeting(&name),
            Starttls::Pop3 => pop3::greeting(&name),
        };
        (Self { protocol, name, commands: 0 }, greeting.into_bytes().into())
    }

    pub(super) fn receive(&mut self, heard: &[u8]) -> ParsedMessage {
        // A client that would have come by another port: it waits for no words of ours, and no line will end.
        if heard.first() == Some(&TLS) {
            return ParsedMessage::End { fault: OpeningFault::Malformed, words: NOTHING };
        }
        let Some((line, used)) = line(heard) else { return ParsedMessage::More };
        self.commands += 1;
        if self.commands > MOST_COMMANDS {
            return ParsedMessage::End {
                fault: OpeningFault::TooMany,
                words: self.farewell(Farewell::TooMany).into(),
            };
        }
        let reply = match self.protocol {
            Starttls::Smtp => smtp::reply(line, &self.name),
            Starttls::Imap => imap::reply(line),
            Starttls::Pop3 => pop3::reply(line),
        };
        match reply {
            CommandReply::Say(words) => ParsedMessage::Say { used, words: words.into_bytes().into() },
            CommandReply::Tls(words) => ParsedMessage::Tls { used, words: words.into_bytes().into() },
            CommandReply::Quit(words) => {
                ParsedMessage::End { fault: OpeningFault::Quit, words: words.into_bytes().into() }
            }
        }
    }

    pub(super) fn farewell(&self, farewell: Farewell) -> Vec<u8> {
        let why = match farewell {
            Farewell::Timeout => "waited too long for STARTTLS",
            Farewell::Busy => "too busy, try again later",
            Farewell::Pipelined => "nothing may be sent behind the request for TLS",
            Farewell::TooLong => "line too long",
            Farewell::TooMany => "too many commands before STARTTLS",
        };
        match self.protocol {
            Starttls::Smtp => smtp::farewell(farewell, why, &self.name),
            Starttls::Imap => format!("* BYE {why}\r\n"),
            Starttls::Pop3 => format!("-ERR {why}\r\n"),
        }
        .into_bytes()
    }
}

/// How far the talk with a backend has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AwaitedReply {
    Greeting,
    /// SMTP alone asks for the capabilities: a server may refuse STARTTLS before EHLO.
    Capabilities,
    GoAhead,
}

/// The client's side.
#[derive(Clone, Debug)]
pub(super) struct StarttlsClient {
    protocol: Starttls,
    name: Arc<str>,
    awaited: AwaitedReply,
}

/// What a guest makes of what a backend says.
enum StarttlsAnswer {
    /// It is not whole.
    More,
    /// The first `used` bytes matter no further.
    Pass { used: usize },
    /// As it should be.
    Good { used: usize },
    /// TLS is not offered, or not now.
    Refused,
    /// It is no answer that should come here.
    Unexpected,
}

impl StarttlsClient {
    pub(super) fn new(protocol: Starttls, name: Arc<str>) -> Self {
        Self { protocol, name, awaited: AwaitedReply::Greeting }
    }

    pub(super) fn receive(&mut self, heard: &[u8]) -> ParsedMessage {
        let answer = match self.protocol {
            Starttls::Smtp => smtp::answer(heard, self.awaited),
            Starttls::Imap => imap::answer(heard, self.awaited),
            Starttls::Pop3 => pop3::answer(heard, self.awaited),
        };
        let end = |fault| ParsedMessage::End { fault, words: NOTHING };
        match answer {
            StarttlsAnswer::More => ParsedMessage::More,
            StarttlsAnswer::Pass { used } => ParsedMessage::Say { used, words: NOTHING },
            StarttlsAnswer::Good { used } if self.awaited == AwaitedReply::GoAhead => {
                ParsedMessage::Tls { used, words: NOTHING }
            }
            StarttlsAnswer::Good { used } => {
                ParsedMessage::Say { used, words: self.next().into_bytes().into() }
            }
            StarttlsAnswer::Refused => end(OpeningFault::Refused),
            StarttlsAnswer::Unexpected => end(OpeningFault::Unexpected),
        }
    }

    /// The next command.
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

/// The first line without its end, and the length of both. A line may end without a carriage return: it goes no
/// further than here.
fn line(heard: &[u8]) -> Option<(&[u8], usize)> {
    let end = heard.iter().position(|&byte| byte == b'\n')?;
    let line = &heard[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// The first word of a line and what stands behind its space.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|&byte| byte == b' ') {
        Some(space) => (&line[..space], line[space + 1..].trim_ascii()),
        None => (line.trim_ascii_end(), b""),
    }
}

#[cfg(test)]
mod tests;
