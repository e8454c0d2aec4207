//! Builds the routes of a listener from their specs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::build_fault::BuildFault;
use super::inherited::{EarlierCounts, RouteUsage};
use super::overrides::{OverrideTable, shares_of};
use crate::limit::{Quota, QuotaSpec};
use crate::listener::ListenerSpec;
use crate::reclaim::Deferred;
use crate::route::{RouteEntry, RouteId, RouteKey, RouteTable};
use crate::snapshot::{Action, ActionSpec, PoolSlot, RouteSpec, RouteTarget, Routes, UsageLimit};
use crate::telemetry::RouteCounts;

/// Builds the routes of a listener. A route that the listener had before keeps its counts.
pub(super) fn routes(
    spec: &ListenerSpec,
    pool_slots: &BTreeMap<Arc<str>, Arc<PoolSlot>>,
    splits: SplitOverrides<'_>,
    before: &RouteUsage,
) -> Result<Deferred<Routes>, BuildFault> {
    let (mut targets, mut entries) = (Vec::new(), Vec::new());
    let mut claimed = HashSet::new();
    let earlier = before.counts();
    let specs = spec.policy.protocol.routes();
    let mut counted = CountedRoutes::new(&earlier, specs.iter().map(|spec| spec.keys.len()).sum());
    for route in specs {
        let RouteSpec { keys, conditions, name, action, limits } = route;
        let written = in_use(action, pool_slots)?;
        let route_names: Vec<_> = keys.iter().map(|key| route_name(route, key)).collect();
        let limits = limits.as_ref().map(|spec| limited(spec, before.claim(&route_names, &mut claimed)));
        for (key, route_name) in keys.iter().zip(route_names) {
            let id = RouteId(u32::try_from(targets.len()).unwrap_or(u32::MAX));
            let counts = match (name, conditions) {
                (Some(name), _) => counted.named(name),
                (None, Some(_)) => counted.with_conditions(&route_name),
                (None, None) => counted.of_key(&route_name),
            };
            let action = match splits.action(spec, &route_name, action, pool_slots) {
                Some(changed) => in_use(&changed, pool_slots)?,
                None => written.clone(),
            };
            targets.push(RouteTarget {
                route: route_name,
                action,
                limits: limits.clone(),
                counts: Some(counts),
            });
            entries.push(RouteEntry { key: key.clone(), conditions: conditions.clone(), route: id });
        }
    }
    let table = RouteTable::build(entries).map_err(|_| BuildFault::Routes(Arc::clone(&spec.name)))?;
    Ok(Deferred::new(Routes { table, targets }))
}

/// Returns the name of a route for one of its keys, as the access log has it.
pub(super) fn route_name(route: &RouteSpec, key: &RouteKey) -> Arc<str> {
    match (&route.name, &route.conditions) {
        (Some(name), _) => Arc::clone(name),
        (None, Some(conditions)) => format!("{key}{conditions}").into(),
        (None, None) => key.to_string().into(),
    }
}

/// Returns an action with the slots of its pools.
fn in_use(action: &ActionSpec, pool_slots: &BTreeMap<Arc<str>, Arc<PoolSlot>>) -> Result<Action, BuildFault> {
    Ok(match action {
        ActionSpec::Pool(name) => Action::Pool(pool_slot(pool_slots, name)?),
        ActionSpec::Split(split, names) => {
            let slots = names.iter().map(|name| pool_slot(pool_slots, name)).collect::<Result<_, _>>()?;
            Action::Split(Arc::new((split.clone(), slots)))
        }
        ActionSpec::Reject => Action::Reject,
        ActionSpec::Drop => Action::Drop,
    })
}

/// The shares of pools in routes that operators have set.
#[derive(Clone, Copy)]
pub(super) struct SplitOverrides<'a> {
    pub(super) table: &'a OverrideTable,
    /// The key of splits.
    pub(super) hash_key: [u8; 16],
}

