//! One backend: where it is, what is known of its health, what is open to it.
//!
//! A [`Backend`] is shared as `Arc`: by the pools of the present snapshot and of older ones that
//! connections still hold, by the leases of its connections, by its check, by admin and the metrics.
//! It ends with the last of them.
//!
//! Its identity is the pair (pool name, backend name); a discovered backend whose name changes while its address stays
//! goes on as the same. A reload that changes only the weight makes a
//! new `Backend` that goes on with the same counts and the same health. With another *address* the
//! name stands for another server: nothing that is known of the old one holds, so the new one starts
//! with nothing known and zero counts, and connections to the old address keep counting on the old
//! value until they end.

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
use super::queue::Queue;
use super::{BackendSpec, OperatorState, slow_start};
use crate::balance::FULL_SHARE;
use crate::sys::Address;
use crate::telemetry::BackendCounts;
use crate::wire::agent::AgentDirective;

/// A backend and what happens at it.
#[derive(Debug)]
pub struct Backend {
    pool: Arc<str>,
    name: Arc<str>,
    address: Address,
    weight: u16,
    zone: Option<Arc<str>>,
    is_backup: bool,
    // Apart from each other, so that connections that come and go on all workers do not take the
    // cache line away that every pick reads.
    traffic: Arc<BackendTraffic>,
    health_copy: Arc<BackendHealth>,
}

impl Backend {
    /// The backend of `spec` in the pool named `pool`, with nothing known and nothing counted. Those who wait
    /// for a place at it wait in `queue`.
    pub(super) fn new(pool: &Arc<str>, spec: &BackendSpec, now: Instant, queue: &Arc<Queue>) -> Self {
        Self {
            pool: Arc::clone(pool),
            name: Arc::clone(&spec.name),
            address: spec.address.clone(),
            weight: spec.weight,
            zone: spec.zone.clone(),
            is_backup: spec.backup,
            traffic: Arc::new(BackendTraffic::new(now, spec.max_connections, Arc::clone(queue))),
            health_copy: Arc::new(BackendHealth::new(spec.operator_state, now)),
        }
    }

    /// This backend as one that came to others: it begins slowly, as after each time it comes up.
    pub(super) fn starting_slowly(self) -> Self {
        self.health_copy.starts_slowly.store(true, Ordering::Relaxed);
        self
    }

    /// This backend, going on where its `old` self stands if both are one server.
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

    /// This backend, going on with the health and the counts of an `old` self at the same address that had another name.
    pub(super) fn succeed_by_address(mut self, old: &Arc<Backend>) -> Arc<Self> {
        self.health_copy = Arc::clone(&old.health_copy);
        self.succeed_in_counts(old)
    }

    /// This backend, going on with the number and the counts of an `old` self at the same address, but with
    /// nothing known of its health.
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

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its configured share; 0 takes no new connections.
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// Where it stands, if that is known.
    pub fn zone(&self) -> Option<&Arc<str>> {
        self.zone.as_ref()
    }

    /// Whether it is used only while no other backend of its pool can be.
    pub fn is_backup(&self) -> bool {
        self.is_backup
    }

    /// Leases that may be held at once by its configuration; `None` is no limit.
    pub fn limit(&self) -> Option<u64> {
        Some(self.traffic.limit()).filter(|&limit| limit != UNLIMITED)
    }

    /// Leases that may be held at once, by its configuration or by its agent if that allows fewer; `None` is no limit.
    pub fn limit_in_force(&self) -> Option<u64> {
        Some(self.pool_slots()).filter(|&limit| limit != UNLIMITED)
    }

    /// Whether no further lease may be held now.
    pub fn is_full(&self) -> bool {
        self.active() >= self.pool_slots()
    }

    /// Leases that may be held at once, by its configuration and its agent.
    fn pool_slots(&self) -> u64 {
        self.traffic.limit().min(self.health_copy.allowance.connections())
    }

    /// Its state.
    pub fn state(&self) -> BackendState {
        let state = usize::from(self.health_copy.state.load(Ordering::Relaxed));
        BackendState::ALL.get(state).copied().unwrap_or(BackendState::Up)
    }

    /// When its state last changed; before any change, when it was configured. Of one that is up: since
    /// when it takes new connections.
    pub fn since(&self) -> Instant {
        self.health_copy.born + Duration::from_millis(self.health_copy.since.load(Ordering::Relaxed))
    }

    /// How often it came into a state; the one it began in does not count.
    pub fn entered(&self, state: BackendState) -> u64 {
        self.health_copy.entered[state as usize].load(Ordering::Relaxed)
    }

