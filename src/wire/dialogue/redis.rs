//! Redis, and what speaks its protocol: Valkey, KeyDB, Sentinel, most proxies for them.
//!
//! PING needs no rights, and a server that asks for a password says so before all else. An error of
//! another kind means that clients get nothing either: `-LOADING` while it reads its data, `-MASTERDOWN` on
//! a replica that lost its master, `-DENIED` in protected mode.

use super::{ALIVE, DialogueFault, DialogueReply, MORE, line, may_begin};

pub(super) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

const PONG: &[u8] = b"+PONG\r\n";
const NO_AUTH: &[u8] = b"-NOAUTH";

pub(super) fn receive(heard: &[u8]) -> Result<DialogueReply, DialogueFault> {
    if !may_begin(heard, PONG) && !may_begin(heard, NO_AUTH) {
        return Err(DialogueFault::Unexpected);
    }
    // `may_begin` holds to the end of what is wanted, so a whole line is either of them.
    Ok(if line(heard).is_some() { ALIVE } else { MORE })
}
