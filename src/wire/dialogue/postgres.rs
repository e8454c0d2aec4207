//! PostgreSQL and what speaks its protocol, version 3.
//!
//! An SSLRequest is answered before anything is decided, so it shows that the server accepts and forks, and
//! leaves nothing in its log; but it is answered too while the server starts, stops or recovers and would
//! turn every client away. A startup message with a user shows that as well: then the server says an error
//! of class 57P. Any other error, such as a user it does not know, comes from a server that works.

use super::{ALIVE, DialogueFault, DialogueReply, MORE, ServerEnd};

/// Its length and the code that stands where a version would.
pub(super) const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const VERSION: [u8; 4] = [0, 3, 0, 0];

/// The class "operator intervention": shutdown, crash, cannot connect now.
const NOT_NOW: &[u8] = b"57P";

/// The last of the kinds of authentication: the end of SASL.
const LAST_PROOF: u32 = 12;

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

/// Reads the answer to the SSLRequest: one byte, and nothing behind it until the client goes on. Other servers greet
/// with words that begin with these letters too.
pub(super) fn hear_request(heard: &[u8], end: Option<ServerEnd>) -> Result<DialogueReply, DialogueFault> {
    match (heard, end) {
        ([], _) => Ok(MORE),
        ([b'S' | b'N'], None) => Ok(DialogueReply::Silence),
        ([b'S' | b'N'], Some(ServerEnd::Silent)) => Ok(ALIVE),
        ([b'S' | b'N'], Some(ServerEnd::Closed)) => Err(DialogueFault::Closed),
        _ => Err(DialogueFault::Unexpected),
    }
}

/// Reads the answer to the startup message: notices, then a request to prove who the user is, the word that all is
/// well, or an error.
pub(super) fn hear_login(heard: &[u8]) -> Result<DialogueReply, DialogueFault> {
    let Some(kind) = heard.first() else { return Ok(MORE) };
    let lengths = match kind {
        b'R' => 8..=LONGEST,
        b'E' | b'N' => 6..=LONGEST,
        _ => return Err(DialogueFault::Unexpected),
    };
    let Some(content) = packet(heard, lengths)? else { return Ok(MORE) };
    match kind {
        b'R' if content.first_chunk().is_some_and(|kind| u32::from_be_bytes(*kind) <= LAST_PROOF) => {
            Ok(ALIVE)
        }
        b'E' if code(content).is_some_and(|code| !code.starts_with(NOT_NOW)) => Ok(ALIVE),
        b'N' if code(content).is_some() => Ok(DialogueReply::Hear { used: 5 + content.len() }),
        _ => Err(DialogueFault::Unexpected),
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

/// The code of an error or a notice: each field is a letter and a text that a NUL ends, and `C` is the code.
fn code(fields: &[u8]) -> Option<&[u8]> {
    let (_, code) =
        fields.split(|&byte| byte == 0).filter_map(<[u8]>::split_first).find(|(kind, _)| **kind == b'C')?;
    let is_code =
        code.len() == 5 && code.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_code.then_some(code)
}
