//! HTTP/1.1: one GET, of whose answer the status is read and nothing else.

use super::{ALIVE, DialogueFault, MORE, Turn, may_begin};

const VERSION: &[u8] = b"HTTP/1.";

/// The version's last digit and a space, three digits of status, and what ends them.
const STATUS_LINE: usize = VERSION.len() + 2 + 3 + 1;

pub(super) fn request(path: &str, host: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pointsman\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

pub(super) fn hear(heard: &[u8]) -> Result<Turn, DialogueFault> {
    if !may_begin(heard, VERSION) {
        return Err(DialogueFault::Unexpected);
    }
    let Some(&[minor, b' ', a, b, c, end]) =
        heard.get(VERSION.len()..STATUS_LINE).and_then(|rest| rest.first_chunk::<6>())
    else {
        return if heard.len() < STATUS_LINE { Ok(MORE) } else { Err(DialogueFault::Unexpected) };
    };
    let is_status = [minor, a, b, c].iter().all(u8::is_ascii_digit) && matches!(end, b' ' | b'\r' | b'\n');
    match a {
        b'2' | b'3' if is_status => Ok(ALIVE),
        // Hints before the answer itself; 101 would be the end of HTTP.
        b'1' if is_status && [b, c] != *b"01" => Ok(Turn::Hear { used: head(heard).unwrap_or(0) }),
        _ => Err(DialogueFault::Unexpected),
    }
}

/// The length of a head with the empty line that ends it.
fn head(heard: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    heard.windows(END.len()).position(|window| window == END).map(|at| at + END.len())
}
