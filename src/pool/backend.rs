//! One backend: its address, its health, and its connections.
//!
//! A [`Backend`] is shared as `Arc`: by the pools of the present snapshot and of older ones that connections still
//! hold, by the leases of its connections, by its check, by admin and the metrics. It ends with the last of them.
//!
//! Its identity is the pair (pool name, backend name). A discovered backend whose name changes while its address
//! stays is the same backend. A reload that changes only the weight makes a new `Backend` with the same counts and
//! the same health. With another *address* the name is that of another server: the new backend starts with unknown
//! health and zero counts, and connections to the old address count on the old value until they end.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::agent::Allowance;
use super::health::{
    BackendState, ChangeReason, CheckFailure, CheckFault, CheckOutcome, Ejection, Health, HealthEvent,
    HealthRules, StateChange, Trouble,
};
use super::latency::Latency;
use super::probe::CheckFinding;
use super::signals::PoolSignals;
use super::{BackendSpec, OperatorState, slow_start};
use crate::balance::FULL_SHARE;
use crate::ids::BackendId;
use crate::sys::Address;
use crate::telemetry::BackendCounts;
use crate::wire::agent::AgentDirective;

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
    health_copy: Arc<BackendHealth>,
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
            health_copy: Arc::new(BackendHealth::new(spec.operator_state, now)),
        }
    }

    /// This backend, with a slow start from now on, as after each time that it comes up.
    pub(super) fn starting_slowly(self) -> Self {
        self.health_copy.starts_slowly.store(true, Ordering::Relaxed);
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
        self.health_copy = Arc::clone(&old.health_copy);
        self.succeed_in_counts(old)
    }

    /// This backend, with the health and the counts of an `old` self at the same address that had another name.
    pub(super) fn succeed_by_address(mut self, old: &Arc<Backend>) -> Arc<Self> {
        self.health_copy = Arc::clone(&old.health_copy);
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

    /// Its zone, if it has one.
    pub fn zone(&self) -> Option<&Arc<str>> {
        self.zone.as_ref()
    }

    /// Returns true if it is used only while no other backend of its pool can be used.
    pub fn is_backup(&self) -> bool {
        self.is_backup
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
        self.active() >= self.connection_limit()
    }

    /// The most leases at once, by its configuration and its agent.
    fn connection_limit(&self) -> u64 {
        self.traffic.limit().min(self.health_copy.allowance.connections())
    }

    /// Its state.
    pub fn state(&self) -> BackendState {
        let state = usize::from(self.health_copy.state.load(Ordering::Relaxed));
        BackendState::ALL.get(state).copied().unwrap_or(BackendState::Up)
    }

    /// The time of the last change of its state; before any change, the time at which it was configured. For a
    /// backend that is up: the time since which it takes new connections.
    pub fn since(&self) -> Instant {
        self.health_copy.born + Duration::from_millis(self.health_copy.since.load(Ordering::Relaxed))
    }

    /// The number of times that it entered a state; the initial state does not count.
    pub fn entered(&self, state: BackendState) -> u64 {
        self.health_copy.entered[state as usize].load(Ordering::Relaxed)
    }

    /// Returns the ejection of the backend, even if a stronger cause gives the backend another state.
    pub fn ejection(&self) -> Option<Ejection> {
        self.health_copy.health().ejection()
    }

    /// The reason for its state; `None` while it is up.
    pub fn reason(&self) -> Option<ChangeReason> {
        self.health_copy.health().reason()
    }

    /// The failure of its last check; `None` if its last check passed and its checks say up.
    pub fn check_failure(&self) -> Option<CheckFailure> {
        self.health_copy.health().check_failure().cloned()
    }

    /// Returns true if it may be picked for a new connection.
    pub fn is_available(&self) -> bool {
        let is_up = self.health_copy.state.load(Ordering::Relaxed) == BackendState::Up as u8;
        self.weight > 0 && is_up && self.agent_share() > 0
    }

    /// The percentage of its usual share of new connections that its agent allows, 0 to 100.
    pub fn agent_share(&self) -> u8 {
        self.health_copy.allowance.share()
    }

    /// The most connections at once that its agent allows; `None` is no limit.
    pub fn agent_max_connections(&self) -> Option<u64> {
        Some(self.health_copy.allowance.connections()).filter(|&most| most != u64::MAX)
    }

    /// Returns true if weight, operator and agent let it take new connections. Panic mode requires nothing else.
    pub fn is_wanted(&self) -> bool {
        self.weight > 0 && self.agent_share() > 0 && self.health_copy.is_wanted.load(Ordering::Relaxed)
    }

    /// Returns true if a slow start may be under way. False for backends that are up since the process began.
    pub(super) fn starts_slowly(&self) -> bool {
        self.health_copy.starts_slowly.load(Ordering::Relaxed)
    }

    /// The part of its share that it takes, of [`FULL_SHARE`]: as much as its agent allows, and less during a slow
    /// start of length `window`.
    pub(super) fn share(&self, window: Option<Duration>, now: impl FnOnce() -> Instant) -> u32 {
        let share = match window {
            // A backend that is not up takes nothing, or in panic mode its whole share.
            Some(window) if self.starts_slowly() && self.state() == BackendState::Up => {
                slow_start::share(now().saturating_duration_since(self.since()), window)
            }
            _ => FULL_SHARE,
        };
        share * u32::from(self.agent_share()) / 100
    }

    /// The expected time of a connect; zero before the first one.
    pub fn latency(&self, now: Instant) -> Duration {
        self.traffic.latency.estimate(now.saturating_duration_since(self.traffic.born))
    }

    /// The number of leases on all workers now.
    pub fn active(&self) -> u64 {
        self.traffic.active.load(Ordering::Relaxed)
    }

    /// Connections established since it was first configured.
    pub fn connections_total(&self) -> u64 {
        self.traffic.connections.load(Ordering::Relaxed)
    }

    /// The bytes of its connections, their ends, and the connections that wait for its first byte.
    pub fn counts(&self) -> &Arc<BackendCounts> {
        &self.traffic.counts
    }

    /// The number of times that clients met this trouble here.
    pub fn troubles(&self, trouble: Trouble) -> u64 {
        self.traffic.troubles[trouble as usize].total.load(Ordering::Relaxed)
    }

    /// Checks passed.
    pub fn checks_passed(&self) -> u64 {
        self.health_copy.passed.load(Ordering::Relaxed)
    }

    /// Checks that failed by the backend's fault.
    pub fn checks_failed(&self) -> u64 {
        self.health_copy.failed.load(Ordering::Relaxed)
    }

    /// Checks that this process could not make ([`CheckFault::Local`]).
    pub fn checks_not_made(&self) -> u64 {
        self.health_copy.not_made.load(Ordering::Relaxed)
    }

    /// Its id, by which its connections are found; kept over reloads.
    pub fn id(&self) -> BackendId {
        self.traffic.id
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
        Arc::ptr_eq(&self.health_copy, &other.health_copy)
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
        self.health_copy.count(found.outcome);
        let change = self.on(HealthEvent::Check(found.outcome), rules, now);
        if matches!(found.outcome, CheckOutcome::Failed(fault) if fault != CheckFault::Local) {
            self.health_copy.health().add_words(found.heard);
        }
        change
    }

    /// Applies an event, see [`Health::on`]. Only one task may call this: the one that applies changes.
    pub(super) fn on(&self, event: HealthEvent, rules: HealthRules<'_>, now: Instant) -> Option<StateChange> {
        let was_wanted = self.is_wanted();
        let change = self.health_copy.on(event, rules, now);
        if let Some(StateChange { from, to, .. }) = change
            && [from, to].contains(&BackendState::Ejected)
        {
            // Troubles met before, or on connections that had begun before, no longer count.
            self.traffic.troubles.iter().for_each(TroubleCount::break_row);
        }
        // Panic mode depends on this also where a stronger state hides it.
        if change.is_some() || was_wanted != self.is_wanted() {
            self.changed();
        }
        change
    }

    /// Sets the number of failures in a row that make a failure report; 0 is never.
    pub(super) fn tolerate(&self, failures: u32) {
        self.traffic.tolerated.store(failures, Ordering::Relaxed);
    }

    /// Applies a directive of its agent about its load.
    pub(super) fn allow(&self, word: AgentDirective) {
        if self.health_copy.allowance.take_in(word) {
            self.changed();
        }
    }

    /// Removes the limits that its agent has set.
    pub(super) fn allow_all(&self) {
        if self.health_copy.allowance.forget() {
            self.changed();
        }
    }

    /// Reports a change of its availability to its pool. To be called after each such change.
    fn changed(&self) {
        self.traffic.signals.load().changed();
    }

    /// Takes one more lease, unless the backend is full. Returns true if it took one.
    pub(super) fn hold(&self) -> bool {
        self.traffic.hold(self.connection_limit())
    }

    /// Takes one more lease, even if the backend is full.
    pub(super) fn hold_past_limits(&self) {
        self.traffic.hold(UNLIMITED);
    }

    /// Returns a lease, and reports it to the queue only then: see
    /// [`Queue`](super::queue::Queue).
    pub(super) fn release(&self) {
        self.traffic.active.fetch_sub(1, Ordering::SeqCst);
        if self.connection_limit() != UNLIMITED {
            self.traffic.signals.load().queue.freed();
        }
    }

    /// Counts an established connection and the time that its connect took.
    pub(super) fn connected(&self, took: Duration) {
        self.traffic.connections.fetch_add(1, Ordering::Relaxed);
        self.traffic.latency.observe(took, self.traffic.born.elapsed());
        self.went_well(Trouble::Connect);
    }

    /// Records a connect that failed after this time.
    pub(super) fn failed(&self, took: Duration) {
        self.traffic.latency.at_least(took, self.traffic.born.elapsed());
    }

    /// Counts a trouble that a client met. Returns true if there are too many in a row; the count then begins again
    /// at 0.
    pub(super) fn met(&self, trouble: Trouble) -> bool {
        let BackendTraffic { troubles, tolerated, .. } = &*self.traffic;
        troubles[trouble as usize].meet(tolerated.load(Ordering::Relaxed))
    }

    /// Resets the count of a trouble in a row: a client did not meet the trouble.
    pub(super) fn went_well(&self, trouble: Trouble) {
        self.traffic.troubles[trouble as usize].break_row();
    }
}

