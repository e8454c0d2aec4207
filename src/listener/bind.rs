//! Opens the sockets of a listener, one for each worker.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::sys::address::{Ipv6State, ipv6_state};
use crate::sys::listen::{BindTo, ListenOptions, listen, listen_alone};
use crate::sys::{Address, SocketFile, fault, landlock, process, socket};

/// The sockets of one address.
#[derive(Debug)]
pub struct BoundSockets {
    /// The address; the port is the kernel's choice if the specification has port 0.
    pub address: Address,
    /// One for each worker, or more. Workers may share a socket.
    pub sockets: Vec<Arc<OwnedFd>>,
    /// The file of a Unix socket, which is removed on drop unless another program is responsible for it.
    pub file: Option<SocketFile>,
}

/// The fault of an address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{}cannot listen on {address}: {source}{hint}", Subject(.listener.as_deref()))]
pub struct BindFault {
    /// The listener; `None` for the address of admin.
    listener: Option<Arc<str>>,
    /// The address.
    pub address: Address,
    /// The error of the kernel.
    #[source]
    pub source: io::Error,
    /// The remedy; empty if none is known.
    hint: Cow<'static, str>,
}

/// The listener as the subject of a message; empty if there is none.
struct Subject<'a>(Option<&'a str>);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| write!(f, "listener `{name}` "))
    }
}

impl BindFault {
    /// Creates the fault of a listener's address.
    pub fn new(address: Address, source: io::Error) -> Self {
        let hint = hint(&address, &source);
        Self { listener: None, address, source, hint }
    }

    /// Returns the fault with the name of the listener that has the address.
    pub fn of_listener(self, name: &Arc<str>) -> Self {
        Self { listener: Some(Arc::clone(name)), ..self }
    }

    /// Creates the fault of another address, whose hint names no keys of listeners.
    pub fn elsewhere(address: Address, source: io::Error) -> Self {
        let fault = Self::new(address, source);
        if fault.source.kind() == io::ErrorKind::AddrNotAvailable {
            return Self { hint: NO_INTERFACE.into(), ..fault };
        }
        fault
    }

    /// Returns true if the address is a wildcard whose family this host does not have.
    pub fn is_of_a_missing_family(&self) -> bool {
        let is_wildcard = self.address.tcp().is_some_and(|tcp| tcp.ip().is_unspecified());
        let is_missing = fault::is_missing_family(&self.source);
        is_wildcard && (is_missing || self.source.kind() == io::ErrorKind::AddrNotAvailable)
    }
}

const NO_INTERFACE: &str = "; no interface of this host has that address";

fn hint(address: &Address, error: &io::Error) -> Cow<'static, str> {
    match (address, error.kind()) {
        (Address::Unix(_), io::ErrorKind::AddrInUse) => {
            "; something listens there already (`ss -lxp` shows what): stop it, or choose another path".into()
        }
        (Address::Unix(_), io::ErrorKind::AlreadyExists) => {
            "; it is not touched: remove it, or choose another path".into()
        }
        (Address::Unix(_), io::ErrorKind::NotFound) => "; its directory does not exist: create it".into(),
        (Address::Unix(_), _) => landlock::hint(error).into(),
        (_, io::ErrorKind::AddrInUse) => {
            "; something listens there already (`ss -ltnp` shows what): stop it, or choose another port"
                .into()
        }
        (_, io::ErrorKind::PermissionDenied) => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start"
                .into()
        }
        (Address::Tcp(tcp), io::ErrorKind::AddrNotAvailable) => hint_of_no_address(*tcp),
        (Address::Tcp(tcp), _) if fault::is_missing_family(error) => hint_of_no_family(*tcp),
        _ => "".into(),
    }
}

fn hint_of_no_address(address: SocketAddr) -> Cow<'static, str> {
    let state = match address.ip() {
        IpAddr::V6(ip) => ipv6_state(ip),
        IpAddr::V4(_) => Ipv6State::Absent,
    };
    match state {
        Ipv6State::Tentative => {
            "; the kernel still checks whether another host has that address (it is tentative): try again in some \
             seconds"
                .into()
        }
        Ipv6State::Duplicate => "; another host has that address too (duplicate address detection failed)".into(),
        Ipv6State::Absent | Ipv6State::Usable => {
            let sysctl = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            format!(
                "{NO_INTERFACE}; if it comes later, as with VRRP, write free_bind = true in the listener (or set \
                 net.{sysctl}.ip_nonlocal_bind = 1)"
            )
            .into()
        }
    }
}

