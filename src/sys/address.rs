//! One address type for both ends of a connection: TCP or a Unix socket.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use nix::errno::Errno;

use super::process;

/// Where a socket listens or connects.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IPv4 or IPv6 address with its port.
    Tcp(SocketAddr),
    /// A link-local IPv6 address whose interface is given by its name.
    Scoped(Arc<Scoped>),
    /// A Unix stream socket by its path, which is empty for the client of one.
    Unix(Arc<Path>),
}

/// A link-local IPv6 address with its port and the name of an interface (RFC 4007, 11). The interface may come later or
/// get another index, so the name is looked up at each use of the address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scoped {
    ip: Ipv6Addr,
    port: u16,
    interface: Box<str>,
}

impl Scoped {
    /// Reads `[fe80::1%eth0]:443`.
    fn read(text: &str) -> Option<Self> {
        /// IFNAMSIZ, without the NUL byte at the end.
        const LONGEST_NAME: usize = 15;

        let (inside, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
        let (ip, interface) = inside.split_once('%')?;
        let ip: Ipv6Addr = ip.parse().ok()?;
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '%' | '[' | ']');
        let is_name = (1..=LONGEST_NAME).contains(&interface.len()) && interface.chars().all(fits);
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
        (ip.is_unicast_link_local() && is_name && is_port)
            .then(|| Some(Self { ip, port: port.parse().ok()?, interface: interface.into() }))?
    }

    /// Returns the address with the current index of the interface.
    ///
    /// # Errors
    ///
    /// `NetworkUnreachable` if there is no such interface; others where descriptors or memory have run out.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        let index = nix::net::if_::if_nametoindex(&*self.interface).map_err(|error| match error {
            Errno::ENODEV | Errno::ENXIO => io::Error::new(
                io::ErrorKind::NetworkUnreachable,
                format!("there is no interface {:?} ({error})", self.interface),
            ),
            // Of descriptors or memory: the interface may well be there.
            shortage => shortage.into(),
        })?;
        Ok(SocketAddrV6::new(self.ip, self.port, 0, index).into())
    }
}

impl fmt::Display for Scoped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, port, interface } = self;
        write!(f, "[{ip}%{interface}]:{port}")
    }
}

