//! The report about a connection: each decision of its journey, for an operator.
//!
//! The report is the answer of the admin API. New fields may be added; the existing ones do not change.

use std::time::Duration;

use serde::Serialize;

use crate::limit::Rate;
use crate::telemetry::CloseReason;

/// The decisions about one connection. A part is `None` if a step before it refused the connection.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Explanation {
    /// The listener.
    pub listener: String,
    /// The client's address; `None` for a client of a Unix socket. A port that is not known is left out.
    pub source: Option<String>,
    /// The address that the client connects to; `None` if it is not known.
    pub destination: Option<String>,
    /// The server name in the hello, or the requested host.
    pub server_name: Option<String>,
    /// The protocols that the hello offers by ALPN.
    pub alpn: Vec<String>,
    /// The JA4 fingerprint of a captured hello.
    pub ja4: Option<String>,
    /// True if the state of a running process was used.
    pub running: bool,
    /// True if the connection is served.
    pub served: bool,
    /// The reason for a refusal.
    pub refused: Option<RefusalReport>,
    /// The lists and limits.
    pub admission: AdmissionReport,
    /// The route.
    pub route: Option<RouteReport>,
    /// The pool.
    pub pool: Option<PoolReport>,
    /// The backend.
    pub pick: Option<PickReport>,
    /// The first bytes to the backend.
    pub sends: Option<SendsReport>,
    /// The bounds of the connection.
    pub bounds: Option<BoundsReport>,
    /// The facts that the report does not know, and the assumptions that it makes. One sentence each.
    pub notes: Vec<String>,
}

/// The reason for which a connection is refused.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RefusalReport {
    /// The word of the close reason, as in the access log.
    pub close: &'static str,
    /// The meaning of the close reason.
    pub meaning: &'static str,
}

/// The lists and limits of a connection.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct AdmissionReport {
    /// True if lists and limits admit the connection at its accept.
    pub admitted: bool,
    /// The rule that refuses the address: `list`, `networks` or `not_allowed`.
    pub denied_by: Option<&'static str>,
    /// The list that refuses the address.
    pub list: Option<String>,
    /// The lists in `deny`.
    pub deny_lists: Vec<String>,
    /// The lists in `allow`.
    pub allow_lists: Vec<String>,
    /// True if only addresses of `allow` are admitted.
    pub has_allow: bool,
    /// The limits that apply, in the order of their checks.
    pub limits: Vec<LimitReport>,
}

/// A limit that applies to a connection. A value is `None` without a limit.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct LimitReport {
    /// The counted thing: `source`, `process`, `listener`, `route` or `pool`.
    pub of: &'static str,
    /// The open connections now.
    pub open: u64,
    /// The most open connections.
    pub connections: Option<u64>,
    /// The new connections in a second.
    pub per_second: Option<f64>,
    /// The new connections that may come at once.
    pub burst: Option<u64>,
    /// The most connections whose first bytes are being read.
    pub hellos: Option<u64>,
}

/// The route of a connection.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RouteReport {
    /// The name of the route in the log; `None` if no route matches and no target serves such clients.
    pub route: Option<String>,
    /// The position of the route among the names of all routes of the listener, from 0.
    pub index: Option<usize>,
    /// The way in which the route was found: `exact`, `child`, `below`, `regex` or `any` for a route with a name of
    /// this kind; `no_sni` or `unmatched` for these targets; `pool` for the pool of a tcp listener.
    pub by: &'static str,
    /// The action: `pool`, `split`, `reject` or `drop`.
    pub action: Option<&'static str>,
    /// The parts of a split.
    pub split: Vec<SplitPart>,
    /// The other routes: first those whose names fit, then some of the rest.
    pub others: Vec<OtherRoute>,
    /// The number of routes that are not shown.
    pub more: usize,
}

/// A part of a split.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SplitPart {
    /// The name of the pool.
    pub pool: String,
    /// The share of the clients, 0 to 1.
    pub share: f64,
}

/// A route that was not found.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct OtherRoute {
    /// The name of the route in the log.
    pub route: String,
    /// The position of the route, as in [`RouteReport::index`].
    pub index: usize,
    /// `name`: it has another name. `conditions`: the conditions in `unmet` are not met. `wider_conditions` and
    /// `wider_name`: it matches, and the found route is more specific.
    pub reason: &'static str,
    /// The keys of the conditions that are not met.
    pub unmet: Vec<&'static str>,
}

