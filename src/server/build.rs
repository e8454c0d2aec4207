//! Builds a snapshot from a checked configuration and reuses the parts that are unchanged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use super::build_fault::BuildFault;
use super::inherited::{EarlierCounts, InheritedListener, InheritedState, RouteUsage};
use super::overrides::{self, OverrideTable};
use super::own_backends::leave_out_cycles;
use super::{opening_build, series};
use crate::config::Config;
use crate::limit::{Quota, QuotaSpec};
use crate::listener::ListenerSpec;
use crate::pool::discover::{DiscoveredSet, join};
use crate::pool::{Discovery, Pool, PoolSpec};
use crate::reclaim::Deferred;
use crate::route::{RouteEntry, RouteId, RouteKey, RouteTable};
use crate::snapshot::{
    AccessRules, Action, ActionSpec, Admission, List, Policy, PoolSlot, Protocol, ProtocolSpec, RouteSpec,
    RouteTarget, Routes, ServedPool, Snapshot, SocketId, TargetSpec, TcpPolicy, TlsPolicy, UsageLimit,
};
use crate::telemetry::{Metrics, RouteCounts};

/// The sources of a pool, and the backends that each found.
pub(super) type FoundPool = (Vec<Arc<Discovery>>, Vec<DiscoveredSet>);

/// The pools with sources, by name. Empty before the first answers of the start.
pub(super) type FoundPools = BTreeMap<Arc<str>, FoundPool>;

/// The inputs of a build besides the previous snapshot and the backends that discovery found.
#[derive(Clone, Copy)]
pub(super) struct BuildInputs<'a> {
    /// The configuration to build from.
    pub(super) config: &'a Config,
    /// The listeners, backends and limits that still drain and may be back.
    pub(super) inherited: &'a InheritedState,
    /// The overrides of operators.
    pub(super) overrides: &'a OverrideTable,
    /// The metrics series.
    pub(super) metrics: &'a Metrics,
}

/// Builds the whole snapshot of a configuration. `found` are the backends that discovery found.
pub(super) fn snapshot(
    previous: &Snapshot,
    mut found: FoundPools,
    inputs: BuildInputs<'_>,
) -> Result<Snapshot, BuildFault> {
    let BuildInputs { config, inherited, metrics, .. } = inputs;
    let mut pools = BTreeMap::new();
    let mut pool_slots = BTreeMap::new();
    for spec in &config.pools {
        let old = previous.pools.get(&spec.name);
        let served = served(spec, old, found.remove(&spec.name), inputs);
        let pool_slot = match (old, previous.pool_slots.get(&spec.name)) {
            (Some(old), Some(pool_slot)) if Arc::ptr_eq(old, &served) => Arc::clone(pool_slot),
            _ => PoolSlot::new(Arc::clone(&served)),
        };
        pools.insert(Arc::clone(&spec.name), served);
        pool_slots.insert(Arc::clone(&spec.name), pool_slot);
    }
    let lists: BTreeMap<_, _> = config
        .lists
        .iter()
        .map(|spec| {
            (Arc::clone(&spec.name), List::build(spec, previous.lists.get(&spec.name).map(|old| &**old)))
        })
        .collect();
    let named = PolicyTargets { pool_slots: &pool_slots, lists: &lists };
    let mut policies = HashMap::new();
    for spec in &config.listeners {
        let before = listener_before(&spec.name, previous, inherited);
        let policy = Arc::new(policy(spec, before, named, metrics)?);
        for (index, address) in spec.binds.iter().enumerate() {
            policies.insert(SocketId::new(&spec.name, index, address), Arc::clone(&policy));
        }
    }
    Ok(Snapshot { policies, pools, pool_slots, lists })
}

