//! SMTP and LMTP: the server greets first (RFC 5321, section 3.1), on one line or several.

use super::{DialogueFault, DialogueReply, MORE, line, may_begin};

/// Without it servers log a lost connection.
const QUIT: &[u8] = b"QUIT\r\n";

const READY: &[u8] = b"220";

pub(super) fn receive(heard: &[u8]) -> Result<DialogueReply, DialogueFault> {
    if !may_begin(heard, READY) {
        return Err(DialogueFault::Unexpected);
    }
    let Some(line) = line(heard) else { return Ok(MORE) };
    match line.get(READY.len()) {
        // More lines of the greeting follow.
        Some(b'-') => Ok(DialogueReply::Hear { used: line.len() }),
        Some(b' ' | b'\r' | b'\n') => Ok(DialogueReply::Done { farewell: QUIT }),
        _ => Err(DialogueFault::Unexpected),
    }
}
