//! Finds cycles: backends that are listeners of the same process and lead back to their own pools.
//!
//! A backend may be another listener on purpose. A path that leads back to the backend's own pool is a cycle. Each
//! client and each check goes through the cycle until the process has no connection left.
//!
//! A cycle is *certain* if one connection always stays in it. Then no route on the path has a condition besides the
//! server name, and all routes on the path are for the same written name. A certain cycle is a fault. Any other
//! cycle is a warning: it may end, for example by a route for the address from which the second turn comes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::listener::ListenerSpec;
use crate::pool::PoolSpec;
use crate::snapshot::{ActionSpec, OpeningSpec, ProtocolSpec, TargetSpec};
use crate::sys::Address;

/// A path from a backend back to the pool that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// Each listener on the path, with the pool that it leads to and the backend that is the next listener.
    steps: Vec<CycleStep>,
    /// True if one connection follows the path again and again without an end.
    pub is_certain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CycleStep {
    listener: Arc<str>,
    pool: Arc<str>,
    backend: Address,
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for CycleStep { listener, pool, backend } in &self.steps {
            let backend = backend.known_part();
            write!(f, "listener `{listener}` -> pool `{pool}` -> {backend} -> ")?;
        }
        write!(f, "listener `{}`", self.steps.first().map_or("", |step| &step.listener))
    }
}

/// The connections that follow a path out of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum EdgeLabel {
    /// All connections.
    All,
    /// Connections for one route: the name in the configuration, or the key that leads to the pool.
    Only(String),
    /// Connections with a property that may differ at the second turn.
    Uncertain,
}

impl EdgeLabel {
    /// Returns the label of the connections that follow both paths, or `None` if no connection certainly does.
    fn and(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Uncertain, _) | (_, Self::Uncertain) => None,
            (Self::All, one) | (one, Self::All) => Some(one.clone()),
            (one, other) => (one == other).then(|| one.clone()),
        }
    }
}

/// The listeners of a process, and the backends that are such listeners.
pub struct Graph<'a> {
    listeners: &'a [ListenerSpec],
    /// Listeners by the address that they are bound to.
    bound: HashMap<Address, usize>,
    /// Listeners on every address of a family, by their port and whether the family is IPv4.
    wild: HashMap<(u16, bool), usize>,
    /// The addresses of this host, or none if they are not known.
    host: &'a [IpAddr],
    /// The backends of each pool that are listeners.
    hits: HashMap<&'a str, Vec<(Address, usize)>>,
}

impl<'a> Graph<'a> {
    /// Builds the graph of these listeners and pools. `host` has the addresses of this host's interfaces, or none if
    /// the configuration may be for another host. Every host has loopback addresses.
    pub fn new(listeners: &'a [ListenerSpec], pools: &'a [PoolSpec], host: &'a [IpAddr]) -> Self {
        let mut graph =
            Self { listeners, bound: HashMap::new(), wild: HashMap::new(), host, hits: HashMap::new() };
        for (at, listener) in listeners.iter().enumerate() {
            for bind in &listener.binds {
                match bind.tcp() {
                    Some(tcp) if tcp.port() == 0 => {}
                    Some(tcp) if tcp.ip().is_unspecified() => {
                        graph.wild.insert((tcp.port(), tcp.is_ipv4()), at);
                    }
                    _ => _ = graph.bound.insert(bind.to_canonical(), at),
                }
            }
        }
        if graph.bound.is_empty() && graph.wild.is_empty() {
            return graph;
        }
        for pool in pools.iter().filter(|pool| pool.forward.is_none()) {
            let hits = pool
                .backends
                .iter()
                .filter_map(|backend| Some((backend.address.clone(), graph.listener_at(&backend.address)?)));
            let hits: Vec<_> = hits.collect();
            if !hits.is_empty() {
                graph.hits.insert(&pool.name, hits);
            }
        }
        graph
    }

    /// Returns the backends that are listeners, each with its pool.
    pub fn own_backends(&self) -> impl Iterator<Item = (&'a str, &Address)> {
        self.hits.iter().flat_map(|(pool, hits)| hits.iter().map(|(address, _)| (*pool, address)))
    }

    /// Returns the listener of this process that a connect to `address` reaches, or `None`.
    fn listener_at(&self, address: &Address) -> Option<usize> {
        let address = address.to_canonical();
        if let Some(at) = self.bound.get(&address) {
            return Some(*at);
        }
        let tcp: SocketAddr = address.tcp()?;
        let is_here = tcp.ip().is_loopback() || self.host.contains(&tcp.ip());
        if tcp.port() == 0 {
            return self.listener_with_range(tcp.ip(), is_here);
        }
        self.wild.get(&(tcp.port(), tcp.is_ipv4())).copied().filter(|_| is_here)
    }

    /// Returns the listener that is the same as a backend without a port at `ip`. Such a backend gets the port of
    /// its client, so only the address must match.
    fn listener_with_range(&self, ip: IpAddr, is_here: bool) -> Option<usize> {
        let reaches = |bind: &Address| {
            bind.tcp().is_some_and(|tcp| match tcp.ip().is_unspecified() {
                true => is_here && tcp.is_ipv4() == ip.is_ipv4(),
                false => tcp.ip() == ip,
            })
        };
        let reached =
            self.listeners.iter().enumerate().filter(|(_, listener)| listener.binds.iter().any(reaches));
        reached.max_by_key(|(_, listener)| listener.binds.len()).map(|(at, _)| at)
    }

