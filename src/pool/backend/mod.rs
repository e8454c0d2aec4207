//! One backend: its address, its health, and its connections.
//!
//! A [`Backend`] is shared as `Arc`. Its holders are pools of the present snapshot, and of older snapshots that
//! connections still hold. Other holders are the leases of its connections, its check, admin and the metrics.
//! It ends with the last holder.
//!
//! Its identity is the pair (pool name, backend name). A discovered backend whose name changes while its address
//! stays is the same backend. A reload that changes only the weight makes a new `Backend` with the same counts and
//! the same health. With another *address*, the name belongs to another server. The new backend starts with unknown
//! health and zero counts. Connections to the old address count on the old value until they end.

mod allowance;
mod handed;
mod health_view;
mod traffic;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend_spec::BackendSpec;
use super::health::{BackendState, CheckFinding, HealthEvent, HealthRules, StateChange};
use super::signals::PoolSignals;
use super::slow_start;
use crate::balance::FULL_SHARE;
use crate::ids::BackendId;
use crate::sys::Address;
use crate::wire::agent::AgentDirective;
use traffic::UNLIMITED;

pub use health_view::HealthView;
pub use traffic::BackendTraffic;

/// A backend with its traffic and its health.
#[derive(Debug)]
pub struct Backend {
    pool: Arc<str>,
    name: Arc<str>,
    address: Address,
    weight: u16,
    zone: Option<Arc<str>>,
    is_backup: bool,
    // Two allocations, so that connections that begin and end on all workers do not invalidate the cache line that
    // every pick reads.
    traffic: Arc<BackendTraffic>,
    health: Arc<HealthView>,
}

impl Backend {
    /// Creates the backend of `spec` in the pool named `pool`, with unknown health and zero counts. It reports
    /// its changes to `signals`.
    pub(super) fn new(pool: &Arc<str>, spec: &BackendSpec, now: Instant, signals: &Arc<PoolSignals>) -> Self {
        Self {
            pool: Arc::clone(pool),
            name: Arc::clone(&spec.name),
            address: spec.address.clone(),
            weight: spec.weight,
            zone: spec.zone.clone(),
            is_backup: spec.backup,
            traffic: Arc::new(BackendTraffic::new(now, spec.max_connections, Arc::clone(signals))),
            health: Arc::new(HealthView::new(spec.operator_state, now)),
        }
    }

    /// This backend, with a slow start from now on, as after each time that it comes up.
    pub(super) fn starting_slowly(self) -> Self {
        self.health.start_slowly();
        self
    }

    /// This backend, with the health and the counts of its `old` self if both are one server.
    pub(super) fn succeed(mut self, old: &Arc<Backend>) -> Arc<Self> {
        if !self.is_at(old) {
            return Arc::new(self.starting_slowly());
        }
        if self.is_placed_as(old) {
            old.traffic.go_on(&self.traffic);
            return Arc::clone(old);
        }
        self.health = Arc::clone(&old.health);
        self.succeed_in_counts(old)
    }

    /// This backend, with the health and the counts of an `old` self at the same address that had another name.
    pub(super) fn succeed_by_address(mut self, old: &Arc<Backend>) -> Arc<Self> {
        self.health = Arc::clone(&old.health);
        self.succeed_in_counts(old)
    }

    /// This backend, with the id and the counts of an `old` self at the same address, but with unknown health.
    pub(super) fn succeed_in_counts(mut self, old: &Arc<Backend>) -> Arc<Self> {
        old.traffic.go_on(&self.traffic);
        self.traffic = Arc::clone(&old.traffic);
        Arc::new(self)
    }

    /// The name of its pool.
    pub fn pool(&self) -> &Arc<str> {
        &self.pool
    }

    /// Its name, unique in its pool.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The address at which it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its configured share; 0 takes no new connections.
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// Its zone, or `None` without a zone.
    pub fn zone(&self) -> Option<&Arc<str>> {
        self.zone.as_ref()
    }

    /// Returns true if it is used only while no other backend of its pool can be used.
    pub fn is_backup(&self) -> bool {
        self.is_backup
    }

    /// Its id, by which its connections are found; kept over reloads.
    pub fn id(&self) -> BackendId {
        self.traffic.id
    }

    /// Its traffic, which its connections write.
    pub fn traffic(&self) -> &BackendTraffic {
        &self.traffic
    }

    /// Its health, which checks, agents, ejections and the operator write.
    pub fn health(&self) -> &HealthView {
        &self.health
    }

    /// The number of leases on all workers now.
    pub fn active(&self) -> u64 {
        self.traffic.active()
    }

    /// Its state.
    pub fn state(&self) -> BackendState {
        self.health.state()
    }

    /// The most leases at once by its configuration; `None` is no limit.
    pub fn limit(&self) -> Option<u64> {
        Some(self.traffic.limit()).filter(|&limit| limit != UNLIMITED)
    }

