//! Opens the sockets of a listener, one for each worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::sys::listen::{ListenOptions, listen, try_bind};
use crate::sys::{Address, SocketFile, landlock, process, socket};

/// The sockets of one address.
#[derive(Debug)]
pub struct Bound {
    /// Where they listen; the port is the kernel's choice where the specification says 0.
    pub address: Address,
    /// One for each worker.
    pub sockets: Vec<OwnedFd>,
    /// The file of a Unix socket; dropped, it is removed.
    pub file: Option<SocketFile>,
}

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", hint(.address, .source))]
pub struct BindFault {
    /// The address.
    pub address: Address,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

fn hint(address: &Address, error: &io::Error) -> &'static str {
    match (address, error.kind()) {
        (Address::Unix(_), io::ErrorKind::AddrInUse) => {
            "; something listens there already (`ss -lxp` shows what): stop it, or choose another path"
        }
        (Address::Unix(_), io::ErrorKind::AlreadyExists) => {
            "; it is not touched: remove it, or choose another path"
        }
        (Address::Unix(_), io::ErrorKind::NotFound) => "; the directory must be there",
        (Address::Unix(_), _) => landlock::hint(error),
        (_, io::ErrorKind::AddrInUse) => {
            "; something listens there already (`ss -ltnp` shows what): stop it, or choose another port"
        }
        (_, io::ErrorKind::PermissionDenied) => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start"
        }
        (_, io::ErrorKind::AddrNotAvailable) => "; no interface of this host has that address",
        _ => "",
    }
}

/// What to bind, and how.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The address.
    pub address: &'a Address,
    /// The permissions of a Unix socket.
    pub mode: Option<u32>,
    /// The options of the sockets.
    pub options: &'a ListenOptions,
}

/// Binds an address for `workers` workers.
///
/// SO_REUSEPORT, with which the workers share the port, would also share it with a stranger of the same
/// user; so it is first tried whether the address is free. Not so where sockets of our own, of `ours`,
/// have the port on all addresses and this is one of them, or the other way round: those share it, a
/// stranger cannot be there, and the kernel gives a connection to the socket that names its address.
///
/// A Unix socket there is once only: the workers have copies of it, and who comes first takes a connection.
///
/// # Errors
///
/// The address and what the kernel said of it; then nothing stays bound.
pub fn bind<'o>(
    wanted: Wanted<'_>,
    ours: impl IntoIterator<Item = &'o Address>,
    workers: usize,
) -> Result<Bound, BindFault> {
    let Wanted { address, mode, options } = wanted;
    let bound = match address {
        Address::Tcp(tcp) => bind_tcp(*tcp, ours.into_iter().filter_map(Address::tcp), workers, options),
        Address::Scoped(scoped) => scoped
            .resolve()
            .and_then(|tcp| bind_tcp(tcp, ours.into_iter().filter_map(Address::tcp), workers, options)),
        Address::Unix(path) => bind_unix(path, mode, workers, options),
    };
    let bound = bound.map_err(|source| BindFault { address: address.clone(), source })?;
    warn_of_short_backlog(&bound.address, options.backlog);
    Ok(bound)
}

fn bind_tcp(
    address: SocketAddr,
    mut ours: impl Iterator<Item = SocketAddr>,
    workers: usize,
    options: &ListenOptions,
) -> io::Result<Bound> {
    if !ours.any(|other| overlap(address, other)) {
        try_bind(address)?;
    }
    let first = listen(address, options)?;
    let bound = socket::local_address(&first)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(listen(bound, options)?);
    }
    Ok(Bound { address: bound.into(), sockets, file: None })
}

fn bind_unix(
    path: &Arc<Path>,
    mode: Option<u32>,
    workers: usize,
    options: &ListenOptions,
) -> io::Result<Bound> {
    let (first, file) = SocketFile::listen(path, mode, options.backlog)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(sockets[0].try_clone()?);
    }
    Ok(Bound { address: Address::Unix(Arc::clone(path)), sockets, file: Some(file) })
}

/// Whether one of two different addresses is a port of every address of its family, and the other that
/// port of one of them.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && one.ip().is_unspecified() != other.ip().is_unspecified()
}

fn warn_of_short_backlog(address: &Address, backlog: u32) {
    if let Some(longest) = process::longest_backlog().filter(|longest| *longest < backlog) {
        tracing::warn!(
            %address, backlog, somaxconn = longest,
            "the system cuts the accept queue: raise net.core.somaxconn, or lower `backlog` to silence this"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        // Equal ones do not share: that is somebody else.
        check("0.0.0.0:443", "0.0.0.0:443", false);
        check("10.0.0.1:443", "10.0.0.1:443", false);
    }
}
