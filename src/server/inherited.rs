//! The state that outlives a change of the configuration: if a listener, a backend or a limit is still the
//! same, it keeps its id, counts and usage.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::ids::ListenerId;
use crate::limit::{Gate, Quota, RateGate};
use crate::pool::Backend;
use crate::reclaim::Deferred;
use crate::snapshot::{Policy, Routes, UsageLimit};
use crate::telemetry::RouteCounts;

/// The state that a listener keeps over a reload.
#[derive(Clone)]
pub(super) struct InheritedListener {
    /// The listener.
    pub(super) id: ListenerId,
    /// Its open connections and their limit.
    pub(super) gate: Arc<Gate>,
    /// Its rate of new connections; `None` if it has no limits on admission.
    pub(super) rate: Option<Arc<RateGate>>,
    /// The usage of its routes. Shared with each [`InheritedState`], because it has an entry for each route.
    pub(super) used: Arc<RouteUsage>,
}

impl InheritedListener {
    /// Returns the state of the listener of a policy.
    pub(super) fn of(policy: &Policy) -> Self {
        Self {
            id: policy.listener_id,
            gate: Arc::clone(&policy.gate),
            rate: policy.admission.as_ref().map(|admission| Arc::clone(&admission.rate)),
            used: Arc::new(RouteUsage::of(policy.protocol.routes())),
        }
    }

    /// Returns the open connections of the listener.
    pub(super) fn open(&self) -> u64 {
        self.gate.inside()
    }

    /// Returns the state of a new listener.
    pub(super) fn nothing() -> Self {
        Self { id: ListenerId::next(), gate: Gate::new(u64::MAX), rate: None, used: Arc::default() }
    }
}

/// The usage of a listener's routes, by the names of the routes in the log. A route counts as the same route as
/// long as it keeps one of its names.
#[derive(Default)]
pub(super) struct RouteUsage {
    limits: HashMap<Arc<str>, UsageLimit>,
    /// The counts of all routes, which may be a million.
    counts: Deferred<Vec<(Arc<str>, Arc<RouteCounts>)>>,
}

/// The counts of a listener's routes, by the names of the routes in the log. A route with a name and a route without one
/// share no counts.
#[derive(Default)]
pub(super) struct EarlierCounts<'a> {
    named: HashMap<&'a str, &'a Arc<RouteCounts>>,
    unnamed: HashMap<&'a str, &'a Arc<RouteCounts>>,
}

impl EarlierCounts<'_> {
    /// Returns the counts of the route with this name in its configuration.
    pub(super) fn of_named(&self, name: &str) -> Option<Arc<RouteCounts>> {
        self.named.get(name).copied().cloned()
    }

    /// Returns the counts of the route that has no name in its configuration, and this one in the log.
    pub(super) fn of_unnamed(&self, route: &str) -> Option<Arc<RouteCounts>> {
        self.unnamed.get(route).copied().cloned()
    }
}

impl RouteUsage {
    fn of(routes: &Routes) -> Self {
        let targets = || routes.targets.iter();
        Self {
            limits: targets().filter_map(|to| Some((Arc::clone(&to.route), to.limits.clone()?))).collect(),
            counts: Deferred::new(
                targets().filter_map(|to| Some((Arc::clone(&to.route), to.counts.clone()?))).collect(),
            ),
        }
    }

    /// Returns the counts by the names of their routes. It is called where a snapshot is built, because a look-up of a
    /// million routes takes long to make.
    pub(super) fn counts(&self) -> EarlierCounts<'_> {
        let mut earlier = EarlierCounts::default();
        for (route, counts) in self.counts.iter() {
            let by_name = if counts.is_named() { &mut earlier.named } else { &mut earlier.unnamed };
            by_name.insert(&**route, counts);
        }
        earlier
    }

    /// Returns the usage for a route with these names. If one route became two, the first of them gets the
    /// usage: no two routes may count in one quota.
    pub(super) fn claim(
        &self,
        names: &[Arc<str>],
        claimed: &mut HashSet<*const Quota>,
    ) -> Option<&UsageLimit> {
        let mut before = names.iter().filter_map(|name| self.limits.get(name));
        before.find(|limited| claimed.insert(Arc::as_ptr(&limited.quota)))
    }
}

/// The listeners, backends and limits that earlier changes removed and that still drain. A new configuration may have
/// them again.
#[derive(Default)]
pub(super) struct InheritedState {
    /// The listeners, by name.
    pub(super) listeners: HashMap<Arc<str>, InheritedListener>,
    /// The backends, by the name of their pool.
    pub(super) backends: HashMap<Arc<str>, Vec<Arc<Backend>>>,
    /// The usage of the limits of removed pools, by name.
    pub(super) limits: HashMap<Arc<str>, UsageLimit>,
}