/// The pool of a connection.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PoolReport {
    /// Its name.
    pub name: String,
    /// Its balancer.
    pub balance: &'static str,
    /// The hashed parts of a connection; empty for a balancer without a hash table.
    pub hash_on: Vec<&'static str>,
    /// The number of slots of the hash table of the picked tier.
    pub slots: Option<usize>,
    /// The digest of its hash tables, as in the status.
    pub digest: Option<String>,
    /// The backends that take new connections.
    pub available: usize,
    /// All its backends.
    pub backends: usize,
    /// True if picks ignore health.
    pub panic: bool,
    /// The order of zones by the distance of the client; `None` for a pool without `near`.
    pub near: Option<NearReport>,
}

/// The order of zones for a client, by distance.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NearReport {
    /// `distance` or `country`: the database has the client's place, and the zones are in the order of this property.
    /// `unknown`: the database has no place for the client, or no site lists its country. `no_address`: the client has
    /// no address. In these two cases the zones are in the order of the node.
    pub by: &'static str,
    /// The zones with backends in the order of the client, the nearest first; `*` are all zones without a site. Empty if the
    /// order is that of the node.
    pub zones: Vec<String>,
}

/// The backend of a connection.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PickReport {
    /// True if each connection with these properties gets this backend while the states of the backends stay the same.
    /// False if the pick also depends on counts of connections, on a share that grows, on turns or on chance.
    pub certain: bool,
    /// True if the backends are in the order in which this connection would get them. False if the balancer has no such
    /// order: `backend` and `next` are then the backends that it picks from.
    pub ordered: bool,
    /// The backend; `None` if it is not known, or if the connection waits in the queue.
    pub backend: Option<BackendReport>,
    /// The slot of the connection in the hash table.
    pub slot: Option<usize>,
    /// The backend to which the slot belongs, if another backend is picked.
    pub owner: Option<BackendReport>,
    /// The backends of the later attempts.
    pub next: Vec<BackendReport>,
    /// True if all backends are full, and the connection waits in the queue.
    pub queued: bool,
    /// True if the connection waits because an operator has paused the pool.
    pub paused: bool,
    /// The host to which a forwarding pool connects, with its port.
    pub host: Option<String>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct BackendReport {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its state, as in the status.
    pub state: &'static str,
    /// Its open connections.
    pub active: u64,
}

/// The first bytes to the backend.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SendsReport {
    /// The version of the PROXY header: `v1` or `v2`; `None` if none is sent.
    pub proxy_protocol: Option<&'static str>,
    /// The TLVs of the PROXY header.
    pub tlvs: Vec<String>,
    /// The exchange before the first bytes of the client: `postgres` or `starttls`.
    pub greeting: Option<&'static str>,
    /// The size of the hello, which is sent unchanged; `None` if the listener reads none.
    pub hello_bytes: Option<usize>,
}

/// The bounds of a connection. Times are in seconds.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct BoundsReport {
    /// The most attempts.
    pub attempts: u32,
    /// The time of one attempt.
    pub connect_timeout_seconds: f64,
    /// The time of all attempts.
    pub dial_timeout_seconds: f64,
    /// The most connections in the queue; `None` without a queue.
    pub queue_length: Option<usize>,
    /// The time in the queue.
    pub queue_timeout_seconds: Option<f64>,
    /// The time without a byte in either direction.
    pub idle_timeout_seconds: f64,
    /// The time after one side has finished.
    pub half_closed_timeout_seconds: f64,
    /// The time to the first byte of the client; `None` if the listener reads none.
    pub first_byte_timeout_seconds: Option<f64>,
    /// The time from the first byte to the whole hello.
    pub hello_timeout_seconds: Option<f64>,
}

impl From<CloseReason> for RefusalReport {
    fn from(reason: CloseReason) -> Self {
        Self { close: reason.word(), meaning: reason.meaning() }
    }
}

impl LimitReport {
    /// Returns the report of a limit of connections. `u64::MAX` is no limit.
    pub(super) fn new(of: &'static str, open: u64, most: u64, rate: Option<Rate>) -> Self {
        let connections = (most != u64::MAX).then_some(most);
        let (per_second, burst) = (rate.map(Rate::per_second), rate.map(Rate::burst));
        Self { of, open, connections, per_second, burst, hellos: None }
    }

    /// Returns true if there is a limit.
    pub(super) fn is_limit(&self) -> bool {
        self.connections.is_some() || self.per_second.is_some() || self.hellos.is_some()
    }
}

/// Returns a time in seconds.
pub(super) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
