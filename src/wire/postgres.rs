//! The opening of a PostgreSQL session, protocol version 3, in the role of the server or of the client.
//!
//! A client begins in one of four ways. It requests TLS with an SSLRequest, begins TLS at once (libpq 17 and
//! later), sends a startup message in plain text, or requests to cancel a query of another session. An SSLRequest
//! is always granted, a GSSENCRequest never. Each may come once, as in the PostgreSQL server.
//!
//! Lengths are checked as soon as their bytes have arrived, before the message is whole.

use std::borrow::Cow;

use super::opening::{Farewell, NOTHING, OpeningFault, OpeningOutcome, ParsedMessage};

/// An SSLRequest: its length, and a code where other messages have the version.
pub const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The longest startup message that a server accepts (`MAX_STARTUP_PACKET_LENGTH`).
pub const LONGEST_STARTUP: usize = 10_000;

const CODE_CANCEL: u32 = 80_877_102;
const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;

/// The length of the fields before the key in a CancelRequest: length, code and process.
const CANCEL_HEAD: usize = 12;

/// The length of the key: 4 in protocol 3.0, at most 256 in 3.2 (PostgreSQL 18).
const CANCEL_KEY: std::ops::RangeInclusive<usize> = 4..=256;

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// The user and the database in a startup message in plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The user.
    pub user: Box<[u8]>,
    /// The database; if none is given, it has the user's name.
    pub database: Box<[u8]>,
}

/// The state of the server role.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PostgresServer {
    gss_was_requested: bool,
}

impl PostgresServer {
    pub(super) fn receive(&mut self, received: &[u8]) -> ParsedMessage {
        if received.first() == Some(&TLS_HANDSHAKE) && !self.gss_was_requested {
            return ParsedMessage::Other(OpeningOutcome::DirectTls);
        }
        let (length, code) = match head(received) {
            Ok(Some(head)) => head,
            Ok(None) => return ParsedMessage::More,
            Err(fault) => return fault.into(),
        };
        match code {
            CODE_SSL if length == 8 => ParsedMessage::Tls { used: 8, reply: Cow::Borrowed(b"S") },
            CODE_GSS if length == 8 && !self.gss_was_requested => {
                if received.len() > 8 {
                    return ParsedMessage::End {
                        fault: OpeningFault::Pipelined,
                        reply: farewell(Farewell::Pipelined).into(),
                    };
                }
                self.gss_was_requested = true;
                ParsedMessage::Reply { used: 8, reply: Cow::Borrowed(b"N") }
            }
            CODE_CANCEL if length >= CANCEL_HEAD && CANCEL_KEY.contains(&(length - CANCEL_HEAD)) => {
                if received.len() < length {
                    ParsedMessage::More
                } else {
                    ParsedMessage::Other(OpeningOutcome::Cancel)
                }
            }
            CODE_SSL | CODE_GSS | CODE_CANCEL => StartupFault::Message.into(),
            version if version >> 16 == 3 => match received.get(8..length).map(startup) {
                None => ParsedMessage::More,
                Some(None) => StartupFault::Message.into(),
                Some(Some(startup)) => ParsedMessage::Other(OpeningOutcome::Plaintext(startup)),
            },
            _ => StartupFault::Version.into(),
        }
    }
}

/// The fault of a first message.
#[derive(Clone, Copy)]
enum StartupFault {
    Length,
    Message,
    Version,
}

impl From<StartupFault> for ParsedMessage {
    fn from(fault: StartupFault) -> Self {
        let reply = match fault {
            StartupFault::Length => error("08P01", "this is not the beginning of a PostgreSQL session", ""),
            StartupFault::Message => error("08P01", "invalid startup message", ""),
            StartupFault::Version => {
                error("0A000", "unsupported frontend protocol", "Protocol version 3 is spoken here.")
            }
        };
        Self::End { fault: OpeningFault::Malformed, reply: reply.into() }
    }
}

/// Returns the length and the code of a first message, once both have arrived. The length includes itself.
fn head(received: &[u8]) -> Result<Option<(usize, u32)>, StartupFault> {
    // The longest length fits into two bytes, so the first byte already excludes most other protocols.
    if received.iter().take(2).any(|&byte| byte != 0) {
        return Err(StartupFault::Length);
    }
    let Some(length) = received.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if !(8..=LONGEST_STARTUP).contains(&length) {
        return Err(StartupFault::Length);
    }
    let Some(code) = received.get(4..8).and_then(|code| code.first_chunk::<4>()) else { return Ok(None) };
    Ok(Some((length, u32::from_be_bytes(*code))))
}