    /// Its ejection, even if its state is another because of a stronger cause.
    pub fn ejection(&self) -> Option<Ejection> {
        self.health_copy.health().ejection()
    }

    /// Why it is in its state; `None` while it is up.
    pub fn reason(&self) -> Option<ChangeReason> {
        self.health_copy.health().reason()
    }

    /// What its last failed check met; `None` if its last check passed and its checks say up.
    pub fn check_failure(&self) -> Option<CheckFailure> {
        self.health_copy.health().check_failure().cloned()
    }

    /// Whether it may be picked for a new connection.
    pub fn is_available(&self) -> bool {
        let is_up = self.health_copy.state.load(Ordering::Relaxed) == BackendState::Up as u8;
        self.weight > 0 && is_up && self.agent_share() > 0
    }

    /// Percent of its usual share of new connections that its agent lets it have, 0 to 100.
    pub fn agent_share(&self) -> u8 {
        self.health_copy.allowance.share()
    }

    /// Connections at once that its agent lets it have; `None` is no limit.
    pub fn agent_max_connections(&self) -> Option<u64> {
        Some(self.health_copy.allowance.connections()).filter(|&most| most != u64::MAX)
    }

    /// Whether it is to take new connections as far as weight, operator and agent go: all that counts in panic.
    pub fn is_wanted(&self) -> bool {
        self.weight > 0 && self.agent_share() > 0 && self.health_copy.is_wanted.load(Ordering::Relaxed)
    }

    /// Whether it may be taking less than its share. False for those that are up since the process began.
    pub(super) fn starts_slowly(&self) -> bool {
        self.health_copy.starts_slowly.load(Ordering::Relaxed)
    }

    /// How much of its share it takes, of [`FULL_SHARE`]: as much as its agent lets it have, and less in a slow
    /// start, if it is to take a `window`.
    pub(super) fn share(&self, window: Option<Duration>, now: impl FnOnce() -> Instant) -> u32 {
        let share = match window {
            // What is not up takes nothing, or in panic all it can.
            Some(window) if self.starts_slowly() && self.state() == BackendState::Up => {
                slow_start::share(now().saturating_duration_since(self.since()), window)
            }
            _ => FULL_SHARE,
        };
        share * u32::from(self.agent_share()) / 100
    }

    /// What a connect takes of late; zero while nothing is known.
    pub fn latency(&self, now: Instant) -> Duration {
        self.traffic.latency.estimate(now.saturating_duration_since(self.traffic.born))
    }

    /// Leases held now, on all workers.
    pub fn active(&self) -> u64 {
        self.traffic.active.load(Ordering::Relaxed)
    }

    /// Connections established since it was first configured.
    pub fn connections_total(&self) -> u64 {
        self.traffic.connections.load(Ordering::Relaxed)
    }

    /// What its connections move, how they end, and which wait for its first byte.
    pub fn counts(&self) -> &Arc<BackendCounts> {
        &self.traffic.counts
    }

    /// Times that clients met this trouble here.
    pub fn troubles(&self, trouble: Trouble) -> u64 {
        self.traffic.troubles[trouble as usize].total.load(Ordering::Relaxed)
    }

    /// Checks passed.
    pub fn checks_passed(&self) -> u64 {
        self.health_copy.passed.load(Ordering::Relaxed)
    }

    /// Checks failed by the backend's fault.
    pub fn checks_failed(&self) -> u64 {
        self.health_copy.failed.load(Ordering::Relaxed)
    }

    /// Checks that this process could not make ([`CheckFault::Local`]).
    pub fn checks_not_made(&self) -> u64 {
        self.health_copy.not_made.load(Ordering::Relaxed)
    }

    /// Its number in this process, by which its connections are found; kept over reloads.
    pub fn number(&self) -> u64 {
        self.traffic.number
    }

    /// Whether both stand for one server: the same pool, name and address.
    pub(super) fn is_at(&self, other: &Backend) -> bool {
        (&self.pool, &self.name, &self.address) == (&other.pool, &other.name, &other.address)
    }

    /// Whether both are one server with one history, perhaps under two weights.
    pub fn is_same(&self, other: &Backend) -> bool {
        Arc::ptr_eq(&self.traffic, &other.traffic)
    }

    /// Whether what is found out about one holds for the other. Narrower than [`Backend::is_same`]: one
    /// that had left its pool and is back goes on with its counts alone.
    pub(super) fn shares_health(&self, other: &Backend) -> bool {
        Arc::ptr_eq(&self.health_copy, &other.health_copy)
    }

