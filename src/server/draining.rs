//! The listeners and backends that reloads and discovery removed, while their connections may still go on.
//!
//! A listener whose name comes back in that time is the same listener. A backend whose pool, name and address come back
//! is the same backend. Both keep their id and counts, and their connections are no longer to be closed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::events::{EventKind, EventLog, Severity};
use super::in_force::{ChangedPart, InForce};
use super::inherited::{InheritedListener, InheritedState};
use crate::conn::handover::{DepartedListener, DepartedParts};
use crate::ids::BackendId;
use crate::live::ConnectionGroup;
use crate::pool::{Backend, Pool};
use crate::snapshot::{Snapshot, UsageLimit};
use crate::sys::Address;
use crate::wire::handover::{HandedDrain, from_millis};

/// The time after which connections get the order to close once more. A connection that was on its way between two
/// workers or two backends did not get the first order.
const AGAIN: Duration = Duration::from_secs(1);

/// The listeners and backends that drain.
#[derive(Default)]
pub(super) struct DrainingSet {
    removals: Vec<Removal>,
}

/// The listeners and backends that one reload or one discovery removed.
struct Removal {
    /// The times at which their connections are closed, in order; never empty.
    close_times: VecDeque<Instant>,
    listeners: Vec<DrainingListener>,
    backends: Vec<DrainingBackend>,
    /// The usage of the limits of removed pools, by name.
    limits: Vec<(Arc<str>, UsageLimit)>,
}

impl Removal {
    /// Returns a removal whose connections are closed at `deadline`.
    fn at(deadline: Instant, listeners: Vec<DrainingListener>, backends: Vec<DrainingBackend>) -> Self {
        let close_times = VecDeque::from([deadline, deadline + AGAIN]);
        Self { close_times, listeners, backends, limits: Vec::new() }
    }
}

/// A listener or a backend that drains, with the time at which its connections are closed.
pub(super) struct DrainCopy {
    pub(super) part: DrainingPart,
    pub(super) until: Instant,
}

/// A listener, by its name, or a backend.
pub(super) enum DrainingPart {
    Listener(Arc<str>),
    Backend(Arc<Backend>),
}

/// A backend that drains.
struct DrainingBackend {
    backend: Arc<Backend>,
    /// True if the end of its drain is still to be logged.
    is_awaited: bool,
}

impl DrainingBackend {
    /// Starts the drain of a backend. A backend without open connections has nothing to drain.
    fn new(backend: &Arc<Backend>) -> Self {
        Self { backend: Arc::clone(backend), is_awaited: backend.active() > 0 }
    }

    /// Starts the drain of a backend whose connections come from another process.
    fn adopted(pool: &Arc<str>, name: Arc<str>, address: Address) -> Self {
        Self { backend: Backend::detached(pool, name, address), is_awaited: false }
    }

    fn group(&self) -> ConnectionGroup {
        ConnectionGroup::Backend(self.backend.id())
    }

    /// Returns the end of its drain, if it is over and not yet logged.
    fn end(&mut self, is_deadline: bool) -> Option<DrainEnd> {
        let open = self.backend.active();
        // A dial that began earlier may have opened a connection later.
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
    /// The connections that were open, and are reset.
    pub(super) reset: u64,
}

/// The listeners and backends whose drain time is over.
#[derive(Debug, Default)]
pub(super) struct ExpiredDrains {
    /// The listeners and backends.
    pub(super) groups: Arc<[ConnectionGroup]>,
    /// The drains that end because their time is over.
    pub(super) ends: Vec<DrainEnd>,
}

/// A listener that drains.
struct DrainingListener {
    name: Arc<str>,
    before: InheritedListener,
    /// True if the end of its drain was logged.
    is_reported: bool,
}

impl DrainingSet {
    /// Adds the listeners and backends that the change removed, to be closed after their drain. Removes the
    /// listeners and backends that are back. `drain` is the drain of the configuration.
    pub(super) fn in_force(&mut self, change: &InForce, now: Instant, drain: Duration) {
        match &change.part {
            ChangedPart::Configuration => self.note(&change.old, &change.new, now, drain),
            ChangedPart::Pool(new, drain) => {
                if let Some(old) = change.old.pools.get(&new.pool.spec().name) {
                    self.note_pool(&old.pool, &new.pool, now, *drain);
                }
            }
            // Nothing was in force before, or no listener and no backend was removed.
            ChangedPart::Bound | ChangedPart::Routes => {}
        }
    }