/// Parses the parameters of a startup message: names and values, each followed by a NUL, and a final NUL.
fn startup(parameters: &[u8]) -> Option<Startup> {
    let mut texts = parameters.strip_suffix(&[0])?.split_inclusive(|&byte| byte == 0);
    let (mut user, mut database) = (None, None);
    while let Some(name) = texts.next() {
        let value = texts.next()?.strip_suffix(&[0])?;
        match name.strip_suffix(&[0])? {
            [] => return None,
            b"user" => user = Some(value),
            b"database" => database = Some(value),
            _ => {}
        }
    }
    let user = user.filter(|user| !user.is_empty())?;
    let database = database.filter(|database| !database.is_empty()).unwrap_or(user);
    Some(Startup { user: user.into(), database: database.into() })
}

/// Parses the answer of a backend to an SSLRequest: one byte, and nothing after it.
pub(super) fn read_answer(received: &[u8]) -> ParsedMessage {
    match received {
        [] => ParsedMessage::More,
        [b'S', ..] => ParsedMessage::Tls { used: 1, reply: NOTHING },
        [b'N', ..] => ParsedMessage::End { fault: OpeningFault::Refused, reply: NOTHING },
        _ => ParsedMessage::End { fault: OpeningFault::Unexpected, reply: NOTHING },
    }
}

/// Returns a fatal ErrorResponse. `code` is an SQLSTATE; an empty hint is omitted.
pub fn error(code: &str, message: &str, hint: &str) -> Vec<u8> {
    let mut fields = Vec::with_capacity(64 + message.len() + hint.len());
    for (kind, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', message), (b'H', hint)] {
        if !text.is_empty() {
            fields.push(kind);
            fields.extend_from_slice(text.as_bytes());
            fields.push(0);
        }
    }
    fields.push(0);
    let length = u32::try_from(4 + fields.len()).unwrap_or(u32::MAX);
    [&b"E"[..], &length.to_be_bytes(), &fields].concat()
}

