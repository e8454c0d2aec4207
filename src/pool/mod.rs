//! A named set of backends, how to choose among them, and how their health is known.
//!
//! A [`Pool`] is built whole from its spec, is part of a snapshot and never changes its members; what
//! changes while it lives are its backends' atomics, so picking takes no lock.
//! Tasks (`probe`) only send what they found; whoever owns the snapshot calls [`Pool::apply`].
//!
//! It opens no connections for clients: `conn` does, with the lease it gets here.

mod backend;
pub mod discover;
mod hash_on;
mod health;
mod lease;
mod probe;
pub mod spec;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::balance::{Balancer, Maglev, Member};
use crate::wire::ServerName;
use backend::Found;

pub use backend::Backend;
pub use discover::spec::{DiscoverSpec, DnsSpec, Records, Source};
pub use discover::{Discoveries, Discovery, DiscoveryReport};
pub use health::{Change, CheckFault, CheckOutcome, Reason, State};
pub use lease::Lease;
pub use probe::{CheckReport, Checks};
pub use spec::{BackendSpec, CheckKind, DialSpec, HashOn, HealthSpec, PoolSpec, SourcePrefix};

/// A living pool. Shared by the snapshot's listeners; it ends with the last snapshot that names it,
/// its backends with their last lease.
#[derive(Debug)]
pub struct Pool {
    spec: PoolSpec,
    /// Picks an index into `backends`. Shared with the pool of the snapshot before where members,
    /// weights and key are equal: the table costs milliseconds, and round robin goes on where it was
    /// instead of sending the first connections after each reload to one backend.
    balancer: Arc<Balancer>,
    /// In written order, as in the spec.
    backends: Vec<Arc<Backend>>,
    by_name: HashMap<Arc<str>, usize>,
}

impl Pool {
    /// Builds the pool of `spec`, taking over what is unchanged from its `previous` self: backends by
    /// name and address with health and counts, the balancer if nothing it was built from changed. A
    /// `previous` pool of another name is passed over.
    ///
    /// `start` is where round robin begins; pass a random number, so that not every process begins at
    /// the same backend.
    pub fn build(spec: PoolSpec, previous: Option<&Pool>, start: u64) -> Pool {
        let now = Instant::now();
        let previous = previous.filter(|old| old.spec.name == spec.name);
        let backends: Vec<_> = spec
            .backends
            .iter()
            .map(|backend| {
                let new = Backend::new(&spec.name, backend, now);
                match previous.and_then(|pool| Some((pool, pool.backend(&backend.name)?))) {
                    Some((pool, old)) => new.succeed(old, found(&pool.spec, &spec)),
                    None => Arc::new(new),
                }
            })
            .collect();
        let balancer = match previous {
            Some(old) if balances_alike(&old.spec, &spec) => Arc::clone(&old.balancer),
            _ => Arc::new(balancer(&spec, start)),
        };
        let by_name =
            backends.iter().enumerate().map(|(at, backend)| (Arc::clone(backend.name()), at)).collect();
        Pool { spec, balancer, backends, by_name }
    }

    /// Lets a backend that had left the pool go on with its number and counts, if the same server stands
    /// here again under that name: the connections that are still open to it are its own. What checks had
    /// found of it is not taken over; it has not been watched meanwhile.
    pub fn take_back(&mut self, left: &Arc<Backend>) {
        if let Some(&at) = self.by_name.get(left.name()) {
            let again = Backend::new(&self.spec.name, &self.spec.backends[at], Instant::now());
            if again.is_at(left) {
                self.backends[at] = again.succeed(left, Found::Forget);
            }
        }
    }

    /// What it was built from.
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Its backends, in written order.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The backend of that name.
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.by_name.get(name).map(|&at| &self.backends[at])
    }

    /// Picks a backend for a connection and holds it.
    ///
    /// `source` is the client's address, `None` for a Unix socket; `tried` are the backends this
    /// connection already failed to reach. `None` means that none is left that is up, has a weight and
    /// was not tried.
    pub fn pick(
        &self,
        source: Option<SocketAddr>,
        server_name: Option<&ServerName>,
        tried: &[Arc<Backend>],
    ) -> Option<Lease> {
        let key = match *self.balancer {
            Balancer::Maglev(_) => hash_on::key(&self.spec, source, server_name),
            Balancer::RoundRobin(_) => 0,
        };
        let at = self.balancer.pick(key, |at| {
            let backend = &self.backends[at];
            backend.is_available() && !tried.iter().any(|other| other.is_same(backend))
        })?;
        Some(Lease::new(&self.backends[at]))
    }

    /// Takes in what a check found, and says if that changed the backend's state.
    ///
    /// A report about a backend that a reload has taken away or replaced meanwhile is passed over, as
    /// is any while the pool has no checks. Not for concurrent callers: one task applies all changes.
    pub fn apply(&self, report: &CheckReport, now: Instant) -> Option<Change> {
        let spec = self.spec.health.as_ref()?;
        let backend = self.backend(report.backend.name())?;
        if !backend.shares_health(&report.backend) {
            return None;
        }
        backend.observe(report.outcome, spec, now)
    }

    /// A fingerprint of the hash table, equal on nodes that agree; `None` for round robin.
    pub fn digest(&self) -> Option<u64> {
        self.maglev().map(Maglev::digest)
    }

    /// The entries of each backend in the hash table, in the order of [`Pool::backends`]; `None` for
    /// round robin.
    pub fn entries(&self) -> Option<Vec<u32>> {
        self.maglev().map(Maglev::entries)
    }

    fn maglev(&self) -> Option<&Maglev> {
        match &*self.balancer {
            Balancer::Maglev(maglev) => Some(maglev),
            Balancer::RoundRobin(_) => None,
        }
    }
}

/// Whether both specs make the same balancer. The order counts: a balancer answers with an index.
fn balances_alike(old: &PoolSpec, new: &PoolSpec) -> bool {
    let members = |spec: &PoolSpec| -> Vec<_> {
        spec.backends.iter().map(|backend| (Arc::clone(&backend.name), backend.weight)).collect()
    };
    old.algorithm == new.algorithm && old.hash_key == new.hash_key && members(old) == members(new)
}

/// Whether what the checks of the old pool found holds in the new one.
fn found(old: &PoolSpec, new: &PoolSpec) -> Found {
    if old.health.is_some() && new.health.is_none() { Found::Forget } else { Found::Keep }
}

/// A backend's identity in the table is its name alone, without the pool's: renaming a pool moves
/// nobody, and two pools over the same servers send a client to the same one.
fn balancer(spec: &PoolSpec, start: u64) -> Balancer {
    let members: Vec<_> = spec
        .backends
        .iter()
        .map(|backend| Member { identity: backend.name.as_bytes(), weight: backend.weight.into() })
        .collect();
    Balancer::build(spec.algorithm, &members, &spec.hash_key, start)
}

#[cfg(test)]
mod tests;
