//! Checks if an address may be a backend, by the same rules for written and for discovered backends. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::sys::Address;

/// The reason for which an address cannot be a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationFault {
    /// Port 0.
    #[error("a backend needs a port from 1 to 65535")]
    NoPort,
    /// `0.0.0.0` or `::`.
    #[error(
        "this means every address of a host, and a backend needs one address; for this host, write \"{0}\""
    )]
    Unspecified(SocketAddr),
    /// A multicast address.
    #[error("a multicast address takes no TCP connections")]
    Multicast,
    /// `255.255.255.255`.
    #[error("the broadcast address takes no TCP connections")]
    Broadcast,
    /// A link-local IPv6 address without its interface.
    #[error("a link-local address is on one link: name the interface, as in \"[fe80::1%eth0]:443\"")]
    NoScope,
}

/// Checks the address of a backend.
///
/// # Errors
///
/// The reason why no TCP connection to the address can be made, or why the address cannot be the intended one.
pub fn check(address: &Address) -> Result<(), DestinationFault> {
    let Some(tcp) = address.tcp() else { return Ok(()) };
    if tcp.port() == 0 {
        return Err(DestinationFault::NoPort);
    }
    check_host(address)
}

/// Checks the address of a backend, but not its port.
///
/// # Errors
///
/// As [`check`].
pub fn check_host(address: &Address) -> Result<(), DestinationFault> {
    let Some(tcp) = address.tcp() else { return Ok(()) };
    let ip = tcp.ip().to_canonical();
    if ip.is_unspecified() {
        let loopback = match ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        return Err(DestinationFault::Unspecified(SocketAddr::new(loopback, tcp.port())));
    }
    if ip.is_multicast() {
        return Err(DestinationFault::Multicast);
    }
    if ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(DestinationFault::Broadcast);
    }
    match address {
        Address::Tcp(SocketAddr::V6(v6)) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            Err(DestinationFault::NoScope)
        }
        _ => Ok(()),
    }
}

/// Returns true if a discovered address can be reached at all.
pub(super) fn is_host(ip: IpAddr) -> bool {
    check_host(&SocketAddr::new(ip, 0).into()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), DestinationFault>) {
        assert_eq!(super::check(&text.parse().unwrap()), expected, "{text}");
    }

    #[test]
    fn addresses_of_backends() {
        for good in
            ["10.0.0.1:1", "127.0.0.1:65535", "[::1]:1", "[fe80::1%2]:1", "[fe80::1%eth0]:1", "unix:/x"]
        {
            check(good, Ok(()));
        }
        let here = |text: &str| Err(DestinationFault::Unspecified(text.parse().unwrap()));
        check("0.0.0.0:80", here("127.0.0.1:80"));
        check("[::ffff:0.0.0.0]:80", here("127.0.0.1:80"));
        check("[::]:80", here("[::1]:80"));
        check("224.0.0.1:80", Err(DestinationFault::Multicast));
        check("[ff02::1%2]:80", Err(DestinationFault::Multicast));
        check("[::ffff:239.1.1.1]:80", Err(DestinationFault::Multicast));
        check("255.255.255.255:80", Err(DestinationFault::Broadcast));
        check("[fe80::1]:80", Err(DestinationFault::NoScope));
        check("[fe80::1%eth0]:0", Err(DestinationFault::NoPort));
        check("10.0.0.1:0", Err(DestinationFault::NoPort));
    }
}
