//! The series that a listener and a pool have from the start, by protocol and settings.
//!
//! An event that is missing here is still counted: its series appears with the first such event. So this module
//! may leave out an event. It does not prove that an event cannot happen.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::listener::ListenerSpec;
use crate::pool::{ForwardTo, OnDown, PoolSpec};
use crate::snapshot::{
    ActionSpec, OpeningSpec, PolicySpec, PoolSlot, ProtocolSpec, ProxyMode, RouteSpec, TargetSpec,
    TunnelOpening,
};
use crate::telemetry::CloseReason as Reason;
use crate::telemetry::{ClientOpening, ConnectOutcome, ListenerMetrics, PoolMetrics};

/// The close reasons of any listener.
const ANYWHERE: [Reason; 19] = [
    Reason::ClientFin,
    Reason::BackendFin,
    Reason::ClientReset,
    Reason::BackendReset,
    Reason::ClientVanished,
    Reason::BackendVanished,
    Reason::IdleTimeout,
    Reason::HalfClosedTimeout,
    Reason::ClientGone,
    Reason::NoBackend,
    Reason::ConnectRefused,
    Reason::ConnectTimeout,
    Reason::ConnectFailed,
    Reason::OutOfResources,
    Reason::ProcessFull,
    Reason::DrainDeadline,
    Reason::ClosedByOperator,
    Reason::Rebalanced,
    Reason::Internal,
];

/// The close reasons of a listener that reads hellos.
const HELLOS: [Reason; 9] = [
    Reason::NoData,
    Reason::HelloTruncated,
    Reason::FirstByteTimeout,
    Reason::HelloTimeout,
    Reason::NotTls,
    Reason::HelloMalformed,
    Reason::HelloTooLarge,
    Reason::BadName,
    Reason::HelloMemory,
];

/// The close reasons of a listener that reads PROXY headers.
const HEADERS: [Reason; 7] = [
    Reason::NoData,
    Reason::HelloMemory,
    Reason::ProxyUnexpected,
    Reason::ProxyMalformed,
    Reason::ProxyChecksum,
    Reason::ProxyTruncated,
    Reason::ProxyTimeout,
];

/// The close reasons of the messages before TLS.
const OPENINGS: [Reason; 7] = [
    Reason::PipelinedBeforeTls,
    Reason::OpeningMalformed,
    Reason::OpeningTimeout,
    Reason::LeftBeforeTls,
    Reason::BackendRefusedTls,
    Reason::GreetingTimeout,
    Reason::GreetingFailed,
];

/// The close reasons of requests for tunnels.
const TUNNELS: [Reason; 8] = [
    Reason::NoData,
    Reason::FirstByteTimeout,
    Reason::HelloMemory,
    Reason::BadName,
    Reason::OpeningMalformed,
    Reason::OpeningTimeout,
    Reason::OpeningTruncated,
    Reason::RequestUnsupported,
];

/// The close reasons of limits by source.
const SOURCES: [Reason; 5] = [
    Reason::SourceConnections,
    Reason::SourceRate,
    Reason::SourceHellos,
    Reason::SourceTableFull,
    Reason::Overloaded,
];

/// The close reasons of forwarding pools.
const NAMES: [Reason; 3] = [Reason::NameNotAllowed, Reason::NameNotResolved, Reason::AddressRefused];

/// The close reasons of pools that forward to server names.
const SERVER_NAMES: [Reason; 1] = [Reason::ForwardLoop];

/// The close reasons of pools that forward to requested hosts.
const REQUESTS: [Reason; 2] = [Reason::AddressNotAllowed, Reason::PortNotAllowed];

/// Creates the series of a listener. Its connections may go to any of the pools.
pub(super) fn expect_of_listener(
    spec: &ListenerSpec,
    pool_slots: &BTreeMap<Arc<str>, Arc<PoolSlot>>,
    metrics: &ListenerMetrics,
) {
    let policy = &spec.policy;
    let may_close = |reasons: &[Reason]| reasons.iter().for_each(|&reason| metrics.may_close(reason));
    may_close(&ANYWHERE);
    let may_close_if = |is_so: bool, reasons: &[Reason]| {
        if is_so {
            may_close(reasons);
        }
    };
    may_close_if(policy.relay.client.stall_timeout.is_some(), &[Reason::ClientStalled]);
    may_close_if(policy.max_connections.is_some(), &[Reason::ListenerFull]);
    if let Some(access) = &policy.access {
        let denies = !access.deny.lists.is_empty() || !access.deny.prefixes.is_empty();
        may_close_if(denies || !access.deny_ja4.is_empty(), &[Reason::Denied]);
        may_close_if(access.allow.is_some(), &[Reason::NotAllowed]);
    }
    if let Some(admission) = &policy.admission {
        may_close_if(admission.rate.is_some(), &[Reason::ListenerRate]);
        may_close_if(admission.per_source.is_some(), &SOURCES);
    }
    if let Some(proxy) = &policy.proxy {
        metrics.may_have_proxy_headers();
        may_close(&HEADERS);
        match proxy.mode {
            ProxyMode::Require => may_close(&[Reason::ProxyMissing, Reason::ProxyUntrusted]),
            ProxyMode::Shadow => metrics.may_shadow(),
            ProxyMode::Accept => {}
        }
    }
    if policy.routes_file.is_some() {
        metrics.may_read_routes();
    }
    expect_of_routes(policy.protocol.routes(), metrics);
    expect_of_hellos(policy, metrics);
    for slot in pool_slots.values() {
        reasons_of_pool(slot.served().pool.spec(), &may_close_if);
    }
}

