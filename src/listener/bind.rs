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
            "; another program listens there: stop it (`ss -ltnp` shows which it is) or choose another port"
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
/// user; so it is first tried whether the address is free.
///
/// # Errors
///
/// The address and what the kernel said of it; then nothing stays bound.
pub fn bind(address: SocketAddr, workers: usize, options: &ListenOptions) -> Result<Bound, BindFault> {
    let fault = |source| BindFault { address, source };
    try_bind(address).map_err(fault)?;
    let first = listen(address, options).map_err(fault)?;
    let bound = socket::local_address(&first).map_err(fault)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(listen(bound, options).map_err(fault)?);
    }
    warn_of_short_backlog(bound, options.backlog);
    Ok(Bound { address: bound, sockets })
}

fn warn_of_short_backlog(address: SocketAddr, backlog: u32) {
    if let Some(longest) = process::longest_backlog().filter(|longest| *longest < backlog) {
        tracing::warn!(
            %address, backlog, somaxconn = longest,
            "the system cuts the accept queue: raise net.core.somaxconn, or lower `backlog` to silence this"
        );
    }
}
