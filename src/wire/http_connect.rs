//! The method CONNECT of HTTP/1 in the role of the server (RFC 9110, section 9.3.6, and RFC 9112).
//!
//! The head of a request is read strictly, so that no other program on the way reads it in another way: line ends are
//! CRLF, the target is a host with a port, and a request has neither content nor a second Host. The head is never sent
//! on. The bytes behind it belong to the tunnel, so a client may send them before the answer.
//!
//! Lines are checked in their order as soon as they have arrived, so the answer does not depend on how the bytes were
//! cut.

use super::opening::{Farewell, OpeningFault, ParsedMessage};
use super::requested::{TunnelTarget, read_authority};
use super::tunnel::{TunnelFailure, TunnelProtocol, TunnelRequest};

/// The longest head of a request.
pub(super) const LONGEST_HEAD: usize = 16 * 1024;

/// The answer to a client whose tunnel begins. An answer to CONNECT has no fields for content.
pub(super) const GRANTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Makes an answer with a status and an error type of RFC 9209, section 2.3.
macro_rules! answer {
    ($status:literal, $error:literal $(, $field:literal)*) => {
        concat!(
            "HTTP/1.1 ", $status, "\r\n", $($field, "\r\n",)* "Proxy-Status: pointsman; error=", $error,
            "\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        .as_bytes()
    };
}

/// The fault of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadFault {
    /// It breaks the rules of HTTP, or the rules for CONNECT.
    Malformed,
    /// Its target is not a host with a port.
    Target,
    /// It has another method.
    Method,
    /// It has another version of HTTP.
    Version,
}

impl HeadFault {
    fn end(self) -> ParsedMessage {
        let (fault, reply) = match self {
            Self::Malformed => (OpeningFault::Malformed, answer!("400 Bad Request", "http_request_error")),
            Self::Target => (OpeningFault::BadHost, answer!("400 Bad Request", "http_request_error")),
            Self::Method => (
                OpeningFault::Unsupported,
                answer!("405 Method Not Allowed", "http_request_denied", "Allow: CONNECT"),
            ),
            Self::Version => {
                (OpeningFault::Unsupported, answer!("505 HTTP Version Not Supported", "http_request_error"))
            }
        };
        ParsedMessage::End { fault, reply: reply.into() }
    }
}

/// Returns the answer to a client that gets no tunnel.
pub(super) fn refused(failure: TunnelFailure) -> &'static [u8] {
    match failure {
        TunnelFailure::NotAllowed => answer!("403 Forbidden", "http_request_denied"),
        TunnelFailure::AddressNotAllowed => answer!("403 Forbidden", "destination_ip_prohibited"),
        TunnelFailure::NotResolved => answer!("502 Bad Gateway", "dns_error"),
        TunnelFailure::Refused => answer!("502 Bad Gateway", "connection_refused"),
        TunnelFailure::TimedOut => answer!("504 Gateway Timeout", "connection_timeout"),
        TunnelFailure::Unreachable => answer!("502 Bad Gateway", "destination_ip_unroutable"),
        TunnelFailure::Loop => answer!("502 Bad Gateway", "proxy_loop_detected"),
        TunnelFailure::TooMany => answer!("503 Service Unavailable", "connection_limit_reached"),
        TunnelFailure::Unavailable => answer!("503 Service Unavailable", "destination_unavailable"),
        TunnelFailure::Late => answer!("408 Request Timeout", "http_request_error"),
        TunnelFailure::Internal => answer!("500 Internal Server Error", "proxy_internal_error"),
    }
}

/// Returns the last message to a client whose head is not whole.
pub(super) fn farewell(farewell: Farewell) -> &'static [u8] {
    match farewell {
        Farewell::Timeout => refused(TunnelFailure::Late),
        Farewell::Busy => refused(TunnelFailure::TooMany),
        Farewell::TooLong => answer!("431 Request Header Fields Too Large", "http_request_error"),
        Farewell::Pipelined | Farewell::TooMany => answer!("400 Bad Request", "http_request_error"),
    }
}

/// The state of the server role: the part of the head that was read.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectServer {
    /// The start of the line that is being read.
    line: usize,
    /// The number of bytes that were read. A head may come byte by byte, and no byte is read twice.
    read: usize,
    /// The target, once the request line was read.
    target: Option<TunnelTarget>,
    /// True for HTTP/1.0, whose requests need no Host.
    is_old: bool,
    has_host: bool,
    has_length: bool,
}

impl ConnectServer {
    pub(super) fn receive(&mut self, received: &[u8]) -> ParsedMessage {
        match self.read_head(received) {
            Ok(Some(target)) => {
                let request = TunnelRequest { target, protocol: TunnelProtocol::Connect };
                ParsedMessage::Tunnel { used: self.read, request }
            }
            Ok(None) => ParsedMessage::More,
            Err(fault) => fault.end(),
        }
    }

