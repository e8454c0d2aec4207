//! The endpoints of checks and agents: an address, or a host by its name.
//!
//! [`Discovery`] follows the name in the same way as the names of backends. This module only reads the addresses of the
//! name. Each attempt reads them again, so the next check uses a change of the addresses.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::time::{Instant, timeout_at};

use crate::pool::check_target::Endpoint;
use crate::pool::discover::{CheckNames, Discovery};
use crate::sys::{Address, control_connect};

/// The most addresses of a host that one check tries. A host of checks has few addresses. Each further address
/// shortens the time of the others.
const MOST_TRIED: usize = 8;

/// The endpoint of the check or agent of one backend. Two values are equal if they have the same endpoint and
/// the same task follows its host name.
#[derive(Clone, Debug)]
pub(in crate::pool) struct CheckEndpoint {
    endpoint: Endpoint,
    /// The addresses of the host name. Shared with the status. It ends with the last snapshot or check that has it.
    host: Option<Arc<Discovery>>,
}

/// A connection to an endpoint.
pub(in crate::pool) struct CheckConnection {
    pub(in crate::pool) socket: OwnedFd,
    /// The address that accepted the connection.
    pub(in crate::pool) address: Address,
}

/// The reason for which there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFault {
    /// No address of the host name is known.
    #[error("{name} has no address: {reason}")]
    NoAddress {
        /// The name as it is written.
        name: Arc<str>,
        /// The reason, as the look-up reported it.
        reason: Arc<str>,
    },
    /// The last address that was tried could not be connected.
    #[error("{0}")]
    Connect(#[source] io::Error),
}

impl CheckEndpoint {
    /// Creates an endpoint. An endpoint with a host name gets the addresses of the name.
    pub(in crate::pool) fn new(endpoint: Endpoint, host: Option<Arc<Discovery>>) -> Self {
        Self { endpoint, host }
    }

    /// Creates an endpoint with the addresses of its host name, which `names` has.
    pub(in crate::pool) fn named(endpoint: Endpoint, names: &CheckNames) -> Self {
        let host = names.host(&endpoint);
        Self::new(endpoint, host)
    }

    /// Returns the endpoint as it is written.
    pub(in crate::pool) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Connects to the endpoint. The addresses of a host name are tried in their order, IPv4 first, and the
    /// first that accepts is taken. Each address has an equal part of the time that is left until `until`. So
    /// an address that drops packets leaves time for the others. While the first look-up of the name is under
    /// way, this waits for it.
    ///
    /// The last address has no bound of its own: the caller drops the attempt at `until`. `is_busy` is set while the
    /// queue of a Unix socket is full.
    ///
    /// # Errors
    ///
    /// The name has no address, or none of its addresses accepts.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the attempt is aborted.
    pub(in crate::pool) async fn connect(
        &self,
        until: Instant,
        is_busy: &AtomicBool,
    ) -> Result<CheckConnection, ConnectFault> {
        let (first, last) = self.addresses(until).await?;
        for (at, address) in first.iter().enumerate() {
            let left = u32::try_from(first.len() + 1 - at).unwrap_or(u32::MAX);
            let part = until.saturating_duration_since(Instant::now()) / left;
            let attempt = timeout_at(Instant::now() + part, control_connect::connect(address, is_busy));
            if let Ok(Ok(socket)) = attempt.await {
                return Ok(CheckConnection { socket, address: address.clone() });
            }
        }
        let socket = control_connect::connect(&last, is_busy).await.map_err(ConnectFault::Connect)?;
        Ok(CheckConnection { socket, address: last })
    }

