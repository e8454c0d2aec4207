//! The checked settings of a listener's policy: plain values that the configuration fills.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::access::AccessSpec;
use super::proxy::ProxySpec;
use crate::limit::{OverLimit, PrefixLengths, QuotaSpec, Rate, SourceBy, SourceLimits};
use crate::relay::RelayOptions;
use crate::route::{Conditions, RouteKey, Split};
use crate::wire::{Opening, Starttls};

/// The policy of a listener, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySpec {
    /// The access rules. Default: all addresses are admitted.
    pub access: Option<AccessSpec>,
    /// The settings for PROXY headers. Default: none are read.
    pub proxy: Option<ProxySpec>,
    /// The reading of the first bytes, and the routes.
    pub protocol: ProtocolSpec,
    /// The opening before the hello, if the listener reads a hello.
    pub opening: OpeningSpec,
    /// The options of the relay.
    pub relay: RelayOptions,
    /// Open connections at once. Default: the process's own limit.
    pub max_connections: Option<u64>,
    /// Further limits on admission. Default: none.
    pub admission: Option<AdmissionSpec>,
    /// A file with further routes.
    pub routes_file: Option<RoutesFileSpec>,
}

/// The limits that a listener sets on its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionSpec {
    /// The limits of each source. If none of these limits is set, sources are only counted. `None`: sources are
    /// not counted.
    pub per_source: Option<SourceLimits>,
    /// The property that identifies a source. Default: a network.
    pub by: SourceBy,
    /// The size of a source's network.
    pub prefix: PrefixLengths,
    /// The rate of new connections of all sources together. Default: no limit.
    pub rate: Option<Rate>,
    /// The treatment of connections above these limits.
    pub over: OverLimit,
}

/// A file with routes, which is followed while the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutesFileSpec {
    /// The path of the file.
    pub path: Arc<Path>,
    /// The number of the listener's routes, counted from the first, that do not come from the file.
    pub written: usize,
}

/// The protocol of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolSpec {
    /// Nothing is read before the backend is connected.
    Tcp {
        /// The pool of every connection that matches no route.
        pool: Arc<str>,
        /// Routes by the facts that are known without a hello. No two routes may match one connection equally well.
        /// Shared, so that a copy of the spec is cheap.
        routes: Arc<Vec<RouteSpec>>,
    },
    /// The client requests a tunnel to a host.
    Tunnel {
        /// The protocol of the request.
        opening: TunnelOpening,
        /// The pool of every connection that matches no route.
        pool: Arc<str>,
        /// Routes by requested names, and by the facts that are known without a hello. No two routes may match one
        /// connection equally well. Shared, so that a copy of the spec is cheap.
        routes: Arc<Vec<RouteSpec>>,
        /// The bounds of reading the request. Its size has a bound of its own.
        hello: HelloSpec,
    },
    /// The ClientHello is read for its server name.
    Tls {
        /// Routes by names and conditions. No two routes may match one connection equally well. Shared, so that a
        /// copy of the spec is cheap.
        routes: Arc<Vec<RouteSpec>>,
        /// Clients that send no name.
        no_sni: TargetSpec,
        /// Clients whose name no route matches.
        unmatched: TargetSpec,
        /// The bounds of reading a hello.
        hello: HelloSpec,
    },
}

impl ProtocolSpec {
    /// The routes.
    pub fn routes(&self) -> &[RouteSpec] {
        match self {
            Self::Tcp { routes, .. } | Self::Tunnel { routes, .. } | Self::Tls { routes, .. } => routes,
        }
    }

    /// Returns the routes, to change or replace them.
    pub fn routes_mut(&mut self) -> &mut Arc<Vec<RouteSpec>> {
        match self {
            Self::Tcp { routes, .. } | Self::Tunnel { routes, .. } | Self::Tls { routes, .. } => routes,
        }
    }
}

/// The protocol in which clients request tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelOpening {
    /// SOCKS 5.
    Socks {
        /// True if SOCKS 4 and 4a are served too. Default false.
        reads_version_4: bool,
    },
    /// The method CONNECT of HTTP.
    Connect,
}

impl TunnelOpening {
    /// Begins the messages with a client.
    pub fn begin(self) -> Opening {
        match self {
            Self::Socks { reads_version_4 } => Opening::socks_host(reads_version_4),
            Self::Connect => Opening::connect_host(),
        }
    }
}

/// The opening before the hello, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OpeningSpec {
    /// Nothing: the client begins with its hello.
    #[default]
    Straight,
    /// PostgreSQL.
    Postgres {
        /// The target of sessions without TLS whose database and user are not listed below.
        plaintext: TargetSpec,
        /// Databases, each with the pool of its sessions without TLS.
        databases: Vec<(Arc<str>, Arc<str>)>,
        /// Users, each with the pool of their sessions without TLS. A database has precedence over a user.
        users: Vec<(Arc<str>, Arc<str>)>,
        /// The target of requests to cancel a query.
        cancel: TargetSpec,
        /// The time in which a backend must answer the SSLRequest.
        greeting_timeout: Duration,
    },
    /// A mail protocol with STARTTLS.
    Starttls {
        /// The protocol.
        protocol: Starttls,
        /// The name by which the listener identifies itself.
        hostname: Arc<str>,
        /// The time in which a backend must give its go-ahead.
        greeting_timeout: Duration,
    },
    /// One of several protocols, detected by the first bytes.
    Detect(DetectSpec),
}

/// The targets of the detected protocols, and of silent clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectSpec {
    /// SOCKS 5.
    pub socks5: TargetSpec,
    /// The method CONNECT of HTTP. If it is rejected, such a client counts as one of HTTP.
    pub connect: TargetSpec,
    /// SSH.
    pub ssh: TargetSpec,
    /// HTTP without TLS.
    pub http: TargetSpec,
    /// PostgreSQL, with or without TLS.
    pub postgres: TargetSpec,
    /// All other protocols.
    pub other: TargetSpec,
    /// Clients that wait for the server to send first. With "reject" the listener's first-byte timeout
    /// applies to them.
    pub on_timeout: TargetSpec,
    /// The time for which a client must be silent before `on_timeout` applies. Default 3 s.
    pub timeout: Duration,
}

/// One configured route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The names that it matches, at least one.
    pub keys: Vec<RouteKey>,
    /// Further conditions; `None` if there are none.
    pub conditions: Option<Arc<Conditions>>,
    /// Its name in the log. Default: its names and the keys of its conditions.
    pub name: Option<Arc<str>>,
    /// The action for a connection that matches.
    pub action: ActionSpec,
    /// Its limits. Default: none.
    pub limits: Option<QuotaSpec>,
}

/// The action of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionSpec {
    /// The connection goes to a pool, by name.
    Pool(Arc<str>),
    /// The connection goes to one of several pools, chosen by its source.
    Split(Split, Vec<Arc<str>>),
    /// The connection is refused: with a TLS alert, or without TLS by a reset.
    Reject,
    /// The connection is reset.
    Drop,
}

/// The target of a connection without a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// A pool, by name.
    Pool(Arc<str>),
    /// A refusal, with the alert for the reason.
    Reject,
}

/// The bounds for the reading of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloSpec {
    /// The time from the accept to the first byte. Default 60 s.
    pub first_byte_timeout: Duration,
    /// The time from the first byte to the whole hello. Default 5 s.
    pub hello_timeout: Duration,
    /// The most bytes of the handshake message. Default 16 KiB, at least one full record, at most 64 KiB.
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
