//! The state of the process, to and from a [`World`].
//!
//! The incumbent calls [`export`] on a thread, with small copies of the state that only control has. The successor
//! restores the state after it has built its first snapshot, and before it accepts clients. Backends that are discovered
//! are in its second snapshot, so a part of the state waits in a [`PendingWorld`] until then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::ids::{BackendId, ListenerId};
use crate::limit::{Moment, Quota, SourceKey, SourceRate};
use crate::pool::{Backend, Discoveries, LookupResult, NameOrigin, SourceCopy};
use crate::server::draining::{DrainCopy, DrainingPart, DrainingSet};
use crate::server::view::View;
use crate::snapshot::{Policy, RouteTarget, ServedPool, Snapshot};
use crate::telemetry::metrics::families;
use crate::telemetry::{Direction, RouteCounts, program_log};
use crate::wire::handover::{
    CountsByWord, HandedAddition, HandedBackend, HandedCounter, HandedDiscovery, HandedDrain, HandedMarkKey,
    HandedRate, HandedRouteCounts, HandedSource, World, from_millis, left_millis,
};

/// The most sources that are handed over. Those that are over their rate come first. This is the default size of the
/// table of sources.
const MOST_SOURCES: usize = 65_536;

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
pub(in crate::server) fn export(view: &View, copies: &ControlCopies) -> World {
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
    World {
        backends: backends.map(|backend| backend.hand_over(now)).collect(),
        discovered: copies.sources.iter().map(|source| source.hand_over(now.into())).collect(),
        additions: export_additions(&snapshot, now),
        sources: export_sources(view, &policies, Moment::of(now)),
        rates,
        draining: copies.draining.iter().map(|copy| export_drain(copy, now)).collect(),
        marks: export_marks(&snapshot),
        routes,
        counters: export_counters(view, &snapshot),
    }
}

/// Returns one policy of each listener.
fn policies(snapshot: &Snapshot) -> Vec<&Arc<Policy>> {
    let by_id: HashMap<ListenerId, &Arc<Policy>> =
        snapshot.policies.values().map(|policy| (policy.listener_id, policy)).collect();
    by_id.into_values().collect()
}