    /// The most leases at once: the limit of its configuration, or the limit of its agent if the agent allows fewer.
    /// `None` is no limit.
    pub fn limit_in_force(&self) -> Option<u64> {
        Some(self.connection_limit()).filter(|&limit| limit != UNLIMITED)
    }

    /// Returns true if no further lease is possible now.
    pub fn is_full(&self) -> bool {
        self.is_full_without(0)
    }

    /// Returns true if it would be at its limit of connections after the return of so many slots.
    pub(super) fn is_full_without(&self, returned: u64) -> bool {
        self.active().saturating_sub(returned) >= self.connection_limit()
    }

    /// The most leases at once, by its configuration and its agent.
    pub(super) fn connection_limit(&self) -> u64 {
        self.traffic.limit().min(self.health.allowance.connections())
    }

    /// Returns true if it may be picked for a new connection.
    pub fn is_available(&self) -> bool {
        self.weight > 0 && self.health.is_up() && self.health.agent_share() > 0
    }

    /// Returns true if weight, operator and agent let it take new connections. Panic mode requires nothing else.
    pub fn is_wanted(&self) -> bool {
        self.weight > 0 && self.health.agent_share() > 0 && self.health.is_wanted()
    }

    /// The part of its share that it takes, of [`FULL_SHARE`]: as much as its agent allows, and less during a slow
    /// start of length `window`.
    pub(super) fn share(&self, window: Option<Duration>, now: impl FnOnce() -> Instant) -> u32 {
        let share = match window {
            // A backend that is not up takes nothing, or in panic mode its whole share.
            Some(window) if self.health.starts_slowly() && self.health.is_up() => {
                slow_start::share(now().saturating_duration_since(self.health.since()), window)
            }
            _ => FULL_SHARE,
        };
        share * u32::from(self.health.agent_share()) / 100
    }

    /// Returns true if both are one server: the same pool, name and address.
    pub(super) fn is_at(&self, other: &Backend) -> bool {
        (&self.pool, &self.name, &self.address) == (&other.pool, &other.name, &other.address)
    }

    /// Returns true if both are one server with one history, perhaps with different weights.
    pub fn is_same(&self, other: &Backend) -> bool {
        Arc::ptr_eq(&self.traffic, &other.traffic)
    }

    /// Returns true if both have the same health. Narrower than [`Backend::is_same`]: a backend that had left its
    /// pool and is back keeps its counts, but not its health.
    pub(super) fn shares_health(&self, other: &Backend) -> bool {
        Arc::ptr_eq(&self.health, &other.health)
    }

    /// Returns true if both have the same position in their pool's order and the same share.
    fn is_placed_as(&self, other: &Backend) -> bool {
        (self.weight, &self.zone, self.is_backup) == (other.weight, &other.zone, other.is_backup)
    }

    /// Counts a check and applies its result as [`Backend::on`] does.
    pub(super) fn observe(
        &self,
        found: CheckFinding,
        rules: HealthRules<'_>,
        now: Instant,
    ) -> Option<StateChange> {
        self.health.count(found.outcome);
        let change = self.on(HealthEvent::Check(found.outcome), rules, now);
        self.health.note_words(found);
        change
    }

    /// Applies an event, see [`Health::on`](super::health::Health::on). Only the task that applies changes may
    /// call this.
    pub(super) fn on(&self, event: HealthEvent, rules: HealthRules<'_>, now: Instant) -> Option<StateChange> {
        let was_wanted = self.is_wanted();
        let change = self.health.on(event, rules, now);
        if let Some(StateChange { from, to, .. }) = change
            && [from, to].contains(&BackendState::Ejected)
        {
            // Troubles from before the event no longer count. Neither do troubles of connections that began
            // before it.
            self.traffic.break_rows();
        }
        // Panic mode depends on `is_wanted`, even if a stronger state hides the change.
        if change.is_some() || was_wanted != self.is_wanted() {
            self.traffic.changed();
        }
        change
    }

    /// Applies a directive of its agent about its load.
    pub(super) fn allow(&self, word: AgentDirective) {
        if self.health.allowance.take_in(word) {
            self.traffic.changed();
        }
    }

    /// Removes the limits that its agent has set.
    pub(super) fn allow_all(&self) {
        if self.health.allowance.forget() {
            self.traffic.changed();
        }
    }

    /// Takes one more lease, unless the backend is full. Returns true if it took one.
    pub(super) fn hold(&self) -> bool {
        self.traffic.hold(self.connection_limit())
    }

    /// Takes one more lease, even if the backend is full.
    pub(super) fn hold_past_limits(&self) {
        self.traffic.hold(UNLIMITED);
    }

    /// Returns a lease, and after that reports it to the queue: see [`Queue`](super::queue::Queue).
    pub(super) fn release(&self) {
        self.traffic.release();
        if self.connection_limit() != UNLIMITED {
            self.traffic.freed();
        }
    }
}

#[cfg(test)]
mod tests;
