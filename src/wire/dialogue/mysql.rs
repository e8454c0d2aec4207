//! MySQL and MariaDB: the server sends a greeting first.
//!
//! The server counts a client that closes after the greeting as a connection error. After `max_connect_errors` such
//! errors from one host (100 by default), the server blocks the host. Then no client can connect through this
//! program. With a user, the check completes the login and ends it in order, which resets the count. The user needs
//! no right and no password.

use std::sync::Arc;

use super::{ALIVE, DialogueFault, DialogueReply, MORE};

/// The length of a packet's header: length (three bytes, the lowest first) and number.
const HEADER: usize = 4;

/// The longest accepted packet. Packets at the start of a session have a few hundred bytes.
const LONGEST: usize = 8 * 1024;

const VERSION_10: u8 = 10;
const OK: u8 = 0;
/// Further data of an authentication method; the server continues without a reply.
const MORE_DATA: u8 = 1;
const SWITCH: u8 = 0xfe;

/// The command that ends a session.
const QUIT: &[u8] = b"\x01\x00\x00\x00\x01";

/// `LONG_PASSWORD`, `LONG_FLAG`, `PROTOCOL_41`, `TRANSACTIONS`, `SECURE_CONNECTION`, `PLUGIN_AUTH`.
const CAPABILITIES: u32 = 0x0008_a205;

/// The character set utf8, which all versions support.
const CHARSET: u8 = 33;

/// The state of the dialogue.
#[derive(Clone, Debug)]
pub(super) struct MysqlState {
    /// The user for the reply to the greeting.
    user: Option<Arc<str>>,
    stage: MysqlStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MysqlStage {
    /// The dialogue waits for the greeting.
    Greeting,
    /// The dialogue waits for the answer to the login.
    Login,
}

impl MysqlState {
    pub(super) fn new(user: Option<Arc<str>>) -> Self {
        Self { user, stage: MysqlStage::Greeting }
    }

    pub(super) fn receive(&mut self, received: &[u8]) -> Result<DialogueReply, DialogueFault> {
        let Some((number, payload)) = packet(received)? else { return Ok(MORE) };
        let used = HEADER + payload.len();
        match (self.stage, payload.first()) {
            (MysqlStage::Greeting, Some(&VERSION_10)) if number == 0 && has_version(payload) => {
                let Some(user) = &self.user else { return Ok(ALIVE) };
                let reply = login(user).into();
                self.stage = MysqlStage::Login;
                Ok(DialogueReply::Reply { used, reply })
            }
            (MysqlStage::Login, Some(&OK)) => Ok(DialogueReply::Done { farewell: QUIT }),
            (MysqlStage::Login, Some(&MORE_DATA)) => Ok(DialogueReply::Read { used }),
            // The server requests another authentication method. In all of them no password is an empty packet.
            (MysqlStage::Login, Some(&SWITCH)) => {
                Ok(DialogueReply::Reply { used, reply: vec![0, 0, 0, number.wrapping_add(1)].into() })
            }
            _ => Err(DialogueFault::Unexpected),
        }
    }
}

/// Returns true if a greeting has the server's version: visible characters, and a NUL after them.
fn has_version(greeting: &[u8]) -> bool {
    let mut parts = greeting[1..].splitn(2, |&byte| byte == 0);
    let version = parts.next().unwrap_or_default();
    let is_whole = parts.next().is_some();
    is_whole && !version.is_empty() && version.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Returns the number and the payload of the first packet, once it is whole.
fn packet(received: &[u8]) -> Result<Option<(u8, &[u8])>, DialogueFault> {
    let Some(&[low, middle, high, number]) = received.first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
    if length == 0 || length > LONGEST {
        return Err(DialogueFault::Unexpected);
    }
    Ok(received.get(HEADER..HEADER + length).map(|payload| (number, payload)))
}

/// Returns the reply to a greeting: a login of this user without a password.
fn login(user: &str) -> Vec<u8> {
    let mut payload = CAPABILITIES.to_le_bytes().to_vec();
    // The longest packet that the client accepts: 16 MiB, as in all clients.
    payload.extend_from_slice(&0x00ff_ffff_u32.to_le_bytes());
    payload.push(CHARSET);
    payload.extend_from_slice(&[0; 23]);
    payload.extend_from_slice(user.as_bytes());
    // The end of the name, and the length of the empty password.
    payload.extend_from_slice(&[0, 0]);
    payload.extend_from_slice(b"mysql_native_password\0");
    let [low, middle, high, _] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&[low, middle, high, 1][..], &payload].concat()
}
