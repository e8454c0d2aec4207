//! The payloads of attackers.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::hello::{self, Command};

/// The largest message that a listener accepts by default, with its handshake header.
const LARGE_HELLO: usize = 16_384;

/// The bytes that an attacker sends, at once or byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Payload {
    Nothing,
    /// A hello that would be served.
    Hello,
    /// A hello of the largest size that a listener accepts, with an unknown server name.
    LargeHello,
    /// A hello with a command for the backend to send without end.
    Endless,
    /// Bytes of no protocol.
    Garbage,
    /// Malformed PROXY headers, of both versions by turns.
    BrokenHeader,
    /// The startup of a PostgreSQL session, with parameters that never end.
    Startup,
    /// A line of SMTP that never ends.
    MailLine,
    /// A request to the admin listener whose head never ends.
    Request,
    /// A whole request for the metrics.
    Scrape,
}

impl Payload {
    /// Returns the payload of the connection with this number. A slow attacker repeats the last byte of it.
    pub(crate) fn bytes(self, number: usize) -> Vec<u8> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Hello => hello::build(Command::Reply(hello::REPLY_SIZE as u64)),
            Self::LargeHello => large_hello(),
            Self::Endless => hello::build(Command::Stream(u64::MAX)),
            Self::Garbage => hello::filler(256).into_iter().map(|byte| byte | 0x80).collect(),
            Self::BrokenHeader if number.is_multiple_of(2) => {
                b"PROXY TCP4 192.0.2.1 192.0.2.999 1 99999\r\n".to_vec()
            }
            Self::BrokenHeader => {
                b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c".iter().copied().chain([1; 12]).collect()
            }
            Self::Startup => [&[0, 0, 0x20, 0, 0, 3, 0, 0][..], b"user\0", &[b'a'; 100]].concat(),
            Self::MailLine => [&b"EHLO "[..], &[b'a'; 100]].concat(),
            Self::Request => [&b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: "[..], &[b'a'; 100]].concat(),
            Self::Scrape => b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(),
        }
    }
}

/// Returns one record with one message of [`LARGE_HELLO`] bytes.
fn large_hello() -> Vec<u8> {
    let name = b"unknown.flood.test";
    let mut extensions = Vec::new();
    let named = [&[0][..], &prefixed(name)].concat();
    extension(&mut extensions, 0, &prefixed(&named));
    // Handshake header, version, random, session, one suite, no compression, the length of the extensions.
    let before = 4 + 2 + 32 + 1 + 4 + 2 + 2;
    let padding = LARGE_HELLO - before - extensions.len() - 4;
    extension(&mut extensions, 0x0015, &vec![0; padding]);
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(prefixed(&extensions));
    let handshake = [&[1, 0][..], &prefixed(&body)].concat();
    [&[0x16, 0x03, 0x01][..], &prefixed(&handshake)].concat()
}

fn extension(to: &mut Vec<u8>, kind: u16, content: &[u8]) {
    to.extend(kind.to_be_bytes());
    to.extend(prefixed(content));
}

fn prefixed(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("no part of a hello is this long");
    [&length.to_be_bytes(), content].concat()
}

/// Returns the address of the attacker with this number; each attacker has an address of its own.
pub(crate) fn source(number: usize) -> Ipv4Addr {
    // The addresses begin with 127.16.0.1; 20 bits are more than any attack has.
    Ipv4Addr::from(0x7f10_0001 + (number as u32 & 0xf_ffff))
}
