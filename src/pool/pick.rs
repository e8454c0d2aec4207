//! The pick of a backend for a connection: at once, or after a wait in the queue.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::Backend;
use super::hash_on;
use super::lease::Lease;
use super::pool_in_use::Pool;
use super::queue::{QueueAttempt, WaiterNeeds};
use super::tiers::Tier;
use crate::balance::Candidates;
use crate::balance::tiers::KeyOwner;
use crate::wire::ServerName;

impl Pool {
    /// Picks a backend for a connection and holds it.
    ///
    /// `source` is the client's address, `None` for a Unix socket. `tried` has the backends that this connection
    /// already failed to reach.
    ///
    /// # Errors
    ///
    /// The reason for which there is no backend. [`Unavailable::Full`] while other connections wait in the pool's
    /// queue: they go first.
    pub fn pick(
        &self,
        source: Option<SocketAddr>,
        server_name: Option<&ServerName>,
        tried: &[Arc<Backend>],
    ) -> Result<Lease, Unavailable> {
        if self.spec.queue.is_some() && self.signals.queue.is_before_newcomers() {
            return Err(Unavailable::Full);
        }
        self.pick_now(source, server_name, tried, LimitRule::Obeyed)
    }

    /// Joins the pool's queue, after all waiters. The returned future ends when it is this connection's turn. The
    /// arguments are those of [`Pool::pick`].
    ///
    /// The future has no time limit: the caller bounds the wait. If another pool replaces this one meanwhile
    /// ([`Pool::settle`]), the connection gets a backend of that pool.
    ///
    /// # Errors
    ///
    /// At once, if the pool has no queue or the queue is full. In the end, if no backend is left to wait for.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any moment. The waiter then leaves the queue, and its slot goes to the next waiter.
    pub fn wait<'a>(
        &'a self,
        source: Option<SocketAddr>,
        server_name: Option<&'a ServerName>,
        tried: &'a [Arc<Backend>],
    ) -> Result<impl Future<Output = Result<Lease, Unavailable>> + use<'a>, Unavailable> {
        let length = self.spec.queue.map_or(0, |queue| queue.length);
        let needs = if tried.is_empty() { WaiterNeeds::Any } else { WaiterNeeds::Some };
        let turn = self.signals.queue.join(needs, length).ok_or(Unavailable::Full)?;
        let pick = move || {
            let present = self.present().upgrade();
            present.as_deref().unwrap_or(self).pick_now(source, server_name, tried, LimitRule::Obeyed)
        };
        let attempt = move || match pick() {
            Ok(lease) => QueueAttempt::Took(lease),
            Err(Unavailable::Full) => QueueAttempt::Full,
            Err(Unavailable::NoneUp) => QueueAttempt::Gone,
        };
        Ok(async move { turn.come(attempt).await.ok_or(Unavailable::NoneUp) })
    }

    /// Picks among the backends, without regard to the queue.
    pub(super) fn pick_now(
        &self,
        source: Option<SocketAddr>,
        server_name: Option<&ServerName>,
        tried: &[Arc<Backend>],
        limits: LimitRule,
    ) -> Result<Lease, Unavailable> {
        let randomness = randomness();
        let hashes = self.tiers.list().first().is_some_and(|tier| tier.maglev().is_some());
        let key = if hashes { hash_on::key(&self.spec, source, server_name) } else { randomness };
        let draw = Draw { key, randomness, tried, limits };
        if let Some(tier) = self.tiers.only() {
            let is_full = Cell::new(false);
            return self.pick_in(tier, &draw, false, &is_full).ok_or_else(|| Unavailable::because(&is_full));
        }
        let known = self.tier_health();
        for tier_order in
            self.tiers.tier_orders(&known, key, |tier| self.owner(tier, key)).into_iter().flatten()
        {
            let is_full = Cell::new(false);
            for tier in tier_order.tiers() {
                if let Some(lease) = self.pick_in(tier, &draw, tier_order.is_panic, &is_full) {
                    if tier_order.is_panic {
                        self.tiers.picked_in_panic();
                    }
                    return Ok(lease);
                }
            }
            // A full backend gets free again; backups are only for the time without any usable primary.
            if is_full.get() {
                return Err(Unavailable::Full);
            }
        }
        Err(Unavailable::NoneUp)
    }

    /// Picks a backend of one tier and holds it; `is_full` becomes true if a backend was refused because it is full.
    fn pick_in(&self, tier: &Tier, draw: &Draw<'_>, is_panic: bool, is_full: &Cell<bool>) -> Option<Lease> {
        let choice = TierCandidates {
            backends: &self.backends,
            members: tier.members(),
            tried: draw.tried,
            slow_start: self.spec.slow_start,
            limits: draw.limits,
            is_panic,
            is_full,
        };
        loop {
            let at = tier.balancer.pick(draw.key, draw.randomness, &choice)?;
            // If another worker has taken the last slot since, this backend is full at the next attempt.
            let backend = choice.backend(at);
            let taken = match draw.limits {
                LimitRule::Obeyed => Lease::take(backend),
                LimitRule::Passed => Some(Lease::take_past_limits(backend)),
            };
            if taken.is_some() {
                return taken;
            }
        }
    }

    /// The state of the owner that a key has in a tier.
    fn owner(&self, tier: &Tier, key: u64) -> KeyOwner {
        match tier.maglev().and_then(|maglev| maglev.owner(key)) {
            Some(at) if self.backends[tier.members()[at]].is_available() => KeyOwner::Up,
            Some(_) => KeyOwner::Down,
            None => KeyOwner::None,
        }
    }
}

