//! Requests for tunnels, and the answers to clients that asked for one.

use std::borrow::Cow;

use super::http_connect;
use super::requested::TunnelTarget;
use super::socks::{self, ReplyCode};

/// A request of a client for a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRequest {
    /// The host and the port.
    pub target: TunnelTarget,
    /// The protocol of the request and of its answer.
    pub protocol: TunnelProtocol,
}

/// The protocol of a request for a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelProtocol {
    /// SOCKS version 5.
    Socks5,
    /// SOCKS version 4 or 4a.
    Socks4,
    /// The method CONNECT of HTTP/1.
    Connect,
}

/// The reason for which a client gets no tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelFailure {
    /// The rules do not allow the target.
    NotAllowed,
    /// The rules do not allow the address.
    AddressNotAllowed,
    /// The name has no address.
    NotResolved,
    /// The host did not accept the connection.
    Refused,
    /// The host did not answer in time.
    TimedOut,
    /// The host could not be reached.
    Unreachable,
    /// The connection had come from this program.
    Loop,
    /// A limit of connections or of their rate is reached.
    TooMany,
    /// No server is available.
    Unavailable,
    /// The request was not whole in time.
    Late,
    /// This program or its host has a fault.
    Internal,
}

impl TunnelFailure {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::NotAllowed,
        Self::AddressNotAllowed,
        Self::NotResolved,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Loop,
        Self::TooMany,
        Self::Unavailable,
        Self::Late,
        Self::Internal,
    ];
}

impl TunnelProtocol {
    /// Returns the answer to a client whose tunnel begins.
    pub fn granted(self) -> &'static [u8] {
        match self {
            Self::Socks5 => socks::reply(ReplyCode::Succeeded),
            Self::Socks4 => socks::OLD_GRANTED,
            Self::Connect => http_connect::GRANTED,
        }
    }

    /// Returns the answer to a client that gets no tunnel. It has no address and no name.
    pub fn refused(self, failure: TunnelFailure) -> Cow<'static, [u8]> {
        let code = match failure {
            TunnelFailure::NotAllowed | TunnelFailure::AddressNotAllowed => ReplyCode::NotAllowed,
            TunnelFailure::NotResolved | TunnelFailure::Unreachable => ReplyCode::HostUnreachable,
            TunnelFailure::Refused => ReplyCode::ConnectionRefused,
            TunnelFailure::TimedOut => ReplyCode::TimedOut,
            TunnelFailure::Loop
            | TunnelFailure::TooMany
            | TunnelFailure::Unavailable
            | TunnelFailure::Late
            | TunnelFailure::Internal => ReplyCode::GeneralFailure,
        };
        Cow::Borrowed(match self {
            Self::Socks5 => socks::reply(code),
            Self::Socks4 => socks::OLD_REJECTED,
            Self::Connect => http_connect::refused(failure),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_in_the_protocol_of_the_request() {
        assert_eq!(TunnelProtocol::Socks5.granted(), [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(TunnelProtocol::Socks4.granted(), [0, 90, 0, 0, 0, 0, 0, 0]);
        assert_eq!(TunnelProtocol::Connect.granted(), b"HTTP/1.1 200 Connection established\r\n\r\n");
        for failure in TunnelFailure::ALL {
            let [socks5, socks4, connect] =
                [TunnelProtocol::Socks5, TunnelProtocol::Socks4, TunnelProtocol::Connect]
                    .map(|protocol| protocol.refused(failure));
            assert!(socks5.len() == 10 && socks5[0] == 5 && (1..=8).contains(&socks5[1]), "{failure:?}");
            assert_eq!(socks5[2..], [0, 1, 0, 0, 0, 0, 0, 0]);
            assert_eq!(*socks4, [0, 91, 0, 0, 0, 0, 0, 0]);
            let text = std::str::from_utf8(&connect).unwrap();
            assert!(text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 5"), "{text}");
            assert!(text.contains("\r\nProxy-Status: pointsman; error="), "{text}");
            assert!(text.ends_with("\r\nContent-Length: 0\r\n\r\n"), "{text}");
        }
    }

    #[test]
    fn a_client_learns_why() {
        let check = |failure, socks5: u8, status: &str, error: &str| {
            let answer = TunnelProtocol::Connect.refused(failure);
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert_eq!(TunnelProtocol::Socks5.refused(failure)[1], socks5, "{failure:?}");
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
            assert!(text.contains(&format!("error={error}\r\n")), "{text}");
        };
        check(TunnelFailure::NotAllowed, 2, "403", "http_request_denied");
        check(TunnelFailure::AddressNotAllowed, 2, "403", "destination_ip_prohibited");
        check(TunnelFailure::NotResolved, 4, "502", "dns_error");
        check(TunnelFailure::Refused, 5, "502", "connection_refused");
        check(TunnelFailure::TimedOut, 6, "504", "connection_timeout");
        check(TunnelFailure::Unreachable, 4, "502", "destination_ip_unroutable");
        check(TunnelFailure::Loop, 1, "502", "proxy_loop_detected");
        check(TunnelFailure::TooMany, 1, "503", "connection_limit_reached");
        check(TunnelFailure::Unavailable, 1, "503", "destination_unavailable");
        check(TunnelFailure::Late, 1, "408", "http_request_error");
        check(TunnelFailure::Internal, 1, "500", "proxy_internal_error");
    }
}