/// The traffic of a backend, written by the connections of all workers.
#[derive(Debug)]
struct BackendTraffic {
    id: BackendId,
    active: AtomicU64,
    /// The upper bound of `active`; [`UNLIMITED`] is no limit.
    limit: AtomicU64,
    connections: AtomicU64,
    counts: Arc<BackendCounts>,
    latency: Latency,
    /// The origin of the times in `latency`.
    born: Instant,
    /// The receiver of its reports: that of its pool.
    signals: ArcSwap<PoolSignals>,
    /// By [`Trouble`].
    troubles: [TroubleCount; Trouble::ALL.len()],
    /// The number of failures in a row that make a failure report; 0 is never.
    tolerated: AtomicU32,
}

/// The counts of one trouble that clients met.
#[derive(Debug, Default)]
struct TroubleCount {
    total: AtomicU64,
    row: AtomicU32,
}

impl TroubleCount {
    /// Counts one trouble. Returns true if there are `tolerated` in a row. Two threads at once may both get true; only
    /// the first report causes an ejection.
    fn meet(&self, tolerated: u32) -> bool {
        self.total.fetch_add(1, Ordering::Relaxed);
        if tolerated == 0 {
            return false;
        }
        let is_full = self.row.fetch_add(1, Ordering::Relaxed) + 1 >= tolerated;
        if is_full {
            self.row.store(0, Ordering::Relaxed);
        }
        is_full
    }

