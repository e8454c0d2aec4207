//! Builds a snapshot from a checked configuration, taking over what is unchanged.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::leaving::Leaving;
use crate::config::Config;
use crate::limit::Gate;
use crate::listener::ListenerSpec;
use crate::pool::Pool;
use crate::route::{RouteId, RouteTable};
use crate::snapshot::{
    Policy, Protocol, ProtocolSpec, RouteSpec, Served, Snapshot, SocketId, Target, TargetSpec, TlsPolicy,
};
use crate::telemetry::Metrics;

/// The number of the next listener. Backends count from elsewhere; see [`first_number`].
static NEXT_LISTENER: AtomicU64 = AtomicU64::new(first_number());

/// Listeners and backends are told apart by their numbers in one list, so these count from far away.
const fn first_number() -> u64 {
    1 << 63
}

/// Why a configuration that passed its checks still cannot be built: a fault of ours.
#[derive(Debug, thiserror::Error)]
pub enum BuildFault {
    /// A name leads to no pool.
    #[error("pool `{0}` is not in the configuration")]
    Pool(Arc<str>),
    /// Two routes are equal.
    #[error("two routes of listener `{0}` are equal")]
    Routes(Arc<str>),
}

/// Builds the whole snapshot of a configuration.
pub(super) fn snapshot(
    config: &Config,
    previous: &Snapshot,
    leaving: &Leaving,
    metrics: &Metrics,
) -> Result<Snapshot, BuildFault> {
    let mut returning = leaving.backends();
    let pools: BTreeMap<Arc<str>, Arc<Served>> = config
        .pools
        .iter()
        .map(|spec| {
            let old = previous.pools.get(&spec.name);
            let served = match old {
                Some(old) if old.pool.spec() == spec => Arc::clone(old),
                _ => {
                    let mut pool = Pool::build(spec.clone(), old.map(|old| &old.pool), random());
                    for backend in returning.remove(&*spec.name).unwrap_or_default() {
                        pool.take_back(backend);
                    }
                    Arc::new(Served { pool, metrics: metrics.pool(&spec.name) })
                }
            };
            (Arc::clone(&spec.name), served)
        })
        .collect();
    let mut policies = HashMap::new();
    for spec in &config.listeners {
        let before = listener_before(&spec.name, previous, leaving);
        let policy = Arc::new(policy(spec, before, &pools, metrics)?);
        for (place, address) in spec.binds.iter().enumerate() {
            policies.insert(SocketId::new(&spec.name, place, *address), Arc::clone(&policy));
        }
    }
    Ok(Snapshot { policies, pools })
}

/// What a listener goes on with: its own, also if a reload had taken it away a moment ago.
fn listener_before(name: &Arc<str>, previous: &Snapshot, leaving: &Leaving) -> Option<(u64, Arc<Gate>)> {
    let old = previous.policies.values().find(|policy| policy.listener == *name);
    old.map(|policy| (policy.number, Arc::clone(&policy.gate)))
        .or_else(|| leaving.listener(name).map(|left| (left.number, Arc::clone(&left.gate))))
}

fn policy(
    spec: &ListenerSpec,
    before: Option<(u64, Arc<Gate>)>,
    pools: &BTreeMap<Arc<str>, Arc<Served>>,
    metrics: &Metrics,
) -> Result<Policy, BuildFault> {
    let limit = spec.policy.max_connections.unwrap_or(u64::MAX);
    let (number, gate) =
        before.unwrap_or_else(|| (NEXT_LISTENER.fetch_add(1, Ordering::Relaxed), Gate::new(limit)));
    gate.set_limit(limit);
    Ok(Policy {
        listener: Arc::clone(&spec.name),
        number,
        protocol: protocol(spec, pools)?,
        relay: Arc::new(spec.policy.relay),
        gate,
        metrics: metrics.listener(&spec.name),
    })
}

fn protocol(spec: &ListenerSpec, pools: &BTreeMap<Arc<str>, Arc<Served>>) -> Result<Protocol, BuildFault> {
    let pool =
        |name: &Arc<str>| pools.get(name).map(Arc::clone).ok_or_else(|| BuildFault::Pool(Arc::clone(name)));
    let (routes, no_sni, unmatched, hello) = match &spec.policy.protocol {
        ProtocolSpec::Tcp { pool: name } => return Ok(Protocol::Tcp(pool(name)?)),
        ProtocolSpec::Tls { routes, no_sni, unmatched, hello } => (routes, no_sni, unmatched, hello),
    };
    let mut targets = Vec::new();
    let mut patterns = Vec::new();
    for RouteSpec { names, pool: name } in routes {
        for pattern in names {
            let id = RouteId(u32::try_from(targets.len()).unwrap_or(u32::MAX));
            targets.push(Target { route: pattern.to_string().into(), served: pool(name)? });
            patterns.push((pattern.clone(), id));
        }
    }
    let table =
        RouteTable::build(patterns.into_iter()).map_err(|_| BuildFault::Routes(Arc::clone(&spec.name)))?;
    let fallback = |target: &TargetSpec, word: &str| match target {
        TargetSpec::Pool(name) => Ok(Some(Target { route: word.into(), served: pool(name)? })),
        TargetSpec::Reject => Ok(None),
    };
    Ok(Protocol::Tls(Box::new(TlsPolicy {
        table,
        targets,
        no_sni: fallback(no_sni, "no_sni")?,
        unmatched: fallback(unmatched, "unmatched")?,
        hello: *hello,
    })))
}

/// A random number from the standard library's seed of hash maps; good enough to spread a start.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}
