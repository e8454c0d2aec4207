//! What reloads and discovery took away and whose connections may still go on for a while.
//!
//! What comes back in that time is the same again: a listener by its name, a backend by its pool, name
//! and address. It goes on with its number and counts, and its connections are no longer to be closed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::build::InheritedListener;
use super::events::{EventKind, Severity};
use super::run::Control;
use crate::pool::{Backend, Pool};
use crate::snapshot::{Snapshot, UsageLimit};

/// After a moment at which connections are told to close, when they are told once more: one that was just
/// on its way from one worker to another, or between two backends, heard nothing the first time.
const AGAIN: Duration = Duration::from_secs(1);

/// Everything that is leaving.
#[derive(Default)]
pub(super) struct DrainingSet {
    departures: Vec<Removal>,
}

/// What one reload or one discovery took away.
struct Removal {
    /// When its connections are closed, in order; never empty.
    moments: VecDeque<Instant>,
    listeners: Vec<DrainingListener>,
    backends: Vec<DrainingBackend>,
    /// What was used of the limits of pools, by name.
    limits: Vec<(Arc<str>, UsageLimit)>,
}

/// A backend that is leaving.
struct DrainingBackend {
    backend: Arc<Backend>,
    /// Whether the end of its drain is still to be logged.
    is_awaited: bool,
}

impl DrainingBackend {
    /// A backend without open connections has nothing to drain.
    fn new(backend: &Arc<Backend>) -> Self {
        Self { backend: Arc::clone(backend), is_awaited: backend.active() > 0 }
    }

    fn number(&self) -> u64 {
        self.backend.number()
    }

    /// The end of its drain, if it is over and not yet logged.
    fn end(&mut self, is_deadline: bool) -> Option<DrainEnd> {
        let open = self.backend.active();
        // A dial that began before may have come later.
        let is_over = if is_deadline { self.is_awaited || open > 0 } else { self.is_awaited && open == 0 };
        is_over.then(|| {
            self.is_awaited = false;
            let (pool, name) = (Arc::clone(self.backend.pool()), Arc::clone(self.backend.name()));
            DrainEnd { pool: Some(pool), name, reset: open }
        })
    }
}

/// The end of the drain of a backend or a listener that was removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DrainEnd {
    /// The pool of a backend; `None` for a listener.
    pub(super) pool: Option<Arc<str>>,
    pub(super) name: Arc<str>,
    /// Connections that were open, and are reset.
    pub(super) reset: u64,
}

/// Whose time is over.
#[derive(Debug, Default)]
pub(super) struct ExpiredDrains {
    /// The numbers of listeners and backends.
    pub(super) numbers: Arc<[u64]>,
    /// Those of them whose drain is over with this.
    pub(super) ends: Vec<DrainEnd>,
}

/// What lives on of a listener.
struct DrainingListener {
    name: Arc<str>,
    before: InheritedListener,
    /// Whether the end of its drain was logged.
    is_reported: bool,
}

impl DrainingSet {
    /// Notes what `old` has and `new` has not, to be closed after `drain`, and forgets what is back.
    pub(super) fn note(&mut self, old: &Snapshot, new: &Snapshot, now: Instant, drain: Duration) {
        let staying = numbers(new);
        let mut listeners: Vec<_> = old
            .policies
            .values()
            .filter(|policy| !staying.contains(&policy.number))
            .map(|policy| DrainingListener {
                name: Arc::clone(&policy.listener),
                before: InheritedListener::of(policy),
                is_reported: false,
            })
            .collect();
        // A listener has a policy for each of its addresses.
        listeners.sort_by_key(|listener| listener.before.number);
        listeners.dedup_by_key(|listener| listener.before.number);
        let backends = backends(old)
            .filter(|backend| !staying.contains(&backend.number()))
            .map(DrainingBackend::new)
            .collect();
        let dials = old.pools.values().map(|served| served.pool.spec().longest_dial());
        let moments = moments(now, drain, dials.max().unwrap_or_default());
        let gone = old.pools.iter().filter(|(name, _)| !new.pools.contains_key(*name));
        let limits = gone.filter_map(|(name, served)| Some((Arc::clone(name), served.limits.clone()?)));
        let limits = limits.collect();
        self.departures.push(Removal { moments, listeners, backends, limits });
        self.departures.retain_mut(|removal| {
            removal.limits.retain(|(name, _)| !new.pools.contains_key(name));
            removal.listeners.retain(|listener| !staying.contains(&listener.before.number));
            removal.backends.retain(|backend| !staying.contains(&backend.number()));
            !(removal.listeners.is_empty() && removal.backends.is_empty())
        });
    }

    /// The same for one pool alone, whose connections have `drain`.
    pub(super) fn note_pool(&mut self, old: &Pool, new: &Pool, now: Instant, drain: Duration) {
        let staying: HashSet<u64> = new.backends().iter().map(|backend| backend.number()).collect();
        let goes = |backend: &&Arc<Backend>| !staying.contains(&backend.number());
        let backends = old.backends().iter().filter(goes).map(DrainingBackend::new).collect();
        let moments = moments(now, drain, old.spec().longest_dial());
        self.departures.push(Removal { moments, listeners: Vec::new(), backends, limits: Vec::new() });
        self.departures.retain_mut(|removal| {
            removal.backends.retain(|backend| !staying.contains(&backend.number()));
            !(removal.listeners.is_empty() && removal.backends.is_empty())
        });
    }

