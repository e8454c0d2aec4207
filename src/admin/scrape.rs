//! The page /metrics: the series that are counted as events happen, then the values that are read for the
//! page.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use crate::pool::{
    Backend, BackendSpec, BackendState, ChangeReason, Discovery, LookupResult, NameOrigin, Pool, PoolSpec,
    Trouble,
};
use crate::server::{OverrideKind, ReadyReason, View};
use crate::snapshot::{ServedPool, Snapshot};
use crate::sys::process;
use crate::telemetry::metrics::{MetricDoc, families};
use crate::telemetry::{CloseKind, Direction, Exposition, program_log};

/// The most named routes of a listener that have series. A file with routes, written by another program, may
/// name a hundred thousand.
const MOST_ROUTES: usize = 1000;

/// Returns the whole page. It takes milliseconds with many backends or pools.
pub(super) fn text(view: &View) -> String {
    bounds(view);
    let mut exposition = Exposition::after(view.metrics.render());
    let snapshot = view.snapshot.load_full();
    routes(&snapshot, &mut exposition);
    pools(&snapshot, &mut exposition);
    traffic(&snapshot, &mut exposition);
    backends(&snapshot, &mut exposition);
    limits(&snapshot, &mut exposition);
    balancing(&snapshot, &mut exposition);
    states(&snapshot, &mut exposition);
    checks(&snapshot, &mut exposition);
    agents(&snapshot, &mut exposition);
    discoveries(&snapshot, &mut exposition);
    forwards(&snapshot, &mut exposition);
    overrides(view, &mut exposition);
    readiness(view, &mut exposition);
    lists(&snapshot, &mut exposition);
    hash_tables(&snapshot, &mut exposition);
    match process::figures() {
        Ok(figures) => exposition.process(&figures),
        // A system without /proc still has all other metrics.
        Err(error) => tracing::debug!(%error, "the figures of the process cannot be read"),
    }
    exposition.finish()
}

fn bounds(view: &View) {
    let (process, bounds) = (view.metrics.process(), &view.bounds);
    process.hello_memory.set(bounds.hello_memory.inside() as f64);
    process.tarpitted.set(bounds.tarpit.inside() as f64);
    process.sources_open.set(bounds.sources.occupied() as f64);
    process.sources_known.set(bounds.sources.known() as f64);
    process.source_evictions.absolute(bounds.sources.evictions());
    process.sources_without_room.absolute(bounds.sources.full());
    process.log_lines_dropped.absolute(program_log::dropped_lines());
}

fn pools(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut each = |metric: &'static MetricDoc, value: fn(&Pool) -> f64| {
        let mut family = exposition.family(metric);
        for (name, served) in &snapshot.pools {
            family.sample(&[("pool", name)], value(&served.pool));
        }
    };
    each(&families::QUEUE_LENGTH, |pool| pool.waiting() as f64);
    each(&families::POOL_PANIC, |pool| f64::from(u8::from(pool.is_in_panic())));
    each(&families::PANIC_PICKS, |pool| pool.panic_picks() as f64);
    let near = || snapshot.pools.iter().filter_map(|(name, served)| Some((name, served.pool.places()?)));
    let mut family = exposition.family(&families::NEAR_LOADS);
    for (name, places) in near() {
        for (result, count) in places.loads() {
            family.sample(&[("pool", name), ("result", result)], count as f64);
        }
    }
    let mut family = exposition.family(&families::NEAR_LAST_LOAD);
    for (name, places) in near() {
        let since_epoch =
            places.loaded().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        family.sample(&[("pool", name)], since_epoch.as_secs_f64());
    }
    let mut family = exposition.family(&families::TIER_SHARE);
    for (name, served) in &snapshot.pools {
        for tier in served.pool.tiers() {
            let kind = if tier.is_backup { "backup" } else { "primary" };
            family.sample(&[("pool", name), ("tier", &tier.name), ("kind", kind)], tier.share);
        }
    }
}

