//! Detects and refuses connections of a socket to itself.
//!
//! If no process listens at a port of this host, a connect to this port may get the same port as its own. The
//! simultaneous open of TCP (RFC 9293, 3.5) then connects the socket to itself. The connect succeeds, all bytes
//! come back, and a server that starts again cannot bind its port. Such a connect counts as refused.
//!
//! The kernel takes local ports from `net.ipv4.ip_local_port_range`, which [`learn`] reads once. Only a connect to a
//! target that could be the socket itself costs a system call.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use super::address::of_this_host;
use super::socket::{ConnectSource, local_address, reset_on_close};
use super::{Address, process};

/// The ports and addresses of this host that a socket may get.
struct LocalHost {
    /// The kernel's range of local ports.
    ports: RangeInclusive<u16>,
    /// The loopback addresses that an interface has. Connections to other addresses of 127.0.0.0/8 come from
    /// 127.0.0.1.
    loopback: Vec<IpAddr>,
}

static HOST: OnceLock<LocalHost> = OnceLock::new();

/// Reads the ports and addresses of this host for [`refuse`]. Call it before the process gives up the right to read
/// them; later calls have no effect.
pub fn learn() {
    HOST.get_or_init(|| LocalHost::read(process::local_port_range().as_deref()));
}

impl LocalHost {
    fn read(range: Option<&str>) -> Self {
        // If the range cannot be read, it is all ports that need no privilege.
        let ports = range.and_then(ports).unwrap_or(1024..=u16::MAX);
        let mut loopback = of_this_host().unwrap_or_default();
        loopback.retain(IpAddr::is_loopback);
        loopback.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        Self { ports, loopback }
    }

    /// Returns true if a socket that connects to `target` may get this address as its own.
    fn may_become(&self, target: SocketAddr, source: ConnectSource) -> bool {
        if !self.ports.contains(&target.port()) {
            return false;
        }
        let ip = target.ip().to_canonical();
        match source {
            ConnectSource::Own(own) | ConnectSource::Foreign(own) if own.is_ipv4() == ip.is_ipv4() => {
                own == ip
            }
            _ => !ip.is_loopback() || self.loopback.contains(&ip),
        }
    }
}

/// Parses the two numbers of `ip_local_port_range`.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(first), Ok(last)) => Some(first..=last),
        _ => None,
    }
}

/// Refuses a socket that has been connected to itself; its port is free again when it is closed.
///
/// # Errors
///
/// `ConnectionRefused` if both ends are the same.
pub fn refuse(socket: impl AsFd, target: &Address, source: ConnectSource) -> io::Result<()> {
    let Some(target) = target.tcp() else { return Ok(()) };
    learn();
    if !HOST.get().is_some_and(|host| host.may_become(target, source)) {
        return Ok(());
    }
    let is_same = |own: SocketAddr| {
        (own.ip().to_canonical(), own.port()) == (target.ip().to_canonical(), target.port())
    };
    if local_address(&socket).is_ok_and(is_same) {
        // An orderly end would keep the port for a minute, in TIME_WAIT.
        let _ = reset_on_close(&socket);
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn check(target: &str, source: ConnectSource, expected: bool) {
        let host = LocalHost::read(Some("32768\t60999\n"));
        assert_eq!(host.may_become(target.parse().unwrap(), source), expected, "{target} from {source:?}");
    }

    #[test]
    fn only_ports_and_addresses_of_our_own_are_asked_for() {
        check("127.0.0.1:40000", ConnectSource::Any, true);
        check("[::1]:40000", ConnectSource::Any, true);
        check("[::ffff:127.0.0.1]:40000", ConnectSource::Any, true);
        check("127.0.0.1:32767", ConnectSource::Any, false);
        check("127.0.0.1:61000", ConnectSource::Any, false);
        check("127.0.0.1:443", ConnectSource::Any, false);
        // The connection comes from 127.0.0.1, unless a source is set.
        check("127.7.7.7:40000", ConnectSource::Any, false);
        check("127.7.7.7:40000", ConnectSource::Own([127, 7, 7, 7].into()), true);
        check("127.7.7.7:40000", ConnectSource::Own([127, 7, 7, 8].into()), false);
        check("127.0.0.1:40000", ConnectSource::Foreign([192, 0, 2, 7].into()), false);
        check("[::1]:40000", ConnectSource::Own([127, 0, 0, 1].into()), true);
        // It may be an address of this host or of another. Only the kernel can decide.
        check("10.0.0.1:40000", ConnectSource::Any, true);
    }

    #[test]
    fn the_range_is_read() {
        assert_eq!(ports("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(ports("1024 x"), None);
        assert_eq!(ports(""), None);
        assert!(LocalHost::read(None).ports.contains(&40_000));
    }

    /// A socket that is bound and connects to its own address.
    fn own() -> (Socket, SocketAddr) {
        loop {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            // Another test may have taken the port meanwhile.
            if socket.bind(&free.into()).and_then(|()| socket.connect(&free.into())).is_ok() {
                return (socket, free);
            }
        }
    }

    #[test]
    fn a_socket_that_is_its_own_peer_is_refused_and_frees_its_port() {
        let (socket, address) = own();
        socket.send(b"x").unwrap();
        let error = refuse(&socket, &address.into(), ConnectSource::Any).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        drop(socket);
        // Like a server that does not set SO_REUSEADDR, which TIME_WAIT would keep from the port.
        let server = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        server.bind(&address.into()).expect("the port is free");
    }

    #[test]
    fn a_server_of_this_host_is_not_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = std::net::TcpStream::connect(address).unwrap();
        refuse(&socket, &address.into(), ConnectSource::Any).unwrap();
    }
}
