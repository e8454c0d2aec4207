//! One address type for both ends of a connection: TCP or a Unix socket.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Where a socket listens or connects.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IPv4 or IPv6 address with its port.
    Tcp(SocketAddr),
    /// A Unix stream socket by its path, which is empty for the client of one.
    Unix(Arc<Path>),
}

impl Address {
    /// The IP address and port, or `None` for a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            // Clients hardly ever bind their end.
            Self::Unix(path) if path.as_os_str().is_empty() => f.write_str("unix"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Debug for Address {
    /// As it is written, like that of the standard library's addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The IP addresses that the interfaces of this host have now.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub fn of_this_host() -> io::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.collect())
}

/// What the kernel says of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6State {
    /// No interface of this host has it, or the kernel does not say.
    Absent,
    /// An interface has it, and the kernel still checks whether another host has it too.
    Tentative,
    /// Another host has it too, so it cannot be used here.
    Duplicate,
    /// It can be used.
    Usable,
}

/// What the kernel says of an IPv6 address now.
pub fn ipv6_state(address: Ipv6Addr) -> Ipv6State {
    match std::fs::read_to_string("/proc/self/net/if_inet6") {
        Ok(table) => state_in(&table, address),
        // No IPv6 here, or no /proc.
        Err(_) => Ipv6State::Absent,
    }
}

/// Looks an address up in the kernel's table: address, interface, prefix length, scope, flags, name, in hexadecimal.
fn state_in(table: &str, address: Ipv6Addr) -> Ipv6State {
    // IFA_F_OPTIMISTIC, IFA_F_DADFAILED and IFA_F_TENTATIVE of linux/if_addr.h. An optimistic address can be bound.
    const OPTIMISTIC: u32 = 0x04;
    const DUPLICATE: u32 = 0x08;
    const TENTATIVE: u32 = 0x40;
    let written = format!("{:032x}", u128::from(address));
    let lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let mut flags = lines.filter_map(|fields| {
        let is_this = fields.first().is_some_and(|field| field.eq_ignore_ascii_case(&written));
        is_this.then(|| u32::from_str_radix(fields.get(4)?, 16).ok()).flatten()
    });
    match flags.next() {
        None => Ipv6State::Absent,
        Some(flags) if flags & DUPLICATE != 0 => Ipv6State::Duplicate,
        Some(flags) if flags & TENTATIVE != 0 && flags & OPTIMISTIC == 0 => Ipv6State::Tentative,
        Some(_) => Ipv6State::Usable,
    }
}

/// Why a text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Neither `IP:PORT` nor `unix:/PATH`.
    #[error("an address is IP:PORT, [IPv6]:PORT or unix:/absolute/path")]
    Form,
    /// A Unix path must be absolute and fit into `sockaddr_un` (107 bytes).
    #[error("a Unix socket needs an absolute path of at most 107 bytes")]
    UnixPath,
}

impl FromStr for Address {
    type Err = AddressFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') || path.len() > 107 || path.contains('\0') {
                return Err(AddressFault::UnixPath);
            }
            return Ok(Self::Unix(Path::new(path).into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| AddressFault::Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, AddressFault>) {
        let found = text.parse::<Address>().map(|a| a.to_string());
        assert_eq!(found, expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn this_host_has_a_loopback_address() {
        let addresses = of_this_host().unwrap();
        assert!(addresses.contains(&IpAddr::from([127, 0, 0, 1])), "{addresses:?}");
    }

    #[test]
    fn the_kernel_says_what_an_address_is() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000005 09 40 00 c0       v0\n\
                     20010db8000000000000000000000006 09 40 00 44       v0\n\
                     20010db8000000000000000000000007 09 40 00 c8       v0\n\
                     20010db8\n";
        let check = |address: &str, expected: Ipv6State| {
            assert_eq!(state_in(table, address.parse().unwrap()), expected, "{address}");
        };
        check("::1", Ipv6State::Usable);
        check("2001:db8::5", Ipv6State::Tentative);
        check("2001:db8::6", Ipv6State::Usable);
        check("2001:db8::7", Ipv6State::Duplicate);
        check("2001:db8::8", Ipv6State::Absent);
    }

    #[test]
    fn addresses_are_read_and_written() {
        check("10.0.0.1:443", Ok("10.0.0.1:443"));
        check("[::1]:443", Ok("[::1]:443"));
        check("unix:/run/x.sock", Ok("unix:/run/x.sock"));
        assert_eq!(Address::Unix(Path::new("").into()).to_string(), "unix");
        check("unix:x.sock", Err(AddressFault::UnixPath));
        check("10.0.0.1", Err(AddressFault::Form));
        check("mail.example.com:443", Err(AddressFault::Form));
        check("::1:443:x", Err(AddressFault::Form));
    }
}