/// Writes the series of routes with names: the first named routes of each listener.
fn routes(snapshot: &Snapshot, exposition: &mut Exposition) {
    let policies: BTreeMap<_, _> =
        snapshot.policies.values().map(|policy| (&policy.listener, policy)).collect();
    let mut named = Vec::new();
    for (listener, policy) in policies {
        let mut seen = HashSet::new();
        let targets = policy.protocol.routes().targets.iter();
        let counted = targets.filter_map(|target| Some((&target.route, target.named_counts()?)));
        let each = counted.filter(|(route, _)| seen.insert(*route)).take(MOST_ROUTES);
        named.extend(each.map(|(route, counts)| (&**listener, &**route, counts)));
    }
    let mut family = exposition.family(&families::ROUTE_CONNECTIONS);
    for (listener, route, counts) in &named {
        family.sample(&[("listener", listener), ("route", route)], counts.connections() as f64);
    }
    let mut family = exposition.family(&families::ROUTE_BYTES);
    for (listener, route, counts) in &named {
        for direction in Direction::ALL {
            let labels = [("listener", *listener), ("route", *route), ("direction", direction.word())];
            family.sample(&labels, counts.bytes(direction) as f64);
        }
    }
}

/// Writes the bytes, the closes and the first bytes of connections, by pool and backend.
fn traffic(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut family = exposition.family(&families::FIRST_BYTE_SECONDS);
    for (name, served) in &snapshot.pools {
        family.distribution(&[("pool", name)], &served.metrics.first_byte);
    }
    each_backend(snapshot, exposition, &families::BACKEND_BYTES, |_, backend, sample| {
        for direction in Direction::ALL {
            sample(direction.word(), backend.traffic().counts().bytes(direction), true);
        }
    });
    each_backend(snapshot, exposition, &families::BACKEND_CLOSED, |_, backend, sample| {
        for kind in CloseKind::ALL {
            sample(kind.word(), backend.traffic().counts().closed(kind), kind == CloseKind::BackendReset);
        }
    });
}

/// Writes the number of overrides of each kind.
fn overrides(view: &View, exposition: &mut Exposition) {
    let all = view.overrides.all();
    let mut family = exposition.family(&families::OVERRIDES);
    for kind in OverrideKind::ALL {
        let count = all.iter().filter(|(key, _)| key.kind == kind).count();
        family.sample(&[("kind", kind.word())], count as f64);
    }
}

/// Writes a series for each reason, so that an expression finds a reason that was never in force too.
fn readiness(view: &View, exposition: &mut Exposition) {
    let reason = view.readiness().reason;
    let mut family = exposition.family(&families::READY);
    for one in ReadyReason::ALL {
        family.sample(&[("reason", one.word())], f64::from(u8::from(one == reason)));
    }
}

fn forwards(snapshot: &Snapshot, exposition: &mut Exposition) {
    let pools = || snapshot.pools.iter().filter_map(|(name, served)| Some((name, served.pool.forward()?)));
    let mut lookups = exposition.family(&families::FORWARD_LOOKUPS);
    for (name, forward) in pools() {
        for result in LookupResult::ALL {
            lookups.sample(&[("pool", name), ("result", result.word())], forward.lookups(result) as f64);
        }
    }
    let mut known = exposition.family(&families::FORWARD_NAMES);
    for (name, forward) in pools() {
        known.sample(&[("pool", name)], forward.known() as f64);
    }
}

fn lists(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut entries = exposition.family(&families::LIST_ENTRIES);
    let now = Instant::now();
    for (name, list) in &snapshot.lists {
        let of_file = list.file().map_or(0, |(_, count)| count);
        let parts =
            [("written", list.written()), ("file", of_file), ("added", list.kept.additions.count(now))];
        for (part, count) in parts {
            entries.sample(&[("list", name), ("part", part)], count as f64);
        }
    }
    let mut loads = exposition.family(&families::LIST_LOADS);
    for (name, list) in &snapshot.lists {
        loads.sample(&[("list", name), ("result", "ok")], list.kept.loads() as f64);
        loads.sample(&[("list", name), ("result", "failed")], list.kept.failed_loads() as f64);
        loads.sample(&[("list", name), ("result", "empty")], list.kept.empty_loads() as f64);
    }
    let mut last_load = exposition.family(&families::LIST_LAST_LOAD);
    for (name, list) in &snapshot.lists {
        last_load.sample(&[("list", name)], list.kept.loaded() as f64 / 1000.0);
    }
    let mut refusals = exposition.family(&families::LIST_REFUSALS);
    for (name, list) in &snapshot.lists {
        refusals.sample(&[("list", name)], list.kept.refusals() as f64);
    }
}

