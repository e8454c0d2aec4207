//! SOCKS in the role of the server: version 5 (RFC 1928) without authentication, and versions 4 and 4a.
//!
//! Only CONNECT is served. The bytes behind the request belong to the tunnel, so a client may send them before the
//! answer. Version 4 is read only if the listener allows it.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::opening::{Farewell, NOTHING, OpeningFault, ParsedMessage};
use super::requested::{RequestedHost, TunnelTarget};
use super::tunnel::{TunnelProtocol, TunnelRequest};

/// The version of a request and of its replies.
const VERSION: u8 = 5;

/// The version of requests without a greeting.
const OLD_VERSION: u8 = 4;

/// The method without authentication.
const NO_AUTHENTICATION: u8 = 0;

/// The answer to a greeting that offers no acceptable method.
const NO_METHOD: &[u8] = &[VERSION, 0xff];

/// The command CONNECT, in all versions.
const CONNECT: u8 = 1;

/// The longest user id and the longest name of version 4, as long as those of version 5.
const LONGEST_TEXT: usize = 255;

/// The codes of replies (RFC 1928, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyCode {
    Succeeded,
    GeneralFailure,
    NotAllowed,
    HostUnreachable,
    ConnectionRefused,
    TimedOut,
    UnknownCommand,
    UnknownAddressType,
}

/// Returns a reply of version 5. Its address is always 0.0.0.0:0, so it shows no address of this host.
pub(super) const fn reply(code: ReplyCode) -> &'static [u8] {
    match code {
        ReplyCode::Succeeded => &[VERSION, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        ReplyCode::GeneralFailure => &[VERSION, 1, 0, 1, 0, 0, 0, 0, 0, 0],
        ReplyCode::NotAllowed => &[VERSION, 2, 0, 1, 0, 0, 0, 0, 0, 0],
        ReplyCode::HostUnreachable => &[VERSION, 4, 0, 1, 0, 0, 0, 0, 0, 0],
        ReplyCode::ConnectionRefused => &[VERSION, 5, 0, 1, 0, 0, 0, 0, 0, 0],
        // "TTL expired": servers use it for a connect without an answer.
        ReplyCode::TimedOut => &[VERSION, 6, 0, 1, 0, 0, 0, 0, 0, 0],
        ReplyCode::UnknownCommand => &[VERSION, 7, 0, 1, 0, 0, 0, 0, 0, 0],
        ReplyCode::UnknownAddressType => &[VERSION, 8, 0, 1, 0, 0, 0, 0, 0, 0],
    }
}

/// The reply of version 4 to a request that is granted.
pub(super) const OLD_GRANTED: &[u8] = &[0, 0x5a, 0, 0, 0, 0, 0, 0];

/// The reply of version 4 to a request that is refused or has failed.
pub(super) const OLD_REJECTED: &[u8] = &[0, 0x5b, 0, 0, 0, 0, 0, 0];

/// The state of the server role.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocksServer {
    reads_version_4: bool,
    stage: SocksStage,
}

/// The message that comes next.
#[derive(Clone, Copy, Debug)]
enum SocksStage {
    Greeting,
    Request,
}

/// The result of reading a part of a message: `None` if more bytes are needed.
type Part<T> = Result<Option<T>, ParsedMessage>;

impl SocksServer {
    pub(super) fn new(reads_version_4: bool) -> Self {
        Self { reads_version_4, stage: SocksStage::Greeting }
    }

    pub(super) fn receive(&mut self, received: &[u8]) -> ParsedMessage {
        let Some(&version) = received.first() else { return ParsedMessage::More };
        match (self.stage, version) {
            (SocksStage::Greeting, VERSION) => self.read_greeting(received),
            (SocksStage::Greeting, OLD_VERSION) if self.reads_version_4 => {
                conclude(read_old_request(received), TunnelProtocol::Socks4)
            }
            (SocksStage::Greeting, OLD_VERSION) => end(OpeningFault::Unsupported, OLD_REJECTED),
            (SocksStage::Greeting, _) => end(OpeningFault::Malformed, &[]),
            (SocksStage::Request, _) => conclude(read_request(received), TunnelProtocol::Socks5),
        }
    }

