//! PostgreSQL and what speaks its protocol, version 3.
//!
//! An SSLRequest is answered before anything is decided, so it shows that the server accepts and forks, and
//! leaves nothing in its log; but it is answered too while the server starts, stops or recovers and would
//! turn every client away. A startup message with a user shows that as well: then the server says an error
//! of class 57P. Any other error, such as a user it does not know, comes from a server that works.

use super::{ALIVE, DialogueFault, MORE, Turn};

/// Its length and the code that stands where a version would.
pub(super) const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const VERSION: [u8; 4] = [0, 3, 0, 0];

/// The class "operator intervention": shutdown, crash, cannot connect now.
const NOT_NOW: &[u8] = b"57P";

/// Errors at the start of a session have a few hundred bytes.
const LONGEST: usize = 8 * 1024;

/// The startup message of `user`, who asks for the database of his name. What follows the request to prove
/// himself is never answered.
pub(super) fn startup(user: &str) -> Vec<u8> {
    let mut body = VERSION.to_vec();
    for text in ["user", user, "application_name", "pointsman"] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(4 + body.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &body].concat()
}

pub(super) fn hear(heard: &[u8]) -> Result<Turn, DialogueFault> {
    match heard.first() {
        None => Ok(MORE),
        // To the SSLRequest: it would go on with TLS, or without.
        Some(b'S' | b'N') => Ok(ALIVE),
        // To the startup message: a request to prove who one is, or the word that all is well.
        Some(b'R') => Ok(match packet(heard, 8..=LONGEST)? {
            Some(_) => ALIVE,
            None => MORE,
        }),
        Some(b'E') => match packet(heard, 6..=LONGEST)? {
            Some(fields) if is_alive(fields) => Ok(ALIVE),
            Some(_) => Err(DialogueFault::Unexpected),
            None => Ok(MORE),
        },
        Some(_) => Err(DialogueFault::Unexpected),
    }
}

/// What a packet holds behind its kind and length, once it is whole. The length counts itself.
fn packet(heard: &[u8], lengths: std::ops::RangeInclusive<usize>) -> Result<Option<&[u8]>, DialogueFault> {
    let Some(length) = heard.get(1..5).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !lengths.contains(&length) {
        return Err(DialogueFault::Unexpected);
    }
    Ok(heard.get(5..1 + length))
}

/// Whether an error comes from a server that serves: each field is a letter and a text that a NUL ends; `C` is
/// the code.
fn is_alive(fields: &[u8]) -> bool {
    fields
        .split(|&byte| byte == 0)
        .filter_map(<[u8]>::split_first)
        .find(|(kind, _)| **kind == b'C')
        .is_some_and(|(_, code)| code.len() == 5 && !code.starts_with(NOT_NOW))
}
