//! The state of the incumbent for its successor.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::counts::export_counters;
use super::{MOST_SOURCES, policies};
use crate::ids::ListenerId;
use crate::limit::Moment;
use crate::pool::{Discoveries, SourceCopy};
use crate::server::draining::{DrainCopy, DrainingPart, DrainingSet};
use crate::server::upgrade_state::millis_since_1970;
use crate::server::view::View;
use crate::snapshot::{List, Policy, RouteTarget, ServedPool, Snapshot};
use crate::telemetry::{Direction, RouteCounts};
use crate::wire::handover::{
    CountsByWord, HandedAddition, HandedDrain, HandedMarkKey, HandedOverride, HandedRate, HandedRouteCounts,
    HandedSource, ProcessState, left_millis,
};

/// Copies of the state that only control has. They are cheap to make.
pub(in crate::server) struct ControlCopies {
    draining: Vec<DrainCopy>,
    sources: Vec<SourceCopy>,
}

impl ControlCopies {
    /// Copies the draining listeners and backends, and the backends that discovery found.
    pub(in crate::server) fn new(draining: &DrainingSet, discoveries: &Discoveries) -> Self {
        Self { draining: draining.copies(), sources: discoveries.copies() }
    }
}

/// Returns the state of the process for a successor. It reads every backend, route and source, so workers and control
/// must not call it.
pub(in crate::server) fn export(view: &View, copies: &ControlCopies) -> ProcessState {
    let snapshot = view.snapshot.load_full();
    let now = Instant::now();
    let policies = policies(&snapshot);
    let mut rates = Vec::new();
    let mut routes = Vec::new();
    for policy in &policies {
        export_listener_rate(policy, Moment::of(now), &mut rates);
        export_routes(policy, Moment::of(now), &mut rates, &mut routes);
    }
    let backends = snapshot.pools.values().flat_map(|served| served.pool.backends());
    export_pool_rates(&snapshot, Moment::of(now), &mut rates);
    ProcessState {
        backends: backends.map(|backend| backend.hand_over(now)).collect(),
        discovered: copies.sources.iter().map(|source| source.hand_over(now.into())).collect(),
        additions: export_additions(&snapshot, now),
        sources: export_sources(view, &policies, Moment::of(now)),
        rates,
        draining: copies.draining.iter().map(|copy| export_drain(copy, now)).collect(),
        marks: export_marks(&snapshot),
        routes: hand_over_routes(routes),
        counters: export_counters(view, &snapshot),
        overrides: export_overrides(view, now),
        needs: view.needs.hand_over(now),
    }
}

fn export_overrides(view: &View, now: Instant) -> Vec<HandedOverride> {
    let handed = view.overrides.all().into_iter().map(|(key, set)| HandedOverride {
        kind: key.kind.word().to_owned(),
        pool: key.pool.to_string(),
        backend: key.backend.to_string(),
        listener: key.listener.to_string(),
        route: key.route.to_string(),
        value: set.value.to_string(),
        since_ms: millis_since_1970(set.since),
        by: set.by.to_string(),
        left_ms: set.left(now).map(left_millis),
    });
    handed.collect()
}

pub(in crate::server) fn export_additions(snapshot: &Snapshot, now: Instant) -> Vec<HandedAddition> {
    let of_list = |(name, list): (&Arc<str>, &Arc<List>)| {
        let name = name.to_string();
        list.kept.additions.all(now).into_iter().map(move |(entry, end)| HandedAddition {
            list: name.clone(),
            entry: entry.to_string(),
            left_ms: end.map(|end| left_millis(end.saturating_duration_since(now))),
        })
    };
    snapshot.lists.iter().flat_map(of_list).collect()
}

fn export_sources(view: &View, policies: &[&Arc<Policy>], now: Moment) -> Vec<HandedSource> {
    let names: HashMap<ListenerId, &str> =
        policies.iter().map(|policy| (policy.listener_id, &*policy.listener)).collect();
    let rates = view.bounds.sources.rates(MOST_SOURCES, now).into_iter();
    let handed = rates.filter_map(|rate| {
        Some(HandedSource {
            listener: (*names.get(&rate.listener)?).to_owned(),
            source: format!("{:032x}", rate.source.bits()),
            recovers_ns: rate.recovers_in,
            over_ns: rate.over_for,
        })
    });
    handed.collect()
}

