//! The page /api/v1/status: the configuration and the state, as JSON whose keys have a fixed order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::json;
use super::overrides::{self, OverrideStatus};
use super::problems::{Problem, problems};
use super::upgrade::{self, UpgradeStatus};
use crate::pool::{Backend, Discovery, Ejection, Forward, LookupResult, Pool, TierView, Trouble};
use crate::server::{ConfigState, LastReload, LifeStage, StatusEvent, View};
use crate::snapshot::{OpeningPolicy, Policy, Protocol, ServedPool, Snapshot};
use crate::sys::address::as_ranges;
use crate::sys::{Address, process};
use crate::telemetry::{COMMIT, VERSION};
use crate::wire::{BackendGreeting, Starttls};

/// The page. New fields may be added; the existing ones do not change.
#[derive(Debug, Serialize)]
struct Status<'a> {
    version: &'static str,
    /// `unknown` if the build had no repository.
    commit: &'static str,
    /// The name of this machine.
    host: String,
    /// RFC 3339, UTC.
    started: String,
    uptime_seconds: u64,
    life: &'static str,
    workers: usize,
    connections: Connections,
    config: ConfigStatus,
    /// The last hand-over; null if there was none.
    upgrade: Option<UpgradeStatus>,
    /// The overrides of operators.
    overrides: Vec<OverrideStatus>,
    /// The present problems. Those with the widest effect come first.
    problems: Vec<Problem>,
    listeners: Vec<ListenerStatus<'a>>,
    pools: Vec<PoolStatus<'a>>,
    /// The last events, the newest first.
    events: Vec<EventStatus>,
}

/// The configuration in force.
#[derive(Debug, Serialize)]
struct ConfigStatus {
    /// Null for a configuration that did not come from a file.
    file: Option<String>,
    /// The time at which it came into force. RFC 3339, UTC.
    loaded: String,
    /// Null if there was no reload.
    last_reload: Option<ReloadStatus>,
}

#[derive(Debug, Serialize)]
struct ReloadStatus {
    time: String,
    /// `ok`, or `failed` if the earlier configuration stayed.
    result: &'static str,
    /// The changes of a successful reload.
    changes: Option<String>,
    /// The reason for a failure, with all faults of the file.
    fault: Option<String>,
}

#[derive(Debug, Serialize)]
struct EventStatus {
    time: String,
    /// `process`, `reload`, `backend`, `pool`, `saturation`, `list`, `routes`, `upgrade` or `override`.
    kind: &'static str,
    /// `info`, `warning` or `error`.
    severity: &'static str,
    text: String,
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(UNIX_EPOCH)).to_string()
}

impl From<ConfigState> for ConfigStatus {
    fn from(state: ConfigState) -> Self {
        let reload = |reload: LastReload| {
            let (result, changes, fault) = match reload.result {
                Ok(changes) => ("ok", Some(changes), None),
                Err(fault) => ("failed", None, Some(fault)),
            };
            ReloadStatus { time: time(reload.at), result, changes, fault }
        };
        Self {
            file: state.file.map(|file| file.display().to_string()),
            loaded: time(state.loaded),
            last_reload: state.last_reload.map(reload),
        }
    }
}

impl From<StatusEvent> for EventStatus {
    fn from(event: StatusEvent) -> Self {
        let (kind, severity) = (event.kind.word(), event.severity.word());
        Self { time: time(event.at), kind, severity, text: event.text }
    }
}

#[derive(Debug, Serialize)]
struct Connections {
    open: u64,
    limit: u64,
}

#[derive(Debug, Serialize)]
struct ListenerStatus<'a> {
    name: &'a str,
    addresses: Vec<String>,
    protocol: &'static str,
    /// The names and conditions that lead to a pool or an action.
    routes: usize,
    /// `require`, `accept` or `shadow`; null if no PROXY header is read.
    proxy_protocol: Option<&'static str>,
    connections: ListenerConnections,
}

#[derive(Debug, Serialize)]
struct ListenerConnections {
    open: u64,
}

