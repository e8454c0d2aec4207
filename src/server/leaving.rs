//! What reloads took away and whose connections may still go on for a while.
//!
//! What comes back in that time is the same again: a listener by its name, a backend by its pool, name
//! and address. It goes on with its number and counts, and its connections are no longer to be closed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::limit::Gate;
use crate::pool::Backend;
use crate::snapshot::Snapshot;

/// Everything that is leaving.
#[derive(Default)]
pub(super) struct Leaving {
    departures: Vec<Departure>,
}

/// What one reload took away.
struct Departure {
    /// When its connections are closed.
    deadline: Instant,
    listeners: Vec<Listener>,
    backends: Vec<Arc<Backend>>,
}

/// What lives on of a listener.
#[derive(Clone)]
pub(super) struct Listener {
    pub(super) name: Arc<str>,
    pub(super) number: u64,
    pub(super) gate: Arc<Gate>,
}

impl Leaving {
    /// Notes what `old` has and `new` has not, and forgets what is back.
    pub(super) fn note(&mut self, old: &Snapshot, new: &Snapshot, deadline: Instant) {
        let staying = numbers(new);
        let mut listeners: Vec<_> = old
            .policies
            .values()
            .filter(|policy| !staying.contains(&policy.number))
            .map(|policy| Listener {
                name: Arc::clone(&policy.listener),
                number: policy.number,
                gate: Arc::clone(&policy.gate),
            })
            .collect();
        // A listener has a policy for each of its addresses.
        listeners.sort_by_key(|listener| listener.number);
        listeners.dedup_by_key(|listener| listener.number);
        let backends =
            backends(old).filter(|backend| !staying.contains(&backend.number())).cloned().collect();
        self.departures.push(Departure { deadline, listeners, backends });
        self.departures.retain_mut(|departure| {
            departure.listeners.retain(|listener| !staying.contains(&listener.number));
            departure.backends.retain(|backend| !staying.contains(&backend.number()));
            !(departure.listeners.is_empty() && departure.backends.is_empty())
        });
    }

    /// The listener of that name, if it is leaving.
    pub(super) fn listener(&self, name: &str) -> Option<&Listener> {
        self.departures.iter().rev().flat_map(|departure| &departure.listeners).find(|it| *it.name == *name)
    }

    /// The backends that are leaving, by their pools.
    pub(super) fn backends(&self) -> HashMap<&str, Vec<&Arc<Backend>>> {
        let mut by_pool: HashMap<_, Vec<_>> = HashMap::new();
        for backend in self.departures.iter().flat_map(|departure| &departure.backends) {
            by_pool.entry(&**backend.pool()).or_default().push(backend);
        }
        by_pool
    }

    /// When the next of them are to be closed.
    pub(super) fn next(&self) -> Option<Instant> {
        self.departures.iter().map(|departure| departure.deadline).min()
    }

    /// Takes out those whose time is over: their numbers.
    pub(super) fn overdue(&mut self, now: Instant) -> Arc<[u64]> {
        let mut numbers = Vec::new();
        for departure in self.departures.extract_if(.., |departure| departure.deadline <= now) {
            numbers.extend(departure.listeners.iter().map(|listener| listener.number));
            numbers.extend(departure.backends.iter().map(|backend| backend.number()));
        }
        numbers.into()
    }
}

fn backends(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Backend>> {
    snapshot.pools.values().flat_map(|served| served.pool.backends())
}

/// The numbers of all listeners and backends of a snapshot, by which their connections are found.
fn numbers(snapshot: &Snapshot) -> HashSet<u64> {
    let listeners = snapshot.policies.values().map(|policy| policy.number);
    listeners.chain(backends(snapshot).map(|backend| backend.number())).collect()
}
