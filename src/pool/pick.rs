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
use super::queue::{QueueAttempt, QueueSpec, WaiterNeeds};
use super::tiers::{Tier, TierOrder, Tiers};
use crate::balance::Candidates;
use crate::balance::tiers::KeyOwner;
use crate::ids::BackendId;
use crate::wire::ServerName;

/// The shortest time between two checks of a waiter whether the pause of its pool is over.
const PAUSED_CHECK: Duration = Duration::from_secs(1);

impl Pool {
    /// Picks a backend for a connection and holds it.
    ///
    /// `source` is the client's address, `None` for a Unix socket. `tried` has the backends that this connection
    /// already failed to reach.
    ///
    /// # Errors
    ///
    /// The reason for which there is no backend. [`Unavailable::Full`] while the pool is paused, and while other
    /// connections wait in the pool's queue: they go first.
    pub fn pick(
        &self,
        source: Option<SocketAddr>,
        server_name: Option<&ServerName>,
        tried: &[Arc<Backend>],
    ) -> Result<Lease, Unavailable> {
        if self.must_wait() {
            return Err(Unavailable::Full);
        }
        self.pick_now(&PickRequest { source, server_name, tried, returned: None }, LimitRule::Obeyed)
    }

    /// Joins the pool's queue, after all waiters. The returned future ends when it is this connection's turn.
    /// The arguments are the same as for [`Pool::pick`].
    ///
    /// The future has no time limit: the caller bounds the wait. If another pool replaces this pool meanwhile
    /// ([`Pool::settle`]), the connection gets a backend of the new pool.
    ///
    /// # Errors
    ///
    /// The error comes at once if the queue is full, or if the pool has no queue and is not paused. It comes at the end of
    /// the wait if no backend is left to wait for.
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
        let length = self.wait_length();
        let needs = if tried.is_empty() { WaiterNeeds::Any } else { WaiterNeeds::Some };
        let turn = self.signals.queue.join(needs, length).ok_or(Unavailable::Full)?;
        let request = PickRequest { source, server_name, tried, returned: None };
        let pick = move || {
            if self.is_paused() {
                return Err(Unavailable::Full);
            }
            let present = self.present().upgrade();
            present.as_deref().unwrap_or(self).pick_now(&request, LimitRule::Obeyed)
        };
        let attempt = move || match pick() {
            Ok(lease) => QueueAttempt::Took(lease),
            Err(Unavailable::Full) => QueueAttempt::Full,
            Err(Unavailable::NoneUp) => QueueAttempt::Gone,
        };
        Ok(async move { turn.come(attempt).await.ok_or(Unavailable::NoneUp) })
    }

    /// Returns the most connections that may wait now.
    pub fn wait_length(&self) -> usize {
        match (self.is_paused(), self.spec.queue) {
            (true, _) => self.spec.pause_length,
            (false, queue) => queue.map_or(0, |queue| queue.length),
        }
    }

    /// Returns true while new connections wait because an operator has paused the pool.
    pub fn is_paused(&self) -> bool {
        self.signals.pause.is_on()
    }

    /// Lets new connections wait from now on, at most `pause_length` at once. Open connections go on. The caller bounds
    /// the pause.
    pub fn pause(&self) {
        self.signals.pause.begin();
    }

    /// Ends the pause: the waiters go on in the order of their arrival. Returns false if there was no pause.
    pub fn resume(&self, now: Instant) -> bool {
        let was_paused = self.signals.pause.end(now);
        if was_paused {
            self.signals.queue.changed();
        }
        was_paused
    }

    /// Returns the time at which a wait that began at `began` is too long. Earlier waits of the connection took `before`.
    /// A pause does not count: while the pool is paused, the result is the time at which to ask again.
    pub fn wait_deadline(&self, began: Instant, before: Duration, now: Instant) -> Instant {
        let timeout = self.spec.queue.map_or(QueueSpec::TIMEOUT, |queue| queue.timeout);
        let left = timeout.saturating_sub(before);
        // Ten thousand waiters with a short timeout would otherwise keep the workers busy for the whole pause.
        let left = if self.is_paused() { left.max(PAUSED_CHECK) } else { left };
        self.counts_from(began, now) + left
    }

    /// Returns the time from which a wait that began at `began` counts: a pause does not count.
    pub fn counts_from(&self, began: Instant, now: Instant) -> Instant {
        self.signals.pause.counts_from(began, now)
    }

    /// Returns true if a new connection must wait, because the pool is paused or other connections wait in the queue.
    pub(super) fn must_wait(&self) -> bool {
        self.is_paused() || (self.spec.queue.is_some() && self.signals.queue.is_before_newcomers())
    }

    /// Picks among the backends, without regard to the queue.
    pub(super) fn pick_now(
        &self,
        request: &PickRequest<'_>,
        limits: LimitRule,
    ) -> Result<Lease, Unavailable> {
        self.pick_by(request, limits, &LeasedPick)
    }

    /// Picks among the backends, with the effects of `kind`.
    pub(super) fn pick_by<K: PickKind>(
        &self,
        request: &PickRequest<'_>,
        limits: LimitRule,
        kind: &K,
    ) -> Result<K::Picked, Unavailable> {
        let draw = self.draw(request);
        if let Some(tier) = self.tiers.only() {
            return self.pick_in(tier, &draw, CandidateRules { health: HealthRule::Obeyed, limits }, kind);
        }
        self.pick_among_tiers(request.source, &draw, limits, kind)
    }

    /// Picks among the backends of several tiers, in the order of the client.
    fn pick_among_tiers<K: PickKind>(
        &self,
        source: Option<SocketAddr>,
        draw: &Draw<'_>,
        limits: LimitRule,
        kind: &K,
    ) -> Result<K::Picked, Unavailable> {
        let client = self.tiers.of_client(source);
        let known = self.health_of(client.tiers);
        let orders =
            client.tiers.tier_orders(&known, client.order(), draw.key, |tier| self.owner(tier, draw.key));
        for tier_order in orders.into_iter().flatten() {
            match self.pick_in_order(client.tiers, &tier_order, draw, limits, kind) {
                Err(Unavailable::NoneUp) => {}
                // A full backend gets free again; backups are only for the time without any usable primary.
                decided => return decided,
            }
        }
        Err(Unavailable::NoneUp)
    }

    /// Draws the numbers of a pick.
    fn draw<'a>(&self, request: &PickRequest<'a>) -> Draw<'a> {
        let randomness = randomness();
        let hashes = self.is_hashed();
        let PickRequest { source, server_name, tried, returned } = *request;
        let key = if hashes { hash_on::key(&self.spec, source, server_name) } else { randomness };
        Draw { key, randomness, tried, returned }
    }

    /// Picks a backend of the first tier that has a candidate.
    fn pick_in_order<K: PickKind>(
        &self,
        tiers: &Tiers,
        tier_order: &TierOrder<'_>,
        draw: &Draw<'_>,
        limits: LimitRule,
        kind: &K,
    ) -> Result<K::Picked, Unavailable> {
        let health = if tier_order.is_panic { HealthRule::Ignored } else { HealthRule::Obeyed };
        let mut unavailable = Unavailable::NoneUp;
        for tier in tier_order.tiers() {
            match self.pick_in(tier, draw, CandidateRules { health, limits }, kind) {
                Ok(picked) => {
                    if health == HealthRule::Ignored {
                        kind.picked_in_panic(tiers);
                    }
                    return Ok(picked);
                }
                Err(Unavailable::Full) => unavailable = Unavailable::Full,
                Err(Unavailable::NoneUp) => {}
            }
        }
        Err(unavailable)
    }

    /// Picks a backend of one tier.
    fn pick_in<K: PickKind>(
        &self,
        tier: &Tier,
        draw: &Draw<'_>,
        rules: CandidateRules,
        kind: &K,
    ) -> Result<K::Picked, Unavailable> {
        let candidates = TierCandidates {
            backends: &self.backends,
            members: tier.members(),
            tried: draw.tried,
            returned: draw.returned,
            slow_start: self.spec.slow_start,
            rules,
            unavailable: Cell::new(Unavailable::NoneUp),
        };
        while let Some(at) = kind.choose(tier, draw, &candidates) {
            // If another worker has taken the last slot since, this backend is full at the next attempt.
            if let Some(picked) = kind.take(tier, draw, candidates.backend(at), rules) {
                return Ok(picked);
            }
        }
        Err(candidates.unavailable.get())
    }

    /// Returns the state of the backend that owns a key in a tier.
    fn owner(&self, tier: &Tier, key: u64) -> KeyOwner {
        match tier.maglev().and_then(|maglev| maglev.owner(key)) {
            Some(at) if self.backends[tier.members()[at]].is_available() => KeyOwner::Up,
            Some(_) => KeyOwner::Down,
            None => KeyOwner::None,
        }
    }
}