    /// Reads on to the end of the head. Returns the target, or `None` if the head is not whole.
    fn read_head(&mut self, received: &[u8]) -> Result<Option<TunnelTarget>, HeadFault> {
        while let Some(line) = self.next_line(received)? {
            match self.target.take() {
                None => self.target = Some(self.request_line(line)?),
                Some(target) if line.is_empty() => {
                    // RFC 9112, section 3.2: a request of HTTP/1.1 must have a Host.
                    return if self.is_old || self.has_host {
                        Ok(Some(target))
                    } else {
                        Err(HeadFault::Malformed)
                    };
                }
                Some(target) => {
                    self.check_field(line, &target)?;
                    self.target = Some(target);
                }
            }
        }
        Ok(None)
    }

    /// Returns the next line without its end, or `None` if it is not whole.
    fn next_line<'r>(&mut self, received: &'r [u8]) -> Result<Option<&'r [u8]>, HeadFault> {
        while let Some(&byte) = received.get(self.read) {
            match (byte, received.get(self.read + 1)) {
                (b'\r', Some(b'\n')) => {
                    let line = &received[self.line..self.read];
                    self.read += 2;
                    self.line = self.read;
                    return Ok(Some(line));
                }
                (b'\r', None) => return Ok(None),
                (b'\t', _) => {}
                // A line feed alone, a NUL byte or another control character.
                (0..=0x1f | 0x7f, _) => return Err(HeadFault::Malformed),
                _ => {}
            }
            self.read += 1;
        }
        Ok(None)
    }

    fn request_line(&mut self, line: &[u8]) -> Result<TunnelTarget, HeadFault> {
        let mut parts = line.split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(HeadFault::Malformed);
        };
        if !is_token(method) || target.is_empty() {
            return Err(HeadFault::Malformed);
        }
        match version {
            b"HTTP/1.1" => {}
            b"HTTP/1.0" => self.is_old = true,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(HeadFault::Version),
            _ => return Err(HeadFault::Malformed),
        }
        if method != b"CONNECT" {
            return Err(HeadFault::Method);
        }
        match read_authority(target) {
            Some((host, Some(port))) => Ok(TunnelTarget { host, port }),
            _ => Err(HeadFault::Target),
        }
    }

    /// Checks a field. Fields that no rule below names have no effect on a tunnel.
    fn check_field(&mut self, line: &[u8], target: &TunnelTarget) -> Result<(), HeadFault> {
        // The first character of a folded line is a space, which is no token.
        let colon = line.iter().position(|&byte| byte == b':').ok_or(HeadFault::Malformed)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_acceptable = if !is_token(name) {
            false
        } else if name.eq_ignore_ascii_case(b"host") {
            !std::mem::replace(&mut self.has_host, true) && is_same(value, target)
        } else if name.eq_ignore_ascii_case(b"content-length") {
            !std::mem::replace(&mut self.has_length, true) && value == b"0"
        } else {
            !name.eq_ignore_ascii_case(b"transfer-encoding")
        };
        if is_acceptable { Ok(()) } else { Err(HeadFault::Malformed) }
    }
}

/// Returns true if a Host has the host of the target, and its port or none.
fn is_same(host: &[u8], target: &TunnelTarget) -> bool {
    read_authority(host)
        .is_some_and(|(host, port)| host == target.host && port.is_none_or(|port| port == target.port))
}