/// Builds one pool with its discovered backends. Returns the old pool if nothing is different. `found` is
/// `None` for a pool without sources, and for a pool whose sources have not been asked yet.
pub(super) fn served(
    written: &PoolSpec,
    old: Option<&Arc<ServedPool>>,
    found: Option<FoundPool>,
    inputs: BuildInputs<'_>,
) -> Arc<ServedPool> {
    let (discovery, mut spec) = match found {
        Some((discovery, sets)) => {
            let mut spec = join(written, &sets);
            leave_out_cycles(&mut spec, inputs.config);
            (discovery, spec)
        }
        None => (Vec::new(), written.clone()),
    };
    overrides::apply(inputs.overrides, &mut spec);
    if let Some(old) = old
        && *old.pool.spec() == spec
        && old.discovery.len() == discovery.len()
        && old.discovery.iter().zip(&discovery).all(|(old, new)| Arc::ptr_eq(old, new))
    {
        return Arc::clone(old);
    }
    let metrics = inputs.metrics.pool(&spec.name);
    series::expect_of_pool(&spec, &metrics);
    let mut pool = Pool::build(spec, old.map(|old| &*old.pool), random());
    let name = Arc::clone(&pool.spec().name);
    for backend in inputs.inherited.backends.get(&name).into_iter().flatten() {
        pool.take_back(backend);
    }
    let before = match old {
        Some(old) => old.limits.as_ref(),
        None => inputs.inherited.limits.get(&name),
    };
    let limits = pool.spec().limits.map(|spec| limited(&spec, before));
    Arc::new(ServedPool { pool: Arc::new(pool), metrics, discovery, limits })
}

/// Builds a limit and keeps the usage that was counted before.
fn limited(spec: &QuotaSpec, before: Option<&UsageLimit>) -> UsageLimit {
    let quota = match before {
        Some(before) => {
            before.quota.set(spec);
            Arc::clone(&before.quota)
        }
        None => Arc::new(Quota::new(spec)),
    };
    UsageLimit { quota, over: spec.over }
}

/// Returns the earlier state of a listener, even if a reload removed the listener and it still drains.
fn listener_before(
    name: &Arc<str>,
    previous: &Snapshot,
    inherited: &InheritedState,
) -> Option<InheritedListener> {
    let old = previous.policies.values().find(|policy| policy.listener == *name);
    old.map(|policy| InheritedListener::of(policy)).or_else(|| inherited.listeners.get(name).cloned())
}

/// The pools and lists that policies name.
#[derive(Clone, Copy)]
pub(super) struct PolicyTargets<'a> {
    pub(super) pool_slots: &'a BTreeMap<Arc<str>, Arc<PoolSlot>>,
    pub(super) lists: &'a BTreeMap<Arc<str>, Arc<List>>,
}

/// Builds the policy of one listener.
pub(super) fn policy(
    spec: &ListenerSpec,
    before: Option<InheritedListener>,
    named: PolicyTargets<'_>,
    metrics: &Metrics,
) -> Result<Policy, BuildFault> {
    let PolicyTargets { pool_slots, lists } = named;
    let limit = spec.policy.max_connections.unwrap_or(u64::MAX);
    let InheritedListener { id: listener_id, gate, rate, used } =
        before.unwrap_or_else(InheritedListener::nothing);
    gate.set_limit(limit);
    let admission = spec.policy.admission.map(|spec| {
        let rate = rate.unwrap_or_default();
        rate.set(spec.rate);
        Box::new(Admission { spec, rate })
    });
    let (protocol, metrics) = (protocol(spec, pool_slots, &used)?, metrics.listener(&spec.name));
    series::expect_of_listener(spec, pool_slots, &metrics);
    let relay = Arc::new(spec.policy.relay);
    let opening = opening_build::build(&spec.policy.opening, &relay, |name| pool_slot(pool_slots, name))?;
    let proxy = spec.policy.proxy.clone().map(Box::new);
    let access =
        spec.policy.access.as_ref().map(|spec| AccessRules::build(spec, |name| lists.get(name).cloned()));
    let access = access.transpose().map_err(BuildFault::List)?.map(Box::new);
    let listener = Arc::clone(&spec.name);
    Ok(Policy { listener, listener_id, access, admission, proxy, protocol, opening, relay, gate, metrics })
}