fn export_additions(snapshot: &Snapshot, now: Instant) -> Vec<HandedAddition> {
    let of_list = |(name, list): (&Arc<str>, &Arc<crate::snapshot::List>)| {
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

/// Adds the rates and the counts of the routes of a listener. Routes that share a limit or counts are there once.
fn export_routes(
    policy: &Policy,
    now: Moment,
    rates: &mut Vec<HandedRate>,
    routes: &mut Vec<HandedRouteCounts>,
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
            && counts.connections() > 0
            && counted.insert(Arc::as_ptr(counts))
        {
            routes.push(HandedRouteCounts {
                listener: policy.listener.to_string(),
                route: route.to_string(),
                connections: counts.connections(),
                bytes: bytes_of_route(counts),
            });
        }
    }
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

fn export_counters(view: &View, snapshot: &Snapshot) -> Vec<HandedCounter> {
    let (mut counters, sources) = (view.metrics.counters(), &view.bounds.sources);
    counters.push(families::SOURCE_EVICTIONS.hand_over(&[], sources.evictions()));
    counters.push(families::SOURCES_WITHOUT_ROOM.hand_over(&[], sources.full()));
    counters.push(families::LOG_LINES_DROPPED.hand_over(&[], program_log::dropped_lines()));
    for (name, served) in &snapshot.pools {
        let ServedPool { pool, discovery, .. } = &**served;
        counters.push(families::PANIC_PICKS.hand_over(&[name], pool.panic_picks()));
        counters.push(families::HASH_OVERFLOWS.hand_over(&[name], pool.overflows().unwrap_or_default()));
        let failures = discovery.iter().fold(0_u64, |sum, source| sum.saturating_add(source.failures()));
        counters.push(families::DISCOVERY_FAILURES.hand_over(&[name], failures));
        if let Some(forward) = pool.forward() {
            let lookups = LookupResult::ALL.map(|result| {
                families::FORWARD_LOOKUPS.hand_over(&[name, result.word()], forward.lookups(result))
            });
            counters.extend(lookups);
        }
    }
    for (name, list) in &snapshot.lists {
        let kept = &list.kept;
        counters.push(families::LIST_REFUSALS.hand_over(&[name], kept.refusals()));
        let loads = [("ok", kept.loads()), ("failed", kept.failed_loads()), ("empty", kept.empty_loads())];
        counters.extend(loads.map(|(word, count)| families::LIST_LOADS.hand_over(&[name, word], count)));
    }
    counters.retain(|counter| counter.value > 0);
    counters
}

/// Adds the counts of another process: of its backends, its routes, and all others. Counts of parts that this process
/// does not have are lost.
pub(in crate::server) fn add_counts(view: &View, world: &World) {
    let snapshot = view.snapshot.load_full();
    let backends: HashMap<_, _> =
        world.backends.iter().map(|handed| (key_of_handed(handed), handed)).collect();
    if !backends.is_empty() {
        for backend in snapshot.pools.values().flat_map(|served| served.pool.backends()) {
            if let Some(handed) = backends.get(&key_of(backend)) {
                backend.add_counts(&handed.counts);
            }
        }
    }
    add_route_counts(&snapshot, &world.routes);
    for counter in &world.counters {
        if !view.metrics.add_counter(counter) {
            add_kept_counter(view, &snapshot, counter);
        }
    }
}

fn add_route_counts(snapshot: &Snapshot, handed: &[HandedRouteCounts]) {
    let mut handed: HashMap<_, _> =
        handed.iter().map(|route| ((&*route.listener, &*route.route), route)).collect();
    if handed.is_empty() {
        return;
    }
    for policy in policies(snapshot) {
        for RouteTarget { route, counts, .. } in &policy.protocol.routes().targets {
            let Some(counts) = counts else { continue };
            let Some(of_route) = handed.remove(&(&*policy.listener, &**route)) else { continue };
            counts.add_taken(of_route.connections);
            for direction in Direction::ALL {
                let bytes = of_route.bytes.get(direction.word()).copied().unwrap_or_default();
                counts.moved(direction, bytes);
            }
        }
    }
}

/// Adds a counter that the metrics do not keep. Other counters are ignored.
fn add_kept_counter(view: &View, snapshot: &Snapshot, counter: &HandedCounter) {
    let HandedCounter { family, value, .. } = counter;
    let label = |name: &str| counter.labels.get(name).map_or("", String::as_str);
    let (pool, list) = (snapshot.pools.get(label("pool")), snapshot.lists.get(label("list")));
    let is = |metric: &crate::telemetry::metrics::MetricDoc| metric.name == family;
    if is(&families::SOURCE_EVICTIONS) {
        view.bounds.sources.add_counts(*value, 0);
    } else if is(&families::SOURCES_WITHOUT_ROOM) {
        view.bounds.sources.add_counts(0, *value);
    } else if is(&families::LOG_LINES_DROPPED) {
        program_log::add_dropped_lines(*value);
    } else if let Some(list) = list {
        if is(&families::LIST_LOADS) {
            list.kept.add_loads(label("result"), *value);
        } else if is(&families::LIST_REFUSALS) {
            list.kept.add_refusals(*value);
        }
    } else if let Some(ServedPool { pool, discovery, .. }) = pool.map(|served| &**served) {
        if is(&families::PANIC_PICKS) {
            pool.add_panic_picks(*value);
        } else if is(&families::HASH_OVERFLOWS) {
            pool.add_overflows(*value);
        } else if is(&families::DISCOVERY_FAILURES) {
            // The family has one series for all sources of a pool.
            discovery.iter().take(1).for_each(|source| source.add_failures(*value));
        } else if is(&families::FORWARD_LOOKUPS)
            && let Some(forward) = pool.forward()
            && let Some(result) =
                LookupResult::ALL.into_iter().find(|result| result.word() == label("result"))
        {
            forward.add_lookups(result, *value);
        }
    }
}

/// A backend by the texts of its pool, its name and its address.
type BackendKey = (String, String, String);

fn key_of(backend: &Backend) -> BackendKey {
    (backend.pool().to_string(), backend.name().to_string(), backend.address().to_string())
}

fn key_of_handed(handed: &HandedBackend) -> BackendKey {
    (handed.pool.clone(), handed.name.clone(), handed.address.clone())
}

/// The state of an incumbent that is not in force yet: backends that are to be discovered, and the state of control.
pub(in crate::server) struct PendingWorld {
    /// The backends that were not found yet.
    backends: HashMap<BackendKey, HandedBackend>,
    /// The names of these backends by pool and address.
    names: HashMap<(String, String), String>,
    /// The pools that had backends.
    pools: HashSet<String>,
    /// The backends that were restored, or are new.
    settled: HashSet<BackendId>,
    discovered: Vec<HandedDiscovery>,
    draining: Vec<HandedDrain>,
}

impl PendingWorld {
    /// Restores the state of an incumbent, as far as the first snapshot has its parts. Must be called before control
    /// runs.
    pub(in crate::server) fn restore(world: World, view: &View) -> Self {
        let (snapshot, now) = (view.snapshot.load_full(), Instant::now());
        let World { backends, discovered, additions, sources, rates, draining, marks, routes, counters } =
            world;
        restore_marks(&snapshot, &marks);
        restore_additions(&snapshot, &additions, now);
        restore_sources(view, &snapshot, &sources, Moment::of(now));
        restore_rates(&snapshot, &rates, Moment::of(now));
        add_counts(view, &World { routes, counters, ..World::default() });
        let names = backends
            .iter()
            .map(|handed| ((handed.pool.clone(), handed.address.clone()), handed.name.clone()));
        let mut pending = Self {
            names: names.collect(),
            pools: backends.iter().map(|handed| handed.pool.clone()).collect(),
            backends: backends.into_iter().map(|handed| (key_of_handed(&handed), handed)).collect(),
            settled: HashSet::new(),
            discovered,
            draining,
        };
        pending.restore_backends(&snapshot);
        pending
    }

    /// Restores the backends of a snapshot that were not restored yet. Must be called before the snapshot is in force.
    pub(in crate::server) fn restore_backends(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        for served in snapshot.pools.values() {
            let backends = served.pool.backends().iter().zip(&served.pool.spec().backends);
            for (backend, spec) in backends {
                if self.settled.insert(backend.id()) {
                    self.restore_backend(backend, spec.origin == NameOrigin::Discovery, now);
                }
            }
        }
    }

    /// Restores a backend. A discovered backend is found by its address if its name has changed. A backend that the
    /// incumbent did not have begins slowly beside the others.
    fn restore_backend(&mut self, backend: &Backend, is_discovered: bool, now: Instant) {
        let key = key_of(backend);
        let mut handed = self.backends.remove(&key);
        if handed.is_none() && is_discovered {
            let (pool, _, address) = key;
            let name = self.names.get(&(pool.clone(), address.clone()));
            handed = name.and_then(|name| self.backends.remove(&(pool, name.clone(), address)));
        }
        match handed {
            Some(HandedBackend { health, counts, .. }) => {
                if let Some(health) = health {
                    backend.restore(&health, now);
                }
                backend.add_counts(&counts);
            }
            None if self.pools.contains(&**backend.pool()) => backend.start_slowly(),
            None => {}
        }
    }

    /// Returns the backends that each discovery source found. Empty after the first call.
    pub(in crate::server) fn take_discovered(&mut self) -> Vec<HandedDiscovery> {
        std::mem::take(&mut self.discovered)
    }

    /// Returns the listeners and backends that drain. Empty after the first call.
    pub(in crate::server) fn take_draining(&mut self) -> Vec<HandedDrain> {
        std::mem::take(&mut self.draining)
    }
}

fn restore_marks(snapshot: &Snapshot, handed: &[HandedMarkKey]) {
    for HandedMarkKey { pool, key } in handed {
        if let Some(forward) = snapshot.pools.get(&**pool).and_then(|served| served.pool.forward()) {
            forward.set_mark_key(*key);
        }
    }
}

fn restore_additions(snapshot: &Snapshot, handed: &[HandedAddition], now: Instant) {
    let mut by_list: HashMap<&str, Vec<_>> = HashMap::new();
    for HandedAddition { list, entry, left_ms } in handed {
        if let Ok(entry) = entry.parse() {
            by_list.entry(list).or_default().push((entry, left_ms.map(|left| now + from_millis(left))));
        }
    }
    for (name, entries) in by_list {
        if let Some(list) = snapshot.lists.get(name) {
            list.kept.additions.restore(entries, now);
        }
    }
}

fn restore_sources(view: &View, snapshot: &Snapshot, handed: &[HandedSource], now: Moment) {
    let listeners: HashMap<&str, ListenerId> =
        snapshot.policies.values().map(|policy| (&*policy.listener, policy.listener_id)).collect();
    for HandedSource { listener, source, recovers_ns, over_ns } in handed.iter().take(MOST_SOURCES) {
        if let Some(&listener) = listeners.get(&**listener)
            && let Ok(bits) = u128::from_str_radix(source, 16)
        {
            let source = SourceKey::from_bits(bits);
            let rate = SourceRate { listener, source, recovers_in: *recovers_ns, over_for: *over_ns };
            view.bounds.sources.restore(&rate, now);
        }
    }
}

fn restore_rates(snapshot: &Snapshot, handed: &[HandedRate], now: Moment) {
    let mut of_routes: HashMap<(&str, &str), u64> = HashMap::new();
    let mut of_listeners: HashMap<&str, u64> = HashMap::new();
    for HandedRate { listener, route, pool, recovers_ns } in handed {
        match (listener, route, pool) {
            (Some(listener), Some(route), None) => _ = of_routes.insert((listener, route), *recovers_ns),
            (Some(listener), None, None) => _ = of_listeners.insert(listener, *recovers_ns),
            (None, None, Some(pool)) => {
                let limits = snapshot.pools.get(&**pool).and_then(|served| served.limits.as_ref());
                restore_rate(limits.map(|limits| &limits.quota), Some(recovers_ns), now);
            }
            _ => {}
        }
    }
    for policy in policies(snapshot) {
        if let Some(admission) = &policy.admission
            && let Some(recovers_ns) = of_listeners.get(&*policy.listener)
        {
            admission.rate.restore(*recovers_ns, now);
        }
        if of_routes.is_empty() {
            continue;
        }
        for RouteTarget { route, limits, .. } in &policy.protocol.routes().targets {
            let quota = limits.as_ref().map(|limits| &limits.quota);
            if quota.is_some() {
                restore_rate(quota, of_routes.get(&(&*policy.listener, &**route)), now);
            }
        }
    }
}

fn restore_rate(quota: Option<&Arc<Quota>>, recovers_ns: Option<&u64>, now: Moment) {
    if let (Some(quota), Some(recovers_ns)) = (quota, recovers_ns) {
        quota.rate().restore(*recovers_ns, now);
    }
}
