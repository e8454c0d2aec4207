//! One backend: where it is, what is known of its health, what is open to it.
//!
//! A [`Backend`] is shared as `Arc`: by the pools of the present snapshot and of older ones that
//! connections still hold, by the leases of its connections, by its check, by admin and the metrics.
//! It ends with the last of them.
//!
//! Its identity is the pair (pool name, backend name). A reload that changes only the weight makes a
//! new `Backend` that goes on with the same counts and the same health. With another *address* the
//! name stands for another server: nothing that is known of the old one holds, so the new one starts
//! with nothing known and zero counts, and connections to the old address keep counting on the old
//! value until they end.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::health::{Change, CheckFault, CheckOutcome, Health, State};
use super::{BackendSpec, HealthSpec};
use crate::sys::Address;

/// A backend and what happens at it.
#[derive(Debug)]
pub struct Backend {
    pool: Arc<str>,
    name: Arc<str>,
    address: Address,
    weight: u16,
    // Apart from each other, so that connections that come and go on all workers do not take the
    // cache line away that every pick reads.
    traffic: Arc<Traffic>,
    vitals: Arc<Vitals>,
}

impl Backend {
    /// The backend of `spec` in the pool named `pool`, with nothing known and nothing counted.
    pub(super) fn new(pool: &Arc<str>, spec: &BackendSpec, now: Instant) -> Self {
        Self {
            pool: Arc::clone(pool),
            name: Arc::clone(&spec.name),
            address: spec.address.clone(),
            weight: spec.weight,
            traffic: Arc::new(Traffic::new()),
            vitals: Arc::new(Vitals::new(now)),
        }
    }