fn hint_of_no_family(address: SocketAddr) -> Cow<'static, str> {
    let (family, other) = match address {
        SocketAddr::V4(_) => ("IPv4", "[::]"),
        SocketAddr::V6(_) => ("IPv6", "0.0.0.0"),
    };
    let port = address.port();
    format!(
        "; this host has no {family}: write \"{other}:{port}\", or \":{port}\", which listens on each family that the host has"
    )
    .into()
}

/// A request to bind an address.
#[derive(Clone, Copy, Debug)]
pub struct BindRequest<'a> {
    /// The address.
    pub address: &'a Address,
    /// The permissions of a Unix socket.
    pub mode: Option<u32>,
    /// The rule for addresses that this host does not have yet.
    pub to: BindTo,
    /// The options of the sockets.
    pub options: &'a ListenOptions,
}

/// Binds an address for `workers` workers.
///
/// The workers share the port by SO_REUSEPORT, which would also share it with another process of the same user. So
/// the first socket listens without this option and sets it afterwards. There is an exception: one side has the
/// port on all addresses, and the other side has one of these addresses. If sockets of `ours` are one side and the
/// requested address the other, the new sockets share the port from the start. Another process cannot have the port
/// then, and the kernel gives a connection to the socket that names its address.
///
/// A Unix socket exists only once. The workers share its descriptor, and the first worker that accepts gets a
/// connection.
///
/// # Errors
///
/// The address and the error of the kernel. No socket stays bound then.
pub fn bind<'o>(
    request: BindRequest<'_>,
    ours: impl IntoIterator<Item = &'o Address>,
    workers: usize,
) -> Result<BoundSockets, BindFault> {
    let BindRequest { address, mode, options, .. } = request;
    let bound = match address {
        Address::Tcp(tcp) => bind_tcp(*tcp, request, ours.into_iter().filter_map(Address::tcp), workers),
        Address::Scoped(scoped) => scoped
            .resolve()
            .and_then(|tcp| bind_tcp(tcp, request, ours.into_iter().filter_map(Address::tcp), workers)),
        Address::Unix(path) => bind_unix(path, mode, workers, options),
    };
    let bound = bound.map_err(|source| BindFault::new(address.clone(), source))?;
    warn_of_short_backlog(&bound.address, options.backlog);
    Ok(bound)
}

fn bind_tcp(
    address: SocketAddr,
    request: BindRequest<'_>,
    mut ours: impl Iterator<Item = SocketAddr>,
    workers: usize,
) -> io::Result<BoundSockets> {
    let BindRequest { to, options, .. } = request;
    let first = match ours.any(|other| overlap(address, other)) {
        true => listen(address, to, options)?,
        false => listen_alone(address, to, options)?,
    };
    let bound = socket::local_address(&first)?;
    let mut sockets = vec![Arc::new(first)];
    for _ in 1..workers {
        sockets.push(match listen(bound, to, options) {
            // Some kernels, such as gVisor, use the options that were set when the first socket was bound.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Arc::clone(&sockets[0]),
            socket => Arc::new(socket?),
        });
    }
    Ok(BoundSockets { address: bound.into(), sockets, file: None })
}

fn bind_unix(
    path: &Arc<Path>,
    mode: Option<u32>,
    workers: usize,
    options: &ListenOptions,
) -> io::Result<BoundSockets> {
    let (socket, file) = SocketFile::listen(path, mode, options.backlog)?;
    // The workers share one socket.
    let socket = Arc::new(socket);
    let sockets = vec![socket; workers];
    Ok(BoundSockets { address: Address::Unix(Arc::clone(path)), sockets, file: Some(file) })
}

/// Returns true if two addresses of a family have the same port, and exactly one of them is the wildcard
/// address.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && one.ip().is_unspecified() != other.ip().is_unspecified()
}