    /// Whether both have the same place in their pool's order and share.
    fn is_placed_as(&self, other: &Backend) -> bool {
        (self.weight, &self.zone, self.is_backup) == (other.weight, &other.zone, other.is_backup)
    }

    /// Counts a check, and takes in its result as [`Backend::on`].
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

    /// Takes in an event, see [`Health::on`]. Only one task may call this: the one that applies changes.
    pub(super) fn on(&self, event: HealthEvent, rules: HealthRules<'_>, now: Instant) -> Option<StateChange> {
        let was_wanted = self.is_wanted();
        let change = self.health_copy.on(event, rules, now);
        if let Some(StateChange { from, to, .. }) = change
            && [from, to].contains(&BackendState::Ejected)
        {
            // What was met before, or on connections that had begun before, counts no more.
            self.traffic.troubles.iter().for_each(TroubleCount::break_row);
        }
        // In panic it counts also where a stronger state hides it.
        if change.is_some() || was_wanted != self.is_wanted() {
            self.changed();
        }
        change
    }

    /// Says how many failures in a row are too many; 0: any number is borne.
    pub(super) fn bear(&self, failures: u32) {
        self.traffic.borne.store(failures, Ordering::Relaxed);
    }

    /// Takes in what its agent says of its load.
    pub(super) fn allow(&self, word: AgentDirective) {
        if self.health_copy.allowance.take_in(word) {
            self.changed();
        }
    }

    /// No agent limits its load any more.
    pub(super) fn allow_all(&self) {
        if self.health_copy.allowance.forget() {
            self.changed();
        }
    }

    /// To be called after each change of what it may be used for: pools look again at their tiers, and who waits has perhaps
    /// somewhere to go.
    fn changed(&self) {
        CHANGES.fetch_add(1, Ordering::SeqCst);
        self.traffic.queue.load().changed();
    }

    /// One more lease is held, unless it is full; whether it is.
    pub(super) fn hold(&self) -> bool {
        self.traffic.hold(self.pool_slots())
    }

    /// One more lease is held, even if it is full.
    pub(super) fn hold_past_limits(&self) {
        self.traffic.hold(UNLIMITED);
    }

    /// A lease is given back, and only then reported: see [`Queue`].
    pub(super) fn release(&self) {
        self.traffic.active.fetch_sub(1, Ordering::SeqCst);
        if self.pool_slots() != UNLIMITED {
            self.traffic.queue.load().freed();
        }
    }

    /// One more connection is established, in such a time.
    pub(super) fn connected(&self, took: Duration) {
        self.traffic.connections.fetch_add(1, Ordering::Relaxed);
        self.traffic.latency.observe(took, self.traffic.born.elapsed());
        self.went_well(Trouble::Connect);
    }

    /// A connect failed after such a time.
    pub(super) fn failed(&self, took: Duration) {
        self.traffic.latency.at_least(took, self.traffic.born.elapsed());
    }

    /// A client met a trouble; true if that makes too many in a row, which then begins anew.
    pub(super) fn met(&self, trouble: Trouble) -> bool {
        let BackendTraffic { troubles, borne, .. } = &*self.traffic;
        troubles[trouble as usize].meet(borne.load(Ordering::Relaxed))
    }

    /// A client did not meet a trouble that it might have.
    pub(super) fn went_well(&self, trouble: Trouble) {
        self.traffic.troubles[trouble as usize].break_row();
    }
}

/// How often a backend of this process has changed its state. A pool that has seen the present number has seen
/// every change: that costs a pick one load, where looking at all backends would cost it as many.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// How often a backend of this process has changed its state, also one that is not in the asking pool.
pub(super) fn changes() -> u64 {
    CHANGES.load(Ordering::SeqCst)
}

/// What goes on at a backend, written by the connections of all workers.
#[derive(Debug)]
struct BackendTraffic {
    number: u64,
    active: AtomicU64,
    /// The most that `active` may be; [`UNLIMITED`] is no limit.
    limit: AtomicU64,
    connections: AtomicU64,
    counts: Arc<BackendCounts>,
    latency: Latency,
    /// Where the moments of `latency` count from.
    born: Instant,
    /// Those who wait for a place here, or at another backend of the pool.
    queue: ArcSwap<Queue>,
    /// By [`Trouble`].
    troubles: [TroubleCount; Trouble::ALL.len()],
    /// Failures in a row that are too many; 0: any number is borne.
    borne: AtomicU32,
}

/// One trouble that clients met.
#[derive(Debug, Default)]
struct TroubleCount {
    total: AtomicU64,
    row: AtomicU32,
}

