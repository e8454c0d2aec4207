//! The immutable view of the configuration in force: a policy for each socket, and the pools.
//!
//! A new snapshot replaces the old one in one step. A connection loads the snapshot once, takes the policy of
//! its socket, and releases the policy when its backend is connected.
//!
//! Any worker may hold the last reference to an old snapshot; `reclaim` frees its large parts.
//!
//! Policies refer to pools by their [`PoolSlot`]. So discovery can replace one pool, and a change of one backend
//! does not build a hundred thousand routes again.

pub mod access;
pub mod additions;
pub mod list;
pub mod opening_policy;
pub mod policy_spec;
mod proxy;
mod routes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::ids::ListenerId;
use crate::limit::{Gate, OverLimit, Quota, RateGate};
use crate::pool::{Discovery, Pool};
use crate::reclaim;
use crate::relay::RelayOptions;
use crate::route::RequiredFacts;
use crate::sys::Address;
use crate::telemetry::{ListenerMetrics, PoolMetrics};
pub use access::{AccessRules, AccessSpec, ClientRefusal};
pub use additions::Additions;
pub use list::{List, ListSpec};
pub use opening_policy::OpeningPolicy;
pub use policy_spec::{
    ActionSpec, AdmissionSpec, DetectSpec, HelloSpec, OpeningSpec, PolicySpec, ProtocolSpec, RouteSpec,
    RoutesFileSpec, TargetSpec, TunnelOpening,
};
pub use proxy::{ProxyMode, ProxySpec, TrustedPeers};
pub use routes::{Action, NoRoute, RouteTarget, Routes, TcpPolicy, TlsPolicy, TunnelPolicy};

/// The identity of a listening socket: its address. For a port that the kernel chooses, the listener and the index
/// of the address are added. Several such addresses may have the same text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(Arc<str>);

impl SocketId {
    /// Returns the identity of the address with this index in a listener.
    pub fn new(listener: &str, index: usize, address: &Address) -> Self {
        match address.tcp().map(|address| address.port()) {
            Some(0) => Self(format!("{address} {listener}#{index}").into()),
            _ => Self(address.to_string().into()),
        }
    }
}

impl std::fmt::Display for SocketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The policies, pools and lists that are configured and alive.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The policy of each socket.
    pub policies: HashMap<SocketId, Arc<Policy>>,
    /// The pools by name.
    pub pools: BTreeMap<Arc<str>, Arc<ServedPool>>,
    /// The slots in which policies find these pools, by name.
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
    /// Returns the snapshot with another policy for a listener.
    pub fn with_policy(&self, policy: &Arc<Policy>) -> Self {
        let mut new = self.clone();
        let own = new.policies.values_mut().filter(|old| old.listener_id == policy.listener_id);
        own.for_each(|old| *old = Arc::clone(policy));
        new
    }

    /// Returns the snapshot with another pool in the slot of that name. Connections use the new pool at once.
    pub fn replace(&self, name: &Arc<str>, served: Arc<ServedPool>) -> Self {
        let mut new = self.clone();
        if let Some(slot) = self.pool_slots.get(name) {
            slot.0.store(Arc::clone(&served));
            new.pools.insert(Arc::clone(name), served);
        }
        new
    }
}

/// The slot in which policies find a pool. Shared by the snapshots in which that pool differs only by its
/// discovered backends. A reload that changes a pool makes a new slot. So connections with an older policy use the
/// pool of that policy.
pub struct PoolSlot(ArcSwap<ServedPool>);

impl PoolSlot {
    /// Returns a slot with its first pool.
    pub fn new(served: Arc<ServedPool>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(served)))
    }

    /// Returns the pool in the slot.
    pub fn served(&self) -> Arc<ServedPool> {
        self.0.load_full()
    }
}

/// A pool with its metrics.
pub struct ServedPool {
    /// The pool, with all its backends.
    pub pool: Arc<Pool>,
    /// Its series with fixed labels.
    pub metrics: Arc<PoolMetrics>,
    /// The state of each discovery source.
    pub discovery: Vec<Arc<Discovery>>,
    /// The limits of all its backends together.
    pub limits: Option<UsageLimit>,
}

/// The policy of a listener: the rules for its connections.
pub struct Policy {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The listener's id, by which its connections are found; kept over reloads.
    pub listener_id: ListenerId,
    /// The access rules; `None` admits all addresses.
    pub access: Option<Box<AccessRules>>,
    /// The limits on admission, besides `gate`.
    pub admission: Option<Box<Admission>>,
    /// The settings for PROXY headers; `None` reads none.
    pub proxy: Option<Box<ProxySpec>>,
    /// The reading of the first bytes, and the routes.
    pub protocol: Protocol,
    /// The opening before the hello, if the listener reads a hello.
    pub opening: OpeningPolicy,
    /// The options of the relay.
    pub relay: Arc<RelayOptions>,
    /// The open connections of the listener and their limit; kept over reloads.
    pub gate: Arc<Gate>,
    /// The metrics of the listener; kept over reloads.
    pub metrics: Arc<ListenerMetrics>,
}

/// The limits that a listener sets on its connections.
#[derive(Debug)]
pub struct Admission {
    /// The limits as configured.
    pub spec: AdmissionSpec,
    /// The rate of the listener; kept over reloads.
    pub rate: Arc<RateGate>,
}

/// The limits of a route or a pool.
#[derive(Clone, Debug)]
pub struct UsageLimit {
    /// The use of the limits; kept over reloads.
    pub quota: Arc<Quota>,
    /// The treatment of a connection above a limit.
    pub over: OverLimit,
}

/// The protocol of a listener.
pub enum Protocol {
    /// Nothing is read before the backend is connected.
    Tcp(Box<TcpPolicy>),
    /// The client requests a tunnel to a host.
    Tunnel(Box<TunnelPolicy>),
    /// The ClientHello is read for its server name.
    Tls(Box<TlsPolicy>),
}

impl Protocol {
    /// The routes.
    pub fn routes(&self) -> &Routes {
        match self {
            Self::Tcp(tcp) => &tcp.routes,
            Self::Tunnel(tunnel) => &tunnel.routes,
            Self::Tls(tls) => &tls.routes,
        }
    }

    /// Returns the bounds for the reading of the first bytes; `None` if none are read.
    pub fn first_bytes(&self) -> Option<&HelloSpec> {
        match self {
            Self::Tcp(_) => None,
            Self::Tunnel(tunnel) => Some(&tunnel.hello),
            Self::Tls(tls) => Some(&tls.hello),
        }
    }

    /// Returns the facts of a connection that its routes need besides name and source.
    pub fn required_facts(&self) -> RequiredFacts {
        self.routes().table.asks()
    }
}
