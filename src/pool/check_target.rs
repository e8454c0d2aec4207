//! The targets of checks and agents: the endpoint for a backend, from the settings of its pool and of the
//! backend itself.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::sys::Address;

/// The targets of the check and of the agent of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckTargets {
    /// The target of its check.
    pub health: CheckTarget,
    /// The target of its agent.
    pub agent: CheckTarget,
}

/// The host and port of a check or an agent, if they differ from the host and port of the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckTarget {
    /// The host.
    pub host: Option<TargetHost>,
    /// The port; a Unix socket has no port.
    pub port: Option<u16>,
}

/// The host of a check or an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetHost {
    /// An IP address, with its scope if it is link-local. The port has no meaning.
    Address(Address),
    /// A host with this name, as it is written.
    Name(Arc<str>),
    /// This host, by the path of a Unix socket.
    Unix(Arc<Path>),
}

impl CheckTarget {
    /// Returns the endpoint of a check or an agent for a backend that listens at `backend`. `self` is the
    /// target of the pool. The backend's `own` target overrides it. Returns `None` if a port is written for a
    /// Unix socket, or if the port of a host is not known.
    pub fn endpoint(&self, own: &CheckTarget, backend: &Address) -> Option<Endpoint> {
        let port = own.port.or(self.port);
        // If no port is written, the port of the backend is used.
        let of_host = || port.or_else(|| Some(backend.tcp()?.port()));
        let address = match own.host.as_ref().or(self.host.as_ref()) {
            Some(TargetHost::Name(name)) => {
                return Some(Endpoint::Name { name: Arc::clone(name), port: of_host()? });
            }
            Some(TargetHost::Unix(path)) => Address::Unix(Arc::clone(path)),
            Some(TargetHost::Address(host)) => host.with_port(of_host()?)?,
            None => match port {
                Some(port) => backend.with_port(port)?,
                None => backend.clone(),
            },
        };
        Some(Endpoint::Address(address))
    }

    /// Returns the host name, if the target has a host name.
    pub fn name(&self) -> Option<&Arc<str>> {
        match &self.host {
            Some(TargetHost::Name(name)) => Some(name),
            Some(TargetHost::Address(_) | TargetHost::Unix(_)) | None => None,
        }
    }
}

/// The endpoint of a check or an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address.
    Address(Address),
    /// A host, by its name as it is written.
    Name {
        /// The name.
        name: Arc<str>,
        /// The port; 0 means no port.
        port: u16,
    },
}

impl Endpoint {
    /// Returns true if the port is missing.
    pub fn is_without_port(&self) -> bool {
        match self {
            Self::Address(address) => address.is_without_port(),
            Self::Name { port, .. } => *port == 0,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            // A final dot sets how the name is looked up, and is no part of the name.
            Self::Name { name, port } => write!(f, "{}:{port}", name.strip_suffix('.').unwrap_or(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;

    /// Parses a target: a host, a port, both or neither.
    fn target(text: &str) -> CheckTarget {
        let (host, port) = text.split_once('#').unwrap_or((text, ""));
        let host = match host.strip_prefix("unix:") {
            Some(path) => Some(TargetHost::Unix(Path::new(path).into())),
            None if host.is_empty() => None,
            None => Some(match host.parse::<IpAddr>() {
                Ok(ip) => TargetHost::Address(SocketAddr::new(ip, 0).into()),
                Err(_) => TargetHost::Name(host.into()),
            }),
        };
        CheckTarget { host, port: port.parse().ok() }
    }

    fn check(pool: &str, own: &str, backend: &str, expected: &str) {
        let endpoint = target(pool).endpoint(&target(own), &backend.parse().unwrap());
        let found = endpoint.map(|endpoint| endpoint.to_string());
        assert_eq!(found.as_deref().unwrap_or("none"), expected, "{pool} {own} {backend}");
    }

    #[test]
    fn the_backend_goes_before_its_pool() {
        check("", "", "10.0.0.1:443", "10.0.0.1:443");
        check("#80", "", "10.0.0.1:443", "10.0.0.1:80");
        check("#80", "#81", "10.0.0.1:443", "10.0.0.1:81");
        check("10.0.0.9", "", "10.0.0.1:443", "10.0.0.9:443");
        check("10.0.0.9#80", "", "10.0.0.1:443", "10.0.0.9:80");
        check("10.0.0.9#80", "10.0.0.8", "10.0.0.1:443", "10.0.0.8:80");
        check("10.0.0.9#80", "#81", "10.0.0.1:443", "10.0.0.9:81");
        check("", "::1#81", "10.0.0.1:443", "[::1]:81");
        check("unix:/x", "", "10.0.0.1:443", "unix:/x");
        // A link-local address keeps its scope.
        check("#80", "", "[fe80::1%2]:443", "[fe80::1%2]:80");
        check("", "", "[fe80::1%2]:443", "[fe80::1%2]:443");
        check("#80", "", "[fe80::1%eth0]:443", "[fe80::1%eth0]:80");
        check("10.0.0.9#80", "unix:/x", "10.0.0.1:443", "unix:/x");
        check("probe", "", "10.0.0.1:443", "probe:443");
        check("probe.#80", "", "10.0.0.1:443", "probe:80");
        check("10.0.0.9#80", "probe", "10.0.0.1:443", "probe:80");
        check("probe#80", "10.0.0.8", "10.0.0.1:443", "10.0.0.8:80");
    }

    #[test]
    fn unix_sockets_have_no_port() {
        check("", "", "unix:/b", "unix:/b");
        check("#80", "", "unix:/b", "none");
        check("", "#80", "unix:/b", "none");
        check("10.0.0.9", "", "unix:/b", "none");
        check("10.0.0.9", "#80", "unix:/b", "10.0.0.9:80");
        check("unix:/x", "", "unix:/b", "unix:/x");
        check("probe", "", "unix:/b", "none");
        check("probe#80", "", "unix:/b", "probe:80");
    }
}