    /// Returns the path by which connections to a backend at `address` come back to its `pool`, or `None`. A
    /// certain cycle is preferred.
    pub fn cycle(&self, pool: &str, address: &Address) -> Option<Cycle> {
        let first = self.listener_at(address)?;
        let mut search =
            Search { graph: self, pool, seen: HashSet::new(), steps: Vec::new(), is_certain: true };
        if !search.find(first, &EdgeLabel::All) {
            search = Search { graph: self, pool, seen: HashSet::new(), steps: Vec::new(), is_certain: false };
            if !search.find(first, &EdgeLabel::All) {
                return None;
            }
        }
        let Search { mut steps, is_certain, .. } = search;
        steps.last_mut()?.backend = address.clone();
        Some(Cycle { steps, is_certain })
    }
}

/// A search for a path to a pool.
struct Search<'g, 'a> {
    graph: &'g Graph<'a>,
    pool: &'g str,
    seen: HashSet<(usize, EdgeLabel)>,
    steps: Vec<CycleStep>,
    /// True if only certain paths are followed.
    is_certain: bool,
}

impl Search<'_, '_> {
    /// Searches the pool after a listener, and leaves the path to it in `steps`.
    fn find(&mut self, at: usize, label: &EdgeLabel) -> bool {
        if !self.seen.insert((at, label.clone())) {
            return false;
        }
        let listener = &self.graph.listeners[at];
        for (way, pool) in targets(listener) {
            let label = match label.and(&way) {
                Some(label) => label,
                None if self.is_certain => continue,
                None => EdgeLabel::All,
            };
            let step = |backend: &Address| CycleStep {
                listener: Arc::clone(&listener.name),
                pool: Arc::clone(pool),
                backend: backend.clone(),
            };
            if **pool == *self.pool {
                // A placeholder: the caller writes the backend of its question here.
                self.steps.push(step(&SocketAddr::from(([0; 4], 0)).into()));
                return true;
            }
            for (backend, next) in self.graph.hits.get(&**pool).into_iter().flatten() {
                self.steps.push(step(backend));
                if self.find(*next, &label) {
                    return true;
                }
                self.steps.pop();
            }
        }
        false
    }
}

/// Returns the pools that a listener leads to; a pool may come several times.
pub(super) fn pools_of(listener: &ListenerSpec) -> impl Iterator<Item = &Arc<str>> {
    targets(listener).into_iter().map(|(_, pool)| pool)
}

/// Returns the pools that a listener leads to, each with the connections that go there.
fn targets(listener: &ListenerSpec) -> Vec<(EdgeLabel, &Arc<str>)> {
    let policy = &listener.policy;
    let mut targets = Vec::new();
    for route in policy.protocol.routes() {
        match &route.action {
            ActionSpec::Pool(pool) => {
                targets.extend(route.keys.iter().map(|key| (EdgeLabel::Only(key.to_string()), pool)));
            }
            // Another pool of the split may take the second turn.
            ActionSpec::Split(_, pools) => {
                targets.extend(pools.iter().map(|pool| (EdgeLabel::Uncertain, pool)))
            }
            ActionSpec::Reject | ActionSpec::Drop => {}
        }
    }
    match &policy.protocol {
        ProtocolSpec::Tcp { pool, .. } | ProtocolSpec::Tunnel { pool, .. } => {
            targets.push((EdgeLabel::All, pool))
        }
        ProtocolSpec::Tls { no_sni, unmatched, .. } => {
            targets.extend(by_keys([("no_sni", no_sni), ("unmatched", unmatched)]));
        }
    }
    match &policy.opening {
        OpeningSpec::Straight | OpeningSpec::Starttls { .. } => {}
        OpeningSpec::Postgres { plaintext, databases, users, cancel, .. } => {
            targets.extend(by_keys([("plaintext", plaintext), ("cancel", cancel)]));
            for (table, entries) in [("databases", databases), ("users", users)] {
                let of_table = entries.iter();
                targets
                    .extend(of_table.map(|(name, pool)| (EdgeLabel::Only(format!("{table}.{name}")), pool)));
            }
        }
        OpeningSpec::Detect(detect) => targets.extend(by_keys([
            ("socks5", &detect.socks5),
            ("connect", &detect.connect),
            ("ssh", &detect.ssh),
            ("http", &detect.http),
            ("postgres", &detect.postgres),
            ("other", &detect.other),
            ("on_timeout", &detect.on_timeout),
        ])),
    }
    // A route with conditions may send the second turn elsewhere, whatever the other routes are for.
    if policy.protocol.routes().iter().any(|route| route.conditions.is_some()) {
        targets.iter_mut().for_each(|(label, _)| *label = EdgeLabel::Uncertain);
    }
    targets
}

fn by_keys<'t, const N: usize>(
    keys: [(&'static str, &'t TargetSpec); N],
) -> impl Iterator<Item = (EdgeLabel, &'t Arc<str>)> {
    keys.into_iter().filter_map(|(key, target)| match target {
        TargetSpec::Pool(pool) => Some((EdgeLabel::Only(key.to_owned()), pool)),
        TargetSpec::Reject => None,
    })
}
