//! A pool in use: the backends, the tiers with their balancers, and the queue.
//!
//! A [`Pool`] is built whole from its spec, is part of a snapshot and never changes its members. The atomics of its
//! backends change while it is in use, so a pick takes no lock.

use std::collections::{HashMap, HashSet};
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use arc_swap::Guard;
use siphasher::sip::SipHasher24;

use super::backend::Backend;
use super::backend_spec::{BackendSpec, NameOrigin};
use super::forward::Forward;
use super::near::Places;
use super::pool_spec::PoolSpec;
use super::sessions::SessionTable;
use super::signals::PoolSignals;
use super::tiers::{self, PoolTiers, Tier, TierHealth, TierPlan, TierView, Tiers};
use crate::balance::{Balancer, FULL_SHARE, Maglev, Member};
use crate::ids::BackendId;
use crate::reclaim;
use crate::sys::Address;

/// A pool in use. Shared by the snapshot's listeners. The pool ends with the last snapshot that names it, its
/// backends end with their last lease.
#[derive(Debug)]
pub struct Pool {
    pub(super) spec: PoolSpec,
    pub(super) tiers: PoolTiers,
    /// The reports of the backends, and the connections that wait for them. Shared with the backends, and with the pools
    /// of earlier and later snapshots.
    pub(super) signals: Arc<PoolSignals>,
    /// The pool of this name that is in force, where waiters pick a backend. Shared as the signals are. Has a
    /// lock because a weak pointer cannot be swapped. A waiter takes this lock while it holds the lock of the
    /// queue.
    pub(super) present: Arc<Mutex<Weak<Pool>>>,
    /// The backends, in the order of the spec.
    pub(super) backends: Vec<Arc<Backend>>,
    by_name: HashMap<Arc<str>, usize>,
    forward: Option<Forward>,
    /// The backends at which each source has sessions; only for pools that get requests to cancel. Shared as the
    /// signals are.
    pub(super) sessions: Option<Arc<SessionTable>>,
}

impl Drop for Pool {
    /// Frees large parts on the reclaim thread: any worker may hold the last reference, and ten thousand backends and
    /// their tables take milliseconds to free.
    fn drop(&mut self) {
        let (specs, backends) = (std::mem::take(&mut self.spec.backends), std::mem::take(&mut self.backends));
        reclaim::free_later((specs, backends, std::mem::take(&mut self.by_name), self.tiers.take_lists()));
    }
}

impl Pool {
    /// Builds the pool of `spec`, and takes over the unchanged parts of the `previous` pool. Backends with the same
    /// name and address keep health and counts. A discovered backend with a new name is found by its address. The
    /// balancer is taken over if nothing from which it was built has changed. A `previous` pool of another name is
    /// ignored. New settings of the backends taken over come into force with [`Pool::settle`].
    ///
    /// `start` is the position at which round robin begins. Pass a random number, so that not every process begins at
    /// the same backend.
    pub fn build(mut spec: PoolSpec, previous: Option<&Pool>, start: u64) -> Pool {
        let now = Instant::now();
        let previous = previous.filter(|old| old.spec.name == spec.name);
        let signals = previous.map_or_else(Arc::default, |pool| Arc::clone(&pool.signals));
        let present = previous.map_or_else(Arc::default, |pool| Arc::clone(&pool.present));
        let renamed = previous.map_or_else(HashMap::new, |pool| pool.without_name_in(&spec));
        let backends: Vec<_> = spec
            .backends
            .iter()
            .map(|backend| {
                let new = Backend::new(&spec.name, backend, now, &signals);
                new.traffic().tolerate(spec.tolerated());
                // A new backend beside warm backends begins slowly. If all backends are new, no backend begins
                // slowly.
                let Some(pool) = previous.filter(|pool| !pool.backends.is_empty()) else {
                    return Arc::new(new);
                };
                match (pool.backend(&backend.name), renamed.get(&backend.address)) {
                    (Some(old), _) => new.succeed(old),
                    (None, Some(old)) if backend.origin == NameOrigin::Discovery => {
                        new.succeed_by_address(old)
                    }
                    (None, _) => Arc::new(new.starting_slowly()),
                }
            })
            .collect();
        let near = spec.tiers.near.as_mut();
        let places = near.map(|near| Places::build(near, previous.and_then(|pool| pool.tiers.places())));
        let tiers = pool_tiers(&spec, places, previous, start);
        let by_name =
            backends.iter().enumerate().map(|(at, backend)| (Arc::clone(backend.name()), at)).collect();
        let forward = spec.forward.as_ref();
        let forward =
            forward.map(|spec| Forward::build(spec, previous.and_then(|pool| pool.forward.as_ref())));
        let known = previous.and_then(|pool| pool.sessions.clone());
        let sessions = spec.gets_cancels.then(|| known.unwrap_or_default());
        Pool { spec, tiers, signals, present, backends, by_name, forward, sessions }
    }