    /// Resets the count in a row. Nearly always it is 0, and then nothing is written.
    fn break_row(&self) {
        if self.row.load(Ordering::Relaxed) != 0 {
            self.row.store(0, Ordering::Relaxed);
        }
    }
}

const UNLIMITED: u64 = u64::MAX;

impl BackendTraffic {
    fn new(now: Instant, limit: Option<u64>, signals: Arc<PoolSignals>) -> Self {
        Self {
            id: BackendId::next(),
            active: AtomicU64::new(0),
            limit: AtomicU64::new(limit.unwrap_or(UNLIMITED)),
            connections: AtomicU64::new(0),
            counts: Arc::default(),
            latency: Latency::default(),
            born: now,
            signals: ArcSwap::new(signals),
            troubles: Default::default(),
            tolerated: AtomicU32::new(0),
        }
    }

    fn limit(&self) -> u64 {
        self.limit.load(Ordering::SeqCst)
    }

    /// Takes one more lease, unless there are `limit` already. Returns true if it took one.
    fn hold(&self, limit: u64) -> bool {
        if limit == UNLIMITED {
            self.active.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let one_more = |active| (active < limit).then_some(active + 1);
        self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Takes over the limit and the signals of the new configuration: from now on they apply to this server, also for
    /// connections that still hold its old `Backend`.
    fn go_on(&self, new: &BackendTraffic) {
        self.signals.store(new.signals.load_full());
        if self.limit.swap(new.limit(), Ordering::SeqCst) != new.limit() {
            self.signals.load().queue.changed();
        }
    }
}

/// The health of a backend: read by each pick, written a few times per check interval at the most.
#[derive(Debug)]
struct BackendHealth {
    /// The [`BackendState`]: a copy of the state in `health`, to be read without the lock.
    state: AtomicU8,
    /// The time at which the state began, in milliseconds after `born`.
    since: AtomicU64,
    born: Instant,
    /// True if others were up before `since`. Written before the state it belongs to.
    starts_slowly: AtomicBool,
    /// True if neither the operator nor the agent demands drain or maintenance: a copy of the value in `health`.
    is_wanted: AtomicBool,
    /// The number of times that each state was entered, by [`BackendState`].
    entered: [AtomicU64; BackendState::ALL.len()],
    passed: AtomicU64,
    failed: AtomicU64,
    not_made: AtomicU64,
    /// Only the task that applies changes takes this lock. Requests for an ejection take it on the same thread. So
    /// it is never contended. It exists because a `Backend` is shared and the state machine requires `&mut`.
    health: Mutex<Health>,
    /// The load that its agent allows.
    allowance: Allowance,
}

impl BackendHealth {
    fn new(operator_state: OperatorState, now: Instant) -> Self {
        let health = Health::new(operator_state, now);
        Self {
            state: AtomicU8::new(health.state() as u8),
            since: AtomicU64::new(0),
            born: now,
            starts_slowly: AtomicBool::new(false),
            is_wanted: AtomicBool::new(health.is_wanted()),
            entered: Default::default(),
            passed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            not_made: AtomicU64::new(0),
            health: Mutex::new(health),
            allowance: Allowance::full(),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // A panic while the lock was held cannot leave a half-made state: each field is valid alone.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, outcome: CheckOutcome) {
        let counter = match outcome {
            CheckOutcome::Passed => &self.passed,
            CheckOutcome::Failed(CheckFault::Local) => &self.not_made,
            CheckOutcome::Failed(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn on(&self, event: HealthEvent, rules: HealthRules<'_>, now: Instant) -> Option<StateChange> {
        let mut health = self.health();
        let change = health.on(event, rules, now);
        self.is_wanted.store(health.is_wanted(), Ordering::Relaxed);
        let change = change?;
        let lived = health.since().saturating_duration_since(self.born).as_millis();
        self.since.store(u64::try_from(lived).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.starts_slowly.store(true, Ordering::Relaxed);
        self.entered[change.to as usize].fetch_add(1, Ordering::Relaxed);
        self.state.store(change.to as u8, Ordering::SeqCst);
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::pool::{EjectionSpec, HealthSpec};

    fn spec(address: &str, weight: u16) -> BackendSpec {
        BackendSpec { weight, ..BackendSpec::new("b", address.parse().unwrap()) }
    }

    fn health_spec() -> HealthSpec {
        HealthSpec::default()
    }

    fn observe(backend: &Backend, outcome: CheckOutcome, now: Instant) -> Option<StateChange> {
        backend.observe(outcome.into(), HealthRules { health: Some(&health_spec()), ejection: None }, now)
    }

    /// A backend that is down, with one lease held and one connection made.
    fn used(now: Instant) -> Arc<Backend> {
        let backend = Arc::new(Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now, &Arc::default()));
        assert!(backend.hold());
        backend.connected(Duration::from_millis(3));
        let fault = CheckOutcome::Failed(CheckFault::Refused);
        assert!(observe(&backend, fault, now + Duration::from_millis(1500)).is_some());
        backend
    }

    fn check(pool: &str, next: BackendSpec, expected: (BackendState, u64, u64, u64)) {
        let now = Instant::now();
        let old = used(now);
        let new = Backend::new(&pool.into(), &next, now + Duration::from_secs(9), &Arc::default());
        let new = new.succeed(&old);
        let found = (new.state(), new.active(), new.connections_total(), new.checks_failed());
        assert_eq!(found, expected, "{pool} {next:?}");
        assert_eq!(new.weight(), next.weight);
        assert_eq!(*new.address(), next.address);
        assert_eq!(new.is_same(&old), new.active() == 1);
        assert_eq!(new.shares_health(&old), new.state() == BackendState::Down);
    }

    #[test]
    fn what_is_taken_over() {
        check("p", spec("10.0.0.1:1", 1), (BackendState::Down, 1, 1, 1));
        check("p", spec("10.0.0.1:1", 5), (BackendState::Down, 1, 1, 1));
        check("p", spec("10.0.0.1:1", 0), (BackendState::Down, 1, 1, 1));
        check("p", spec("10.0.0.1:2", 1), (BackendState::Up, 0, 0, 0));
        check("q", spec("10.0.0.1:1", 1), (BackendState::Up, 0, 0, 0));
        check("p", BackendSpec { name: "c".into(), ..spec("10.0.0.1:1", 1) }, (BackendState::Up, 0, 0, 0));
    }

    #[test]
    fn an_unchanged_one_is_the_same_value() {
        let now = Instant::now();
        let old = used(now);
        let new = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now, &Arc::default()).succeed(&old);
        assert!(Arc::ptr_eq(&old, &new));
    }

    #[test]
    fn the_state_has_a_beginning() {
        let now = Instant::now();
        let backend = used(now);
        assert_eq!(backend.since(), now + Duration::from_millis(1500));
        assert!(!backend.is_available());
        let later = now + Duration::from_secs(7);
        assert_eq!(observe(&backend, CheckOutcome::Passed, later), None);
        assert_eq!(backend.since(), now + Duration::from_millis(1500));
        assert!(observe(&backend, CheckOutcome::Passed, later).is_some());
        assert_eq!(backend.since(), later);
        assert!(backend.is_available());
    }

    /// Checks the shares of a backend that has been in a state for so many milliseconds, with a window of a second.
    fn check_share(backend: &Backend, since: Instant, expected: [u32; 3]) {
        let shares = [0, 500, 1000].map(|millis| {
            backend.share(Some(Duration::from_secs(1)), || since + Duration::from_millis(millis))
        });
        assert_eq!(shares, expected);
    }

    #[test]
    fn what_comes_up_beside_others_begins_slowly() {
        const SLOWLY: [u32; 3] = [102, 563, 1024];
        let now = Instant::now();
        let fresh = || Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now, &Arc::default());
        check_share(&fresh(), now, [1024; 3]);
        check_share(&fresh().starting_slowly(), now, SLOWLY);
        let backend = used(now);
        check_share(&backend, backend.since(), [1024; 3]);
        let later = now + Duration::from_secs(7);
        for _ in 0..2 {
            observe(&backend, CheckOutcome::Passed, later);
        }
        assert!(backend.is_available());
        check_share(&backend, later, SLOWLY);
        let at = |address, weight| Backend::new(&"p".into(), &spec(address, weight), later, &Arc::default());
        check_share(&at("10.0.0.1:1", 9).succeed(&backend), later, SLOWLY);
        check_share(&at("10.0.0.1:2", 1).succeed(&backend), later, SLOWLY);
    }

    #[test]
    fn its_latency_is_that_of_its_connections() {
        let backend = used(Instant::now());
        let millis = || backend.latency(Instant::now()).as_secs_f64() * 1000.0;
        assert!((2.5..=3.0).contains(&millis()), "{}", millis());
        backend.failed(Duration::from_micros(10));
        assert!(millis() > 2.5);
        backend.failed(Duration::from_secs(5));
        assert!(millis() > 4000.0);
    }

    #[test]
    fn checks_are_counted_by_their_end() {
        let now = Instant::now();
        let backend = used(now);
        for outcome in [CheckOutcome::Passed, CheckOutcome::Failed(CheckFault::Local), CheckOutcome::Passed] {
            observe(&backend, outcome, now);
        }
        assert_eq!((backend.checks_passed(), backend.checks_failed(), backend.checks_not_made()), (2, 1, 1));
    }

    #[test]
    fn a_limit_is_held_exactly() {
        let limited = BackendSpec { max_connections: Some(3), ..spec("10.0.0.1:1", 1) };
        let backend = Backend::new(&"p".into(), &limited, Instant::now(), &Arc::default());
        let taken: Vec<bool> = (0..4).map(|_| backend.hold()).collect();
        assert_eq!(taken, [true, true, true, false]);
        assert_eq!((backend.active(), backend.limit(), backend.is_full()), (3, Some(3), true));
        backend.release();
        assert!(!backend.is_full() && backend.hold() && !backend.hold());
    }

    #[test]
    fn the_limit_in_force_is_the_lower_one() {
        let check = |own: Option<u64>, of_agent: Option<u32>, expected: Option<u64>| {
            let spec = BackendSpec { max_connections: own, ..spec("10.0.0.1:1", 1) };
            let backend = Backend::new(&"p".into(), &spec, Instant::now(), &Arc::default());
            if let Some(most) = of_agent {
                backend.allow(AgentDirective::MaxConnections(most));
            }
            assert_eq!(backend.limit_in_force(), expected, "{own:?} {of_agent:?}");
            backend.allow_all();
            assert_eq!((backend.limit_in_force(), backend.limit()), (own, own));
        };
        check(None, None, None);
        check(Some(5), None, Some(5));
        check(None, Some(30), Some(30));
        check(Some(5), Some(30), Some(5));
        check(Some(50), Some(30), Some(30));
    }

    #[test]
    fn threads_at_once_hold_no_more_than_the_limit() {
        let limited = BackendSpec { max_connections: Some(5), ..spec("10.0.0.1:1", 1) };
        let backend = Backend::new(&"p".into(), &limited, Instant::now(), &Arc::default());
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..2000 {
                        if backend.hold() {
                            assert!((1..=5).contains(&backend.active()));
                            backend.release();
                        }
                    }
                });
            }
        });
        assert_eq!(backend.active(), 0);
    }