pub(super) fn farewell(farewell: Farewell) -> Vec<u8> {
    match farewell {
        Farewell::Timeout => error("08006", "the session did not begin in time", ""),
        Farewell::Busy => error("53300", "too many sessions begin at once", "Try again later."),
        Farewell::Pipelined => {
            error("08P01", "received unencrypted data after the request for encryption", "")
        }
        Farewell::TooLong | Farewell::TooMany => error("08P01", "invalid length of startup message", ""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::opening::testing::run;
    use crate::wire::opening::{BackendGreeting, Opening};
    use crate::wire::tests::{bit_flips, with_changed_byte};

    fn message(code: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + rest.len()).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    }

    fn plain(parameters: &[u8]) -> Vec<u8> {
        message(3 << 16, parameters)
    }

    fn gss() -> Vec<u8> {
        message(CODE_GSS, b"")
    }

    fn cancel(key: usize) -> Vec<u8> {
        message(CODE_CANCEL, &vec![7; 4 + key])
    }

    /// `sent` is the text that the client receives, with only the code of an ErrorResponse.
    #[track_caller]
    fn check(bytes: impl AsRef<[u8]>, sent: &str, end: &str) {
        let bytes = bytes.as_ref();
        let (received, found) = run(Opening::postgres_host(), bytes, usize::MAX);
        let received = match received.split_once("\0C") {
            Some((before, code)) => format!("{}{}", &before[..before.find('E').unwrap()], &code[..5]),
            None => received,
        };
        assert_eq!((received.as_str(), found.as_str()), (sent, end), "{bytes:?}");
    }

    fn starts(user: &str, database: &str) -> String {
        format!(
            "{:?}",
            OpeningOutcome::Plaintext(Startup {
                user: user.as_bytes().into(),
                database: database.as_bytes().into()
            })
        )
    }

    #[test]
    fn sessions_begin() {
        check("", "", "more");
        check(SSL_REQUEST, "S", "Tls");
        check([gss(), SSL_REQUEST.to_vec()].concat(), "08P01", "Pipelined");
        check(gss(), "N", "more");
        check([22, 3, 1], "", "DirectTls");
        check(plain(b"user\0ann\0\0"), "", &starts("ann", "ann"));
        check(plain(b"user\0ann\0database\0\0\0"), "", &starts("ann", "ann"));
        check(plain(b"database\0shop\0user\0ann\0options\0-c x=y\0\0"), "", &starts("ann", "shop"));
        // Protocol 3.2, and future minor versions.
        check(message((3 << 16) + 2, b"user\0ann\0\0"), "", &starts("ann", "ann"));
        check(message((3 << 16) + 9999, b"user\0ann\0\0"), "", &starts("ann", "ann"));
        for key in [4, 5, 32, 255, 256] {
            check(cancel(key), "", "Cancel");
        }
    }

    #[test]
    fn invalid_messages_get_an_error() {
        check("GET / HTTP/1.0\r\n\r\n", "08P01", "Malformed");
        check([0, 1], "08P01", "Malformed");
        check([0, 0, 0, 7], "08P01", "Malformed");
        check([0, 0, 0x27, 0x11], "08P01", "Malformed");
        check(message(CODE_SSL, b"x"), "08P01", "Malformed");
        check(message(CODE_GSS, b"x"), "08P01", "Malformed");
        check(message(2 << 16, b"user\0ann\0\0"), "0A000", "Malformed");
        check(message(80_877_105, b""), "0A000", "Malformed");
        for key in [0, 3, 257, 300] {
            check(cancel(key), "08P01", "Malformed");
        }
        check(message(CODE_CANCEL, b""), "08P01", "Malformed");
        for parameters in [
            &b""[..],
            b"\0",
            b"user\0\0\0",
            b"user\0ann\0",
            b"user\0ann",
            b"database\0shop\0\0",
            b"user\0\0",
            b"\0\0\0",
            b"user\0ann\0\0\0",
            b"user\0ann\0x\0\0",
        ] {
            check(plain(parameters), "08P01", "Malformed");
        }
    }

    #[test]
    fn nothing_is_carried_into_tls() {
        for behind in [&b"x"[..], &[0; 8], SSL_REQUEST, &[22, 3, 1, 0, 1]] {
            check([SSL_REQUEST, behind].concat(), "08P01", "Pipelined");
            check([&gss(), behind].concat(), "08P01", "Pipelined");
        }
    }

    /// Checks messages that each come after the answer to the last one.
    #[track_caller]
    fn check_turns(messages: &[Vec<u8>], sent: &str, end: &str) {
        let bytes = messages.concat();
        let (received, found) = run(Opening::postgres_host(), &bytes, 8);
        assert_eq!((&received[..sent.len()], found.as_str()), (sent, end), "{messages:?}");
    }

    #[test]
    fn encryption_by_gss_is_refused_once() {
        check_turns(&[gss(), SSL_REQUEST.to_vec()], "NS", "Tls");
        check_turns(&[gss(), plain(b"user\0ann\0\0")], "N", &starts("ann", "ann"));
        check_turns(&[gss(), cancel(4)], "N", "Cancel");
        check_turns(&[gss(), gss()], "NE", "Malformed");
        // A client that has begun to negotiate cannot begin TLS at once.
        check_turns(&[gss(), vec![22, 3, 1]], "NE", "Malformed");
    }

    fn fixtures() -> Vec<Vec<u8>> {
        vec![SSL_REQUEST.to_vec(), gss(), cancel(4), cancel(256), plain(b"database\0shop\0user\0ann\0\0")]
    }

    #[test]
    fn every_prefix_waits() {
        for whole in fixtures() {
            for end in 0..whole.len() {
                check(&whole[..end], "", "more");
            }
        }
    }

    /// Returns how many changes were tried.
    fn check_changed_bytes(values: impl Fn(u8) -> Vec<u8> + Copy) -> usize {
        let mut seen = 0;
        for whole in fixtures() {
            for changed in with_changed_byte(&whole, values) {
                let one = run(Opening::postgres_host(), &changed, usize::MAX);
                assert_eq!(one.1, run(Opening::postgres_host(), &changed, 1).1, "{changed:?}");
                seen += 1;
            }
        }
        seen
    }

    #[test]
    fn a_flipped_bit_is_answered_alike_in_any_pieces() {
        assert!(check_changed_bytes(bit_flips) > 300);
    }

    #[test]
    #[ignore = "takes long in a debug build"]
    fn every_changed_byte_is_answered_alike_in_any_pieces() {
        assert!(check_changed_bytes(|_| (0..=255).collect()) > 10_000);
    }

    proptest! {
        /// Only the fate of bytes after a request depends on the cut: they are refused if they come with the request.
        #[test]
        fn any_bytes_in_any_pieces(bytes: Vec<u8>, which in 0..5_usize, piece in 1..40_usize) {
            let whole = [fixtures()[which].clone(), bytes.clone()].concat();
            let (sent, end) = run(Opening::postgres_host(), &whole, piece);
            prop_assert!(sent.len() < 300);
            if which == 0 {
                prop_assert!(end == "Tls" || end == "Pipelined");
            }
            run(Opening::postgres_host(), &bytes, piece);
            run(Opening::client_role(&BackendGreeting::Postgres), &bytes, piece);
        }
    }

    #[test]
    fn a_backend_agrees_with_s() {
        let check = |answer: &[u8], end: &str| {
            let (sent, found) = run(Opening::client_role(&BackendGreeting::Postgres), answer, usize::MAX);
            assert_eq!((sent.len() >= 8, found.as_str()), (true, end), "{answer:?}");
        };
        check(b"", "more");
        check(b"S", "Tls");
        check(b"N", "Refused");
        check(b"E\0\0\0\x08", "Unexpected");
        check(b"HTTP", "Unexpected");
        check(b"SS", "Pipelined");
    }

    #[test]
    fn an_error_has_the_fields_that_clients_need() {
        let expected = b"E\0\0\0\x2bSFATAL\0VFATAL\0C28000\0Mno\0Htry TLS now\0\0";
        assert_eq!(error("28000", "no", "try TLS now"), expected);
        assert!(!error("28000", "no", "").contains(&b'H'));
    }
}