    /// This backend, going on where its `old` self stands if both are one server.
    pub(super) fn succeed(mut self, old: &Arc<Backend>, found: Found) -> Arc<Self> {
        if !self.is_at(old) {
            return Arc::new(self);
        }
        match found {
            Found::Keep if self.weight == old.weight => return Arc::clone(old),
            Found::Keep => self.vitals = Arc::clone(&old.vitals),
            Found::Forget => {}
        }
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

    /// What its checks say.
    pub fn state(&self) -> State {
        match self.vitals.state.load(Ordering::Relaxed) {
            DOWN => State::Down,
            _ => State::Up,
        }
    }

    /// When its state last changed; before any change, when it was configured.
    pub fn since(&self) -> Instant {
        self.vitals.born + Duration::from_millis(self.vitals.since.load(Ordering::Relaxed))
    }

    /// Whether it may be picked for a new connection.
    pub fn is_available(&self) -> bool {
        self.weight > 0 && self.state() == State::Up
    }

    /// Leases held now, on all workers.
    pub fn active(&self) -> u64 {
        self.traffic.active.load(Ordering::Relaxed)
    }

    /// Connections established since it was first configured.
    pub fn connections_total(&self) -> u64 {
        self.traffic.connections.load(Ordering::Relaxed)
    }

    /// Checks passed.
    pub fn checks_passed(&self) -> u64 {
        self.vitals.passed.load(Ordering::Relaxed)
    }

    /// Checks failed by the backend's fault.
    pub fn checks_failed(&self) -> u64 {
        self.vitals.failed.load(Ordering::Relaxed)
    }

    /// Checks that this process could not make ([`CheckFault::Local`]).
    pub fn checks_not_made(&self) -> u64 {
        self.vitals.not_made.load(Ordering::Relaxed)
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

    /// Whether what is found out about one holds for the other. Narrower than [`Backend::is_same`]:
    /// switching checks off and on forgets what they found.
    pub(super) fn shares_health(&self, other: &Backend) -> bool {
        Arc::ptr_eq(&self.vitals, &other.vitals)
    }

    /// Takes in the result of a check, see [`Health::observe`].
    pub(super) fn observe(&self, outcome: CheckOutcome, spec: &HealthSpec, now: Instant) -> Option<Change> {
        self.vitals.observe(outcome, spec, now)
    }

    /// One more lease is held.
    pub(super) fn hold(&self) {
        self.traffic.active.fetch_add(1, Ordering::Relaxed);
    }

    /// A lease is given back.
    pub(super) fn release(&self) {
        self.traffic.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// One more connection is established.
    pub(super) fn connected(&self) {
        self.traffic.connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// What becomes of what checks found when a backend is built anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It still holds.
    Keep,
    /// The checks were switched off: nothing would ever bring up again what they took down.
    Forget,
}

/// What goes on at a backend, written by the connections of all workers.
#[derive(Debug)]
struct Traffic {
    number: u64,
    active: AtomicU64,
    connections: AtomicU64,
}

/// The number of the next backend; 0 is none.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

impl Traffic {
    fn new() -> Self {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { number, active: AtomicU64::new(0), connections: AtomicU64::new(0) }
    }
}

const UP: u8 = 0;
const DOWN: u8 = 1;

/// What its checks found: read by each pick, written a few times per check's interval at the most.
#[derive(Debug)]
struct Vitals {
    /// [`UP`] or [`DOWN`], a copy of the state in `health` that is read without its lock.
    state: AtomicU8,
    /// When the state began, in milliseconds after `born`.
    since: AtomicU64,
    born: Instant,
    passed: AtomicU64,
    failed: AtomicU64,
    not_made: AtomicU64,
    /// The counters behind the state. Only the server's one task that applies changes takes this
    /// lock, so nobody ever waits for it; it is there because a `Backend` is shared and the state
    /// machine needs `&mut`.
    health: Mutex<Health>,
}

impl Vitals {
    fn new(now: Instant) -> Self {
        Self {
            state: AtomicU8::new(UP),
            since: AtomicU64::new(0),
            born: now,
            passed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            not_made: AtomicU64::new(0),
            health: Mutex::new(Health::new(now)),
        }
    }

    fn observe(&self, outcome: CheckOutcome, spec: &HealthSpec, now: Instant) -> Option<Change> {
        let counter = match outcome {
            CheckOutcome::Passed => &self.passed,
            CheckOutcome::Failed(CheckFault::Local) => &self.not_made,
            CheckOutcome::Failed(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        // A panic while it was held cannot leave a half-made state behind: each field is valid alone.
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let change = health.observe(outcome, spec, now)?;
        let lived = health.since().saturating_duration_since(self.born).as_millis();
        self.since.store(u64::try_from(lived).unwrap_or(u64::MAX), Ordering::Relaxed);
        let state = match change.to {
            State::Up => UP,
            State::Down => DOWN,
        };
        self.state.store(state, Ordering::Relaxed);
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::CheckKind;

    fn spec(address: &str, weight: u16) -> BackendSpec {
        BackendSpec { name: "b".into(), address: address.parse().unwrap(), weight }
    }

    fn health_spec() -> HealthSpec {
        let second = Duration::from_secs(1);
        HealthSpec { check: CheckKind::Tcp, interval: second, timeout: second, rise: 2, fall: 3 }
    }

    /// A backend that is down, with one lease held and one connection made.
    fn used(now: Instant) -> Arc<Backend> {
        let backend = Arc::new(Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now));
        backend.hold();
        backend.connected();
        let fault = CheckOutcome::Failed(CheckFault::Refused);
        assert!(backend.observe(fault, &health_spec(), now + Duration::from_millis(1500)).is_some());
        backend
    }

    fn check(pool: &str, next: BackendSpec, kept: Found, expected: (State, u64, u64, u64)) {
        let now = Instant::now();
        let old = used(now);
        let new = Backend::new(&pool.into(), &next, now + Duration::from_secs(9)).succeed(&old, kept);
        let found = (new.state(), new.active(), new.connections_total(), new.checks_failed());
        assert_eq!(found, expected, "{pool} {next:?} {kept:?}");
        assert_eq!(new.weight(), next.weight);
        assert_eq!(*new.address(), next.address);
        assert_eq!(new.is_same(&old), new.active() == 1);
        assert_eq!(new.shares_health(&old), new.state() == State::Down);
    }

    #[test]
    fn what_is_taken_over() {
        check("p", spec("10.0.0.1:1", 1), Found::Keep, (State::Down, 1, 1, 1));
        check("p", spec("10.0.0.1:1", 5), Found::Keep, (State::Down, 1, 1, 1));
        check("p", spec("10.0.0.1:1", 0), Found::Keep, (State::Down, 1, 1, 1));
        check("p", spec("10.0.0.1:1", 1), Found::Forget, (State::Up, 1, 1, 0));
        check("p", spec("10.0.0.1:2", 1), Found::Keep, (State::Up, 0, 0, 0));
        check("q", spec("10.0.0.1:1", 1), Found::Keep, (State::Up, 0, 0, 0));
        check(
            "p",
            BackendSpec { name: "c".into(), ..spec("10.0.0.1:1", 1) },
            Found::Keep,
            (State::Up, 0, 0, 0),
        );
    }

    #[test]
    fn an_unchanged_one_is_the_same_value() {
        let now = Instant::now();
        let old = used(now);
        let new = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now).succeed(&old, Found::Keep);
        assert!(Arc::ptr_eq(&old, &new));
    }

    #[test]
    fn the_state_has_a_beginning() {
        let now = Instant::now();
        let backend = used(now);
        assert_eq!(backend.since(), now + Duration::from_millis(1500));
        assert!(!backend.is_available());
        let later = now + Duration::from_secs(7);
        assert_eq!(backend.observe(CheckOutcome::Passed, &health_spec(), later), None);
        assert_eq!(backend.since(), now + Duration::from_millis(1500));
        assert!(backend.observe(CheckOutcome::Passed, &health_spec(), later).is_some());
        assert_eq!(backend.since(), later);
        assert!(backend.is_available());
    }

    #[test]
    fn checks_are_counted_by_their_end() {
        let now = Instant::now();
        let backend = used(now);
        for outcome in [CheckOutcome::Passed, CheckOutcome::Failed(CheckFault::Local), CheckOutcome::Passed] {
            backend.observe(outcome, &health_spec(), now);
        }
        assert_eq!((backend.checks_passed(), backend.checks_failed(), backend.checks_not_made()), (2, 1, 1));
    }

    #[test]
    fn weight_0_is_never_available() {
        let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 0), Instant::now());
        assert_eq!((backend.state(), backend.is_available()), (State::Up, false));
    }
}
