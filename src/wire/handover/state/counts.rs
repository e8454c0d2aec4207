//! The difference between two states of one process: the counts of the time between them.

use std::collections::{BTreeMap, HashMap};

use super::{
    CountsByWord, HandedBackend, HandedBackendCounts, HandedCounter, HandedRouteCounts, ProcessState,
};

impl ProcessState {
    /// Returns the counts since an earlier state of the same process. The result has no other state.
    #[must_use]
    pub fn counts_since(&self, earlier: &Self) -> Self {
        Self {
            backends: backends_since(&self.backends, &earlier.backends),
            routes: routes_since(&self.routes, &earlier.routes),
            counters: counters_since(&self.counters, &earlier.counters),
            ..Self::default()
        }
    }
}

fn backends_since(now: &[HandedBackend], earlier: &[HandedBackend]) -> Vec<HandedBackend> {
    fn key(backend: &HandedBackend) -> (&str, &str, &str) {
        (&backend.pool, &backend.name, &backend.address)
    }
    let before: HashMap<_, _> = earlier.iter().map(|backend| (key(backend), &backend.counts)).collect();
    let nothing = HandedBackendCounts::default();
    let since = now.iter().map(|backend| HandedBackend {
        health: None,
        counts: backend.counts.since(before.get(&key(backend)).copied().unwrap_or(&nothing)),
        pool: backend.pool.clone(),
        name: backend.name.clone(),
        address: backend.address.clone(),
    });
    since.filter(|backend| backend.counts != nothing).collect()
}

impl HandedBackendCounts {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(earlier.connections),
            troubles: since(&self.troubles, &earlier.troubles),
            entered: since(&self.entered, &earlier.entered),
            checks: since(&self.checks, &earlier.checks),
            bytes: since(&self.bytes, &earlier.bytes),
            closed: since(&self.closed, &earlier.closed),
            last_check_us: None,
        }
    }
}

/// The most routes in the difference, which is sent in one message. Counts of others are lost.
const LAST_ROUTES: usize = 10_000;

fn routes_since(now: &[HandedRouteCounts], earlier: &[HandedRouteCounts]) -> Vec<HandedRouteCounts> {
    fn key(route: &HandedRouteCounts) -> (&str, &str, bool) {
        (&route.listener, &route.route, route.unnamed)
    }
    let before: HashMap<_, _> = earlier.iter().map(|route| (key(route), route)).collect();
    let nothing = HandedRouteCounts::default();
    let since = now.iter().map(|route| {
        let before = before.get(&key(route)).copied().unwrap_or(&nothing);
        HandedRouteCounts {
            connections: route.connections.saturating_sub(before.connections),
            bytes: since(&route.bytes, &before.bytes),
            ..route.clone()
        }
    });
    since.filter(|route| route.connections > 0 || !route.bytes.is_empty()).take(LAST_ROUTES).collect()
}

fn counters_since(now: &[HandedCounter], earlier: &[HandedCounter]) -> Vec<HandedCounter> {
    fn key(counter: &HandedCounter) -> (&str, &BTreeMap<String, String>) {
        (&counter.family, &counter.labels)
    }
    let before: HashMap<_, _> = earlier.iter().map(|counter| (key(counter), counter.value)).collect();
    let since = now.iter().map(|counter| {
        let before = before.get(&key(counter)).copied().unwrap_or_default();
        HandedCounter { value: counter.value.saturating_sub(before), ..counter.clone() }
    });
    since.filter(|counter| counter.value > 0).collect()
}

fn since(now: &CountsByWord, earlier: &CountsByWord) -> CountsByWord {
    let since = now.iter().map(|(word, count)| {
        (word.clone(), count.saturating_sub(earlier.get(word).copied().unwrap_or_default()))
    });
    since.filter(|(_, count)| *count > 0).collect()
}
