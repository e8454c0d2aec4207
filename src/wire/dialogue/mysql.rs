//! MySQL and MariaDB: the server greets first.
//!
//! A client that leaves after the greeting is a connection error in the server's books, and after
//! `max_connect_errors` of them from one host (100 by default) that host is blocked: then nobody can
//! connect through this one. With a user, which needs no right and no password, the login is finished and
//! ended in order, which resets that count.

use std::sync::Arc;

use super::{ALIVE, DialogueFault, DialogueReply, MORE};

/// Length (three bytes, the lowest first) and number of a packet.
const HEADER: usize = 4;

/// Packets at the start of a session have a few hundred bytes.
const LONGEST: usize = 8 * 1024;

const VERSION_10: u8 = 10;
const OK: u8 = 0;
/// The server tells something about a way to log in, and goes on by itself.
const MORE_DATA: u8 = 1;
const SWITCH: u8 = 0xfe;

/// The command that ends a session.
const QUIT: &[u8] = b"\x01\x00\x00\x00\x01";

/// `LONG_PASSWORD`, `LONG_FLAG`, `PROTOCOL_41`, `TRANSACTIONS`, `SECURE_CONNECTION`, `PLUGIN_AUTH`.
const CAPABILITIES: u32 = 0x0008_a205;

/// utf8, which all versions know.
const CHARSET: u8 = 33;

/// Where the dialogue stands.
#[derive(Clone, Debug)]
pub(super) struct MysqlState {
    /// Who is still to log in; his reply to the greeting.
    user: Option<Arc<str>>,
    stage: MysqlStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MysqlStage {
    /// The greeting is to come.
    Greeting,
    /// The answer to the login is.
    Login,
}

impl MysqlState {
    pub(super) fn new(user: Option<Arc<str>>) -> Self {
        Self { user, stage: MysqlStage::Greeting }
    }

    pub(super) fn receive(&mut self, heard: &[u8]) -> Result<DialogueReply, DialogueFault> {
        let Some((number, payload)) = packet(heard)? else { return Ok(MORE) };
        let used = HEADER + payload.len();
        match (self.stage, payload.first()) {
            (MysqlStage::Greeting, Some(&VERSION_10)) if number == 0 && has_version(payload) => {
                let Some(user) = &self.user else { return Ok(ALIVE) };
                let words = login(user).into();
                self.stage = MysqlStage::Login;
                Ok(DialogueReply::Say { used, words })
            }
            (MysqlStage::Login, Some(&OK)) => Ok(DialogueReply::Done { farewell: QUIT }),
            (MysqlStage::Login, Some(&MORE_DATA)) => Ok(DialogueReply::Hear { used }),
            // Another way to log in: no password is an empty packet in all of them.
            (MysqlStage::Login, Some(&SWITCH)) => {
                Ok(DialogueReply::Say { used, words: vec![0, 0, 0, number.wrapping_add(1)].into() })
            }
            _ => Err(DialogueFault::Unexpected),
        }
    }
}

/// Whether a greeting has the server's version: visible characters, and a NUL behind them.
fn has_version(greeting: &[u8]) -> bool {
    let mut parts = greeting[1..].splitn(2, |&byte| byte == 0);
    let version = parts.next().unwrap_or_default();
    let is_whole = parts.next().is_some();
    is_whole && !version.is_empty() && version.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The number and payload of the first packet, once it is whole.
fn packet(heard: &[u8]) -> Result<Option<(u8, &[u8])>, DialogueFault> {
    let Some(&[low, middle, high, number]) = heard.first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
    if length == 0 || length > LONGEST {
        return Err(DialogueFault::Unexpected);
    }
    Ok(heard.get(HEADER..HEADER + length).map(|payload| (number, payload)))
}

/// The reply to a greeting: this user, no password.
fn login(user: &str) -> Vec<u8> {
    let mut payload = CAPABILITIES.to_le_bytes().to_vec();
    // The longest packet we would take: 16 MiB, as all clients say.
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
