//! The pools and backends of the status.

use std::ops::RangeInclusive;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::admin::json::rfc3339;
use crate::pool::near::Places;
use crate::pool::{
    Backend, Discovery, Ejection, Forward, ForwardTo, HostPattern, LookupResult, Pool, RuleMode, TierView,
    Trouble,
};
use crate::route::IpPrefix;
use crate::snapshot::ServedPool;

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct PoolStatus<'a> {
    pub(super) name: &'a str,
    pub(super) balance: &'static str,
    /// `v1` or `v2`; null if no PROXY header is sent.
    pub(super) proxy_protocol: Option<&'static str>,
    /// As in the metric; null if the balancer has no table.
    pub(super) digest: Option<String>,
    /// True if health is disregarded, because too few backends are up.
    pub(super) panic: bool,
    /// The backends that take new connections.
    pub(super) available: usize,
    /// True if a new connection can get a backend, even a full one.
    pub(super) serves: bool,
    pub(super) queue: QueueStatus,
    pub(super) tiers: Vec<TierStatus>,
    /// The places of clients; null if all clients get the order of the node.
    pub(super) near: Option<NearStatus>,
    /// The discovery sources: first the host names among the backends, in their written order.
    pub(super) discovery: Vec<DiscoveryStatus>,
    /// Null for a pool with backends to pick from.
    pub(super) forward: Option<ForwardStatus>,
    pub(super) backends: Vec<BackendStatus<'a>>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct QueueStatus {
    pub(super) waiting: usize,
    /// Null if the pool has no queue.
    pub(super) length: Option<usize>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct TierStatus {
    /// `*` are the zones that are neither the node's own nor listed.
    pub(super) zone: String,
    pub(super) backup: bool,
    pub(super) weight_up: u64,
    pub(super) weight: u64,
    /// The share of the new connections, 0 to 1; with `near`, of the clients whose place is not known.
    pub(super) share: f64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct NearStatus {
    pub(super) database: String,
    /// The time of the last good read. RFC 3339, UTC.
    pub(super) last_load: Option<String>,
    /// The ranges of addresses with a place. Adjacent networks with the same order of zones are one range.
    pub(super) ranges: usize,
    /// The different orders of zones.
    pub(super) orders: usize,
    /// A fingerprint, equal on nodes where each client has the same order of zones.
    pub(super) digest: String,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct DiscoveryStatus {
    /// The name in the log, such as `dns app.internal port 443`.
    pub(super) source: String,
    /// The time of the last success; null if there was none. RFC 3339, UTC.
    pub(super) last_success: Option<String>,
    pub(super) failures: u64,
    /// The present fault.
    pub(super) fault: Option<String>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct ForwardStatus {
    /// The host to which a client goes: `sni`, the server name, or `requested`.
    pub(super) to: &'static str,
    /// Null for `requested`: a client asks for a port.
    pub(super) port: Option<u16>,
    /// The allowed ports and ranges of ports.
    pub(super) ports: Vec<String>,
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    pub(super) allow_networks: Vec<String>,
    pub(super) deny_networks: Vec<String>,
    pub(super) allow_private: Vec<String>,
    /// `report`: the lists refuse no connection.
    pub(super) mode: &'static str,
    /// The number of cached names.
    pub(super) names: usize,
    pub(super) lookups: LookupsStatus,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct LookupsStatus {
    pub(super) cached: u64,
    pub(super) resolved: u64,
    /// The look-ups that returned no address, for any reason.
    pub(super) failed: u64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct BackendStatus<'a> {
    pub(super) name: &'a str,
    pub(super) address: String,
    /// `configuration`, `host_name` or `discovery`.
    pub(super) origin: &'static str,
    pub(super) weight: u16,
    pub(super) zone: Option<&'a str>,
    pub(super) backup: bool,
    /// The part of its weight that it takes now: 1, or less in slow start or by its agent.
    pub(super) share: f64,
    /// The recent duration of a connect; null while it is unknown.
    pub(super) latency_seconds: Option<f64>,
    pub(super) state: &'static str,
    /// The reason for the state, as in the log; null while it is up.
    pub(super) reason: Option<String>,
    /// The time at which that state began. RFC 3339, UTC.
    pub(super) since: String,
    /// The time in that state, in whole seconds.
    pub(super) since_seconds: u64,
    pub(super) connections: BackendConnections,
    pub(super) checks: ChecksStatus,
    pub(super) troubles: TroublesStatus,
    /// Null unless the backend is ejected. A stronger state may hide the ejection.
    pub(super) ejection: Option<EjectionStatus>,
    /// The limits of its agent; null if the pool has no agent.
    pub(super) agent: Option<AgentStatus>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct AgentStatus {
    pub(super) share_percent: u8,
    /// Null is no limit.
    pub(super) max_connections: Option<u64>,
}

/// The failures of clients.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct TroublesStatus {
    pub(super) connects: u64,
    pub(super) early_resets: u64,
    /// The failures in this minute and the one before.
    pub(super) recent: u64,
    /// The connections that the backend reset in this minute and the one before, early or late.
    pub(super) recent_resets: u64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct EjectionStatus {
    /// The cause: `connect` or `early_reset`.
    pub(super) trouble: &'static str,
    pub(super) seconds_left: u64,
    pub(super) in_a_row: u32,
}

impl EjectionStatus {
    fn of(ejection: Ejection, now: Instant) -> Self {
        Self {
            trouble: ejection.trouble.word(),
            seconds_left: ejection.until.saturating_duration_since(now).as_secs(),
            in_a_row: ejection.in_a_row,
        }
    }
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct BackendConnections {
    pub(super) active: u64,
    /// The connections on which the backend has not sent a byte yet.
    pub(super) waiting: u64,
    /// Null if the backend has no limit.
    pub(super) limit: Option<u64>,
    pub(super) total: u64,
    /// The connections established in this minute and the one before.
    pub(super) recent: u64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct ChecksStatus {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) not_made: u64,
    /// The fault of the last failed check, as in the metric; null if the last check passed and the backend is up by its
    /// checks.
    pub(super) fault: Option<&'static str>,
    /// The start of the backend's answer to that check, cut; null if it sent nothing.
    pub(super) heard: Option<String>,
}

/// Returns the status of a pool.
pub(super) fn pool<'a>(name: &'a str, served: &'a ServedPool, now: Instant) -> PoolStatus<'a> {
    let pool = &served.pool;
    let origins = pool.spec().backends.iter().map(|spec| spec.origin.word());
    PoolStatus {
        name,
        balance: pool.spec().algorithm.word(),
        proxy_protocol: pool.spec().proxy_protocol.as_ref().map(|announce| announce.version.word()),
        digest: pool.digest().map(|digest| format!("{digest:016x}")),
        panic: pool.is_in_panic(),
        available: pool.available(),
        serves: pool.forward().is_some() || pool.has_backend(),
        queue: QueueStatus { waiting: pool.waiting(), length: pool.spec().queue.map(|queue| queue.length) },
        tiers: pool.tiers().into_iter().map(tier).collect(),
        near: pool.places().map(|places| near(places)),
        discovery: served.discovery.iter().map(|source| discovery(source)).collect(),
        forward: pool.forward().map(forward),
        backends: pool
            .backends()
            .iter()
            .zip(origins)
            .map(|(one, origin)| backend(pool, one, origin, now))
            .collect(),
    }
}

fn near(places: &Places) -> NearStatus {
    let table = places.table();
    NearStatus {
        database: places.source().path.display().to_string(),
        last_load: places.loaded().map(rfc3339),
        ranges: table.ranges(),
        orders: table.orders(),
        digest: format!("{:016x}", table.digest()),
    }
}

fn tier(tier: TierView) -> TierStatus {
    TierStatus {
        zone: tier.name.to_string(),
        backup: tier.is_backup,
        weight_up: tier.capacity.up,
        weight: tier.capacity.total,
        share: tier.share,
    }
}

fn discovery(discovery: &Discovery) -> DiscoveryStatus {
    DiscoveryStatus {
        source: discovery.source().to_string(),
        last_success: discovery.succeeded().map(rfc3339),
        failures: discovery.failures(),
        fault: discovery.fault().map(|fault| fault.to_string()),
    }
}

fn forward(forward: &Forward) -> ForwardStatus {
    /// More would make the page too long.
    const LISTED: usize = 100;

    let spec = forward.spec();
    let (cached, resolved) = (forward.lookups(LookupResult::Cached), forward.lookups(LookupResult::Resolved));
    let all: u64 = LookupResult::ALL.into_iter().map(|result| forward.lookups(result)).sum();
    let (to, port) = match spec.to {
        ForwardTo::Sni { port } => ("sni", Some(port)),
        ForwardTo::Requested => ("requested", None),
    };
    let hosts = |list: &[HostPattern]| list.iter().take(LISTED).map(ToString::to_string).collect();
    let networks = |list: &[IpPrefix]| list.iter().take(LISTED).map(ToString::to_string).collect();
    let rules = &spec.rules;
    ForwardStatus {
        to,
        port,
        ports: rules.ports.iter().take(LISTED).map(ports).collect(),
        allow: hosts(&rules.allow),
        deny: hosts(&rules.deny),
        allow_networks: networks(&rules.allow_networks),
        deny_networks: networks(&rules.deny_networks),
        allow_private: networks(&spec.allow_private),
        mode: match rules.mode {
            RuleMode::Enforce => "enforce",
            RuleMode::Report => "report",
        },
        names: forward.known(),
        lookups: LookupsStatus { cached, resolved, failed: all.saturating_sub(cached + resolved) },
    }
}

/// Returns a port or a range of ports as it is written.
fn ports(range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

/// Returns the time of a moment in the past.
fn since(moment: Instant, now: Instant) -> String {
    let elapsed = now.saturating_duration_since(moment);
    rfc3339(SystemTime::now().checked_sub(elapsed).unwrap_or(SystemTime::UNIX_EPOCH))
}

fn checks(backend: &Backend) -> ChecksStatus {
    let failure = backend.health().check_failure();
    ChecksStatus {
        passed: backend.health().checks_passed(),
        failed: backend.health().checks_failed(),
        not_made: backend.health().checks_not_made(),
        fault: failure.as_ref().map(|failure| failure.fault.failed_check().word()),
        heard: failure.and_then(|failure| failure.heard).map(|answer| answer.to_string()),
    }
}

fn backend<'a>(pool: &Pool, backend: &'a Backend, origin: &'static str, now: Instant) -> BackendStatus<'a> {
    BackendStatus {
        name: backend.name(),
        address: match pool.forward() {
            Some(forward) => match forward.spec().to {
                ForwardTo::Sni { port } => format!("*:{port}"),
                ForwardTo::Requested => "*:*".to_owned(),
            },
            None => match backend.address().tcp() {
                // The port is that of the client's destination.
                Some(tcp) if tcp.port() == 0 => format!("{}:*", tcp.ip()),
                _ => backend.address().to_string(),
            },
        },
        origin,
        weight: backend.weight(),
        zone: backend.zone().map(|zone| &**zone),
        backup: backend.is_backup(),
        share: pool.share(backend, now),
        latency_seconds: Some(backend.traffic().latency(now).as_secs_f64()).filter(|seconds| *seconds > 0.0),
        state: backend.state().word(),
        reason: backend.health().reason().map(|reason| reason.to_string()),
        since: since(backend.health().since(), now),
        since_seconds: now.saturating_duration_since(backend.health().since()).as_secs(),
        connections: BackendConnections {
            active: backend.active(),
            waiting: backend.traffic().counts().waiting(),
            limit: backend.limit_in_force(),
            total: backend.traffic().connections_total(),
            recent: backend.traffic().recent_connections(),
        },
        checks: checks(backend),
        troubles: TroublesStatus {
            connects: backend.traffic().troubles(Trouble::Connect),
            early_resets: backend.traffic().troubles(Trouble::EarlyReset),
            recent: backend.traffic().recent_troubles(),
            recent_resets: backend.traffic().recent_resets(),
        },
        ejection: backend.health().ejection().map(|ejection| EjectionStatus::of(ejection, now)),
        agent: pool.spec().agent.as_ref().map(|_| AgentStatus {
            share_percent: backend.health().agent_share(),
            max_connections: backend.health().agent_max_connections(),
        }),
    }
}