/// The kind of a pick. Each kind takes the same decision, and has its own effects.
pub(super) trait PickKind {
    /// The result of a pick.
    type Picked;

    /// Returns the position of a candidate in the tier, or `None` if no candidate accepts.
    fn choose(&self, tier: &Tier, draw: &Draw<'_>, candidates: &TierCandidates<'_>) -> Option<usize>;

    /// Takes the chosen backend, or returns `None` if it is full.
    fn take(
        &self,
        tier: &Tier,
        draw: &Draw<'_>,
        backend: &Arc<Backend>,
        rules: CandidateRules,
    ) -> Option<Self::Picked>;

    /// Records that a pick ignored health.
    fn picked_in_panic(&self, tiers: &Tiers);
}

/// The pick of a connection, which holds its backend.
struct LeasedPick;

impl PickKind for LeasedPick {
    type Picked = Lease;

    fn choose(&self, tier: &Tier, draw: &Draw<'_>, candidates: &TierCandidates<'_>) -> Option<usize> {
        tier.balancer.pick(draw.key, draw.randomness, candidates)
    }

    fn take(&self, _: &Tier, _: &Draw<'_>, backend: &Arc<Backend>, rules: CandidateRules) -> Option<Lease> {
        rules.take(backend)
    }

    fn picked_in_panic(&self, tiers: &Tiers) {
        tiers.picked_in_panic();
    }
}

