//! The tiers of a pool in use: their orders, and the spread of keys over them.
//!
//! Primaries form tiers by zone: the own zone, the listed zones in their order, and all others together. This is the own
//! order of the node. A pool may also have tiers by distance, with an order for each place of clients
//! (`client_order`). Backups form tiers in the same way. They are used only while no primary is up, or for a client that failed
//! at each primary that is up. A connection waits for a full primary, because writes to backups may be
//! forbidden. Each tier has its own balancer, so a change in one tier moves no key within another. The rule for
//! the overflow from one tier to the next is in [`crate::balance::tiers`].
//!
//! Below the panic threshold, the failures of checks point to the checks and not to the backends. Picks then ignore
//! health (panic mode): all backends of the kind in use are used, by weight, in any zone. While a primary is up,
//! the primaries are in use. Else, while a backup is up, the backups are in use. Else both are in use, the
//! primaries first. Backends that the operator or an agent has taken out do not count and are not used.
//!
//! The states of the backends are read after a state has changed, not at each pick.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use super::backend::Backend;
use super::backend_spec::BackendSpec;
use super::near::{NearSpec, ZoneRank};
use crate::balance::tiers::{Capacity, KeyOwner, TierSpread, WHOLE};
use crate::balance::{Balancer, Maglev};

/// The name of the tier of all zones that are in no list. No zone can have this name.
const OTHERS: &str = "*";

mod client_order;

pub(super) use client_order::PoolTiers;

/// The order in which backends are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierSpec {
    /// The zone of this node, whose backends come first. Default: no zone comes first.
    pub zone: Option<Arc<str>>,
    /// The zones that come next, in order of preference; zones in no list come last, all alike.
    pub zones: Vec<Arc<str>>,
    /// The percentage of weight that is up, 1 to 100, below which picks ignore health. Default: never.
    pub panic_threshold: Option<u8>,
    /// The order of zones for each client, by its distance. Default: all clients get the order of the node.
    pub near: Option<NearSpec>,
}

/// The tiers of a pool: primaries first, each kind by the ranks of its zones. All backends of the pool are in one of them.
#[derive(Debug)]
pub(super) struct Tiers {
    list: Box<[Tier]>,
    /// All ranks in ascending order: the order for clients that have no order of their own.
    own_order: Box<[ZoneRank]>,
    /// The number of tiers of primaries.
    primaries: usize,
    panic_threshold: Option<u8>,
    known: ArcSwap<TierHealth>,
    panic: Arc<PanicState>,
}

/// A part of a pool with a balancer of its own.
#[derive(Debug)]
pub(super) struct Tier {
    plan: TierPlan,
    /// Picks a position in the plan's members. Shared with the pool of the previous snapshot if members, weights and
    /// key are equal. There are two reasons. A table costs milliseconds to build. And round robin continues from its
    /// position, so that not every reload sends its first connections to one backend.
    pub(super) balancer: Arc<Balancer>,
}

/// The backends of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TierPlan {
    /// The zone, or [`OTHERS`].
    name: Arc<str>,
    is_backup: bool,
    /// The position of the zone in the list from which the tiers were made.
    rank: ZoneRank,
    /// The backends of the tier, by their positions in the pool, in the order of the spec.
    pub(super) members: Box<[usize]>,
}

/// The state of panic mode. Shared with the pools of earlier and later snapshots.
#[derive(Debug, Default)]
pub(super) struct PanicState {
    /// True if the beginning of panic mode was logged.
    is_reported: AtomicBool,
    /// The number of backends picked in panic mode.
    picks: AtomicU64,
}

/// The health of the tiers when the backends were last read.
#[derive(Debug)]
pub(super) struct TierHealth {
    /// The number of changes in the pool before this read.
    changes: u64,
    capacities: Box<[Capacity]>,
    primaries: KindHealth,
    backups: KindHealth,
}

/// The health of the primaries, or of the backups.
#[derive(Debug)]
struct KindHealth {
    /// The spread over the tiers of this kind; `None` if no tier of this kind is of use.
    spread: Option<TierSpread>,
    /// The weight that is up, without backends that the operator or an agent has taken out.
    up: u64,
    wanted: u64,
    is_in_use: bool,
    is_panic: bool,
}

/// The order in which a connection tries the tiers of one kind.
pub(super) struct TierOrder<'a> {
    tiers: &'a [Tier],
    /// The ranks of the zones in the order of the connection's client.
    order: &'a [ZoneRank],
    /// The place in this order of the tier that is tried first.
    first: usize,
    /// True if health is ignored.
    pub(super) is_panic: bool,
}

/// The state of a tier, for the status and the metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct TierView {
    /// The zone; `*` is all zones that are neither the node's own nor listed.
    pub name: Arc<str>,
    /// True if its backends are backups.
    pub is_backup: bool,
    /// The weight of its backends that are up, and the weight of all its backends.
    pub capacity: Capacity,
    /// The part of the pool's new connections that it gets now, 0 to 1.
    pub share: f64,
}

