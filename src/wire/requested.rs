//! The host that a client asks for, in a request for a tunnel.

use std::fmt;
use std::net::IpAddr;
use std::str;

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