#[derive(Debug, Serialize)]
struct PoolStatus<'a> {
    name: &'a str,
    balance: &'static str,
    /// `v1` or `v2`; null if no PROXY header is sent.
    proxy_protocol: Option<&'static str>,
    /// As in the metric; null if the balancer has no table.
    digest: Option<String>,
    /// True if health is disregarded, because too few backends are up.
    panic: bool,
    /// The backends that take new connections.
    available: usize,
    queue: QueueStatus,
    tiers: Vec<TierStatus>,
    /// The discovery sources: first the host names among the backends, in their written order.
    discovery: Vec<DiscoveryStatus>,
    /// Null for a pool with backends to pick from.
    forward: Option<ForwardStatus>,
    backends: Vec<BackendStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct QueueStatus {
    waiting: usize,
    /// Null if the pool has no queue.
    length: Option<usize>,
}

#[derive(Debug, Serialize)]
struct TierStatus {
    /// `*` are the zones that are neither the node's own nor listed.
    zone: String,
    backup: bool,
    weight_up: u64,
    weight: u64,
    /// The share of the new connections, 0 to 1.
    share: f64,
}

#[derive(Debug, Serialize)]
struct DiscoveryStatus {
    /// The name in the log, such as `dns app.internal port 443`.
    source: String,
    /// The time of the last success; null if there was none. RFC 3339, UTC.
    last_success: Option<String>,
    failures: u64,
    /// The present fault.
    fault: Option<String>,
}

#[derive(Debug, Serialize)]
struct ForwardStatus {
    /// The resolved name: `sni`.
    to: &'static str,
    port: u16,
    allow: Vec<String>,
    allow_private: Vec<String>,
    /// The number of cached names.
    names: usize,
    lookups: LookupsStatus,
}

#[derive(Debug, Serialize)]
struct LookupsStatus {
    cached: u64,
    resolved: u64,
    /// The look-ups that returned no address, for any reason.
    failed: u64,
}

#[derive(Debug, Serialize)]
struct BackendStatus<'a> {
    name: &'a str,
    address: String,
    /// `configuration`, `host_name` or `discovery`.
    origin: &'static str,
    weight: u16,
    zone: Option<&'a str>,
    backup: bool,
    /// The part of its weight that it takes now: 1, or less in slow start or by its agent.
    share: f64,
    /// The recent duration of a connect; null while it is unknown.
    latency_seconds: Option<f64>,
    state: &'static str,
    /// The reason for the state, as in the log; null while it is up.
    reason: Option<String>,
    /// The time in that state, in whole seconds.
    since_seconds: u64,
    connections: BackendConnections,
    checks: ChecksStatus,
    troubles: TroublesStatus,
    /// Null unless the backend is ejected. A stronger state may hide the ejection.
    ejection: Option<EjectionStatus>,
    /// The limits of its agent; null if the pool has no agent.
    agent: Option<AgentStatus>,
}

#[derive(Debug, Serialize)]
struct AgentStatus {
    share_percent: u8,
    /// Null is no limit.
    max_connections: Option<u64>,
}

/// The failures of clients.
#[derive(Debug, Serialize)]
struct TroublesStatus {
    connects: u64,
    early_resets: u64,
}

#[derive(Debug, Serialize)]
struct EjectionStatus {
    /// The cause: `connect` or `early_reset`.
    trouble: &'static str,
    seconds_left: u64,
    in_a_row: u32,
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
struct BackendConnections {
    active: u64,
    /// The connections on which the backend has not sent a byte yet.
    waiting: u64,
    /// Null if the backend has no limit.
    limit: Option<u64>,
    total: u64,
}

#[derive(Debug, Serialize)]
struct ChecksStatus {
    passed: u64,
    failed: u64,
    not_made: u64,
    /// The fault of the last failed check, as in the metric; null if the last check passed and the backend is up by its
    /// checks.
    fault: Option<&'static str>,
    /// The start of the backend's answer to that check, cut; null if it sent nothing.
    heard: Option<String>,
}

/// Returns the whole page, with a line end.
pub(super) fn json(view: &View) -> String {
    let snapshot = view.snapshot.load_full();
    let addresses = view.addresses();
    let now = Instant::now();
    let config = view.config();
    let status = Status {
        version: VERSION,
        commit: COMMIT,
        host: process::host_name(),
        started: time(view.started),
        // A clock that was set back since gives 0.
        uptime_seconds: SystemTime::now().duration_since(view.started).unwrap_or_default().as_secs(),
        life: match view.life() {
            LifeStage::Starting => "starting",
            LifeStage::Serving => "serving",
            LifeStage::Draining => "draining",
        },
        workers: view.workers,
        connections: Connections {
            open: view.bounds.connections.inside(),
            limit: view.bounds.connections.limit(),
        },
        problems: problems(view, &config, &snapshot),
        config: config.into(),
        upgrade: upgrade::last(view),
        overrides: overrides::all(view),
        listeners: listeners(&snapshot, &addresses),
        pools: snapshot.pools.iter().map(|(name, served)| pool(name, served, now)).collect(),
        events: view.events.newest_first().into_iter().map(EventStatus::from).collect(),
    };
    json::page(&status)
}

/// Returns the listeners by name. During a reload a new listener may still be without its addresses.
fn listeners<'a>(
    snapshot: &'a Snapshot,
    addresses: &BTreeMap<Arc<str>, Vec<Address>>,
) -> Vec<ListenerStatus<'a>> {
    // Every address of a listener has the same policy.
    let by_name: BTreeMap<&str, &Policy> =
        snapshot.policies.values().map(|policy| (&*policy.listener, &**policy)).collect();
    by_name
        .into_iter()
        .map(|(name, policy)| ListenerStatus {
            name,
            addresses: addresses.get(name).map(|own| as_ranges(own)).unwrap_or_default(),
            protocol: protocol(policy),
            routes: policy.protocol.routes().len(),
            proxy_protocol: policy.proxy.as_ref().map(|proxy| proxy.mode.word()),
            connections: ListenerConnections { open: policy.gate.inside() },
        })
        .collect()
}