    /// Reads the methods that a client offers. An offer of another method beside this one is no fault.
    fn read_greeting(&mut self, received: &[u8]) -> ParsedMessage {
        let Some(&count) = received.get(1) else { return ParsedMessage::More };
        let used = 2 + usize::from(count);
        let Some(methods) = received.get(2..used) else { return ParsedMessage::More };
        if !methods.contains(&NO_AUTHENTICATION) {
            return end(OpeningFault::NoMethod, NO_METHOD);
        }
        self.stage = SocksStage::Request;
        ParsedMessage::Reply { used, reply: Cow::Borrowed(&[VERSION, NO_AUTHENTICATION]) }
    }

    /// Returns the last message to a client. A client that has not greeted cannot read one.
    pub(super) fn farewell(self, _: Farewell) -> &'static [u8] {
        match self.stage {
            SocksStage::Greeting => &[],
            SocksStage::Request => reply(ReplyCode::GeneralFailure),
        }
    }
}

/// Reads a request of version 5. Returns its length and its target.
fn read_request(received: &[u8]) -> Part<(usize, TunnelTarget)> {
    let failed = |fault, code| Err(end(fault, reply(code)));
    let &[version, ref rest @ ..] = received else { return Ok(None) };
    if version != VERSION {
        return failed(OpeningFault::Malformed, ReplyCode::GeneralFailure);
    }
    let &[command, ref rest @ ..] = rest else { return Ok(None) };
    if command != CONNECT {
        return failed(OpeningFault::Unsupported, ReplyCode::UnknownCommand);
    }
    // The third byte is reserved. Clients that do not set it to 0 are served.
    let &[_, kind, ref rest @ ..] = rest else { return Ok(None) };
    let (host, address) = match kind {
        1 => {
            let Some(bytes) = rest.first_chunk::<4>() else { return Ok(None) };
            (Ok(IpAddr::from(Ipv4Addr::from(*bytes)).into()), 4)
        }
        4 => {
            let Some(bytes) = rest.first_chunk::<16>() else { return Ok(None) };
            (Ok(IpAddr::from(Ipv6Addr::from(*bytes)).into()), 16)
        }
        3 => {
            let &[length, ref rest @ ..] = rest else { return Ok(None) };
            let Some(name) = rest.get(..usize::from(length)) else { return Ok(None) };
            (RequestedHost::from_client(name), 1 + usize::from(length))
        }
        _ => return failed(OpeningFault::Unsupported, ReplyCode::UnknownAddressType),
    };
    let Some(port) = rest[address..].first_chunk::<2>() else { return Ok(None) };
    let port = u16::from_be_bytes(*port);
    match host {
        Ok(host) if port != 0 => Ok(Some((4 + address + 2, TunnelTarget { host, port }))),
        _ => failed(OpeningFault::BadHost, ReplyCode::GeneralFailure),
    }
}

/// Reads a request of version 4 or 4a. Returns its length and its target.
fn read_old_request(received: &[u8]) -> Part<(usize, TunnelTarget)> {
    let failed = |fault| Err(end(fault, OLD_REJECTED));
    let &[_, command, ref rest @ ..] = received else { return Ok(None) };
    if command != CONNECT {
        return failed(OpeningFault::Unsupported);
    }
    let &[high, low, a, b, c, d, ref rest @ ..] = rest else { return Ok(None) };
    let port = u16::from_be_bytes([high, low]);
    let Some(user) = read_text(rest)? else { return Ok(None) };
    let mut used = 8 + user.len() + 1;
    // An address that no host has: version 4a, the name follows.
    let host = if (a, b, c) == (0, 0, 0) && d != 0 {
        let Some(name) = read_text(&rest[user.len() + 1..])? else { return Ok(None) };
        used += name.len() + 1;
        RequestedHost::from_client(name)
    } else {
        Ok(IpAddr::from([a, b, c, d]).into())
    };
    match host {
        Ok(host) if port != 0 => Ok(Some((used, TunnelTarget { host, port }))),
        _ => failed(OpeningFault::BadHost),
    }
}