    /// Adds the listeners and backends that are in `old` and not in `new`, to be closed after `drain`. Removes the
    /// listeners and backends that are in `new` again.
    fn note(&mut self, old: &Snapshot, new: &Snapshot, now: Instant, drain: Duration) {
        let staying = groups(new);
        // Every address of a listener has the same policy.
        let gone: BTreeMap<_, _> = old
            .policies
            .values()
            .filter(|policy| !staying.contains(&ConnectionGroup::Listener(policy.listener_id)))
            .map(|policy| (policy.listener_id, policy))
            .collect();
        let listeners = gone
            .into_values()
            .map(|policy| DrainingListener {
                name: Arc::clone(&policy.listener),
                before: InheritedListener::of(policy),
                is_reported: false,
            })
            .collect();
        let backends = backends(old)
            .filter(|backend| !staying.contains(&ConnectionGroup::Backend(backend.id())))
            .map(DrainingBackend::new)
            .collect();
        let dials = old.pools.values().map(|served| served.pool.spec().longest_dial());
        let close_times = close_times(now, drain, dials.max().unwrap_or_default());
        let gone = old.pools.iter().filter(|(name, _)| !new.pools.contains_key(*name));
        let limits = gone.filter_map(|(name, served)| Some((Arc::clone(name), served.limits.clone()?)));
        let limits = limits.collect();
        self.removals.push(Removal { close_times, listeners, backends, limits });
        self.removals.retain_mut(|removal| {
            removal.limits.retain(|(name, _)| !new.pools.contains_key(name));
            removal.listeners.retain(|listener| !staying.contains(&listener.group()));
            removal.backends.retain(|backend| !staying.contains(&backend.group()));
            !(removal.listeners.is_empty() && removal.backends.is_empty())
        });
    }

    /// Does the same as `note` for one pool. Connections to its removed backends have `drain` to end.
    fn note_pool(&mut self, old: &Pool, new: &Pool, now: Instant, drain: Duration) {
        let staying: HashSet<BackendId> = new.backends().iter().map(|backend| backend.id()).collect();
        let is_removed = |backend: &&Arc<Backend>| !staying.contains(&backend.id());
        let backends = old.backends().iter().filter(is_removed).map(DrainingBackend::new).collect();
        let close_times = close_times(now, drain, old.spec().longest_dial());
        self.removals.push(Removal { close_times, listeners: Vec::new(), backends, limits: Vec::new() });
        self.removals.retain_mut(|removal| {
            removal.backends.retain(|draining| !staying.contains(&draining.backend.id()));
            !(removal.listeners.is_empty() && removal.backends.is_empty())
        });
    }

    /// Adds listeners and backends of adopted connections that this program does not have, to be closed after `drain`.
    pub(super) fn note_departed(&mut self, parts: DepartedParts, now: Instant, drain: Duration) {
        let DepartedParts { listeners, backends } = parts;
        let close_times = close_times(now, drain, Duration::ZERO);
        let listeners = listeners.into_iter().map(|(name, departed)| {
            let before =
                InheritedListener { id: departed.id, gate: departed.gate, ..InheritedListener::nothing() };
            DrainingListener { name, before, is_reported: false }
        });
        let backends = backends.iter().map(DrainingBackend::new).collect();
        self.removals.push(Removal {
            close_times,
            listeners: listeners.collect(),
            backends,
            limits: Vec::new(),
        });
    }

