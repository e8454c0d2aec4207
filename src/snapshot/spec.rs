//! What a listener is meant to do: plain values that the configuration fills and checks.

use std::sync::Arc;
use std::time::Duration;

use super::proxy::ProxySpec;
use crate::relay::RelayOptions;
use crate::route::pattern::NamePattern;

/// What a listener does with its connections, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySpec {
    /// Whether PROXY headers are read, and whose. Default: nobody sends any.
    pub proxy: Option<ProxySpec>,
    /// Whether and how the first bytes are read, and where connections go.
    pub protocol: ProtocolSpec,
    /// How bytes are moved.
    pub relay: RelayOptions,
    /// Open connections at once. Default: the process's own limit.
    pub max_connections: Option<u64>,
}

/// The protocol of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolSpec {
    /// Nothing is read before the backend is connected.
    Tcp {
        /// The pool of every connection.
        pool: Arc<str>,
    },
    /// The ClientHello is read for its server name.
    Tls {
        /// Names to pools; no two patterns are equal.
        routes: Vec<RouteSpec>,
        /// Clients that send no name.
        no_sni: TargetSpec,
        /// Clients whose name no route matches.
        unmatched: TargetSpec,
        /// The bounds of reading a hello.
        hello: HelloSpec,
    },
}

/// One written route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The names, at least one.
    pub names: Vec<NamePattern>,
    /// The pool's name.
    pub pool: Arc<str>,
}

/// Where a connection without a route goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// To a pool, by name.
    Pool(Arc<str>),
    /// Away, with the fitting TLS alert.
    Reject,
}

/// The bounds of reading a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloSpec {
    /// From accept to the first byte. Default 60 s.
    pub first_byte_timeout: Duration,
    /// From the first byte to the whole hello. Default 5 s.
    pub hello_timeout: Duration,
    /// Bytes of handshake message accepted. Default 16 KiB, at least that of one full record, at most 64 KiB.
    pub max_size: usize,
}

impl Default for HelloSpec {
    fn default() -> Self {
        Self {
            first_byte_timeout: Duration::from_secs(60),
            hello_timeout: Duration::from_secs(5),
            max_size: 16 * 1024,
        }
    }
}