impl TroubleCount {
    /// Counts one; true if there are `borne` in a row. Two threads at once may both be told so; an
    /// ejection comes of the first alone.
    fn meet(&self, borne: u32) -> bool {
        self.total.fetch_add(1, Ordering::Relaxed);
        if borne == 0 {
            return false;
        }
        let is_full = self.row.fetch_add(1, Ordering::Relaxed) + 1 >= borne;
        if is_full {
            self.row.store(0, Ordering::Relaxed);
        }
        is_full
    }

    /// Nearly always there is no row, and then nothing is written.
    fn break_row(&self) {
        if self.row.load(Ordering::Relaxed) != 0 {
            self.row.store(0, Ordering::Relaxed);
        }
    }
}

const UNLIMITED: u64 = u64::MAX;

/// The number of the next backend; 0 is none.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

impl BackendTraffic {
    fn new(now: Instant, limit: Option<u64>, queue: Arc<Queue>) -> Self {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            number,
            active: AtomicU64::new(0),
            limit: AtomicU64::new(limit.unwrap_or(UNLIMITED)),
            connections: AtomicU64::new(0),
            counts: Arc::default(),
            latency: Latency::default(),
            born: now,
            queue: ArcSwap::new(queue),
            troubles: Default::default(),
            borne: AtomicU32::new(0),
        }
    }

    fn limit(&self) -> u64 {
        self.limit.load(Ordering::SeqCst)
    }

    /// One more lease is held, unless there are as many as there are `pool_slots`; whether it is.
    fn hold(&self, pool_slots: u64) -> bool {
        if pool_slots == UNLIMITED {
            self.active.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let one_more = |active| (active < pool_slots).then_some(active + 1);
        self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Takes over the limit and the queue of what is configured now: from now on they are those of this
    /// server, also for connections that still have its old form in hand.
    fn go_on(&self, new: &BackendTraffic) {
        self.queue.store(new.queue.load_full());
        if self.limit.swap(new.limit(), Ordering::SeqCst) != new.limit() {
            self.queue.load().changed();
        }
    }
}

/// What is known of a backend: read by each pick, written a few times per check's interval at the most.
#[derive(Debug)]
struct BackendHealth {
    /// The [`BackendState`], a copy of that in `health` that is read without its lock.
    state: AtomicU8,
    /// When the state began, in milliseconds after `born`.
    since: AtomicU64,
    born: Instant,
    /// Whether others were up before `since`. Written before the state it belongs to.
    starts_slowly: AtomicBool,
    /// Whether neither operator nor agent wants it emptied or left alone, a copy of that in `health`.
    is_wanted: AtomicBool,
    /// How often each state was entered, by [`BackendState`].
    entered: [AtomicU64; BackendState::ALL.len()],
    passed: AtomicU64,
    failed: AtomicU64,
    not_made: AtomicU64,
    /// Only the server's one task that applies changes takes this lock, and on its thread also who asks for
    /// an ejection, so nobody ever waits for it; it is there because a `Backend` is shared and the state
    /// machine needs `&mut`.
    health: Mutex<Health>,
    /// What its agent lets it have.
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
        // A panic while it was held cannot leave a half-made state behind: each field is valid alone.
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

    /// The shares of a backend that has been in a state for so many milliseconds, with a window of a second.
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

    /// The server is the same, so a new limit is its limit whoever holds it, and in its old form too.
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
    fn a_new_one_begins_by_its_duty() {
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
            on(HealthEvent::Duty(OperatorState::Drain)).is_some()
                && on(HealthEvent::Duty(OperatorState::Drain)).is_none()
        );
        assert_eq!(BackendState::ALL.map(|state| backend.entered(state)), [1, 1, 1, 0, 0]);
    }

    /// `c`onnects fail, `C`onnected, early `r`eset, `s`poke: which of them fill a row of three?
    fn check_rows(happens: &str, expected: &str) {
        let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), Instant::now(), &Arc::default());
        backend.bear(3);
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
        backend.bear(2);
        let rules = HealthRules { health: None, ejection: Some(&EjectionSpec::default()) };
        assert!(!backend.met(Trouble::EarlyReset));
        assert!(backend.on(HealthEvent::Failures(Trouble::Connect), rules, now).is_some());
        assert!(!backend.met(Trouble::EarlyReset));
        assert!(backend.on(HealthEvent::Time, rules, now + Duration::from_secs(30)).is_some());
        assert!(!backend.met(Trouble::EarlyReset) && backend.met(Trouble::EarlyReset));
    }
}