pub(super) fn warn_of_short_backlog(address: &Address, backlog: u32) {
    if let Some(longest) = process::longest_backlog().filter(|longest| *longest < backlog) {
        tracing::warn!(
            %address, backlog, somaxconn = longest,
            "the system limits the accept queue: raise net.core.somaxconn, or lower `backlog` to avoid this warning"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::sys::socket::KernelBuffers;

    const OPTIONS: ListenOptions = ListenOptions {
        backlog: 8,
        keepalive: None,
        user_timeout: None,
        buffers: KernelBuffers { max_unsent: None, max_unread: None },
    };

    /// Checks several binds of one address at the same moment, as by processes that start together: exactly
    /// one succeeds.
    fn check_together(address: &Address) {
        const TOGETHER: usize = 4;
        let (begin, end) = (Barrier::new(TOGETHER), Barrier::new(TOGETHER));
        let bind_once = || {
            let request = BindRequest { address, mode: None, to: BindTo::OwnAddress, options: &OPTIONS };
            begin.wait();
            let bound = bind(request, [], 2);
            // All sockets stay bound until all threads have tried.
            end.wait();
            bound.map(drop).map_err(|fault| fault.source.kind())
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..TOGETHER).map(|_| scope.spawn(bind_once)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (bound, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(bound.len(), 1, "{failed:?}");
        assert!(failed.iter().all(|result| *result == Err(io::ErrorKind::AddrInUse)), "{failed:?}");
    }

    #[test]
    fn one_of_several_binds_at_a_time_has_the_port() {
        let request = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let request =
            BindRequest { address: &request, mode: None, to: BindTo::OwnAddress, options: &OPTIONS };
        let address = bind(request, [], 2).unwrap().address;
        (0..100).for_each(|_| check_together(&address));
    }

    #[test]
    fn one_of_several_binds_at_a_time_has_the_file() {
        let folder = std::env::temp_dir().join(format!("pointsman-bind-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        for round in 0..100 {
            if round % 2 == 0 {
                // The file of a process that has ended.
                drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            }
            check_together(&Address::Unix(path.as_path().into()));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    /// EAFNOSUPPORT, which has no [`io::ErrorKind`].
    fn no_family() -> io::Error {
        io::Error::from_raw_os_error(97)
    }

    #[test]
    fn faults_have_hints() {
        let check = |address: &str, error: io::Error, expected: &str| {
            let message = BindFault::new(address.parse().unwrap(), error).to_string();
            assert!(message.contains(expected), "{message}");
        };
        check("10.0.0.1:443", io::ErrorKind::AddrNotAvailable.into(), "free_bind = true in the listener");
        check("10.0.0.1:443", io::ErrorKind::AddrNotAvailable.into(), "net.ipv4.ip_nonlocal_bind = 1");
        check("[2001:db8::1]:443", io::ErrorKind::AddrNotAvailable.into(), "net.ipv6.ip_nonlocal_bind = 1");
        check("[::]:443", no_family(), "this host has no IPv6: write \"0.0.0.0:443\", or \":443\"");
        check("10.0.0.1:443", io::ErrorKind::AddrInUse.into(), "choose another port");
        check("unix:/s", io::ErrorKind::AddrInUse.into(), "choose another path");
        let unprivileged =
            BindFault::new("0.0.0.0:81".parse().unwrap(), io::ErrorKind::PermissionDenied.into());
        insta::assert_snapshot!(unprivileged, @"cannot listen on 0.0.0.0:81: permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start");
        let elsewhere =
            BindFault::elsewhere("10.0.0.1:1".parse().unwrap(), io::ErrorKind::AddrNotAvailable.into());
        assert!(!elsewhere.to_string().contains("free_bind"), "{elsewhere}");
    }

    #[test]
    fn a_family_is_missing_where_its_wildcard_cannot_be_bound() {
        let check = |address: &str, error: io::Error, expected: bool| {
            let fault = BindFault::new(address.parse().unwrap(), error);
            assert_eq!(fault.is_of_a_missing_family(), expected, "{fault}");
        };
        check("[::]:443", no_family(), true);
        check("[::]:443", io::ErrorKind::AddrNotAvailable.into(), true);
        check("0.0.0.0:443", no_family(), true);
        check("[::]:443", io::ErrorKind::AddrInUse.into(), false);
        check("[2001:db8::1]:443", no_family(), false);
        check("unix:/s", no_family(), false);
    }

    #[test]
    fn an_address_overlaps_with_all_of_its_family() {
        let check = |one: &str, other: &str, expected: bool| {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
        };
        check("0.0.0.0:443", "10.0.0.1:443", true);
        check("[::]:443", "[::1]:443", true);
        check("0.0.0.0:443", "10.0.0.1:444", false);
        check("0.0.0.0:443", "[::1]:443", false);
        check("0.0.0.0:443", "[::]:443", false);
        check("10.0.0.1:443", "10.0.0.2:443", false);
        // Equal addresses do not share a port: the other socket belongs to another process.
        check("0.0.0.0:443", "0.0.0.0:443", false);
        check("10.0.0.1:443", "10.0.0.1:443", false);
    }
}