/// Returns true for a token (RFC 9110, section 5.6.2).
fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Opening;
    use crate::wire::opening::testing::run_bytes;
    use crate::wire::tests::{bit_flips, with_changed_byte};

    /// Checks the status that the client gets, "" for none, and the end: a target, a fault or "more". The cuts change
    /// nothing.
    #[track_caller]
    fn check(head: impl AsRef<[u8]>, status: &str, expected: &str) {
        let head = head.as_ref();
        for piece in [usize::MAX, 1, 2, 3, 7] {
            let (sent, end, _) = run_bytes(Opening::connect_host(), head, piece);
            let sent = String::from_utf8(sent).unwrap();
            let found = sent.strip_prefix("HTTP/1.1 ").map_or("", |rest| &rest[..3]);
            let text = String::from_utf8_lossy(head);
            assert_eq!((found, end.as_str()), (status, expected), "{text:?} in pieces of {piece}");
        }
    }

    #[track_caller]
    fn check_granted(head: &str, target: &str) {
        check(head, "", &format!("Connect {target}"));
    }

    /// Checks a request of HTTP/1.1 with these fields behind its Host.
    #[track_caller]
    fn check_fields(fields: &str, is_granted: bool) {
        let head = format!("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n{fields}\r\n\r\n");
        let (status, end) = if is_granted { ("", "Connect a.test:443") } else { ("400", "Malformed") };
        check(head, status, end);
    }

    #[test]
    fn tunnels_are_requested() {
        check_granted("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", "a.test:443");
        check_granted("CONNECT A.Test:8443 HTTP/1.1\r\nhost:a.TEST\r\n\r\n", "a.test:8443");
        check_granted("CONNECT a.test.:443 HTTP/1.1\r\nHost: \ta.test \r\n\r\n", "a.test:443");
        check_granted("CONNECT 192.0.2.1:80 HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n", "192.0.2.1:80");
        check_granted(
            "CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:DB8:0::1]\r\n\r\n",
            "[2001:db8::1]:80",
        );
        check_granted("CONNECT [::ffff:10.0.0.1]:80 HTTP/1.0\r\n\r\n", "10.0.0.1:80");
        check_granted("CONNECT a.test:443 HTTP/1.0\r\n\r\n", "a.test:443");
        check_granted("CONNECT a.test:443 HTTP/1.0\r\nHost: a.test\r\n\r\n", "a.test:443");
        check_granted("CONNECT a.test:65535 HTTP/1.0\r\nUser-Agent: x\r\n\r\n", "a.test:65535");
    }

    #[test]
    fn fields_without_a_meaning_for_tunnels_are_passed_over() {
        for fields in [
            "User-Agent: curl/8\r\nProxy-Connection: Keep-Alive",
            "Proxy-Authorization: Basic YTpi",
            "Content-Length: 0",
            "X:",
            "X: \u{e4}",
            "X: a:b",
            "Connection: close, upgrade\r\nUpgrade: h2c",
        ] {
            check_fields(fields, true);
        }
    }

    /// Heads that programs on the way may read in different ways.
    #[test]
    fn ambiguous_heads_are_refused() {
        for fields in [
            "Host: a.test:443",
            "Host: b.test",
            "host: a.test",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "transfer-encoding:",
            "Content-Length: 1",
            "Content-Length: 00",
            "Content-Length: +0",
            "Content-Length: 0, 0",
            "Content-Length: 0\r\nContent-Length: 0",
            "Content-Length:",
            "X: a\r\n b",
            "X: a\r\n\tb",
            " X: a",
            "X : a",
            "X\t: a",
            "X",
            ": a",
            "X: a\nY: b",
            "X: a\rY: b",
            "X: a\r\r\nY: b",
            "X: a\0",
            "X: \u{1}",
            "X: \u{7f}",
            "X\u{e4}: a",
            "X(: a",
            "GET / HTTP/1.1",
        ] {
            check_fields(fields, false);
        }
    }

    #[test]
    fn request_lines_are_strict() {
        for line in [
            "",
            " CONNECT a.test:443 HTTP/1.1",
            "CONNECT  a.test:443 HTTP/1.1",
            "CONNECT a.test:443  HTTP/1.1",
            "CONNECT a.test:443 HTTP/1.1 ",
            "CONNECT\ta.test:443\tHTTP/1.1",
            "CONNECT a.test:443",
            "CONNECT a.test:443 HTTP/1.1 x",
            "CONNECT a.test:443 http/1.1",
            "CONNECT a.test:443 HTTP/1.10",
            "CONNECT a.test:443 HTTP/1",
            "CON(NECT a.test:443 HTTP/1.1",
            "SSH-2.0-OpenSSH_9.6",
            "EHLO a.test",
        ] {
            check(format!("{line}\r\n"), "400", "Malformed");
        }
        check("\nCONNECT a.test:443 HTTP/1.1\r\n", "400", "Malformed");
        check([22, 3, 1], "400", "Malformed");
        check("CONNECT a.test:443 HTTP/2.0\r\n", "505", "Unsupported");
        check("PRI * HTTP/2.0\r\n", "505", "Unsupported");
        check("CONNECT a.test:443 HTTP/0.9\r\n", "505", "Unsupported");
        for method in ["GET", "POST", "OPTIONS", "connect", "CONNECTX", "PROPFIND"] {
            check(format!("{method} http://a.test/ HTTP/1.1\r\n"), "405", "Unsupported");
            check(format!("{method} a.test:443 HTTP/1.1\r\n"), "405", "Unsupported");
        }
        let (sent, ..) = run_bytes(Opening::connect_host(), b"GET / HTTP/1.1\r\n", usize::MAX);
        assert!(sent.windows(18).any(|part| part == b"\r\nAllow: CONNECT\r\n"));
    }

    #[test]
    fn targets_are_a_host_with_a_port() {
        for target in [
            "a.test",
            "a.test:",
            "a.test:0",
            "a.test:0443",
            "a.test:+443",
            "a.test:65536",
            "a.test:443443",
            "a.test:https",
            "a.test:443/",
            "a.test:443:443",
            ":443",
            "user@a.test:443",
            "user:pass@a.test:443",
            "http://a.test:443/",
            "http://a.test:443",
            "a.test:443?x",
            "a.test:443#x",
            "%61.test:443",
            "a..test:443",
            "*.test:443",
            "127.1:443",
            "0x7f000001:443",
            "2001:db8::1:443",
            "[2001:db8::1]",
            "[2001:db8::1]443",
            "[2001:db8::1%25eth0]:443",
            "[192.0.2.1]:443",
            "[a.test]:443",
            "[::1:443",
            "[v1.a]:443",
            "\u{e4}.test:443",
            "/",
            "*",
        ] {
            check(format!("CONNECT {target} HTTP/1.1\r\n"), "400", "BadHost");
        }
    }

    #[test]
    fn a_host_must_be_that_of_the_target() {
        for host in ["b.test:443", "a.test:80", "", "a.test:", "a.test.evil.test", "a.test, b.test", "[::1]"]
        {
            check(format!("CONNECT a.test:443 HTTP/1.1\r\nHost: {host}\r\n"), "400", "Malformed");
            check(format!("CONNECT a.test:443 HTTP/1.0\r\nHost: {host}\r\n"), "400", "Malformed");
        }
        check("CONNECT a.test:443 HTTP/1.1\r\n\r\n", "400", "Malformed");
        check("CONNECT a.test:443 HTTP/1.1\r\nUser-Agent: x\r\n\r\n", "400", "Malformed");
    }

    #[test]
    fn a_head_is_bounded() {
        let begun = "CONNECT a.test:443 HTTP/1.0\r\nX: ";
        let whole = |length: usize| format!("{begun}{}\r\n\r\n", "x".repeat(length - begun.len() - 4));
        check_granted(&whole(LONGEST_HEAD), "a.test:443");
        check(whole(LONGEST_HEAD + 1), "431", "TooLong");
        check(format!("{begun}{}", "x".repeat(20_000)), "431", "TooLong");
        check(format!("CONNECT a.test:443 HTTP/1.0\r\n{}", "a: b\r\n".repeat(4000)), "431", "TooLong");
    }

    fn fixtures() -> [&'static [u8]; 4] {
        [
            b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nUser-Agent: curl/8.5.0\r\n\r\n",
            b"CONNECT a.test:443 HTTP/1.0\r\n\r\n",
            b"CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\nContent-Length: 0\r\n\r\n",
            b"CONNECT 192.0.2.1:80 HTTP/1.0\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
        ]
    }

    #[test]
    fn every_prefix_waits() {
        for whole in fixtures() {
            for end in 0..whole.len() {
                let (sent, found, _) = run_bytes(Opening::connect_host(), &whole[..end], usize::MAX);
                assert_eq!((found.as_str(), &sent[..]), ("more", &b""[..]), "{end}");
            }
        }
    }

    #[test]
    fn bytes_behind_the_head_are_the_tunnels() {
        for whole in fixtures() {
            for behind in [&b""[..], b"x", b"\r\n", b"GET / HTTP/1.1\r\n\r\n", &[22, 3, 1, 0, 1], &[0; 400]] {
                for piece in [usize::MAX, 1, 3] {
                    let bytes = [whole, behind].concat();
                    let (sent, end, rest) = run_bytes(Opening::connect_host(), &bytes, piece);
                    assert!(end.starts_with("Connect ") && sent.is_empty(), "{end}");
                    assert_eq!(rest, behind);
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_answered_alike_in_any_pieces() {
        let mut seen = 0;
        for whole in fixtures() {
            for changed in with_changed_byte(whole, bit_flips) {
                let one = run_bytes(Opening::connect_host(), &changed, usize::MAX);
                assert_eq!(one, run_bytes(Opening::connect_host(), &changed, 1), "{changed:?}");
                seen += 1;
            }
        }
        assert!(seen > 1000);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(bytes: Vec<u8>, which in 0..4_usize, cut in 0..90_usize, piece in 1..40_usize) {
            let begun = fixtures()[which];
            let whole = [&begun[..cut.min(begun.len())], &bytes].concat();
            let one = run_bytes(Opening::connect_host(), &whole, usize::MAX);
            prop_assert_eq!(&one, &run_bytes(Opening::connect_host(), &whole, piece));
            prop_assert!(one.0.is_empty() || one.0.ends_with(b"\r\n\r\n"));
        }
    }
}
