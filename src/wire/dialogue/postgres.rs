//! PostgreSQL and other servers with its protocol, version 3.
//!
//! A server answers an SSLRequest before any other decision. So the answer shows that the server accepts and forks, and
//! the request leaves nothing in the server's log. But while a server starts, stops or recovers, it answers an
//! SSLRequest too, although it refuses every client. A startup message with a user also shows these states: the server
//! sends an error of class 57P. Any other error, such as an unknown user, comes from a server that works.

use super::{ALIVE, DialogueFault, DialogueReply, MORE, ServerEnd};

/// An SSLRequest: its length, and a code where other messages have the version.
pub(super) const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const VERSION: [u8; 4] = [0, 3, 0, 0];

/// The class "operator intervention": shutdown, crash, cannot connect now.
const NOT_NOW: &[u8] = b"57P";

/// The highest number of an authentication message: the end of SASL.
const LAST_PROOF: u32 = 12;

/// The longest accepted message. Errors at the start of a session have a few hundred bytes.
const LONGEST: usize = 8 * 1024;

/// Returns the startup message of `user`, for the database of the same name. A request for authentication is never
/// answered.
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

/// Parses the answer to the SSLRequest: one byte, and nothing after it until the client sends more. The greetings of
/// other servers may begin with the same letters.
pub(super) fn parse_ssl_answer(
    received: &[u8],
    end: Option<ServerEnd>,
) -> Result<DialogueReply, DialogueFault> {
    match (received, end) {
        ([], _) => Ok(MORE),
        ([b'S' | b'N'], None) => Ok(DialogueReply::Listen),
        ([b'S' | b'N'], Some(ServerEnd::Silent)) => Ok(ALIVE),
        ([b'S' | b'N'], Some(ServerEnd::Closed)) => Err(DialogueFault::Closed),
        _ => Err(DialogueFault::Unexpected),
    }
}

/// Parses the answer to the startup message: notices, then a request for authentication, a success, or an error.
pub(super) fn parse_login_answer(received: &[u8]) -> Result<DialogueReply, DialogueFault> {
    let Some(kind) = received.first() else { return Ok(MORE) };
    let lengths = match kind {
        b'R' => 8..=LONGEST,
        b'E' | b'N' => 6..=LONGEST,
        _ => return Err(DialogueFault::Unexpected),
    };
    let Some(content) = packet(received, lengths)? else { return Ok(MORE) };
    match kind {
        b'R' if content.first_chunk().is_some_and(|kind| u32::from_be_bytes(*kind) <= LAST_PROOF) => {
            Ok(ALIVE)
        }
        b'E' if code(content).is_some_and(|code| !code.starts_with(NOT_NOW)) => Ok(ALIVE),
        b'N' if code(content).is_some() => Ok(DialogueReply::Read { used: 5 + content.len() }),
        _ => Err(DialogueFault::Unexpected),
    }
}

/// Returns the content of a packet after its kind and length, once it is whole. The length includes itself.
fn packet(received: &[u8], lengths: std::ops::RangeInclusive<usize>) -> Result<Option<&[u8]>, DialogueFault> {
    let Some(length) = received.get(1..5).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !lengths.contains(&length) {
        return Err(DialogueFault::Unexpected);
    }
    Ok(received.get(5..1 + length))
}

/// Returns the code of an error or a notice. Each field is a letter and a text that ends with a NUL, and `C` is the
/// code.
fn code(fields: &[u8]) -> Option<&[u8]> {
    let (_, code) =
        fields.split(|&byte| byte == 0).filter_map(<[u8]>::split_first).find(|(kind, _)| **kind == b'C')?;
    let is_code =
        code.len() == 5 && code.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_code.then_some(code)
}