    /// Returns the listeners and backends that drain.
    pub(super) fn departed(&self) -> DepartedParts {
        let mut departed = DepartedParts::default();
        for removal in &self.removals {
            let listeners = removal.listeners.iter().map(|listener| {
                let InheritedListener { id, gate, .. } = &listener.before;
                (Arc::clone(&listener.name), DepartedListener { id: *id, gate: Arc::clone(gate) })
            });
            departed.listeners.extend(listeners);
            departed.backends.extend(removal.backends.iter().map(|draining| Arc::clone(&draining.backend)));
        }
        departed
    }

    /// Returns the state that a new configuration takes over if it has these listeners, backends and limits
    /// again. If two listeners have one name, the state of the listener that was removed last is returned.
    pub(super) fn inherited(&self) -> InheritedState {
        let mut inherited = InheritedState::default();
        for removal in &self.removals {
            let listeners = removal.listeners.iter();
            inherited
                .listeners
                .extend(listeners.map(|listener| (Arc::clone(&listener.name), listener.before.clone())));
            for DrainingBackend { backend, .. } in &removal.backends {
                let of_pool = inherited.backends.entry(Arc::clone(backend.pool())).or_default();
                of_pool.push(Arc::clone(backend));
            }
            inherited.limits.extend(removal.limits.iter().cloned());
        }
        inherited
    }

    /// Returns the listeners and backends that have open connections, for a hand-over to another process. A name that
    /// drains several times is there once for each time.
    pub(super) fn copies(&self) -> Vec<DrainCopy> {
        let of_removal = |removal: &Removal| {
            let until = removal.close_times.front().copied();
            let listeners = removal.listeners.iter().filter(|listener| listener.before.open() > 0);
            let listeners = listeners.map(|listener| DrainingPart::Listener(Arc::clone(&listener.name)));
            let backends = removal.backends.iter().filter(|draining| draining.backend.active() > 0);
            let backends = backends.map(|draining| DrainingPart::Backend(Arc::clone(&draining.backend)));
            let parts: Vec<_> = listeners.chain(backends).collect();
            parts.into_iter().filter_map(move |part| Some(DrainCopy { part, until: until? }))
        };
        self.removals.iter().flat_map(of_removal).collect()
    }

    /// Adds the listeners and backends that drained in another process. Those that a snapshot has are left out.
    pub(super) fn restore(&mut self, handed: Vec<HandedDrain>, snapshot: &Snapshot, now: Instant) {
        let listens = |name: &str| snapshot.policies.values().any(|policy| &*policy.listener == name);
        let mut removals: HashMap<u64, Removal> = HashMap::new();
        for HandedDrain { listener, pool, backend, address, left_ms } in handed {
            let left = removals.entry(left_ms);
            let removal =
                left.or_insert_with(|| Removal::at(now + from_millis(left_ms), Vec::new(), Vec::new()));
            if let Some(listener) = listener.filter(|name| !listens(name)) {
                removal.listeners.push(DrainingListener::new(listener.into()));
            } else if let (Some(pool), Some(name), Some(address)) = (pool, backend, address)
                && let Ok(address) = address.parse()
                && !has_backend(snapshot, &pool, &name, &address)
            {
                removal.backends.push(DrainingBackend::adopted(&pool.into(), name.into(), address));
            }
        }
        let is_used = |removal: &Removal| !(removal.listeners.is_empty() && removal.backends.is_empty());
        self.removals.extend(removals.into_values().filter(is_used));
    }

    /// Returns the time at which the next connections are to be closed.
    pub(super) fn next(&self) -> Option<Instant> {
        self.removals.iter().filter_map(|removal| removal.close_times.front()).min().copied()
    }

    /// Returns the backends that have drained before their time is over.
    pub(super) fn drained(&mut self) -> Vec<DrainEnd> {
        let backends = self.removals.iter_mut().flat_map(|removal| &mut removal.backends);
        backends.filter_map(|backend| backend.end(false)).collect()
    }

