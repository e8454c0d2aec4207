//! The state of the incumbent, put in force in its successor.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use super::counts::add_counts;
use super::{BackendKey, MOST_SOURCES, key_of, key_of_handed, policies};
use crate::ids::{BackendId, ListenerId};
use crate::limit::{Moment, Quota, SourceKey, SourceRate};
use crate::pool::{Backend, NameOrigin};
use crate::server::overrides::{Override, OverrideKey, OverrideKind, OverrideValue};
use crate::server::view::View;
use crate::snapshot::{RouteTarget, Snapshot};
use crate::wire::handover::{
    HandedAddition, HandedBackend, HandedDiscovery, HandedDrain, HandedMarkKey, HandedOverride, HandedRate,
    HandedSource, ProcessState, from_millis,
};

/// The state of an incumbent that is not in force yet: backends that are to be discovered, and the state of control.
pub(in crate::server) struct PendingState {
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

impl PendingState {
    /// Restores the state of an incumbent, as far as the first snapshot has its parts. Must be called before control
    /// runs.
    pub(in crate::server) fn restore(state: ProcessState, view: &View) -> Self {
        let (snapshot, now) = (view.snapshot.load_full(), Instant::now());
        let ProcessState {
            backends,
            discovered,
            additions,
            sources,
            rates,
            draining,
            marks,
            routes,
            counters,
            overrides,
            needs,
        } = state;
        restore_overrides(view, &overrides, now);
        view.needs.restore(needs, now);
        restore_marks(&snapshot, &marks);
        restore_additions(&snapshot, &additions, now);
        restore_sources(view, &snapshot, &sources, Moment::of(now));
        restore_rates(&snapshot, &rates, Moment::of(now));
        add_counts(view, &ProcessState { routes, counters, ..ProcessState::default() });
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

pub(in crate::server) fn restore_additions(snapshot: &Snapshot, handed: &[HandedAddition], now: Instant) {
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

/// Restores the overrides of operators. Those of a kind or a value that this version does not know are logged and left out.
fn restore_overrides(view: &View, handed: &[HandedOverride], now: Instant) {
    let restored = handed.iter().filter_map(|handed| {
        let restored = read_override(handed, now);
        if restored.is_none() {
            let HandedOverride { kind, pool, backend, value, .. } = handed;
            tracing::warn!(
                kind,
                pool,
                backend,
                value,
                "an override of the program before this one is not known here, and ends"
            );
        }
        restored
    });
    view.overrides.restore(restored);
}

fn read_override(handed: &HandedOverride, now: Instant) -> Option<(OverrideKey, Override)> {
    let kind = OverrideKind::of_word(&handed.kind)?;
    let value = OverrideValue::of_text(kind, &handed.value)?;
    let end = match handed.left_ms {
        Some(left) => Some(now.checked_add(from_millis(left))?),
        None => None,
    };
    let key = OverrideKey {
        listener: handed.listener.as_str().into(),
        route: handed.route.as_str().into(),
        ..OverrideKey::of_backend(kind, &handed.pool, &handed.backend)
    };
    let since = UNIX_EPOCH + from_millis(handed.since_ms);
    Some((key, Override { value, since, by: handed.by.as_str().into(), end }))
}