impl SplitOverrides<'_> {
    /// Returns the action of a route, if an operator has set its shares.
    fn action(
        self,
        spec: &ListenerSpec,
        route: &str,
        written: &ActionSpec,
        pool_slots: &BTreeMap<Arc<str>, Arc<PoolSlot>>,
    ) -> Option<ActionSpec> {
        if self.table.is_empty() {
            return None;
        }
        let shares = shares_of(self.table, &spec.name, route)?;
        shares.applied(written, self.hash_key, |pool| pool_slots.contains_key(pool))
    }
}

/// The counts of the routes of a listener, while its routes are built. A route that the listener had before keeps its
/// counts.
struct CountedRoutes<'a> {
    earlier: &'a EarlierCounts<'a>,
    /// The routes whose log names other routes may have too, such as those with other values of the same conditions. These
    /// routes share their counts.
    named: HashMap<Arc<str>, Arc<RouteCounts>>,
    with_conditions: HashMap<Arc<str>, Arc<RouteCounts>>,
    /// Counts for new routes. They outlive the routes of this build, so they are made in blocks: counts between other parts of
    /// the routes would hold pages that a reload frees.
    fresh: Vec<Arc<RouteCounts>>,
    block: usize,
    /// The time since which new routes are counted.
    now: SystemTime,
}

/// The most counts of a block: they fill twelve pages.
const LARGEST_BLOCK: usize = 1024;

impl<'a> CountedRoutes<'a> {
    /// Begins to count at most this many routes.
    fn new(earlier: &'a EarlierCounts<'a>, routes: usize) -> Self {
        let (named, with_conditions, fresh) = Default::default();
        let block = routes.min(LARGEST_BLOCK);
        Self { earlier, named, with_conditions, fresh, block, now: SystemTime::now() }
    }

    /// Returns the counts of a route with a name.
    fn named(&mut self, name: &Arc<str>) -> Arc<RouteCounts> {
        let new = || self.earlier.of_named(name).unwrap_or_else(|| RouteCounts::named(self.now).into());
        Arc::clone(self.named.entry(Arc::clone(name)).or_insert_with(new))
    }

    /// Returns the counts of a route without a name, with conditions.
    fn with_conditions(&mut self, route: &Arc<str>) -> Arc<RouteCounts> {
        if let Some(counts) = self.with_conditions.get(route) {
            return Arc::clone(counts);
        }
        let counts = self.of_key(route);
        self.with_conditions.insert(Arc::clone(route), Arc::clone(&counts));
        counts
    }

    /// Returns the counts of a route without a name and conditions. No other route of the listener has its key.
    fn of_key(&mut self, route: &str) -> Arc<RouteCounts> {
        self.earlier.of_unnamed(route).unwrap_or_else(|| self.fresh())
    }

    fn fresh(&mut self) -> Arc<RouteCounts> {
        let now = self.now;
        let new = || Arc::new(RouteCounts::unnamed(now));
        if self.fresh.is_empty() {
            self.fresh.extend(std::iter::repeat_with(new).take(self.block));
        }
        self.fresh.pop().unwrap_or_else(new)
    }
}

/// Builds a limit and keeps the usage that was counted before.
pub(super) fn limited(spec: &QuotaSpec, before: Option<&UsageLimit>) -> UsageLimit {
    let quota = match before {
        Some(before) => {
            before.quota.set(spec);
            Arc::clone(&before.quota)
        }
        None => Arc::new(Quota::new(spec)),
    };
    UsageLimit { quota, over: spec.over }
}

/// Returns the slot of a pool.
pub(super) fn pool_slot(
    pool_slots: &BTreeMap<Arc<str>, Arc<PoolSlot>>,
    name: &Arc<str>,
) -> Result<Arc<PoolSlot>, BuildFault> {
    pool_slots.get(name).map(Arc::clone).ok_or_else(|| BuildFault::Pool(Arc::clone(name)))
}
