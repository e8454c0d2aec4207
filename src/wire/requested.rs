//! The host that a client asks for, in a request for a tunnel.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::{self, FromStr};

use super::server_name::{NameFault, ServerName};

/// A host as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestedHost {
    /// A name.
    Name(ServerName),
    /// An address. An IPv4-mapped IPv6 address is stored as the IPv4 address.
    Address(IpAddr),
}

/// The host and the port that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelTarget {
    /// The host.
    pub host: RequestedHost,
    /// The port, never 0.
    pub port: u16,
}

impl RequestedHost {
    /// Reads a host: an address without brackets, or a name.
    ///
    /// # Errors
    ///
    /// The fault of a text that is neither. Short and hexadecimal forms of IPv4 addresses, such as `127.1`, are neither.
    pub fn from_client(bytes: &[u8]) -> Result<Self, NameFault> {
        match str::from_utf8(bytes).ok().and_then(|text| text.parse::<IpAddr>().ok()) {
            Some(ip) => Ok(ip.into()),
            None => ServerName::from_client(bytes).map(Self::Name),
        }
    }

    /// Returns the name, or `None` for an address.
    pub fn name(&self) -> Option<&ServerName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

/// The fault of a text that is no target of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a target is a host with a port, such as api.test:443, 203.0.113.7:443 or [2001:db8::1]:443")]
pub struct TargetTextFault;

impl FromStr for TunnelTarget {
    type Err = TargetTextFault;

    fn from_str(text: &str) -> Result<Self, TargetTextFault> {
        match read_authority(text.as_bytes()) {
            Some((host, Some(port))) => Ok(Self { host, port }),
            _ => Err(TargetTextFault),
        }
    }
}

/// Reads a host and, if there is one, its port. IPv6 addresses need brackets, other hosts must not have them.
pub(super) fn read_authority(text: &[u8]) -> Option<(RequestedHost, Option<u16>)> {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|&byte| byte == b']')?;
            let ip = str::from_utf8(&rest[..end]).ok()?.parse::<Ipv6Addr>().ok()?;
            (RequestedHost::from(IpAddr::from(ip)), &rest[end + 1..])
        }
        _ => {
            let end = text.iter().position(|&byte| byte == b':').unwrap_or(text.len());
            (RequestedHost::from_client(&text[..end]).ok()?, &text[end..])
        }
    };
    match port {
        [] => Some((host, None)),
        [b':', digits @ ..] => Some((host, Some(read_port(digits)?))),
        _ => None,
    }
}

fn read_port(digits: &[u8]) -> Option<u16> {
    let is_plain = matches!(digits, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    str::from_utf8(digits).ok().filter(|_| is_plain)?.parse().ok()
}

impl From<IpAddr> for RequestedHost {
    fn from(ip: IpAddr) -> Self {
        Self::Address(ip.to_canonical())
    }
}

impl fmt::Display for RequestedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

impl fmt::Display for TunnelTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host {
            RequestedHost::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]:{port}"),
            host => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        let check = |text: &str, expected: &str| {
            let target =
                TunnelTarget { host: RequestedHost::from_client(text.as_bytes()).unwrap(), port: 443 };
            assert_eq!(target.to_string(), expected, "{text}");
            assert_eq!(target.host.name().is_some(), expected.contains('t'), "{text}");
        };
        check("api.test", "api.test:443");
        check("API.Test.", "api.test:443");
        check("192.0.2.1", "192.0.2.1:443");
        check("2001:db8::1", "[2001:db8::1]:443");
        check("::ffff:192.0.2.1", "192.0.2.1:443");
    }

    #[test]
    fn a_target_is_written_as_it_is_read() {
        for text in ["api.test:443", "192.0.2.1:1", "[2001:db8::1]:65535"] {
            assert_eq!(text.parse().map(|target: TunnelTarget| target.to_string()), Ok(text.to_owned()));
        }
        for text in
            ["api.test", "api.test:0", "2001:db8::1:443", "[2001:db8::1]", "api.test:443:443", ":443", ""]
        {
            assert_eq!(text.parse::<TunnelTarget>(), Err(TargetTextFault), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_hosts() {
        for text in [
            "",
            ".",
            "127.1",
            "0x7f000001",
            "2130706433",
            "192.0.2.1.",
            "[::1]",
            "a b",
            "a:1",
            "::1%lo",
            "a/b",
        ] {
            assert!(RequestedHost::from_client(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(RequestedHost::from_client(b"a\0.test").is_err());
        assert!(RequestedHost::from_client(b"\xff").is_err());
    }
}