    /// The server is the same, so a new limit applies to all of its leases, also to those of its old `Backend`.
    #[test]
    fn a_new_limit_holds_at_once() {
        let now = Instant::now();
        let limited = |limit| BackendSpec { max_connections: limit, ..spec("10.0.0.1:1", 1) };
        let old = Arc::new(Backend::new(&"p".into(), &limited(Some(1)), now, &Arc::default()));
        assert!(old.hold() && !old.hold());
        let new = Backend::new(&"p".into(), &limited(Some(2)), now, &Arc::default()).succeed(&old);
        assert!(old.hold() && !new.hold());
        let lower = Backend::new(&"p".into(), &limited(Some(1)), now, &Arc::default()).succeed(&new);
        old.release();
        assert!(lower.is_full() && !lower.hold(), "what was taken before may stay, nothing comes");
        let free = Backend::new(&"p".into(), &limited(None), now, &Arc::default()).succeed(&lower);
        assert!(free.hold() && free.limit().is_none());
    }

    #[test]
    fn weight_0_is_never_available() {
        let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 0), Instant::now(), &Arc::default());
        assert_eq!((backend.state(), backend.is_available()), (BackendState::Up, false));
    }

    #[test]
    fn a_new_backend_begins_in_its_operator_state() {
        for (operator_state, state) in [
            (OperatorState::Drain, BackendState::Draining),
            (OperatorState::Maintenance, BackendState::Maintenance),
        ] {
            let spec = BackendSpec { operator_state, ..spec("10.0.0.1:1", 1) };
            let backend = Backend::new(&"p".into(), &spec, Instant::now(), &Arc::default());
            assert_eq!((backend.state(), backend.is_available()), (state, false));
        }
    }

    #[test]
    fn states_are_counted_as_they_are_entered() {
        let now = Instant::now();
        let backend = used(now);
        for _ in 0..2 {
            observe(&backend, CheckOutcome::Passed, now);
        }
        let on = |event| backend.on(event, HealthRules::default(), now);
        assert!(
            on(HealthEvent::Operator(OperatorState::Drain)).is_some()
                && on(HealthEvent::Operator(OperatorState::Drain)).is_none()
        );
        assert_eq!(BackendState::ALL.map(|state| backend.entered(state)), [1, 1, 1, 0, 0]);
    }

    /// Checks which of these events complete a row of three: `c`onnect failed, `C`onnected, early `r`eset, first byte
    /// (`s`).
    fn check_rows(happens: &str, expected: &str) {
        let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), Instant::now(), &Arc::default());
        backend.tolerate(3);
        let meet = |letter| match letter {
            'c' => backend.met(Trouble::Connect),
            'r' => backend.met(Trouble::EarlyReset),
            'C' => {
                backend.connected(Duration::ZERO);
                false
            }
            _ => {
                backend.went_well(Trouble::EarlyReset);
                false
            }
        };
        let full: String = happens.chars().map(|letter| if meet(letter) { '!' } else { '.' }).collect();
        assert_eq!(full, expected, "{happens}");
        let count = |letter| happens.chars().filter(|&other| other == letter).count() as u64;
        assert_eq!(backend.troubles(Trouble::Connect), count('c'));
        assert_eq!(backend.troubles(Trouble::EarlyReset), count('r'));
    }

    #[test]
    fn a_row_is_broken_by_what_goes_well() {
        check_rows("ccc", "..!");
        check_rows("cccccc", "..!..!");
        check_rows("ccCccc", ".....!");
        check_rows("CrCrCr", ".....!");
        check_rows("CrCrCsCr", "........");
        check_rows("ccsc", "...!");
        check_rows("ccrrc", "....!");
    }

    #[test]
    fn without_a_bound_every_row_is_borne() {
        let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), Instant::now(), &Arc::default());
        assert!(!(0..100).any(|_| backend.met(Trouble::Connect)));
        assert_eq!(backend.troubles(Trouble::Connect), 100);
    }

    #[test]
    fn an_ejection_begins_and_ends_without_a_row() {
        let now = Instant::now();
        let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now, &Arc::default());
        backend.tolerate(2);
        let rules = HealthRules { health: None, ejection: Some(&EjectionSpec::default()) };
        assert!(!backend.met(Trouble::EarlyReset));
        assert!(backend.on(HealthEvent::Failures(Trouble::Connect), rules, now).is_some());
        assert!(!backend.met(Trouble::EarlyReset));
        assert!(backend.on(HealthEvent::Time, rules, now + Duration::from_secs(30)).is_some());
        assert!(!backend.met(Trouble::EarlyReset) && backend.met(Trouble::EarlyReset));
    }
}