    /// What the listener of that name had, if it is leaving.
    pub(super) fn listener(&self, name: &str) -> Option<&InheritedListener> {
        let mut listeners = self.departures.iter().rev().flat_map(|removal| &removal.listeners);
        listeners.find(|listener| *listener.name == *name).map(|listener| &listener.before)
    }

    /// What was used of the limits of a pool, if it is leaving.
    pub(super) fn limits(&self, pool: &str) -> Option<&UsageLimit> {
        let mut limits = self.departures.iter().rev().flat_map(|removal| &removal.limits);
        limits.find(|(name, _)| **name == *pool).map(|(_, limited)| limited)
    }

    /// The backends that are leaving, by their pools.
    pub(super) fn backends(&self) -> HashMap<&str, Vec<&Arc<Backend>>> {
        let mut by_pool: HashMap<_, Vec<_>> = HashMap::new();
        for DrainingBackend { backend, .. } in self.departures.iter().flat_map(|removal| &removal.backends) {
            by_pool.entry(&**backend.pool()).or_default().push(backend);
        }
        by_pool
    }

    /// When the next of them are to be closed.
    pub(super) fn next(&self) -> Option<Instant> {
        self.departures.iter().filter_map(|removal| removal.moments.front()).min().copied()
    }

    /// The backends that have drained before their time is over.
    pub(super) fn drained(&mut self) -> Vec<DrainEnd> {
        let backends = self.departures.iter_mut().flat_map(|removal| &mut removal.backends);
        backends.filter_map(|draining_backend| draining_backend.end(false)).collect()
    }

    /// Those whose time is over.
    pub(super) fn overdue(&mut self, now: Instant) -> ExpiredDrains {
        let (mut numbers, mut ends) = (Vec::new(), Vec::new());
        self.departures.retain_mut(|removal| {
            if removal.moments.front().is_some_and(|moment| *moment > now) {
                return true;
            }
            removal.moments.pop_front();
            ends.extend(removal.listeners.iter_mut().filter_map(DrainingListener::end));
            ends.extend(
                removal.backends.iter_mut().filter_map(|draining_backend| draining_backend.end(true)),
            );
            numbers.extend(removal.listeners.iter().map(|listener| listener.before.number));
            numbers.extend(removal.backends.iter().map(DrainingBackend::number));
            !removal.moments.is_empty()
        });
        ExpiredDrains { numbers: numbers.into(), ends }
    }
}

impl DrainingListener {
    /// The end of its drain, if it has open connections and that is not yet logged.
    fn end(&mut self) -> Option<DrainEnd> {
        let reset = self.before.open();
        let is_new = reset > 0 && !std::mem::replace(&mut self.is_reported, true);
        is_new.then(|| DrainEnd { pool: None, name: Arc::clone(&self.name), reset })
    }
}

impl Control {
    /// Logs drains that are over.
    pub(super) fn report_drains(&self, ends: &[DrainEnd]) {
        for DrainEnd { pool, name, reset } in ends {
            let text = match pool {
                Some(pool) => {
                    let (backend, reset) = (name, *reset);
                    tracing::info!(%pool, %backend, reset, "the drain of a removed backend is over");
                    format!(
                        "the drain of the removed backend {pool}/{backend} is over: {reset} connections were reset"
                    )
                }
                None => {
                    tracing::info!(listener = %name, reset, "the drain of a removed listener is over");
                    format!(
                        "the drain of the removed listener {name} is over: {reset} connections were reset"
                    )
                }
            };
            self.server.view.events.note(EventKind::Pool, Severity::Info, text);
        }
    }
}

/// When the connections of what was taken away now are closed. The last moment is behind all dials that
/// began before it, each of which takes `longest_dial` at most: they may still turn to a backend that is gone.
fn moments(now: Instant, drain: Duration, longest_dial: Duration) -> VecDeque<Instant> {
    let last_dial = now + longest_dial;
    let deadline = now + drain;
    let mut moments = VecDeque::from([deadline, deadline + AGAIN]);
    if last_dial > deadline {
        moments.push_back(last_dial + AGAIN);
    }
    moments
}

fn backends(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Backend>> {
    snapshot.pools.values().flat_map(|served| served.pool.backends())
}

/// The numbers of all listeners and backends of a snapshot, by which their connections are found.
fn numbers(snapshot: &Snapshot) -> HashSet<u64> {
    let listeners = snapshot.policies.values().map(|policy| policy.number);
    listeners.chain(backends(snapshot).map(|backend| backend.number())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overdue_is_told_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let before = InheritedListener::nothing();
        let number = before.number;
        let gone = DrainingListener { name: "l".into(), before, is_reported: false };
        let moments = [at(5), at(6)].into();
        let removal = Removal { moments, listeners: vec![gone], backends: Vec::new(), limits: Vec::new() };
        let mut draining = DrainingSet { departures: vec![removal] };
        assert!(draining.listener("l").is_some() && draining.listener("m").is_none());
        assert_eq!((draining.next(), &*draining.overdue(at(4)).numbers), (Some(at(5)), &[][..]));
        assert_eq!((draining.next(), &*draining.overdue(at(5)).numbers), (Some(at(5)), &[number][..]));
        assert_eq!((draining.next(), &*draining.overdue(at(6)).numbers), (Some(at(6)), &[number][..]));
        assert_eq!((draining.next(), &*draining.overdue(at(7)).numbers), (None, &[][..]));
        assert!(draining.listener("l").is_none());
    }
}
