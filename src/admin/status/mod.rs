//! The page /api/v1/status: the configuration and the state, as JSON whose keys have a fixed order.

mod pools;
mod problems;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::json::{self, rfc3339};
use super::overrides::{self, OverrideStatus};
use super::upgrade::{self, UpgradeStatus};
use crate::server::{ConfigState, LastReload, LifeStage, Readiness, StatusEvent, View};
use crate::snapshot::{OpeningPolicy, Policy, Protocol, Snapshot, TunnelOpening};
use crate::sys::address::as_ranges;
use crate::sys::{Address, process};
use crate::telemetry::{COMMIT, Episode, SaturationScope, VERSION};
use crate::wire::{BackendGreeting, Starttls};
use pools::PoolStatus;
use problems::Problem;

/// The page. New fields may be added; the existing ones do not change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Status<'a> {
    version: &'static str,
    /// `unknown` if the build had no repository.
    commit: &'static str,
    /// The name of this machine.
    host: String,
    /// RFC 3339, UTC.
    started: String,
    uptime_seconds: u64,
    life: &'static str,
    /// The answer of `/ready`.
    readiness: ReadinessStatus,
    workers: usize,
    connections: Connections,
    config: ConfigStatus,
    /// The last hand-over; null if there was none.
    upgrade: Option<UpgradeStatus>,
    /// The overrides of operators.
    overrides: Vec<OverrideStatus>,
    /// The problems in one sentence, or `all is well`.
    verdict: String,
    /// The present problems. Those with the widest effect come first.
    problems: Vec<Problem>,
    /// The files and settings that are not in force as they are written.
    standing: Vec<StandingStatus>,
    /// The reason for which lines of the access log are lost; null if none is lost.
    access_log_fault: Option<String>,
    /// The limits that refuse connections now.
    saturation: Vec<SaturationStatus>,
    listeners: Vec<ListenerStatus<'a>>,
    pools: Vec<PoolStatus<'a>>,
    /// The last events, the newest first.
    events: Vec<EventStatus>,
}

/// The readiness of the node.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct ReadinessStatus {
    /// True if `/ready` answers 200.
    ready: bool,
    /// `ready`, `starting`, `draining`, `leaving`, `overloaded` or `needs`.
    reason: &'static str,
    /// The answer of `/ready`: the reason, and the pools without an available backend.
    text: String,
    /// The time since which the node is not ready for `needs`; null for other reasons. RFC 3339, UTC.
    since: Option<String>,
    /// The pools of `ready_needs` without an available backend for which `ready_floor` is over: the node is ready
    /// without them.
    excused: Vec<ExcusedPool>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct ExcusedPool {
    pool: String,
    /// The time since which it has no available backend. RFC 3339, UTC.
    since: String,
}

impl From<Readiness> for ReadinessStatus {
    fn from(readiness: Readiness) -> Self {
        let excused = readiness.excused.iter();
        Self {
            ready: readiness.is_ready(),
            reason: readiness.reason.word(),
            text: readiness.to_string(),
            since: readiness.since.map(rfc3339),
            excused: excused
                .map(|(pool, since)| ExcusedPool { pool: pool.to_string(), since: rfc3339(*since) })
                .collect(),
        }
    }
}

