//! What a listener is meant to do: plain values that the configuration fills and checks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::OpeningSpec;
use super::access::AccessSpec;
use super::proxy::ProxySpec;
use crate::limit::{OverLimit, PrefixLengths, QuotaSpec, Rate, SourceBy, SourceLimits};
use crate::relay::RelayOptions;
use crate::route::{Conditions, RouteKey, Split};

/// What a listener does with its connections, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySpec {
    /// Who may come in. Default: everybody.
    pub access: Option<AccessSpec>,
    /// Whether PROXY headers are read, and whose. Default: nobody sends any.
    pub proxy: Option<ProxySpec>,
    /// Whether and how the first bytes are read, and where connections go.
    pub protocol: ProtocolSpec,
    /// What comes before the hello of a listener that reads one.
    pub front: OpeningSpec,
    /// How bytes are moved.
    pub relay: RelayOptions,
    /// Open connections at once. Default: the process's own limit.
    pub max_connections: Option<u64>,
    /// What else it asks of who comes. Default: nothing.
    pub admission: Option<AdmissionSpec>,
    /// A file with further routes.
    pub routes_file: Option<RoutesFileSpec>,
}

/// What a listener asks of who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionSpec {
    /// What each source may have; without limits it is counted alone. `None`: sources are not counted.
    pub per_source: Option<SourceLimits>,
    /// What is a source. Default: a network.
    pub by: SourceBy,
    /// What makes a network one.
    pub prefix: PrefixLengths,
    /// New connections of all together. Default: no limit.
    pub rate: Option<Rate>,
    /// What becomes of those above either.
    pub over: OverLimit,
}

/// A file with routes, which is followed while the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutesFileSpec {
    /// Where it is.
    pub path: Arc<Path>,
    /// How many of the listener's routes, the first, do not come from it.
    pub written: usize,
}

/// The protocol of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolSpec {
    /// Nothing is read before the backend is connected.
    Tcp {
        /// The pool of every connection that no route takes.
        pool: Arc<str>,
        /// Routes by what is known without a hello; no two could fit one connection equally well. Shared, so that a
        /// copy of the spec is cheap.
        routes: Arc<Vec<RouteSpec>>,
    },
    /// The ClientHello is read for its server name.
    Tls {
        /// Names and conditions to pools; no two could fit one connection equally well. Shared, so that a copy of the
        /// spec is cheap.
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
            Self::Tcp { routes, .. } | Self::Tls { routes, .. } => routes,
        }
    }

    /// Returns the routes, to change or replace them.
    pub fn routes_mut(&mut self) -> &mut Arc<Vec<RouteSpec>> {
        match self {
            Self::Tcp { routes, .. } | Self::Tls { routes, .. } => routes,
        }
    }
}

/// One written route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// What it says of the name, at least one.
    pub keys: Vec<RouteKey>,
    /// What else must fit; `None` for nothing.
    pub conditions: Option<Arc<Conditions>>,
    /// What the log calls it. Default: its names and the keys of its conditions.
    pub name: Option<Arc<str>>,
    /// What happens to a connection that it takes.
    pub action: ActionSpec,
    /// What it may have. Default: no limits.
    pub limits: Option<QuotaSpec>,
}

/// What a route does with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionSpec {
    /// It goes to a pool, by name.
    Pool(Arc<str>),
    /// It goes to one of several pools, drawn by its source.
    Split(Split, Vec<Arc<str>>),
    /// It is refused with a TLS alert, without TLS by a reset.
    Reject,
    /// It is reset without a word.
    Drop,
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
