//! The page /api/v1/status: what is configured and alive, as JSON whose keys have one order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::balance::Algorithm;
use crate::pool::{Backend, Discovery, State};
use crate::server::{Life, View};
use crate::snapshot::{Policy, Protocol, Served, Snapshot};

/// The page. Fields that come later are added; those here stay what they are.
#[derive(Debug, Serialize)]
struct Status<'a> {
    version: &'static str,
    /// RFC 3339, UTC.
    started: String,
    uptime_seconds: u64,
    life: &'static str,
    workers: usize,
    connections: Connections,
    listeners: Vec<ListenerStatus<'a>>,
    pools: Vec<PoolStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct Connections {
    open: u64,
    limit: u64,
}

#[derive(Debug, Serialize)]
struct ListenerStatus<'a> {
    name: &'a str,
    addresses: &'a [SocketAddr],
    protocol: &'static str,
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
    /// As in the metric; null for round robin, which has no table.
    digest: Option<String>,
    /// Where further backends come from; null for a pool that discovers none.
    discovery: Option<DiscoveryStatus>,
    backends: Vec<BackendStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct DiscoveryStatus {
    /// As the log names it, such as `dns app.internal port 443`.
    source: String,
    /// When it was last found to be good; null is never. RFC 3339, UTC.
    last_success: Option<String>,
    failures: u64,
    /// What is wrong with it now.
    fault: Option<String>,
}

#[derive(Debug, Serialize)]
struct BackendStatus<'a> {
    name: &'a str,
    address: String,
    /// `configuration` or `discovery`.
    origin: &'static str,
    weight: u16,
    state: &'static str,
    /// Whole seconds in that state.
    since_seconds: u64,
    connections: BackendConnections,
    checks: ChecksStatus,
}

#[derive(Debug, Serialize)]
struct BackendConnections {
    active: u64,
    total: u64,
}

#[derive(Debug, Serialize)]
struct ChecksStatus {
    passed: u64,
    failed: u64,
    not_made: u64,
}

/// The whole page, with a line end.
pub(super) fn json(view: &View) -> String {
    let snapshot = view.snapshot.load_full();
    let addresses = view.addresses();
    let now = Instant::now();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        started: humantime::format_rfc3339_millis(view.started.max(UNIX_EPOCH)).to_string(),
        // A clock that was set back since gives 0.
        uptime_seconds: SystemTime::now().duration_since(view.started).unwrap_or_default().as_secs(),
        life: match view.life() {
            Life::Starting => "starting",
            Life::Serving => "serving",
            Life::Draining => "draining",
        },
        workers: view.workers,
        connections: Connections {
            open: view.bounds.connections.inside(),
            limit: view.bounds.connections.limit(),
        },
        listeners: listeners(&snapshot, &addresses),
        pools: snapshot.pools.iter().map(|(name, served)| pool(name, served, now)).collect(),
    };
    let mut page = serde_json::to_string_pretty(&status).expect("it has string keys only and no map");
    page.push('\n');
    page
}

/// The listeners by name. A reload that happens now may show a new listener still without its addresses.
fn listeners<'a>(
    snapshot: &'a Snapshot,
    addresses: &'a BTreeMap<Arc<str>, Vec<SocketAddr>>,
) -> Vec<ListenerStatus<'a>> {
    // Every address of a listener has its policy.
    let by_name: BTreeMap<&str, &Policy> =
        snapshot.policies.values().map(|policy| (&*policy.listener, &**policy)).collect();
    by_name
        .into_iter()
        .map(|(name, policy)| ListenerStatus {
            name,
            addresses: addresses.get(name).map_or(&[], Vec::as_slice),
            protocol: match policy.protocol {
                Protocol::Tcp(_) => "tcp",
                Protocol::Tls(_) => "tls",
            },
            connections: ListenerConnections { open: policy.gate.inside() },
        })
        .collect()
}

fn pool<'a>(name: &'a str, served: &'a Served, now: Instant) -> PoolStatus<'a> {
    let pool = &served.pool;
    let origin = |at| if at < served.written { "configuration" } else { "discovery" };
    PoolStatus {
        name,
        balance: match pool.spec().algorithm {
            Algorithm::Maglev => "maglev",
            Algorithm::RoundRobin => "round-robin",
        },
        digest: pool.digest().map(|digest| format!("{digest:016x}")),
        discovery: served.discovery.as_deref().map(discovery),
        backends: pool.backends().iter().enumerate().map(|(at, one)| backend(one, origin(at), now)).collect(),
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

fn backend<'a>(backend: &'a Backend, origin: &'static str, now: Instant) -> BackendStatus<'a> {
    BackendStatus {
        name: backend.name(),
        address: backend.address().to_string(),
        origin,
        weight: backend.weight(),
        state: match backend.state() {
            State::Up => "up",
            State::Down => "down",
        },
        since_seconds: now.saturating_duration_since(backend.since()).as_secs(),
        connections: BackendConnections { active: backend.active(), total: backend.connections_total() },
        checks: ChecksStatus {
            passed: backend.checks_passed(),
            failed: backend.checks_failed(),
            not_made: backend.checks_not_made(),
        },
    }
}