fn protocol(
    spec: &ListenerSpec,
    pool_slots: &BTreeMap<Arc<str>, Arc<PoolSlot>>,
    before: &RouteUsage,
) -> Result<Protocol, BuildFault> {
    let pool_slot = |name: &Arc<str>| pool_slot(pool_slots, name);
    let routes = routes(spec, pool_slot, before)?;
    let (no_sni, unmatched, hello) = match &spec.policy.protocol {
        ProtocolSpec::Tcp { pool, .. } => {
            return Ok(Protocol::Tcp(Box::new(TcpPolicy { routes, pool: pool_slot(pool)? })));
        }
        ProtocolSpec::Tls { no_sni, unmatched, hello, .. } => (no_sni, unmatched, hello),
    };
    let fallback = |target: &TargetSpec, route: &str| match target {
        TargetSpec::Pool(name) => Ok(Some(RouteTarget {
            route: route.into(),
            action: Action::Pool(pool_slot(name)?),
            limits: None,
            counts: None,
        })),
        TargetSpec::Reject => Ok(None),
    };
    Ok(Protocol::Tls(Box::new(TlsPolicy {
        routes,
        no_sni: fallback(no_sni, "no_sni")?,
        unmatched: fallback(unmatched, "unmatched")?,
        hello: *hello,
    })))
}

fn pool_slot(
    pool_slots: &BTreeMap<Arc<str>, Arc<PoolSlot>>,
    name: &Arc<str>,
) -> Result<Arc<PoolSlot>, BuildFault> {
    pool_slots.get(name).map(Arc::clone).ok_or_else(|| BuildFault::Pool(Arc::clone(name)))
}

fn routes(
    spec: &ListenerSpec,
    pool_slot: impl Fn(&Arc<str>) -> Result<Arc<PoolSlot>, BuildFault>,
    before: &RouteUsage,
) -> Result<Deferred<Routes>, BuildFault> {
    let (mut targets, mut entries) = (Vec::new(), Vec::new());
    let mut claimed = HashSet::new();
    let earlier = before.counts();
    let specs = spec.policy.protocol.routes();
    let mut counted = CountedRoutes::new(&earlier, specs.iter().map(|spec| spec.keys.len()).sum());
    for RouteSpec { keys, conditions, name, action, limits } in specs {
        let action = match action {
            ActionSpec::Pool(name) => Action::Pool(pool_slot(name)?),
            ActionSpec::Split(split, names) => {
                let pool_slots = names.iter().map(&pool_slot).collect::<Result<_, _>>()?;
                Action::Split(Arc::new((split.clone(), pool_slots)))
            }
            ActionSpec::Reject => Action::Reject,
            ActionSpec::Drop => Action::Drop,
        };
        let route_name = |key: &RouteKey| -> Arc<str> {
            match (name, conditions) {
                (Some(name), _) => Arc::clone(name),
                (None, Some(conditions)) => format!("{key}{conditions}").into(),
                (None, None) => key.to_string().into(),
            }
        };
        let route_names: Vec<_> = keys.iter().map(route_name).collect();
        let limits = limits.as_ref().map(|spec| limited(spec, before.claim(&route_names, &mut claimed)));
        for (key, route_name) in keys.iter().zip(route_names) {
            let route = RouteId(u32::try_from(targets.len()).unwrap_or(u32::MAX));
            let counts = match (name, conditions) {
                (Some(name), _) => counted.named(name),
                (None, Some(_)) => counted.with_conditions(&route_name),
                (None, None) => counted.of_key(&route_name),
            };
            let (action, limits) = (action.clone(), limits.clone());
            targets.push(RouteTarget { route: route_name, action, limits, counts: Some(counts) });
            entries.push(RouteEntry { key: key.clone(), conditions: conditions.clone(), route });
        }
    }
    let table = RouteTable::build(entries).map_err(|_| BuildFault::Routes(Arc::clone(&spec.name)))?;
    Ok(Deferred::new(Routes { table, targets }))
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

/// Returns a random number from the standard library's seed of hash maps. It is random enough to spread first
/// checks and first picks.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}