/// The reason for which a connection has no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// No backend is up, has a weight and was not tried.
    NoneUp,
    /// All of those are at their limit of connections.
    Full,
}

impl Unavailable {
    fn because(is_full: &Cell<bool>) -> Self {
        if is_full.get() { Self::Full } else { Self::NoneUp }
    }
}

/// The effect of the limits of backends on a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitRule {
    /// A backend that is at its limit of connections is skipped.
    Obeyed,
    /// Limits are ignored.
    Passed,
}

/// The inputs of a pick besides the backends.
struct Draw<'a> {
    key: u64,
    randomness: u64,
    tried: &'a [Arc<Backend>],
    limits: LimitRule,
}

/// The backends of a tier as its balancer sees them for one connection.
struct TierCandidates<'a> {
    backends: &'a [Arc<Backend>],
    /// The members of the tier, by their positions in `backends`.
    members: &'a [usize],
    /// The backends that this connection already failed to reach.
    tried: &'a [Arc<Backend>],
    slow_start: Option<Duration>,
    limits: LimitRule,
    /// True if health is ignored.
    is_panic: bool,
    /// Becomes true if a backend was refused only because it is full.
    is_full: &'a Cell<bool>,
}

impl<'a> TierCandidates<'a> {
    fn backend(&self, index: usize) -> &'a Arc<Backend> {
        &self.backends[self.members[index]]
    }
}

impl Candidates for TierCandidates<'_> {
    fn accepts(&self, index: usize) -> bool {
        let backend = self.backend(index);
        let is_up = if self.is_panic { backend.is_wanted() } else { backend.is_available() };
        if !is_up || self.tried.iter().any(|other| other.is_same(backend)) {
            return false;
        }
        let is_full = self.limits == LimitRule::Obeyed && backend.is_full();
        if is_full {
            self.is_full.set(true);
        }
        !is_full
    }

    fn active(&self, index: usize) -> u64 {
        self.backend(index).active()
    }

    fn share(&self, index: usize) -> u32 {
        self.backend(index).share(self.slow_start, Instant::now)
    }

    fn latency(&self, index: usize) -> Duration {
        self.backend(index).traffic().latency(Instant::now())
    }
}

/// A number that differs from call to call and from thread to thread.
fn randomness() -> u64 {
    /// Odd, so that all numbers come before one comes again; 2^64 divided by the golden ratio.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    thread_local! {
        static NEXT: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
    }
    NEXT.with(|next| next.replace(next.get().wrapping_add(STEP)))
}