    /// Restores the number and the counts of a backend that had left the pool and is back. If the backend of
    /// the same name is the same server, it gets them. So it counts the connections that are still open to it.
    /// The results of checks are not taken over, because nothing checked the backend meanwhile.
    pub fn take_back(&mut self, left: &Arc<Backend>) {
        if let Some(&at) = self.by_name.get(left.name()) {
            let again = Backend::new(&self.spec.name, &self.spec.backends[at], Instant::now(), &self.signals);
            let again = again.starting_slowly();
            if again.is_at(left) {
                self.backends[at] = again.succeed_in_counts(left);
            }
        }
    }

    /// The spec that the pool was built from.
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Its backends, in the order of the spec.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The number of backends that take new connections.
    pub fn available(&self) -> usize {
        self.backends.iter().filter(|backend| backend.is_available()).count()
    }

    /// Returns true if the pool has a backend for a new connection, even a full backend. A backend is available, or
    /// the pool is in panic mode and a backend is in use.
    pub fn has_backend(&self) -> bool {
        self.backends.iter().any(|backend| backend.is_available())
            || (self.is_in_panic() && self.backends.iter().any(|backend| backend.is_wanted()))
    }

    /// The backend of that name.
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.by_name.get(name).map(|&at| &self.backends[at])
    }

    /// The backend with this id. Takes a time that grows with the number of backends.
    pub fn with_id(&self, id: BackendId) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| backend.id() == id)
    }

    /// The hosts that clients go to by name, for a forwarding pool.
    pub fn forward(&self) -> Option<&Forward> {
        self.forward.as_ref()
    }

    /// The number of connections that wait in the queue now.
    pub fn waiting(&self) -> usize {
        self.signals.queue.waiting()
    }

    /// Returns the zones with backends for the client at this address, the nearest first; `*` are all zones without a site.
    /// `None` if the client gets the order of the node.
    pub fn zones_of(&self, source: Option<SocketAddr>) -> Option<Vec<Arc<str>>> {
        self.tiers.zones_of(source)
    }

    /// The tiers in the order of the node: primaries, then backups.
    pub fn tiers(&self) -> Vec<TierView> {
        self.tiers.own().views(&self.tier_health())
    }

    /// Returns true if the pool is in panic mode: its picks ignore health. Logs the beginning and the end of panic
    /// mode. Each pick logs them too, but a pool without picks would log them late: call this after changes.
    pub fn is_in_panic(&self) -> bool {
        self.tier_health().is_panic()
    }

    /// Returns the health of the tiers now.
    pub(super) fn tier_health(&self) -> Guard<Arc<TierHealth>> {
        self.health_of(self.tiers.own())
    }

    /// Returns the health of these tiers of the pool now.
    pub(super) fn health_of(&self, tiers: &Tiers) -> Guard<Arc<TierHealth>> {
        tiers.known(&self.spec.name, &self.backends, self.signals.changes())
    }

    /// The places of clients, for a pool that has an order of zones for each place.
    pub fn places(&self) -> Option<&Arc<Places>> {
        self.tiers.places()
    }

    /// The number of backends picked in panic mode since the pool was configured.
    pub fn panic_picks(&self) -> u64 {
        self.tiers.own().panic_picks()
    }

    /// Adds the picks in panic mode of another process.
    pub fn add_panic_picks(&self, count: u64) {
        self.tiers.own().add_panic_picks(count);
    }

    /// Adds the overflows of the hash tables in another process. They count at the first tier with that bound.
    pub fn add_overflows(&self, count: u64) {
        _ = self.tiers.tables().any(|maglev| maglev.add_overflows(count));
    }

    /// The part of its share that a backend takes now: 1 is all of it; less in a slow start, or if its agent allows
    /// only a part.
    pub fn share(&self, backend: &Backend, now: Instant) -> f64 {
        let share = backend.share(self.spec.slow_start, || now);
        f64::from(share) / f64::from(FULL_SHARE)
    }

    /// The number of connections that did not go to the backend of their key because it was at `max_load`; `None`
    /// without that bound.
    pub fn overflows(&self) -> Option<u64> {
        let sum = || self.tiers.tables().map(Maglev::overflows).sum::<Option<u64>>();
        self.is_hashed().then(sum).flatten()
    }

    /// A fingerprint of the hash tables, equal on nodes with the same tables; `None` for a balancer without a table.
    /// For several tiers the fingerprint covers their order too, which differs between zones. It covers the tiers by
    /// distance and not the places of clients, which have a fingerprint of their own.
    pub fn digest(&self) -> Option<u64> {
        let digests: Option<Vec<u64>> =
            self.tiers.all().map(|tier| tier.maglev().map(Maglev::digest)).collect();
        match *digests? {
            [] => None,
            [only] => Some(only),
            ref several => {
                let mut hasher = SipHasher24::new_with_key(&self.spec.hash_key);
                several.iter().for_each(|digest| hasher.write(&digest.to_le_bytes()));
                Some(hasher.finish())
            }
        }
    }

    /// The entries of each backend in the hash table of its tier, in the order of [`Pool::backends`]; `None` for a
    /// balancer without a table.
    pub fn entries(&self) -> Option<Vec<u32>> {
        let mut entries = vec![0; self.backends.len()];
        for tier in self.tiers.own().list() {
            for (&at, count) in tier.members().iter().zip(tier.maglev()?.entries()) {
                entries[at] = count;
            }
        }
        Some(entries)
    }

    /// Returns the discovered backends whose names are not in a new spec, with their addresses as keys. A backend of
    /// the new spec at such an address is the same server under another name.
    fn without_name_in(&self, spec: &PoolSpec) -> HashMap<&Address, &Arc<Backend>> {
        let is_discovered = |backend: &BackendSpec| backend.origin == NameOrigin::Discovery;
        if !self.spec.backends.iter().any(is_discovered) {
            return HashMap::new();
        }
        let names: HashSet<&str> = spec.backends.iter().map(|backend| &*backend.name).collect();
        let both = self.spec.backends.iter().zip(&self.backends);
        let gone = both.filter(|(spec, _)| is_discovered(spec) && !names.contains(&*spec.name));
        gone.map(|(_, backend)| (backend.address(), backend)).collect()
    }

    /// The balancer of a tier that has the same members and picks among them in the same way.
    fn balancer_of(&self, spec: &PoolSpec, members: &[&BackendSpec]) -> Option<Arc<Balancer>> {
        let is_same = |tier: &&Tier| {
            let had = tier.members().iter().map(|&at| &self.spec.backends[at]);
            balances_alike(&self.spec, spec) && had.map(as_member).eq(members.iter().copied().map(as_member))
        };
        self.tiers.all().find(is_same).map(|tier| Arc::clone(&tier.balancer))
    }
}

