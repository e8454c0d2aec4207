//! The counters that the metrics do not keep, and the counts of backends and routes.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{key_of, key_of_handed, policies};
use crate::pool::LookupResult;
use crate::server::view::View;
use crate::snapshot::{RouteTarget, ServedPool, Snapshot};
use crate::telemetry::metrics::{MetricDoc, families};
use crate::telemetry::{Direction, program_log};
use crate::wire::handover::{HandedCounter, HandedRouteCounts, ProcessState};

/// Returns all counters that belong to no backend and no route.
pub(super) fn export_counters(view: &View, snapshot: &Snapshot) -> Vec<HandedCounter> {
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
        if let Some(places) = pool.places() {
            let loads = places.loads();
            counters.extend(loads.map(|(word, count)| families::NEAR_LOADS.hand_over(&[name, word], count)));
        }
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
pub(in crate::server) fn add_counts(view: &View, state: &ProcessState) {
    let snapshot = view.snapshot.load_full();
    let backends: HashMap<_, _> =
        state.backends.iter().map(|handed| (key_of_handed(handed), handed)).collect();
    if !backends.is_empty() {
        for backend in snapshot.pools.values().flat_map(|served| served.pool.backends()) {
            if let Some(handed) = backends.get(&key_of(backend)) {
                backend.add_counts(&handed.counts);
            }
        }
    }
    add_route_counts(&snapshot, &state.routes);
    for counter in &state.counters {
        if !view.metrics.add_counter(counter) {
            add_kept_counter(view, &snapshot, counter);
        }
    }
}

fn add_route_counts(snapshot: &Snapshot, handed: &[HandedRouteCounts]) {
    // With the listener and the name of the route, and whether it has no name in its configuration.
    let mut handed: HashMap<_, _> =
        handed.iter().map(|route| ((&*route.listener, &*route.route, route.unnamed), route)).collect();
    if handed.is_empty() {
        return;
    }
    for policy in policies(snapshot) {
        for RouteTarget { route, counts, .. } in &policy.protocol.routes().targets {
            let Some(counts) = counts else { continue };
            let key = (&*policy.listener, &**route, !counts.is_named());
            let Some(of_route) = handed.remove(&key) else { continue };
            let last_used = Some(of_route.last_used_s).filter(|seconds| *seconds > 0).map(since_1970);
            let since = of_route.since_s.map_or_else(|| counts.since(), since_1970);
            counts.add_taken(of_route.connections, last_used, since);
            for direction in Direction::ALL {
                let bytes = of_route.bytes.get(direction.word()).copied().unwrap_or_default();
                counts.moved(direction, bytes);
            }
        }
    }
}

/// Returns the time of this many seconds after 1970.
fn since_1970(seconds: u64) -> SystemTime {
    // Later seconds are no time.
    UNIX_EPOCH + Duration::from_secs(seconds.min(u32::MAX.into()))
}

/// Adds a counter that the metrics do not keep. Other counters are ignored.
fn add_kept_counter(view: &View, snapshot: &Snapshot, counter: &HandedCounter) {
    let HandedCounter { family, value, .. } = counter;
    let label = |name: &str| counter.labels.get(name).map_or("", String::as_str);
    let (pool, list) = (snapshot.pools.get(label("pool")), snapshot.lists.get(label("list")));
    let is = |metric: &MetricDoc| metric.name == family;
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
        } else if is(&families::NEAR_LOADS) {
            pool.places().into_iter().for_each(|places| places.add_loads(label("result"), *value));
        } else if is(&families::FORWARD_LOOKUPS)
            && let Some(forward) = pool.forward()
            && let Some(result) =
                LookupResult::ALL.into_iter().find(|result| result.word() == label("result"))
        {
            forward.add_lookups(result, *value);
        }
    }
}