    /// Returns the listeners and backends whose time is over.
    pub(super) fn overdue(&mut self, now: Instant) -> ExpiredDrains {
        let (mut groups, mut ends) = (Vec::new(), Vec::new());
        self.removals.retain_mut(|removal| {
            if removal.close_times.front().is_some_and(|moment| *moment > now) {
                return true;
            }
            removal.close_times.pop_front();
            ends.extend(removal.listeners.iter_mut().filter_map(DrainingListener::end));
            ends.extend(removal.backends.iter_mut().filter_map(|backend| backend.end(true)));
            groups.extend(removal.listeners.iter().map(DrainingListener::group));
            groups.extend(removal.backends.iter().map(DrainingBackend::group));
            !removal.close_times.is_empty()
        });
        ExpiredDrains { groups: groups.into(), ends }
    }
}

impl DrainingListener {
    /// Starts the drain of a listener whose connections come from another process.
    fn new(name: Arc<str>) -> Self {
        Self { name, before: InheritedListener::nothing(), is_reported: false }
    }

    fn group(&self) -> ConnectionGroup {
        ConnectionGroup::Listener(self.before.id)
    }

    /// Returns the end of its drain, if connections are open and the end is not yet logged.
    fn end(&mut self) -> Option<DrainEnd> {
        let reset = self.before.open();
        let is_new = reset > 0 && !std::mem::replace(&mut self.is_reported, true);
        is_new.then(|| DrainEnd { pool: None, name: Arc::clone(&self.name), reset })
    }
}

/// Logs drains that are over.
pub(super) fn log_ends(ends: &[DrainEnd], events: &EventLog) {
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
                format!("the drain of the removed listener {name} is over: {reset} connections were reset")
            }
        };
        events.note(EventKind::Pool, Severity::Info, text);
    }
}

/// Returns the times at which the connections of listeners and backends removed at `now` are closed. The last time
/// is after all dials that began before `now`. Each dial takes `longest_dial` at most, and may still pick a removed
/// backend.
fn close_times(now: Instant, drain: Duration, longest_dial: Duration) -> VecDeque<Instant> {
    let last_dial = now + longest_dial;
    let deadline = now + drain;
    let mut close_times = VecDeque::from([deadline, deadline + AGAIN]);
    if last_dial > deadline {
        close_times.push_back(last_dial + AGAIN);
    }
    close_times
}

fn has_backend(snapshot: &Snapshot, pool: &str, name: &str, address: &Address) -> bool {
    let backend = snapshot.pools.get(pool).and_then(|served| served.pool.backend(name));
    backend.is_some_and(|backend| backend.address() == address)
}

fn backends(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Backend>> {
    snapshot.pools.values().flat_map(|served| served.pool.backends())
}

/// Returns all listeners and backends of a snapshot.
fn groups(snapshot: &Snapshot) -> HashSet<ConnectionGroup> {
    let listeners = snapshot.policies.values().map(|policy| ConnectionGroup::Listener(policy.listener_id));
    listeners.chain(backends(snapshot).map(|backend| ConnectionGroup::Backend(backend.id()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_the_order_to_close_twice() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let before = InheritedListener::nothing();
        let group = ConnectionGroup::Listener(before.id);
        let gone = DrainingListener { name: "l".into(), before, is_reported: false };
        let close_times = [at(5), at(6)].into();
        let removal =
            Removal { close_times, listeners: vec![gone], backends: Vec::new(), limits: Vec::new() };
        let mut draining = DrainingSet { removals: vec![removal] };
        let drains = |set: &DrainingSet, name: &str| set.inherited().listeners.contains_key(name);
        assert!(drains(&draining, "l") && !drains(&draining, "m"));
        assert_eq!((draining.next(), &*draining.overdue(at(4)).groups), (Some(at(5)), &[][..]));
        assert_eq!((draining.next(), &*draining.overdue(at(5)).groups), (Some(at(5)), &[group][..]));
        assert_eq!((draining.next(), &*draining.overdue(at(6)).groups), (Some(at(6)), &[group][..]));
        assert_eq!((draining.next(), &*draining.overdue(at(7)).groups), (None, &[][..]));
        assert!(!drains(&draining, "l"));
    }
}