impl Address {
    /// Returns the IP address and port, or `None` for a Unix socket. For a [`Scoped`] address the scope is missing;
    /// [`Address::to_socket`] returns it.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Scoped(scoped) => Some(SocketAddrV6::new(scoped.ip, scoped.port, 0, 0).into()),
            Self::Unix(_) => None,
        }
    }

    /// Returns the address for a socket, or `None` for a Unix socket.
    ///
    /// # Errors
    ///
    /// Those of [`Scoped::resolve`].
    pub fn to_socket(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(address) => Ok(Some(*address)),
            Self::Scoped(scoped) => scoped.resolve().map(Some),
            Self::Unix(_) => Ok(None),
        }
    }

    /// Returns the same host at another port, or `None` for a Unix socket.
    pub fn with_port(&self, port: u16) -> Option<Self> {
        match self {
            Self::Tcp(address) => {
                let mut address = *address;
                address.set_port(port);
                Some(Self::Tcp(address))
            }
            Self::Scoped(scoped) => Some(Self::Scoped(Arc::new(Scoped { port, ..Scoped::clone(scoped) }))),
            Self::Unix(_) => None,
        }
    }

    /// Returns whether the address is an IP address without a port, which is written as port 0.
    pub fn is_without_port(&self) -> bool {
        self.tcp().is_some_and(|tcp| tcp.port() == 0)
    }

    /// Returns the text of the address; an IP address without a port has none in the text either.
    pub fn known_part(&self) -> String {
        match self.tcp() {
            Some(tcp) if tcp.port() == 0 => tcp.ip().to_string(),
            _ => self.to_string(),
        }
    }

    /// Returns the address with an IPv4-mapped IPv6 address as IPv4: both lead to one socket.
    pub fn to_canonical(&self) -> Self {
        match self {
            Self::Tcp(SocketAddr::V6(address)) if address.ip().to_ipv4_mapped().is_some() => {
                Self::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
            }
            address => address.clone(),
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
            Self::Scoped(scoped) => scoped.fmt(f),
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

/// Returns addresses as texts, a run of at least three ports of one IP address as a range: `0.0.0.0:30000-30100`.
pub fn as_ranges(addresses: &[Address]) -> Vec<String> {
    let follows = |one: &Address, next: &Address| match (one, next) {
        (Address::Tcp(one), Address::Tcp(next)) => {
            one.ip() == next.ip() && one.port().checked_add(1) == Some(next.port())
        }
        _ => false,
    };
    let runs = addresses.chunk_by(follows);
    let texts = runs.flat_map(|run| match run {
        [first, _, .., last] => {
            vec![format!("{first}-{}", last.tcp().map(|last| last.port()).unwrap_or_default())]
        }
        few => few.iter().map(ToString::to_string).collect(),
    });
    texts.collect()
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

/// The state of an IPv6 address in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6State {
    /// No interface of this host has the address, or the kernel does not report it.
    Absent,
    /// An interface has the address, and the kernel still checks whether another host has it too.
    Tentative,
    /// Another host has the address too, so it cannot be used here.
    Duplicate,
    /// The address can be used.
    Usable,
}

/// Returns the state of an IPv6 address, as the kernel reports it now.
pub fn ipv6_state(address: Ipv6Addr) -> Ipv6State {
    process::ipv6_addresses().map_or(Ipv6State::Absent, |table| state_in(&table, address))
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
    #[error("an address is IP:PORT, [IPv6]:PORT, [fe80::1%INTERFACE]:PORT or unix:/absolute/path")]
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
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        Scoped::read(text).map(|scoped| Self::Scoped(Arc::new(scoped))).ok_or(AddressFault::Form)
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
    fn runs_of_ports_are_ranges() {
        let check = |addresses: &str, expected: &[&str]| {
            let addresses: Vec<Address> = addresses.split(' ').map(|text| text.parse().unwrap()).collect();
            assert_eq!(as_ranges(&addresses), expected);
        };
        check("0.0.0.0:1 [::]:1", &["0.0.0.0:1", "[::]:1"]);
        check("0.0.0.0:1 0.0.0.0:2 unix:/a", &["0.0.0.0:1", "0.0.0.0:2", "unix:/a"]);
        check("0.0.0.0:1 0.0.0.0:2 0.0.0.0:3 [::]:1 [::]:2 [::]:3", &["0.0.0.0:1-3", "[::]:1-3"]);
        check("0.0.0.0:65534 0.0.0.0:65535 0.0.0.0:0", &["0.0.0.0:65534", "0.0.0.0:65535", "0.0.0.0:0"]);
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
        check("[fe80::1%2]:443", Ok("[fe80::1%2]:443"));
        check("[fe80::0:1%eth0]:443", Ok("[fe80::1%eth0]:443"));
        check("[fe80::1%br-lan.7@x]:443", Ok("[fe80::1%br-lan.7@x]:443"));
        check("[fe80::1%]:443", Err(AddressFault::Form));
        check("[fe80::1%eth0]", Err(AddressFault::Form));
        check("[fe80::1%eth0]:+1", Err(AddressFault::Form));
        check("[fe80::1%a/b]:443", Err(AddressFault::Form));
        check("[fe80::1%sixteen-letters-]:443", Err(AddressFault::Form));
        // Only link-local addresses need a link.
        check("[2001:db8::1%eth0]:443", Err(AddressFault::Form));
    }

    #[test]
    fn an_interface_is_looked_up_when_it_is_used() {
        let scoped = |text: &str| text.parse::<Address>().unwrap().to_socket();
        // Linux gives the loopback interface of each network namespace the index 1.
        assert_eq!(scoped("[fe80::1%lo]:443").unwrap(), Some("[fe80::1%1]:443".parse().unwrap()));
        let error = scoped("[fe80::1%nowhere]:443").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
        assert!(error.to_string().contains("no interface \"nowhere\""), "{error}");
    }

    #[test]
    fn a_missing_port_is_not_in_the_text() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Address>().unwrap().known_part(), expected);
        };
        check("10.0.0.1:0", "10.0.0.1");
        check("[::1]:0", "::1");
        check("10.0.0.1:443", "10.0.0.1:443");
        check("[::1]:443", "[::1]:443");
        check("unix:/run/a", "unix:/run/a");
    }

    #[test]
    fn a_port_changes_alone() {
        let check = |text: &str, expected: Option<&str>| {
            let found = text.parse::<Address>().unwrap().with_port(9).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected);
        };
        check("10.0.0.1:443", Some("10.0.0.1:9"));
        check("[fe80::1%2]:443", Some("[fe80::1%2]:9"));
        check("[fe80::1%eth0]:443", Some("[fe80::1%eth0]:9"));
        check("unix:/run/a", None);
    }
}
