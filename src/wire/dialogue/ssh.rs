//! SSH: the server identifies itself (RFC 4253, section 4.2), perhaps after lines of other text.
//!
//! A server with too many unfinished logins closes at once, or after a line that is not an identification. Both count
//! as failed.

use super::{ALIVE, DialogueFault, DialogueReply, MORE, line, may_begin};

const ANY: &[u8] = b"SSH-";
const SECOND: &[u8] = b"SSH-2.0-";
/// Version 2 of a server that also supports version 1 (RFC 4253, section 5.1).
const BOTH: &[u8] = b"SSH-1.99-";

pub(super) fn receive(received: &[u8]) -> Result<DialogueReply, DialogueFault> {
    if received.len() >= ANY.len()
        && received.starts_with(ANY)
        && !may_begin(received, SECOND)
        && !may_begin(received, BOTH)
    {
        return Err(DialogueFault::Unexpected);
    }
    match line(received) {
        Some(line) if line.starts_with(SECOND) || line.starts_with(BOTH) => Ok(ALIVE),
        Some(line) if line.starts_with(ANY) => Err(DialogueFault::Unexpected),
        Some(line) => Ok(DialogueReply::Read { used: line.len() }),
        None => Ok(MORE),
    }
}