fn export_listener_rate(policy: &Policy, now: Moment, rates: &mut Vec<HandedRate>) {
    let recovers_ns = policy.admission.as_ref().map_or(0, |admission| admission.rate.recovers_in(now));
    if recovers_ns > 0 {
        let listener = Some(policy.listener.to_string());
        rates.push(HandedRate { listener, recovers_ns, ..HandedRate::default() });
    }
}

/// The most routes whose counts are handed over, with about 150 bytes each. The counts of other routes begin again.
const MOST_ROUTES: usize = 65_536;

/// The longest name in the log of a route without a name whose counts are handed over. Only expressions are longer.
const LONGEST_ROUTE: usize = 512;

/// A route whose counts are handed over.
type CountedRoute<'a> = (&'a Policy, &'a str, &'a RouteCounts);

/// Adds the rates and the counts of the routes of a listener. Routes that share a limit or counts are there once.
fn export_routes<'a>(
    policy: &'a Policy,
    now: Moment,
    rates: &mut Vec<HandedRate>,
    routes: &mut Vec<CountedRoute<'a>>,
) {
    let (mut quotas, mut counted) = (HashSet::new(), HashSet::new());
    for RouteTarget { route, limits, counts, .. } in &policy.protocol.routes().targets {
        if let Some(limits) = limits
            && quotas.insert(Arc::as_ptr(&limits.quota))
            && let recovers_ns @ 1.. = limits.quota.rate().recovers_in(now)
        {
            let (listener, route) = (Some(policy.listener.to_string()), Some(route.to_string()));
            rates.push(HandedRate { listener, route, recovers_ns, ..HandedRate::default() });
        }
        if let Some(counts) = counts
            && (counts.is_named() || route.len() <= LONGEST_ROUTE)
            && counted.insert(Arc::as_ptr(counts))
        {
            routes.push((policy, route, counts));
        }
    }
}

/// Returns the counts of routes. If there are too many, the routes that were used last are handed over, and then routes that
/// were never used.
fn hand_over_routes(mut routes: Vec<CountedRoute<'_>>) -> Vec<HandedRouteCounts> {
    if routes.len() > MOST_ROUTES {
        routes.sort_by_cached_key(|(.., counts)| Reverse(counts.last_used()));
        routes.truncate(MOST_ROUTES);
    }
    let handed = routes.into_iter().map(|(policy, route, counts)| HandedRouteCounts {
        listener: policy.listener.to_string(),
        route: route.to_string(),
        unnamed: !counts.is_named(),
        connections: counts.connections(),
        last_used_s: counts.last_used().map_or(0, seconds_since_1970),
        since_s: Some(seconds_since_1970(counts.since())),
        bytes: bytes_of_route(counts),
    });
    handed.collect()
}

fn seconds_since_1970(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn bytes_of_route(counts: &RouteCounts) -> CountsByWord {
    let bytes =
        Direction::ALL.into_iter().map(|direction| (direction.word().to_owned(), counts.bytes(direction)));
    bytes.filter(|(_, bytes)| *bytes > 0).collect()
}

fn export_pool_rates(snapshot: &Snapshot, now: Moment, rates: &mut Vec<HandedRate>) {
    for (name, served) in &snapshot.pools {
        let recovers_ns = served.limits.as_ref().map_or(0, |limits| limits.quota.rate().recovers_in(now));
        if recovers_ns > 0 {
            let pool = Some(name.to_string());
            rates.push(HandedRate { pool, recovers_ns, ..HandedRate::default() });
        }
    }
}

fn export_drain(copy: &DrainCopy, now: Instant) -> HandedDrain {
    let left_ms = left_millis(copy.until.into_std().saturating_duration_since(now));
    match &copy.part {
        DrainingPart::Listener(name) => {
            HandedDrain { listener: Some(name.to_string()), left_ms, ..HandedDrain::default() }
        }
        DrainingPart::Backend(backend) => HandedDrain {
            pool: Some(backend.pool().to_string()),
            backend: Some(backend.name().to_string()),
            address: Some(backend.address().to_string()),
            left_ms,
            ..HandedDrain::default()
        },
    }
}

fn export_marks(snapshot: &Snapshot) -> Vec<HandedMarkKey> {
    let key = |(name, served): (&Arc<str>, &Arc<ServedPool>)| {
        Some(HandedMarkKey { pool: name.to_string(), key: served.pool.forward()?.mark_key() })
    };
    snapshot.pools.iter().filter_map(key).collect()
}