/// The reason for which a connection has no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// No backend is up, has a weight and was not tried.
    NoneUp,
    /// All backends that are up, have a weight and were not tried are at their limit of connections.
    Full,
}

/// The effect of the limits of backends on a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitRule {
    /// A backend that is at its limit of connections is skipped.
    Obeyed,
    /// Limits are ignored.
    Passed,
}

/// The effect of the states of backends on a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HealthRule {
    /// Only a backend that is available is picked.
    Obeyed,
    /// Health is ignored, as in panic mode: any backend may be picked, unless the operator or the agent has
    /// taken it out.
    Ignored,
}

/// The rules by which a backend may be picked.
#[derive(Clone, Copy, Debug)]
pub(super) struct CandidateRules {
    health: HealthRule,
    limits: LimitRule,
}

impl CandidateRules {
    /// Returns true if the state of a backend allows the pick.
    fn admits(self, backend: &Backend) -> bool {
        match self.health {
            HealthRule::Obeyed => backend.is_available(),
            HealthRule::Ignored => backend.is_wanted(),
        }
    }

    /// Returns true if the limit of a backend forbids the pick, after the return of so many slots.
    fn is_full(self, backend: &Backend, returned: u64) -> bool {
        self.limits == LimitRule::Obeyed && backend.is_full_without(returned)
    }

    /// Takes a lease of a backend, unless the limit of the backend forbids the lease.
    fn take(self, backend: &Arc<Backend>) -> Option<Lease> {
        match self.limits {
            LimitRule::Obeyed => Lease::take(backend),
            LimitRule::Passed => Some(Lease::take_past_limits(backend)),
        }
    }
}

/// A connection that requests a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct PickRequest<'a> {
    /// The client's address; `None` for a Unix socket.
    pub(super) source: Option<SocketAddr>,
    /// The server name that the client requests.
    pub(super) server_name: Option<&'a ServerName>,
    /// The backends that the connection already failed to reach.
    pub(super) tried: &'a [Arc<Backend>],
    /// The backend whose slot the connection holds and would return before the pick; `None` for a new connection.
    pub(super) returned: Option<BackendId>,
}

/// The inputs of a balancer besides the backends.
pub(super) struct Draw<'a> {
    pub(super) key: u64,
    randomness: u64,
    tried: &'a [Arc<Backend>],
    returned: Option<BackendId>,
}

/// The backends of a tier as its balancer sees them for one connection.
pub(super) struct TierCandidates<'a> {
    backends: &'a [Arc<Backend>],
    /// The members of the tier, by their positions in `backends`.
    members: &'a [usize],
    /// The backends that this connection already failed to reach.
    tried: &'a [Arc<Backend>],
    /// The backend whose slot the connection would return.
    returned: Option<BackendId>,
    slow_start: Option<Duration>,
    rules: CandidateRules,
    /// The reason if no candidate is accepted: [`Unavailable::Full`] once a candidate was refused only because
    /// it is full.
    unavailable: Cell<Unavailable>,
}

impl<'a> TierCandidates<'a> {
    fn backend(&self, index: usize) -> &'a Arc<Backend> {
        &self.backends[self.members[index]]
    }

    /// The connections of a backend that do not count: the connection itself.
    fn returned(&self, backend: &Backend) -> u64 {
        u64::from(self.returned == Some(backend.id()))
    }
}

impl Candidates for TierCandidates<'_> {
    fn accepts(&self, index: usize) -> bool {
        let backend = self.backend(index);
        if !self.rules.admits(backend) || self.tried.iter().any(|other| other.is_same(backend)) {
            return false;
        }
        let is_full = self.rules.is_full(backend, self.returned(backend));
        if is_full {
            self.unavailable.set(Unavailable::Full);
        }
        !is_full
    }

    fn active(&self, index: usize) -> u64 {
        let backend = self.backend(index);
        backend.active().saturating_sub(self.returned(backend))
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
    /// The value is 2^64 divided by the golden ratio. It is odd, so that every number comes once before a
    /// number repeats.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    thread_local! {
        static NEXT: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
    }
    NEXT.with(|next| next.replace(next.get().wrapping_add(STEP)))
}