/// The configuration in force.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct ConfigStatus {
    /// Null for a configuration that did not come from a file.
    file: Option<String>,
    /// The time at which it came into force. RFC 3339, UTC.
    loaded: String,
    /// Null if there was no reload.
    last_reload: Option<ReloadStatus>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct StandingStatus {
    /// `restart`, `list`, `near` or `routes`.
    kind: &'static str,
    /// The name of the list, the pool or the listener; empty for the process.
    name: String,
    text: String,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct SaturationStatus {
    /// The limit, as in the log: `process_full`, `listener_full`, ...
    kind: &'static str,
    /// The extent: `process`, `listener` or `pool`.
    scope: &'static str,
    /// The name of the listener or the pool; empty for the process.
    name: String,
    text: String,
    /// The connections that were refused or had to wait so far; for descriptors, the pauses.
    refused: u64,
}

impl From<Episode> for SaturationStatus {
    fn from(episode: Episode) -> Self {
        let scope = match episode.kind.scope() {
            SaturationScope::Process => "process",
            SaturationScope::Listener => "listener",
            SaturationScope::Pool => "pool",
        };
        let (kind, refused) = (episode.kind.word(), episode.refused);
        let most = episode.sources.iter().take(2).map(|(source, count)| format!("{source} ({count})"));
        let most: Vec<_> = most.collect();
        let most = if most.is_empty() { String::new() } else { format!("; most: {}", most.join(", ")) };
        let text = format!("{} ({}{most})", episode.kind.message(), episode.count());
        Self { kind, scope, name: episode.thing.to_string(), text, refused }
    }
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct EventStatus {
    time: String,
    /// `process`, `reload`, `backend`, `pool`, `saturation`, `list`, `routes`, `upgrade`, `override` or `connections`.
    kind: &'static str,
    /// `info`, `warning` or `error`.
    severity: &'static str,
    text: String,
}

impl From<ConfigState> for ConfigStatus {
    fn from(state: ConfigState) -> Self {
        let reload = |reload: LastReload| {
            let (result, changes, fault) = match reload.result {
                Ok(changes) => ("ok", Some(changes), None),
                Err(fault) => ("failed", None, Some(fault)),
            };
            ReloadStatus { time: rfc3339(reload.at), result, changes, fault }
        };
        Self {
            file: state.file.map(|file| file.display().to_string()),
            loaded: rfc3339(state.loaded),
            last_reload: state.last_reload.map(reload),
        }
    }
}

impl From<StatusEvent> for EventStatus {
    fn from(event: StatusEvent) -> Self {
        let (kind, severity) = (event.kind.word(), event.severity.word());
        Self { time: rfc3339(event.at), kind, severity, text: event.text }
    }
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct Connections {
    open: u64,
    limit: u64,
    /// The descriptors from which the limit follows. Null if `max_connections` sets it.
    limit_from_descriptors: Option<u64>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct ListenerConnections {
    open: u64,
}

/// Returns the whole page, with a line end.
pub(super) fn json(view: &View) -> String {
    let snapshot = view.snapshot.load_full();
    let addresses = view.addresses();
    let now = Instant::now();
    let standing = view.standing.all().into_iter();
    let mut status = Status {
        version: VERSION,
        commit: COMMIT,
        host: process::host_name(),
        started: rfc3339(view.started),
        // A clock that was set back since gives 0.
        uptime_seconds: SystemTime::now().duration_since(view.started).unwrap_or_default().as_secs(),
        life: match view.life() {
            LifeStage::Starting => "starting",
            LifeStage::Serving => "serving",
            LifeStage::Draining => "draining",
        },
        readiness: view.readiness().into(),
        workers: view.workers,
        connections: Connections {
            open: view.bounds.connections.inside(),
            limit: view.bounds.connections.limit(),
            limit_from_descriptors: view.bounds.limit_from_descriptors(),
        },
        verdict: String::new(),
        problems: Vec::new(),
        standing: standing
            .map(|(kind, name, text)| StandingStatus { kind: kind.word(), name: name.to_string(), text })
            .collect(),
        access_log_fault: view.access_log.fault(),
        saturation: view.bounds.saturation.running().into_iter().map(SaturationStatus::from).collect(),
        config: view.config().into(),
        upgrade: upgrade::last(view),
        overrides: overrides::all(view),
        listeners: listeners(&snapshot, &addresses),
        pools: snapshot.pools.iter().map(|(name, served)| pools::pool(name, served, now)).collect(),
        events: view.events.newest_first().into_iter().map(EventStatus::from).collect(),
    };
    status.problems = problems::problems(&status);
    status.verdict = problems::verdict(&status.problems);
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
        (Protocol::Tunnel(tunnel), _) => match tunnel.opening {
            TunnelOpening::Socks { .. } => "socks5",
            TunnelOpening::Connect => "connect",
        },
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
