//! Builds a snapshot from a checked configuration and reuses the parts that are unchanged.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::build_fault::BuildFault;
use super::build_routes::{SplitOverrides, limited, pool_slot, routes};
use super::inherited::{InheritedListener, InheritedState, RouteUsage};
use super::overrides::{self, OverrideTable};
use super::own_backends::leave_out_cycles;
use super::{opening_build, series};
use crate::config::Config;
use crate::listener::ListenerSpec;
use crate::pool::discover::{DiscoveredSet, join};
use crate::pool::{Discovery, Pool, PoolSpec};
use crate::snapshot::{
    AccessRules, Action, Admission, List, Policy, PoolSlot, Protocol, ProtocolSpec, RouteTarget, ServedPool,
    Snapshot, SocketId, TargetSpec, TcpPolicy, TlsPolicy, TunnelPolicy,
};
use crate::telemetry::Metrics;

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
        let splits = SplitOverrides { table: inputs.overrides, hash_key: config.hash_key };
        let policy = Arc::new(policy(spec, before, named, splits, metrics)?);
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
    splits: SplitOverrides<'_>,
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
    let (protocol, metrics) = (protocol(spec, pool_slots, splits, &used)?, metrics.listener(&spec.name));
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
    splits: SplitOverrides<'_>,
    before: &RouteUsage,
) -> Result<Protocol, BuildFault> {
    let pool_slot = |name: &Arc<str>| pool_slot(pool_slots, name);
    let routes = routes(spec, pool_slots, splits, before)?;
    let (no_sni, unmatched, hello) = match &spec.policy.protocol {
        ProtocolSpec::Tcp { pool, .. } => {
            return Ok(Protocol::Tcp(Box::new(TcpPolicy { routes, pool: pool_slot(pool)? })));
        }
        ProtocolSpec::Tunnel { opening, pool, hello, .. } => {
            let (opening, pool, hello) = (*opening, pool_slot(pool)?, *hello);
            return Ok(Protocol::Tunnel(Box::new(TunnelPolicy { opening, routes, pool, hello })));
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

/// Returns a random number from the standard library's seed of hash maps. It is random enough to spread first
/// checks and first picks.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}