/// Returns the protocol of a listener, as its configuration names it.
fn protocol(policy: &Policy) -> &'static str {
    match (&policy.protocol, &policy.opening) {
        (Protocol::Tcp(_), _) => "tcp",
        (Protocol::Tls(_), OpeningPolicy::Straight) => "tls",
        (Protocol::Tls(_), OpeningPolicy::Postgres(_)) => "postgres",
        (Protocol::Tls(_), OpeningPolicy::Detect(_)) => "auto",
        (Protocol::Tls(_), OpeningPolicy::Starttls(mail)) => match mail.greeting {
            BackendGreeting::Starttls { protocol: Starttls::Smtp, .. } => "smtp",
            BackendGreeting::Starttls { protocol: Starttls::Imap, .. } => "imap",
            BackendGreeting::Starttls { protocol: Starttls::Pop3, .. } => "pop3",
            BackendGreeting::Postgres => "postgres",
        },
    }
}

fn pool<'a>(name: &'a str, served: &'a ServedPool, now: Instant) -> PoolStatus<'a> {
    let pool = &served.pool;
    let origins = pool.spec().backends.iter().map(|spec| spec.origin.word());
    PoolStatus {
        name,
        balance: pool.spec().algorithm.word(),
        proxy_protocol: pool.spec().proxy_protocol.as_ref().map(|announce| announce.version.word()),
        digest: pool.digest().map(|digest| format!("{digest:016x}")),
        panic: pool.is_in_panic(),
        available: pool.available(),
        queue: QueueStatus { waiting: pool.waiting(), length: pool.spec().queue.map(|queue| queue.length) },
        tiers: pool.tiers().into_iter().map(tier).collect(),
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
        last_success: discovery.succeeded().map(|time| humantime::format_rfc3339_millis(time).to_string()),
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
    ForwardStatus {
        to: "sni",
        port: spec.port,
        allow: spec.allow.iter().take(LISTED).map(ToString::to_string).collect(),
        allow_private: spec.allow_private.iter().take(LISTED).map(ToString::to_string).collect(),
        names: forward.known(),
        lookups: LookupsStatus { cached, resolved, failed: all.saturating_sub(cached + resolved) },
    }
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
            Some(forward) => format!("*:{}", forward.spec().port),
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
        since_seconds: now.saturating_duration_since(backend.health().since()).as_secs(),
        connections: BackendConnections {
            active: backend.active(),
            waiting: backend.traffic().counts().waiting(),
            limit: backend.limit_in_force(),
            total: backend.traffic().connections_total(),
        },
        checks: checks(backend),
        troubles: TroublesStatus {
            connects: backend.traffic().troubles(Trouble::Connect),
            early_resets: backend.traffic().troubles(Trouble::EarlyReset),
        },
        ejection: backend.health().ejection().map(|ejection| EjectionStatus::of(ejection, now)),
        agent: pool.spec().agent.as_ref().map(|_| AgentStatus {
            share_percent: backend.health().agent_share(),
            max_connections: backend.health().agent_max_connections(),
        }),
    }
}