/// Sorts backends into tiers by the position of their zone in `zones`: primaries first. The backends of all other zones
/// are in one tier, which comes last.
pub(super) fn plan(zones: &[&Arc<str>], backends: &[BackendSpec]) -> Vec<TierPlan> {
    let others = ZoneRank::of(zones.len());
    let rank = |zone: &Option<Arc<str>>| {
        zones.iter().position(|name| zone.as_ref() == Some(*name)).map_or(others, ZoneRank::of)
    };
    let mut tiers: BTreeMap<(bool, ZoneRank), Vec<usize>> = BTreeMap::new();
    for (position, backend) in backends.iter().enumerate() {
        tiers.entry((backend.backup, rank(&backend.zone))).or_default().push(position);
    }
    let plans = tiers.into_iter().map(|((is_backup, rank), members)| TierPlan {
        name: zones.get(rank.index()).map_or_else(|| OTHERS.into(), |name| Arc::clone(name)),
        is_backup,
        rank,
        members: members.into(),
    });
    plans.collect()
}

impl Tier {
    pub(super) fn new(plan: TierPlan, balancer: Arc<Balancer>) -> Self {
        Self { plan, balancer }
    }

    /// Its hash table, or `None` for a pool that does not hash. Either all tiers of a pool have a hash table, or
    /// none.
    pub(super) fn maglev(&self) -> Option<&Maglev> {
        match &*self.balancer {
            Balancer::Maglev(maglev) => Some(maglev),
            _ => None,
        }
    }

    /// Its backends by their positions in the pool; the balancer returns an index into these.
    pub(super) fn members(&self) -> &[usize] {
        &self.plan.members
    }
}

impl Tiers {
    /// Creates the tiers, with the health of their backends not yet read.
    pub(super) fn new(list: Vec<Tier>, panic_threshold: Option<u8>, panic: Arc<PanicState>) -> Self {
        let primaries = list.iter().filter(|tier| !tier.plan.is_backup).count();
        let known = ArcSwap::from_pointee(TierHealth::nothing());
        let mut own_order: Vec<_> = list.iter().map(|tier| tier.plan.rank).collect();
        own_order.sort_unstable();
        own_order.dedup();
        Self { list: list.into(), own_order: own_order.into(), primaries, panic_threshold, known, panic }
    }

    /// The order of zones for clients that have no order of their own.
    fn own_order(&self) -> &[ZoneRank] {
        &self.own_order
    }

    /// All tiers.
    pub(super) fn list(&self) -> &[Tier] {
        &self.list
    }

    /// Takes the tiers and their tables out of a pool that is being dropped.
    pub(super) fn take_list(&mut self) -> Box<[Tier]> {
        std::mem::take(&mut self.list)
    }

    /// The only tier, if there is nothing to decide.
    fn only(&self) -> Option<&Tier> {
        match &*self.list {
            [only] if self.panic_threshold.is_none() => Some(only),
            _ => None,
        }
    }

    /// The state of panic mode, which later tiers of the same pool share.
    pub(super) fn panic(&self) -> &Arc<PanicState> {
        &self.panic
    }

    /// The health of the tiers for the pool's `backends`, after this number of `changes` of their states. Logs the
    /// beginning and the end of panic mode.
    pub(super) fn known(
        &self,
        pool: &str,
        backends: &[Arc<Backend>],
        changes: u64,
    ) -> Guard<Arc<TierHealth>> {
        let known = self.known.load();
        if known.changes == changes {
            return known;
        }
        let known = Arc::new(self.look(backends, changes));
        self.panic.tell(pool, &known);
        self.known.store(known);
        self.known.load()
    }

    /// Reads the states of the backends. `changes` was read before: a later change causes another read.
    fn look(&self, backends: &[Arc<Backend>], changes: u64) -> TierHealth {
        let weigh = |tiers: &[Tier], counts: fn(&Backend) -> bool| {
            let members = tiers.iter().flat_map(Tier::members).map(|&at| &*backends[at]);
            members.filter(|backend| counts(backend)).map(|backend| u64::from(backend.weight())).sum::<u64>()
        };
        let capacity = |tier: &Tier| {
            let tier = std::slice::from_ref(tier);
            Capacity { up: weigh(tier, Backend::is_available), total: weigh(tier, |_| true) }
        };
        let capacities: Box<[Capacity]> = self.list.iter().map(capacity).collect();
        let (primaries, backups) = capacities.split_at(self.primaries);
        let [any_primary, any_backup] = [primaries, backups].map(|kind| kind.iter().any(|tier| tier.up > 0));
        // The operator or an agent has taken these out: that is no sign of failing checks.
        let (first, later) = self.list.split_at(self.primaries);
        let [wanted_first, wanted_later] = [first, later].map(|kind| weigh(kind, Backend::is_wanted));
        let primaries = self.find(primaries, wanted_first, any_primary || !any_backup);
        let backups = self.find(backups, wanted_later, !any_primary);
        TierHealth { changes, capacities, primaries, backups }
    }

