//! TLS: a ClientHello is sent, and the type of the first message in the answer is the result.
//!
//! There is no TLS library and no secret. The answer is read only up to the type of its first message. The key share is
//! random bytes, because any 32 bytes are a valid key of x25519. A server without a certificate for the name, a common
//! version or a common cipher answers with an alert.

use super::{ALIVE, DialogueFault, DialogueReply, MORE};
use crate::wire::ServerName;

/// Type, version and length of a record (RFC 8446, section 5.1).
const RECORD_HEADER: usize = 5;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
const CLIENT_HELLO: u8 = 1;

/// The level of alerts that do not end the connection in TLS 1.2 (RFC 5246, section 7.2).
const WARNING: u8 = 1;
const CLOSE_NOTIFY: u8 = 0;

/// The cipher suites of TLS 1.3, then those of TLS 1.2: elliptic curves with AEAD, with CBC, and plain RSA for old
/// servers.
const CIPHERS: [u16; 16] = [
    0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc009, 0xc013, 0xc00a, 0xc014,
    0x009c, 0x002f, 0x0035,
];

/// The groups x25519, secp256r1, secp384r1, secp521r1. A server that requires another group than the first sends a
/// HelloRetryRequest, which is a ServerHello too.
const GROUPS: [u16; 4] = [0x001d, 0x0017, 0x0018, 0x0019];

/// The signature algorithms ECDSA, PSS, Ed25519, PKCS 1 with SHA-2, and with SHA-1 for old servers.
const SIGNATURES: [u16; 13] =
    [0x0403, 0x0503, 0x0603, 0x0807, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0809, 0x0203, 0x0201];

/// Returns a whole ClientHello in one record, for TLS 1.2 and 1.3.
pub(super) fn hello(server_name: Option<&ServerName>, random: &[u8; 64]) -> Vec<u8> {
    let (nonce, key) = random.split_at(32);
    let mut body = vec![3, 3];
    body.extend_from_slice(nonce);
    // An empty session id: no session is resumed.
    body.push(0);
    body.extend(vector16(&numbers(&CIPHERS)));
    // No compression.
    body.extend_from_slice(&[1, 0]);
    body.extend(vector16(&extensions(server_name, key)));
    let [_, high, middle, low] = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let message = [&[CLIENT_HELLO, high, middle, low][..], &body].concat();
    // The version of the first record is 1.0 for compatibility with old servers (RFC 8446, section 5.1).
    [&[HANDSHAKE, 3, 1][..], &vector16(&message)].concat()
}

fn extensions(server_name: Option<&ServerName>, key: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut add = |kind: u16, content: &[u8]| {
        block.extend_from_slice(&kind.to_be_bytes());
        block.extend(vector16(content));
    };
    if let Some(name) = server_name {
        // One entry, of type host_name (RFC 6066, section 3).
        let entry = [&[0][..], &vector16(name.as_str().as_bytes())].concat();
        add(0, &vector16(&entry));
    }
    add(10, &vector16(&numbers(&GROUPS)));
    // Points of elliptic curves are not compressed (RFC 8422, section 5.1.2).
    add(11, &[1, 0]);
    add(13, &vector16(&numbers(&SIGNATURES)));
    // The extended master secret and secure renegotiation, which some servers of TLS 1.2 require.
    add(23, &[]);
    add(0xff01, &[0]);
    // Versions 1.3 and 1.2, and the mode of session resumption, which is never used.
    add(43, &[4, 3, 4, 3, 3]);
    add(45, &[1, 1]);
    let share = [&GROUPS[0].to_be_bytes()[..], &vector16(key)].concat();
    add(51, &vector16(&share));
    block
}

/// Returns bytes with their length of two bytes before them. No vector here is near 64 KiB.
fn vector16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

pub(super) fn receive(received: &[u8]) -> Result<DialogueReply, DialogueFault> {
    let kind = match received.first() {
        None => return Ok(MORE),
        Some(&kind @ (ALERT | HANDSHAKE)) => kind,
        Some(_) => return Err(DialogueFault::Unexpected),
    };
    if received.get(1).is_some_and(|&major| major != 3) {
        return Err(DialogueFault::Unexpected);
    }
    let Some(content) = received.get(RECORD_HEADER..) else { return Ok(MORE) };
    match (kind, content, &received[3..RECORD_HEADER]) {
        (HANDSHAKE, _, [0, 0]) => Err(DialogueFault::Unexpected),
        (HANDSHAKE, [], _) => Ok(MORE),
        (HANDSHAKE, [SERVER_HELLO, ..], _) => Ok(ALIVE),
        (ALERT, [] | [_], [0, 2]) => Ok(MORE),
        // An old server that has no such name sends a warning and continues (RFC 6066, section 3).
        (ALERT, &[WARNING, alert, ..], [0, 2]) if alert != CLOSE_NOTIFY => {
            Ok(DialogueReply::Read { used: RECORD_HEADER + 2 })
        }
        (ALERT, &[_, alert, ..], [0, 2]) => Err(DialogueFault::TlsAlert(alert)),
        _ => Err(DialogueFault::Unexpected),
    }
}