/// Creates the series of a listener's first bytes.
fn expect_of_hellos(policy: &PolicySpec, metrics: &ListenerMetrics) {
    use ClientOpening as Opening;
    let (no_sni, unmatched) = match &policy.protocol {
        ProtocolSpec::Tcp { .. } => return,
        ProtocolSpec::Tunnel { opening, .. } => return expect_of_tunnels(*opening, metrics),
        ProtocolSpec::Tls { no_sni, unmatched, .. } => (no_sni, unmatched),
    };
    metrics.may_read_hellos();
    HELLOS.iter().for_each(|&reason| metrics.may_close(reason));
    for (target, reason) in [(no_sni, Reason::NoSni), (unmatched, Reason::UnmatchedSni)] {
        if *target == TargetSpec::Reject {
            metrics.may_close(reason);
        }
    }
    let (openings, further): (&[Opening], &[Reason]) = match &policy.opening {
        OpeningSpec::Straight => return,
        OpeningSpec::Postgres { .. } => (
            &[Opening::Tls, Opening::Upgraded, Opening::Plaintext, Opening::Cancel],
            &[Reason::PlaintextRefused, Reason::CancelRefused],
        ),
        OpeningSpec::Starttls { .. } => (&[Opening::Upgraded], &[Reason::TooManyCommands]),
        OpeningSpec::Detect(detect) => {
            for (target, opening) in [
                (&detect.socks5, TunnelOpening::Socks { reads_version_4: false }),
                (&detect.connect, TunnelOpening::Connect),
            ] {
                if *target != TargetSpec::Reject {
                    expect_of_tunnels(opening, metrics);
                }
            }
            (
                &[
                    Opening::Tls,
                    Opening::Ssh,
                    Opening::Http,
                    Opening::Postgres,
                    Opening::Other,
                    Opening::Silent,
                ],
                &[Reason::UnknownProtocol],
            )
        }
    };
    openings.iter().for_each(|&opening| metrics.may_open(opening));
    further.iter().for_each(|&reason| metrics.may_close(reason));
    if !matches!(policy.opening, OpeningSpec::Detect(_)) {
        OPENINGS.iter().for_each(|&reason| metrics.may_close(reason));
    }
}

/// Creates the series of requests for tunnels.
fn expect_of_tunnels(opening: TunnelOpening, metrics: &ListenerMetrics) {
    TUNNELS.iter().for_each(|&reason| metrics.may_close(reason));
    let openings: &[ClientOpening] = match opening {
        TunnelOpening::Socks { reads_version_4: true } => &[ClientOpening::Socks5, ClientOpening::Socks4],
        TunnelOpening::Socks { reads_version_4: false } => &[ClientOpening::Socks5],
        TunnelOpening::Connect => &[ClientOpening::Connect],
    };
    openings.iter().for_each(|&opening| metrics.may_open(opening));
    if matches!(opening, TunnelOpening::Socks { .. }) {
        metrics.may_close(Reason::AuthMethodRefused);
    }
}

/// Creates the series of refusals by routes.
fn expect_of_routes(routes: &[RouteSpec], metrics: &ListenerMetrics) {
    let has = |is_so: &dyn Fn(&RouteSpec) -> bool| routes.iter().any(is_so);
    let asks_version = |route: &RouteSpec| route.conditions.as_ref().is_some_and(|all| all.tls_min.is_some());
    for (can_happen, reason) in [
        (has(&|route| route.action == ActionSpec::Reject), Reason::RouteRejected),
        (has(&|route| route.action == ActionSpec::Drop), Reason::RouteDropped),
        (has(&|route| route.limits.is_some()), Reason::RouteFull),
        (has(&|route| route.limits.is_some()), Reason::RouteRate),
        (has(&asks_version), Reason::TlsTooOld),
    ] {
        if can_happen {
            metrics.may_close(reason);
        }
    }
}

/// Creates the series that a pool adds to all listeners.
fn reasons_of_pool(spec: &PoolSpec, may_close_if: &impl Fn(bool, &[Reason])) {
    may_close_if(spec.forward.is_some(), &NAMES);
    let to = spec.forward.as_ref().map(|forward| forward.to);
    may_close_if(matches!(to, Some(ForwardTo::Sni { .. })), &SERVER_NAMES);
    may_close_if(to == Some(ForwardTo::Requested), &REQUESTS);
    let verifies = spec.forward.as_ref().is_some_and(|forward| forward.verify_sni);
    may_close_if(verifies, &[Reason::SniMismatch, Reason::HelloTimeout, Reason::HelloTruncated]);
    may_close_if(can_be_full(spec), &[Reason::QueueFull]);
    may_close_if(spec.queue.is_some(), &[Reason::QueueTimeout]);
    may_close_if(spec.limits.is_some(), &[Reason::PoolFull, Reason::PoolRate]);
    may_close_if(matches!(spec.on_down, OnDown::Close { .. }), &[Reason::BackendDown]);
    may_close_if(spec.dial.peer_timeouts.stall_timeout.is_some(), &[Reason::BackendStalled]);
}

/// Returns true if a backend of the pool may reach a limit of connections.
fn can_be_full(spec: &PoolSpec) -> bool {
    spec.queue.is_some()
        || spec.agent.is_some()
        || spec.backends.iter().any(|backend| backend.max_connections.is_some())
}

/// Creates the series of a pool.
pub(super) fn expect_of_pool(spec: &PoolSpec, metrics: &PoolMetrics) {
    for outcome in ConnectOutcome::ALL {
        // Only listeners with an opening before TLS greet a backend.
        if outcome != ConnectOutcome::Greeting {
            metrics.may_connect(outcome);
        }
    }
    if can_be_full(spec) {
        metrics.may_queue();
    }
    if spec.ejection.is_some() {
        metrics.may_eject();
    }
    if spec.health.is_some() {
        metrics.may_check();
    }
    if spec.agent.is_some() {
        metrics.may_ask_agents();
    }
}