/// Reads a text of version 4, which ends with a NUL byte.
fn read_text(bytes: &[u8]) -> Part<&[u8]> {
    match bytes.iter().take(LONGEST_TEXT + 1).position(|&byte| byte == 0) {
        Some(end) => Ok(Some(&bytes[..end])),
        None if bytes.len() > LONGEST_TEXT => Err(end(OpeningFault::TooLong, OLD_REJECTED)),
        None => Ok(None),
    }
}

fn conclude(read: Part<(usize, TunnelTarget)>, protocol: TunnelProtocol) -> ParsedMessage {
    match read {
        Ok(Some((used, target))) => {
            ParsedMessage::Tunnel { used, request: TunnelRequest { target, protocol } }
        }
        Ok(None) => ParsedMessage::More,
        Err(end) => end,
    }
}

fn end(fault: OpeningFault, reply: &'static [u8]) -> ParsedMessage {
    let reply = if reply.is_empty() { NOTHING } else { Cow::Borrowed(reply) };
    ParsedMessage::End { fault, reply }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Opening;
    use crate::wire::opening::testing::run_bytes;
    use crate::wire::tests::{bit_flips, with_changed_byte};

    const GREETING: &[u8] = &[5, 1, 0];
    const METHOD: &[u8] = &[5, 0];

    fn request(kind: u8, address: &[u8], port: u16) -> Vec<u8> {
        [&[5, 1, 0, kind], address, &port.to_be_bytes()].concat()
    }

    fn named(name: &str, port: u16) -> Vec<u8> {
        request(3, &[&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat(), port)
    }

    fn old(address: [u8; 4], port: u16, texts: &[u8]) -> Vec<u8> {
        [&[4, 1], &port.to_be_bytes()[..], &address, texts].concat()
    }

    /// Checks the bytes that the client gets, and the end: a target, a fault or "more". The cuts change nothing.
    #[track_caller]
    fn check_as(reads_version_4: bool, bytes: &[u8], sent: &[u8], expected: &str) {
        for piece in [usize::MAX, 1, 2, 3, 7] {
            let (found, end, _) = run_bytes(Opening::socks_host(reads_version_4), bytes, piece);
            assert_eq!((&found[..], end.as_str()), (sent, expected), "{bytes:?} in pieces of {piece}");
        }
    }

    /// Checks a request of version 5 behind its greeting.
    #[track_caller]
    fn check(request: &[u8], code: Option<ReplyCode>, expected: &str) {
        let sent = [METHOD, code.map_or(&[][..], reply)].concat();
        check_as(false, &[GREETING, request].concat(), &sent, expected);
    }

    #[test]
    fn hosts_are_requested() {
        check(&named("api.test", 443), None, "Socks5 api.test:443");
        check(&named("API.Test.", 443), None, "Socks5 api.test:443");
        check(&named("192.0.2.1", 80), None, "Socks5 192.0.2.1:80");
        check(&named("2001:db8::1", 80), None, "Socks5 [2001:db8::1]:80");
        check(&request(1, &[192, 0, 2, 1], 65535), None, "Socks5 192.0.2.1:65535");
        let v6 = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
        check(&request(4, &v6, 1), None, "Socks5 [2001:db8::1]:1");
        let mapped = "::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets();
        check(&request(4, &mapped, 1), None, "Socks5 10.0.0.1:1");
    }

    #[test]
    fn other_requests_are_answered() {
        use ReplyCode::{GeneralFailure, UnknownAddressType, UnknownCommand};
        check(&[5, 2], Some(UnknownCommand), "Unsupported");
        check(&[5, 3, 0, 1, 1, 2, 3, 4, 0, 53], Some(UnknownCommand), "Unsupported");
        check(&[5, 1, 0, 2], Some(UnknownAddressType), "Unsupported");
        check(&[5, 1, 0, 0], Some(UnknownAddressType), "Unsupported");
        check(&[4], Some(GeneralFailure), "Malformed");
        check(&request(1, &[192, 0, 2, 1], 0), Some(GeneralFailure), "BadHost");
        for name in ["", "a b", "127.1", "0x7f000001", "a..b", "[::1]", "a\0b", "a\r\nb"] {
            check(&named(name, 443), Some(GeneralFailure), "BadHost");
        }
    }

    #[test]
    fn a_client_must_offer_no_authentication() {
        check_as(false, &[5, 3, 2, 1, 0], METHOD, "more");
        for greeting in [&[5, 0][..], &[5, 1, 2], &[5, 2, 1, 2]] {
            check_as(false, greeting, NO_METHOD, "NoMethod");
        }
    }

    #[test]
    fn other_protocols_are_closed() {
        check_as(true, b"GET / HTTP/1.1\r\n\r\n", b"", "Malformed");
        check_as(true, &[22, 3, 1, 0], b"", "Malformed");
        check_as(true, &[0], b"", "Malformed");
    }

    #[test]
    fn version_4_is_read_if_allowed() {
        let v4 = old([192, 0, 2, 1], 80, b"ann\0");
        check_as(true, &v4, b"", "Socks4 192.0.2.1:80");
        check_as(false, &v4, OLD_REJECTED, "Unsupported");
        check_as(true, &old([0, 0, 0, 7], 443, b"\0api.test\0"), b"", "Socks4 api.test:443");
        check_as(true, &old([0, 0, 0, 0], 443, b"\0"), b"", "Socks4 0.0.0.0:443");
        check_as(true, &[4, 2], OLD_REJECTED, "Unsupported");
        check_as(true, &old([0, 0, 0, 7], 443, b"\0\0"), OLD_REJECTED, "BadHost");
        check_as(true, &old([192, 0, 2, 1], 0, b"\0"), OLD_REJECTED, "BadHost");
        let (longest, longer) = (vec![b'u'; 255], vec![b'u'; 256]);
        check_as(true, &old([192, 0, 2, 1], 80, &[&longest[..], b"\0"].concat()), b"", "Socks4 192.0.2.1:80");
        check_as(true, &old([192, 0, 2, 1], 80, &longer), OLD_REJECTED, "TooLong");
    }

    fn fixtures() -> Vec<Vec<u8>> {
        vec![
            [GREETING, &named("api.test", 443)].concat(),
            [GREETING, &request(1, &[192, 0, 2, 1], 443)].concat(),
            [&[5, 2, 0, 2][..], &request(4, &[0x20; 16], 8443)].concat(),
            old([192, 0, 2, 1], 80, b"ann\0"),
            old([0, 0, 0, 7], 443, b"ann\0api.test\0"),
        ]
    }

    #[test]
    fn every_prefix_waits() {
        for whole in fixtures() {
            for end in 0..whole.len() {
                let (sent, found, _) = run_bytes(Opening::socks_host(true), &whole[..end], usize::MAX);
                assert_eq!(found, "more", "{:?}", &whole[..end]);
                assert!(sent.is_empty() || sent == METHOD);
            }
        }
    }

    #[test]
    fn bytes_behind_the_request_are_the_tunnels() {
        for whole in fixtures() {
            for behind in [&b""[..], b"x", &[5, 1, 0], &[22, 3, 1, 0, 1], &[0; 400]] {
                for piece in [usize::MAX, 1, 3] {
                    let bytes = [&whole[..], behind].concat();
                    let (_, end, rest) = run_bytes(Opening::socks_host(true), &bytes, piece);
                    assert!(end.starts_with("Socks"), "{end}");
                    assert_eq!(rest, behind, "{whole:?}");
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_answered_alike_in_any_pieces() {
        let mut seen = 0;
        for whole in fixtures() {
            for changed in with_changed_byte(&whole, bit_flips) {
                let one = run_bytes(Opening::socks_host(true), &changed, usize::MAX);
                assert_eq!(one, run_bytes(Opening::socks_host(true), &changed, 1), "{changed:?}");
                seen += 1;
            }
        }
        assert!(seen > 500);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(bytes: Vec<u8>, which in 0..5_usize, cut in 0..30_usize, piece in 1..40_usize) {
            let begun = &fixtures()[which];
            let whole = [&begun[..cut.min(begun.len())], &bytes].concat();
            let one = run_bytes(Opening::socks_host(true), &whole, usize::MAX);
            prop_assert_eq!(&one, &run_bytes(Opening::socks_host(true), &whole, piece));
            prop_assert!(one.0.len() <= 12);
        }
    }
}