/// Builds all tiers of a pool. A balancer is taken over from the previous pool, or shared with an earlier tier, if it has
/// the same members.
fn pool_tiers(
    spec: &PoolSpec,
    places: Option<Arc<Places>>,
    previous: Option<&Pool>,
    start: u64,
) -> PoolTiers {
    let panic = previous.map_or_else(Arc::default, |pool| Arc::clone(pool.tiers.own().panic()));
    let build = |plans: Vec<TierPlan>, earlier: &[Tier]| {
        let tier = |plan: TierPlan| {
            let members: Vec<_> = plan.members.iter().map(|&at| &spec.backends[at]).collect();
            let shared = earlier.iter().find(|tier| tier.members() == &*plan.members);
            let balancer = shared
                .map(|tier| Arc::clone(&tier.balancer))
                .or_else(|| previous.and_then(|old| old.balancer_of(spec, &members)))
                .unwrap_or_else(|| Arc::new(balancer(spec, &members, start)));
            Tier::new(plan, balancer)
        };
        let list = plans.into_iter().map(tier).collect();
        Tiers::new(list, spec.tiers.panic_threshold, Arc::clone(&panic))
    };
    let preferred: Vec<_> = spec.tiers.zone.iter().chain(&spec.tiers.zones).collect();
    let own = build(tiers::plan(&preferred, &spec.backends), &[]);
    let near = places.map(|places| {
        let zones: Vec<_> = places.source().sites.names().collect();
        (build(tiers::plan(&zones, &spec.backends), own.list()), places)
    });
    PoolTiers::new(own, near)
}

/// Returns true if both pools pick in the same way among the same members. The order of the members counts: a
/// balancer returns an index.
fn balances_alike(old: &PoolSpec, new: &PoolSpec) -> bool {
    let settings = |spec: &PoolSpec| (spec.algorithm, spec.hash_key, spec.max_load);
    settings(old) == settings(new)
}

/// The identity of a backend in the table is its name, without the name of the pool. So a new name of the pool
/// moves no client. Two pools over the same servers send a client to the same server.
fn as_member(backend: &BackendSpec) -> Member<'_> {
    Member { identity: backend.name.as_bytes(), weight: backend.weight.into() }
}

fn balancer(spec: &PoolSpec, members: &[&BackendSpec], start: u64) -> Balancer {
    let members: Vec<_> = members.iter().copied().map(as_member).collect();
    Balancer::build(spec.algorithm, &members, &spec.hash_key, start).bounded(spec.max_load, &members)
}
