//! SSH: the server identifies itself (RFC 4253, section 4.2), perhaps after lines of other text.
//!
//! A server that has too many unfinished logins closes without a word, or after a line that is no
//! identification; both count as failed.

use super::{ALIVE, DialogueFault, DialogueReply, MORE, line, may_begin};

const ANY: &[u8] = b"SSH-";
const SECOND: &[u8] = b"SSH-2.0-";
/// Version 2 by a server that could also speak version 1 (RFC 4253, section 5.1).
const BOTH: &[u8] = b"SSH-1.99-";

pub(super) fn receive(heard: &[u8]) -> Result<DialogueReply, DialogueFault> {
    if heard.len() >= ANY.len()
        && heard.starts_with(ANY)
        && !may_begin(heard, SECOND)
        && !may_begin(heard, BOTH)
    {
        return Err(DialogueFault::Unexpected);
    }
    match line(heard) {
        Some(line) if line.starts_with(SECOND) || line.starts_with(BOTH) => Ok(ALIVE),
        Some(line) if line.starts_with(ANY) => Err(DialogueFault::Unexpected),
        Some(line) => Ok(DialogueReply::Hear { used: line.len() }),
        None => Ok(MORE),
    }
}
