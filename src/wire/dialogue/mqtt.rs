//! MQTT: a CONNECT of version 3.1.1 and its CONNACK.
//!
//! A broker that refuses this client (because it requires a name and a password, or another version) is alive. A
//! broker is not alive only if it answers with the code "server unavailable".

use super::{DialogueFault, DialogueReply, MORE};

/// A CONNECT with a clean session and no client identifier (MQTT 3.1.1, section 3.1.3.1), keep alive 10 s. With a fixed
/// identifier, the checks of two nodes would disconnect each other.
pub(super) const CONNECT: &[u8] = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00";

const DISCONNECT: &[u8] = b"\xe0\x00";

const CONNACK: u8 = 0x20;

/// The code "server unavailable" in version 3.1.1 (section 3.2.2.3) and in version 5 (section 3.2.2.2).
const UNAVAILABLE: [u8; 2] = [3, 0x88];

/// The longest accepted CONNACK. It has flags, a code and, in version 5, properties, which are far below a kibibyte.
const LONGEST: usize = 1024;

pub(super) fn receive(received: &[u8]) -> Result<DialogueReply, DialogueFault> {
    let Some((&kind, rest)) = received.split_first() else { return Ok(MORE) };
    if kind != CONNACK {
        return Err(DialogueFault::Unexpected);
    }
    let Some((length, rest)) = remaining_length(rest)? else { return Ok(MORE) };
    if !(2..=LONGEST).contains(&length) {
        return Err(DialogueFault::Unexpected);
    }
    match rest {
        [] | [0 | 1] => Ok(MORE),
        [0 | 1, code, ..] if UNAVAILABLE.contains(code) => Err(DialogueFault::Unexpected),
        // A CONNACK of version 3.1.1 ends here, one of version 5 has properties. A text that begins with spaces is
        // neither.
        [0 | 1, 0..=5, ..] if length == 2 => Ok(DialogueReply::Done { farewell: DISCONNECT }),
        [0 | 1, 0x80..=0x9f, ..] => Ok(DialogueReply::Done { farewell: DISCONNECT }),
        _ => Err(DialogueFault::Unexpected),
    }
}

/// Parses the number of one to four bytes after the kind of a packet (section 2.2.3); returns it and the bytes after
/// it.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, DialogueFault> {
    let mut length = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((length, &bytes[at + 1..])));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(DialogueFault::Unexpected) }
}
