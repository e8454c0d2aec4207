//! Opens the sockets of a listener, one for each worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::sys::listen::{ListenOptions, listen, try_bind};
use crate::sys::{process, socket};

/// The sockets of one address.
#[derive(Debug)]
pub struct Bound {
    /// Where they listen; the port is the kernel's choice where the specification says 0.
    pub address: SocketAddr,
    /// One for each worker.
    pub sockets: Vec<OwnedFd>,
}

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", hint(.source))]
pub struct BindFault {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; something listens there already (`ss -ltnp` shows what): stop it, or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        _ => "",
    }
}

/// Binds an address for `workers` workers.
///
/// SO_REUSEPORT, with which the workers share the port, would also share it with a stranger of the same
/// user; so it is first tried whether the address is free. Not so where sockets of our own, of `ours`,
/// have the port on all addresses and this is one of them, or the other way round: those share it, a
/// stranger cannot be there, and the kernel gives a connection to the socket that names its address.
///
/// # Errors
///
/// The address and what the kernel said of it; then nothing stays bound.
pub fn bind(
    address: SocketAddr,
    ours: impl IntoIterator<Item = SocketAddr>,
    workers: usize,
    options: &ListenOptions,
) -> Result<Bound, BindFault> {
    let fault = |source| BindFault { address, source };
    if !ours.into_iter().any(|other| overlap(address, other)) {
        try_bind(address).map_err(fault)?;
    }
    let first = listen(address, options).map_err(fault)?;
    let bound = socket::local_address(&first).map_err(fault)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(listen(bound, options).map_err(fault)?);
    }
    warn_of_short_backlog(bound, options.backlog);
    Ok(Bound { address: bound, sockets })
}

/// Whether one of two different addresses is a port of every address of its family, and the other that
/// port of one of them.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && one.ip().is_unspecified() != other.ip().is_unspecified()
}

fn warn_of_short_backlog(address: SocketAddr, backlog: u32) {
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