fn limits(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut family = exposition.family(&families::BACKEND_CONNECTIONS_LIMIT);
    for (pool, served) in &snapshot.pools {
        for backend in served.pool.backends() {
            if let Some(limit) = backend.limit_in_force() {
                family.sample(&[("pool", pool), ("backend", backend.name())], limit as f64);
            }
        }
    }
}

fn backends(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut each = |metric: &'static MetricDoc, value: fn(&Backend) -> u64| {
        let mut family = exposition.family(metric);
        for (pool, served) in &snapshot.pools {
            for backend in served.pool.backends() {
                family.sample(&[("pool", pool), ("backend", backend.name())], value(backend) as f64);
            }
        }
    };
    each(&families::BACKEND_UP, |backend| u64::from(backend.state() == BackendState::Up));
    each(&families::BACKEND_STATE, |backend| backend.state().number().into());
    each(&families::BACKEND_WEIGHT, |backend| backend.weight().into());
    each(&families::BACKEND_CONNECTIONS_ACTIVE, Backend::active);
    each(&families::BACKEND_CONNECTIONS, |backend| backend.traffic().connections_total());
    each(&families::BACKEND_WAITING, |backend| backend.traffic().counts().waiting());
}

fn balancing(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut infos = exposition.family(&families::POOL_INFO);
    for (pool, served) in &snapshot.pools {
        infos.sample(&[("pool", pool), ("balance", served.pool.spec().algorithm.word())], 1.0);
    }
    let now = Instant::now();
    let mut shares = exposition.family(&families::BACKEND_SHARE);
    let may_be_reduced = |served: &ServedPool| {
        let spec = served.pool.spec();
        spec.slow_start.is_some() || spec.agent.is_some()
    };
    for (pool, served) in snapshot.pools.iter().filter(|(_, served)| may_be_reduced(served)) {
        for backend in served.pool.backends() {
            let labels = [("pool", &**pool), ("backend", backend.name())];
            shares.sample(&labels, served.pool.share(backend, now));
        }
    }
    let mut overflows = exposition.family(&families::HASH_OVERFLOWS);
    for (pool, served) in &snapshot.pools {
        if let Some(count) = served.pool.overflows() {
            overflows.sample(&[("pool", pool)], count as f64);
        }
    }
}

fn states(snapshot: &Snapshot, exposition: &mut Exposition) {
    each_backend(snapshot, exposition, &families::BACKEND_STATE_CHANGES, |spec, backend, sample| {
        for state in BackendState::ALL {
            sample(state.word(), backend.health().entered(state), may_enter(state, spec));
        }
    });
    each_backend(snapshot, exposition, &families::BACKEND_FAULT, |_, backend, sample| {
        if let Some(word) = fault(backend) {
            sample(word, 1, true);
        }
    });
    each_backend(snapshot, exposition, &families::BACKEND_TROUBLES, |_, backend, sample| {
        for trouble in Trouble::ALL {
            sample(trouble.word(), backend.traffic().troubles(trouble), true);
        }
    });
}

/// Returns the word for the fault of a backend that is down; `None` in any other state.
fn fault(backend: &Backend) -> Option<&'static str> {
    match backend.health().reason().filter(|_| backend.state() == BackendState::Down)? {
        ChangeReason::ChecksFailed(fault) => Some(fault.failed_check().word()),
        _ => Some("agent"),
    }
}

/// Returns true if a backend of this pool may enter a state by itself. The operator may also set drain and
/// maintenance.
fn may_enter(state: BackendState, spec: &PoolSpec) -> bool {
    let (is_checked, has_agent) = (spec.health.is_some(), spec.agent.is_some());
    match state {
        BackendState::Up => is_checked || has_agent || spec.ejection.is_some(),
        BackendState::Down => is_checked || has_agent,
        BackendState::Ejected => spec.ejection.is_some(),
        BackendState::Draining | BackendState::Maintenance => has_agent,
    }
}

