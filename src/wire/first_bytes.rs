//! Detects the protocol of a client by its first bytes.

use super::postgres::LONGEST_STARTUP;

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectedProtocol {
    /// TLS: the record header of a handshake.
    Tls,
    /// SSH: the identification of a client.
    Ssh,
    /// HTTP: a method of HTTP/1, or the preface of HTTP/2.
    Http,
    /// A request for a tunnel by the method CONNECT of HTTP/1.
    Connect,
    /// SOCKS 5: the version, and the number of the offered methods.
    Socks5,
    /// PostgreSQL: the length and the code of a first message.
    Postgres,
    /// None of the other protocols.
    Other,
}

/// The beginning of a handshake record of any version in use.
const TLS: &[u8] = &[22, 3];

/// The first bytes of an SSH client (RFC 4253, section 4.2).
const SSH: &[u8] = b"SSH-";

/// The method that requests a tunnel.
const CONNECT: &[u8] = b"CONNECT ";

/// The version of SOCKS.
const SOCKS: u8 = 5;

/// The other methods of RFC 9110 and RFC 5789, and the beginning of HTTP/2's preface, each with its space.
const HTTP: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"TRACE ", b"PATCH ", b"PRI "];

/// The number of bytes that always suffice: no protocol needs more.
pub const ENOUGH: usize = 8;

/// Returns the protocol of the first bytes, or `None` if more bytes are needed to decide.
///
/// The result depends on the bytes alone. Once it is not `None`, more bytes do not change it.
pub fn tell(bytes: &[u8]) -> Option<DetectedProtocol> {
    let fixed = HTTP.iter().map(|prefix| (*prefix, DetectedProtocol::Http)).chain([
        (TLS, DetectedProtocol::Tls),
        (SSH, DetectedProtocol::Ssh),
        (CONNECT, DetectedProtocol::Connect),
    ]);
    let mut may_be = false;
    for (prefix, spoken) in fixed {
        if bytes.starts_with(prefix) {
            return Some(spoken);
        }
        may_be |= prefix.starts_with(bytes);
    }
    match bytes {
        [SOCKS] => return None,
        // A greeting without methods is that of DCE/RPC.
        [SOCKS, count, ..] if *count > 0 => return Some(DetectedProtocol::Socks5),
        _ => {}
    }
    match is_postgres(bytes) {
        Some(true) => Some(DetectedProtocol::Postgres),
        Some(false) if !may_be => Some(DetectedProtocol::Other),
        _ => None,
    }
}

/// Returns true if a first message can have this length and this code (version 2 or 3, or one of the requests);
/// `None` if more bytes are needed.
fn is_postgres(bytes: &[u8]) -> Option<bool> {
    let head = bytes.iter().take(2).all(|&byte| byte == 0);
    if !head {
        return Some(false);
    }
    let length = u32::from_be_bytes(*bytes.first_chunk::<4>()?) as usize;
    if !(8..=LONGEST_STARTUP).contains(&length) {
        return Some(false);
    }
    let code = bytes.get(4..6)?;
    Some(matches!(code, [0, 2 | 3] | [0x04, 0xd2]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(bytes: impl AsRef<[u8]>, expected: Option<DetectedProtocol>) {
        assert_eq!(tell(bytes.as_ref()), expected, "{:?}", bytes.as_ref());
    }

    #[test]
    fn protocols_are_detected() {
        use DetectedProtocol::{Connect, Http, Other, Postgres, Socks5, Ssh, Tls};
        check("", None);
        check([22], None);
        check([22, 3], Some(Tls));
        check([22, 3, 1, 2, 0], Some(Tls));
        check([22, 2], Some(Other));
        check("SS", None);
        check("SSH-2.0-OpenSSH_9.6\r\n", Some(Ssh));
        check("SSL", Some(Other));
        check("GET", None);
        check("GET / HTTP/1.1\r\n", Some(Http));
        check("P", None);
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD", "PRI"] {
            check(method, None);
            check(format!("{method} *"), Some(Http));
        }
        check("CONNECT", None);
        check("CONNECT a.test:443 HTTP/1.1\r\n", Some(Connect));
        check([5], None);
        check([5, 0], Some(Other));
        check([5, 1, 0], Some(Socks5));
        check([5, 255], Some(Socks5));
        check([4, 1], Some(Other));
        check("PROPFIND /", Some(Other));
        check("get / ", Some(Other));
        check("EHLO a\r\n", Some(Other));
        check([0], None);
        check([0, 0, 0, 8, 4], None);
        check([0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], Some(Postgres));
        check([0, 0, 0, 41, 0, 3, 0, 0, b'u'], Some(Postgres));
        check([0, 0, 0, 7], Some(Other));
        check([0, 1], Some(Other));
        check([0, 0, 0, 9, 1, 1], Some(Other));
    }

    proptest! {
        #[test]
        fn more_bytes_change_nothing(start in 0..15_usize, bytes: Vec<u8>, cut in 0..20_usize) {
            let starts = [TLS, SSH, CONNECT, &[5, 2], &[0, 0, 0, 8, 4, 0xd2], &[]];
            let start = starts.get(start).or_else(|| HTTP.get(start.saturating_sub(6))).copied().unwrap_or(&[]);
            let whole = [start, &bytes].concat();
            if let Some(found) = tell(&whole[..cut.min(whole.len())]) {
                prop_assert_eq!(tell(&whole), Some(found));
            }
            prop_assert!(whole.len() < ENOUGH || tell(&whole).is_some());
        }
    }
}
