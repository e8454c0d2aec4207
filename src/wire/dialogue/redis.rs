//! Redis, and other servers with its protocol: Valkey, KeyDB, Sentinel, most proxies for them.
//!
//! PING needs no rights. A server that requires a password answers with an error of its own. Any other error means
//! that clients are not served. Examples are `-LOADING` while the server reads its data, `-MASTERDOWN` on a replica
//! that lost its master, and `-DENIED` in protected mode.

use super::{ALIVE, DialogueFault, DialogueReply, MORE, line, may_begin};

pub(super) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

const PONG: &[u8] = b"+PONG\r\n";
const NO_AUTH: &[u8] = b"-NOAUTH";

pub(super) fn receive(received: &[u8]) -> Result<DialogueReply, DialogueFault> {
    if !may_begin(received, PONG) && !may_begin(received, NO_AUTH) {
        return Err(DialogueFault::Unexpected);
    }
    // `may_begin` compares up to the end of the expected text, so a whole line is one of the two.
    Ok(if line(received).is_some() { ALIVE } else { MORE })
}