fn checks(snapshot: &Snapshot, exposition: &mut Exposition) {
    each_backend(snapshot, exposition, &families::BACKEND_CHECKS, |spec, backend, sample| {
        let is_checked = spec.health.is_some();
        sample("passed", backend.health().checks_passed(), is_checked);
        sample("failed", backend.health().checks_failed(), is_checked);
        sample("not_made", backend.health().checks_not_made(), false);
    });
    let mut family = exposition.family(&families::BACKEND_CHECK_SECONDS);
    for (pool, served) in &snapshot.pools {
        for backend in served.pool.backends() {
            if let Some(took) = backend.traffic().counts().last_check() {
                family.sample(&[("pool", pool), ("backend", backend.name())], took.as_secs_f64());
            }
        }
    }
}

/// Writes a family of backends with a third label. A sample is a value of this label, a count, and true if
/// the count can exceed 0 with the pool's settings. A count of 0 that cannot rise has no series.
fn each_backend(
    snapshot: &Snapshot,
    exposition: &mut Exposition,
    metric: &'static MetricDoc,
    samples: impl Fn(&PoolSpec, &Backend, &mut dyn FnMut(&str, u64, bool)),
) {
    let label = metric.labels[2];
    let mut family = exposition.family(metric);
    for (pool, served) in &snapshot.pools {
        for backend in served.pool.backends() {
            samples(served.pool.spec(), backend, &mut |word, count, can_be| {
                if can_be || count > 0 {
                    let labels = [("pool", &**pool), ("backend", backend.name()), (label, word)];
                    family.sample(&labels, count as f64);
                }
            });
        }
    }
}

fn agents(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut family = exposition.family(&families::BACKEND_AGENT_SHARE);
    for (pool, served) in snapshot.pools.iter().filter(|(_, served)| served.pool.spec().agent.is_some()) {
        for backend in served.pool.backends() {
            let labels = [("pool", &**pool), ("backend", backend.name())];
            family.sample(&labels, f64::from(backend.health().agent_share()) / 100.0);
        }
    }
}

/// Writes the series of discovery. Pools without discovery have none, so that an alert on a source's age has
/// a meaning.
fn discoveries(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut found = exposition.family(&families::DISCOVERY_BACKENDS);
    for (pool, served) in &snapshot.pools {
        let spec = served.pool.spec();
        if !served.discovery.is_empty() && !spec.discover.is_empty() {
            let is_found = |spec: &&BackendSpec| spec.origin != NameOrigin::Configuration;
            found.sample(&[("pool", pool)], spec.backends.iter().filter(is_found).count() as f64);
        }
    }
    let mut each = |metric: &'static MetricDoc, value: fn(&ServedPool) -> f64| {
        let mut family = exposition.family(metric);
        for (pool, served) in &snapshot.pools {
            if !served.discovery.is_empty() {
                family.sample(&[("pool", pool)], value(served));
            }
        }
    };
    each(&families::DISCOVERY_FAILURES, |served| {
        served.discovery.iter().map(|source| source.failures()).sum::<u64>() as f64
    });
    each(&families::DISCOVERY_FAILING, |served| {
        f64::from(u8::from(served.discovery.iter().any(|source| source.fault().is_some())))
    });
    // Of several sources, the one with the oldest answer.
    each(&families::DISCOVERY_LAST_SUCCESS, |served| {
        let since_epoch = |source: &Arc<Discovery>| source.succeeded()?.duration_since(UNIX_EPOCH).ok();
        let oldest = served.discovery.iter().map(since_epoch).min().flatten();
        oldest.unwrap_or_default().as_secs_f64()
    });
}

fn hash_tables(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut infos = exposition.family(&families::HASH_TABLE_INFO);
    for (pool, served) in &snapshot.pools {
        if let Some(digest) = served.pool.digest() {
            infos.sample(&[("pool", pool), ("digest", &format!("{digest:016x}"))], 1.0);
        }
    }
    let mut entries = exposition.family(&families::HASH_TABLE_ENTRIES);
    for (pool, served) in &snapshot.pools {
        let counts = served.pool.entries().unwrap_or_default();
        for (backend, count) in served.pool.backends().iter().zip(counts) {
            entries.sample(&[("pool", pool), ("backend", backend.name())], count.into());
        }
    }
}