    /// The addresses to try: all but the last, and the last.
    async fn addresses(&self, until: Instant) -> Result<(Vec<Address>, Address), ConnectFault> {
        let (name, port) = match &self.endpoint {
            Endpoint::Address(address) => return Ok((Vec::new(), address.clone())),
            Endpoint::Name { name, port } => (name, *port),
        };
        let fault = |reason: Arc<str>| ConnectFault::NoAddress { name: Arc::clone(name), reason };
        let late = || fault("its look-up has no answer yet".into());
        let Some(host) = &self.host else { return Err(late()) };
        let Ok(mut found) = timeout_at(until, host.addresses()).await else { return Err(late()) };
        found.sort();
        found.truncate(MOST_TRIED);
        let mut addresses: Vec<_> = found.iter().filter_map(|address| address.with_port(port)).collect();
        match addresses.pop() {
            Some(last) => Ok((addresses, last)),
            None => Err(fault(host.fault().unwrap_or_else(|| "the look-up found none".into()))),
        }
    }
}

impl PartialEq for CheckEndpoint {
    fn eq(&self, other: &Self) -> bool {
        let follows_as = match (&self.host, &other.host) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        follows_as && self.endpoint == other.endpoint
    }
}

#[cfg(test)]
impl From<std::net::SocketAddr> for CheckEndpoint {
    fn from(address: std::net::SocketAddr) -> Self {
        Self::new(Endpoint::Address(address.into()), None)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener};
    use std::time::Duration;

    use super::*;

    async fn connect(host: Option<Arc<Discovery>>, port: u16, time: u64) -> Result<String, String> {
        let endpoint = Endpoint::Name { name: "probe.test".into(), port };
        let asked = CheckEndpoint::new(endpoint, host);
        let until = Instant::now() + Duration::from_millis(time);
        let is_busy = AtomicBool::new(false);
        match timeout_at(until, asked.connect(until, &is_busy)).await {
            Ok(Ok(connected)) => Ok(connected.address.to_string()),
            Ok(Err(fault)) => Err(fault.to_string()),
            Err(_elapsed) => Err("out of time".to_owned()),
        }
    }

    fn host(ips: &[&str]) -> Option<Arc<Discovery>> {
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Some(Arc::new(Discovery::of_host(&ips)))
    }

    /// A port that is bound at the last of these addresses alone.
    fn listen(last: &str, others: &[&str]) -> (TcpListener, u16) {
        loop {
            let listener = TcpListener::bind((last, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            if others.iter().all(|other| TcpListener::bind((*other, port)).is_ok()) {
                return (listener, port);
            }
        }
    }

    #[tokio::test]
    async fn the_first_address_that_accepts_is_asked() {
        let (_listener, port) = listen("127.78.0.9", &["127.78.0.2", "::1"]);
        let all = ["::1", "127.78.0.9", "127.78.0.10", "127.78.0.2"];
        assert_eq!(connect(host(&all), port, 20_000).await, Ok(format!("127.78.0.9:{port}")));
        let refused = connect(host(&all[2..]), port, 20_000).await.unwrap_err();
        assert!(refused.contains("refused"), "{refused}");
    }

    #[tokio::test]
    async fn a_silent_address_leaves_time_for_the_next() {
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let (_listener, port) = listen("127.78.1.2", &["127.78.1.1"]);
        let address = std::net::SocketAddr::from(([127, 78, 1, 1], port));
        silent.bind(&address.into()).unwrap();
        silent.listen(0).unwrap();
        // A queue of "0" holds one; from then on the kernel drops what arrives.
        let _first = std::net::TcpStream::connect(address).unwrap();
        let found = connect(host(&["127.78.1.1", "127.78.1.2"]), port, 1000).await;
        assert_eq!(found, Ok(format!("127.78.1.2:{port}")));
        assert_eq!(connect(host(&["127.78.1.1"]), port, 50).await, Err("out of time".to_owned()));
    }

    #[tokio::test]
    async fn a_name_without_an_address_says_why() {
        let failed = connect(host(&[]), 1, 20_000).await.unwrap_err();
        assert_eq!(failed, "probe.test has no address: there is no such name (NXDOMAIN)");
        let late = Err("probe.test has no address: its look-up has no answer yet".to_owned());
        assert_eq!(connect(None, 1, 20_000).await, late);
        let unanswered = Discovery::unanswered();
        assert_eq!(connect(Some(Arc::new(unanswered)), 1, 1).await, late);
    }
}
