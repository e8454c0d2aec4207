//! SMTP and LMTP: the server sends a greeting first (RFC 5321, section 3.1), in one line or several.

use super::{DialogueFault, DialogueReply, MORE, line, may_begin};

/// The command that ends the session. Without it servers log a lost connection.
const QUIT: &[u8] = b"QUIT\r\n";

const READY: &[u8] = b"220";

pub(super) fn receive(received: &[u8]) -> Result<DialogueReply, DialogueFault> {
    if !may_begin(received, READY) {
        return Err(DialogueFault::Unexpected);
    }
    let Some(line) = line(received) else { return Ok(MORE) };
    match line.get(READY.len()) {
        // More lines of the greeting follow.
        Some(b'-') => Ok(DialogueReply::Read { used: line.len() }),
        Some(b' ' | b'\r' | b'\n') => Ok(DialogueReply::Done { farewell: QUIT }),
        _ => Err(DialogueFault::Unexpected),
    }
}