    /// Computes the health of the tiers of one kind; `wanted` is the weight of their backends that are in use.
    fn find(&self, tiers: &[Capacity], wanted: u64, is_in_use: bool) -> KindHealth {
        let up: u64 = tiers.iter().map(|tier| tier.up).sum();
        let is_below = |percent: u8| up * 100 < wanted * u64::from(percent);
        let is_panic = is_in_use && self.panic_threshold.is_some_and(is_below);
        let spread = if is_panic { TierSpread::by_weight(tiers) } else { TierSpread::by_preference(tiers) };
        KindHealth { spread, up, wanted, is_in_use, is_panic }
    }

    /// Returns two orders in which a connection with this key tries the tiers: of the primaries, and then of the
    /// backups. `None` stands for a kind without a usable backend. `order` has the ranks of all zones in the order of the
    /// client, and `owner` returns the state of the key's owner in a tier.
    pub(super) fn tier_orders<'a>(
        &'a self,
        known: &TierHealth,
        order: &'a [ZoneRank],
        key: u64,
        owner: impl Fn(&Tier) -> KeyOwner,
    ) -> [Option<TierOrder<'a>>; 2] {
        let (primaries, backups) = self.list.split_at(self.primaries);
        [(primaries, &known.primaries), (backups, &known.backups)].map(|(tiers, found)| {
            let spread = found.spread.as_ref()?;
            let owner = |at| if found.is_panic { KeyOwner::None } else { owner(&tiers[at]) };
            let first = spread.choose(positions(tiers, order), key, owner);
            Some(TierOrder { tiers, order, first, is_panic: found.is_panic })
        })
    }

    /// Counts a backend that was picked in panic mode.
    pub(super) fn picked_in_panic(&self) {
        self.panic.picks.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds the picks in panic mode of another process.
    pub(super) fn add_panic_picks(&self, count: u64) {
        self.panic.picks.fetch_add(count, Ordering::Relaxed);
    }

    /// The number of backends picked in panic mode.
    pub(super) fn panic_picks(&self) -> u64 {
        self.panic.picks.load(Ordering::Relaxed)
    }

    /// The state of each tier, with its share of the clients that have no order of their own.
    pub(super) fn views(&self, known: &TierHealth) -> Vec<TierView> {
        let shares = |found: &KindHealth, count: usize| {
            found.spread.as_ref().map_or_else(Vec::new, |spread| spread.shares(0..count))
        };
        let of_primaries = shares(&known.primaries, self.primaries);
        let of_backups = shares(&known.backups, self.list.len() - self.primaries);
        // Backups get nothing while primaries are of use.
        let of_backups = if of_primaries.is_empty() { of_backups } else { Vec::new() };
        let view = |at: usize, tier: &Tier| {
            let share = match at.checked_sub(self.primaries) {
                None => of_primaries.get(at),
                Some(at) => of_backups.get(at),
            };
            TierView {
                name: Arc::clone(&tier.plan.name),
                is_backup: tier.plan.is_backup,
                capacity: known.capacities[at],
                share: share.map_or(0.0, |&share| share as f64 / WHOLE as f64),
            }
        };
        self.list.iter().enumerate().map(|(at, tier)| view(at, tier)).collect()
    }
}

impl TierHealth {
    /// A health that is never up to date, because the number of changes never gets so high.
    fn nothing() -> Self {
        let nothing = || KindHealth { spread: None, up: 0, wanted: 0, is_in_use: false, is_panic: false };
        Self { changes: u64::MAX, capacities: Box::default(), primaries: nothing(), backups: nothing() }
    }

    /// Returns true if health is ignored.
    pub(super) fn is_panic(&self) -> bool {
        self.primaries.is_panic || self.backups.is_panic
    }
}

impl PanicState {
    fn tell(&self, pool: &str, known: &TierHealth) {
        let is_panic = known.is_panic();
        if self.is_reported.swap(is_panic, Ordering::Relaxed) == is_panic {
            return;
        }
        let decisive = if known.primaries.is_in_use { &known.primaries } else { &known.backups };
        let &KindHealth { up, wanted, .. } = decisive;
        if is_panic {
            tracing::warn!(%pool, up, wanted, "panic mode begins: too little weight is up, picks ignore health");
        } else {
            tracing::info!(%pool, up, wanted, "panic mode ends: picks follow health again");
        }
    }
}

impl<'a> TierOrder<'a> {
    /// The tiers in the order in which they are tried.
    pub(super) fn tiers(&self) -> impl Iterator<Item = &'a Tier> + use<'a> {
        let Self { tiers, order, first, .. } = *self;
        let in_order = move || positions(tiers, order).map(|at| &tiers[at]);
        in_order().skip(first).take(1).chain(in_order().take(first)).chain(in_order().skip(first + 1))
    }
}

/// Returns the positions of tiers of one kind in an order of zones. A zone without a tier of this kind is skipped.
fn positions(tiers: &[Tier], order: &[ZoneRank]) -> impl Iterator<Item = usize> {
    order.iter().filter_map(|rank| tiers.binary_search_by_key(rank, |tier| tier.plan.rank).ok())
}

#[cfg(test)]
mod tests;
