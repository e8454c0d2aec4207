//! One immutable view of what is configured and alive: a policy per socket, the pools.
//!
//! Whoever builds a new one swaps it in whole. A connection loads it once, takes the policy of the
//! socket it came through, and lets go of that when its backend is connected.
//!
//! Any worker may hold the last reference to an old snapshot; `reclaim` frees its large parts.
//!
//! Policies name pools by their [`PoolSlot`], so that a pool whose backends are discovered can be replaced
//! alone: a hundred thousand routes need not be built again because one backend came.

pub mod access;
pub mod additions;
mod admission;
pub mod opening;
pub mod policy_spec;
mod proxy;
mod routes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::limit::Gate;
use crate::pool::{Discovery, Pool};
use crate::reclaim;
use crate::relay::RelayOptions;
use crate::route::RequiredFacts;
use crate::sys::Address;
use crate::telemetry::{ListenerMetrics, PoolMetrics};
pub use access::{AccessRules, AccessSpec, ClientRefusal, List, ListSpec};
pub use additions::Additions;
pub use admission::{Admission, UsageLimit};
pub use opening::{DetectSpec, OpeningPolicy, OpeningSpec};
pub use policy_spec::{
    ActionSpec, AdmissionSpec, HelloSpec, PolicySpec, ProtocolSpec, RouteSpec, RoutesFileSpec, TargetSpec,
};
pub use proxy::{ProxyMode, ProxySpec, TrustedPeers};
pub use routes::{Action, NoRoute, RouteTarget, Routes, TcpPolicy, TlsPolicy};

/// The identity of a listening socket: its address, and for a port that the kernel chooses also the
/// listener and its place there, because several may be written alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(Arc<str>);

impl SocketId {
    /// The identity of the `place`-th address of a listener.
    pub fn new(listener: &str, place: usize, address: &Address) -> Self {
        match address.tcp().map(|address| address.port()) {
            Some(0) => Self(format!("{address} {listener}#{place}").into()),
            _ => Self(address.to_string().into()),
        }
    }
}

impl std::fmt::Display for SocketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is configured and alive.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// What happens to the connections of a socket.
    pub policies: HashMap<SocketId, Arc<Policy>>,
    /// The pools by name.
    pub pools: BTreeMap<Arc<str>, Arc<ServedPool>>,
    /// Where the policies find these pools, by name.
    pub pool_slots: BTreeMap<Arc<str>, Arc<PoolSlot>>,
    /// The lists of addresses, by name.
    pub lists: BTreeMap<Arc<str>, Arc<List>>,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let Self { policies, pools, pool_slots, lists } = self;
        let (policies, pools) = (std::mem::take(policies), std::mem::take(pools));
        reclaim::free_later((policies, pools, std::mem::take(pool_slots), std::mem::take(lists)));
    }
}

impl Snapshot {
    /// The same with another policy for a listener.
    pub fn with_policy(&self, policy: &Arc<Policy>) -> Self {
        let mut new = self.clone();
        let own = new.policies.values_mut().filter(|old| old.number == policy.number);
        own.for_each(|old| *old = Arc::clone(policy));
        new
    }

    /// The same with another pool in the place of that name. Connections find it there at once.
    pub fn replace(&self, name: &Arc<str>, served: Arc<ServedPool>) -> Self {
        let mut new = self.clone();
        if let Some(place) = self.pool_slots.get(name) {
            place.0.store(Arc::clone(&served));
            new.pools.insert(Arc::clone(name), served);
        }
        new
    }
}

/// Where policies find a pool. Shared by the snapshots in which that pool differs by its discovered backends
/// alone; a reload that changes a pool makes a new place, so that what is decided by an older policy keeps
/// to the pool it was made for.
pub struct PoolSlot(ArcSwap<ServedPool>);

impl PoolSlot {
    /// A place with its first pool.
    pub fn new(served: Arc<ServedPool>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(served)))
    }

    /// The pool that stands there now.
    pub fn served(&self) -> Arc<ServedPool> {
        self.0.load_full()
    }
}

/// A pool with its metrics.
pub struct ServedPool {
    /// The pool, with all its backends.
    pub pool: Arc<Pool>,
    /// Its fixed series.
    pub metrics: Arc<PoolMetrics>,
    /// What is known of each source of further backends.
    pub discovery: Vec<Arc<Discovery>>,
    /// What all its backends together may have.
    pub limits: Option<UsageLimit>,
}

/// What a listener does with its connections.
pub struct Policy {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The listener's number, by which its connections are found; kept over reloads.
    pub number: u64,
    /// Who may come in; `None` lets everybody in.
    pub access: Option<Box<AccessRules>>,
    /// What is asked of who comes, besides `gate`.
    pub admission: Option<Box<Admission>>,
    /// Whether PROXY headers are read, and whose.
    pub proxy: Option<Box<ProxySpec>>,
    /// Whether and how the first bytes are read, and where connections go.
    pub protocol: Protocol,
    /// What comes before the hello of a listener that reads one.
    pub front: OpeningPolicy,
    /// How bytes are moved.
    pub relay: Arc<RelayOptions>,
    /// The listener's places; outlives reloads.
    pub gate: Arc<Gate>,
    /// The listener's series; outlive reloads.
    pub metrics: Arc<ListenerMetrics>,
}

/// The protocol of a listener.
pub enum Protocol {
    /// Nothing is read before the backend is connected.
    Tcp(Box<TcpPolicy>),
    /// The ClientHello is read for its server name.
    Tls(Box<TlsPolicy>),
}

impl Protocol {
    /// The routes.
    pub fn routes(&self) -> &Routes {
        match self {
            Self::Tcp(tcp) => &tcp.routes,
            Self::Tls(tls) => &tls.routes,
        }
    }

    /// What its routes must know of a connection besides its name and source.
    pub fn asks(&self) -> RequiredFacts {
        self.routes().table.asks()
    }
}
