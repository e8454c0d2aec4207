//! The health of a backend as others read it: what checks, agents, ejections and the operator wrote.
//!
//! The state machine ([`Health`]) is behind a lock, for the one task that applies changes. Picks read copies of its
//! results, which are atomics.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::allowance::Allowance;
use crate::pool::health::{
    BackendState, ChangeReason, CheckFailure, CheckFault, CheckFinding, CheckOutcome, Ejection, Health,
    HealthEvent, HealthRules, OperatorState, StateChange,
};

/// The health of a backend: read by each pick, written a few times per check interval at the most. Shared by each
/// [`Backend`](super::Backend) of one server that did not leave its pool.
#[derive(Debug)]
pub struct HealthView {
    /// The [`BackendState`]: a copy of the state in `health`, to be read without the lock.
    state: AtomicU8,
    /// The time at which the state began, in milliseconds after `born`.
    since: AtomicU64,
    born: Instant,
    /// True if other backends were up before `since`. Written before the state to which it belongs.
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
    pub(super) allowance: Allowance,
}

impl HealthView {
    pub(super) fn new(operator_state: OperatorState, now: Instant) -> Self {
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

    /// Its state.
    pub fn state(&self) -> BackendState {
        let state = usize::from(self.state.load(Ordering::Relaxed));
        BackendState::ALL.get(state).copied().unwrap_or(BackendState::Up)
    }

    /// Returns true if its state is up.
    pub(super) fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) == BackendState::Up as u8
    }

    /// The time of the last change of its state; before any change, the time at which it was configured. For a
    /// backend that is up: the time since which it takes new connections.
    pub fn since(&self) -> Instant {
        self.born + Duration::from_millis(self.since.load(Ordering::Relaxed))
    }

    /// The number of times that it entered a state; the initial state does not count.
    pub fn entered(&self, state: BackendState) -> u64 {
        self.entered[state as usize].load(Ordering::Relaxed)
    }

    /// Returns the ejection of the backend, even if a stronger cause gives the backend another state.
    pub fn ejection(&self) -> Option<Ejection> {
        self.lock().ejection()
    }

    /// The reason for its state; `None` while it is up.
    pub fn reason(&self) -> Option<ChangeReason> {
        self.lock().reason()
    }

    /// The failure of its last check. `None` if the last check passed and the backend is up by its checks.
    pub fn check_failure(&self) -> Option<CheckFailure> {
        self.lock().check_failure().cloned()
    }

    /// Checks passed.
    pub fn checks_passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Checks that failed by the backend's fault.
    pub fn checks_failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Checks that this process could not make ([`CheckFault::Local`]).
    pub fn checks_not_made(&self) -> u64 {
        self.not_made.load(Ordering::Relaxed)
    }

    /// The percentage of its usual share of new connections that its agent allows, 0 to 100.
    pub fn agent_share(&self) -> u8 {
        self.allowance.share()
    }

    /// The most connections at once that its agent allows; `None` is no limit.
    pub fn agent_max_connections(&self) -> Option<u64> {
        Some(self.allowance.connections()).filter(|&most| most != u64::MAX)
    }

    /// Returns true if neither the operator nor the agent demands drain or maintenance.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Returns true if a slow start may be under way. False for backends that are up since the process began.
    pub(super) fn starts_slowly(&self) -> bool {
        self.starts_slowly.load(Ordering::Relaxed)
    }

    /// Begins a slow start, as after each time that the backend comes up.
    pub(super) fn start_slowly(&self) {
        self.starts_slowly.store(true, Ordering::Relaxed);
    }

    /// Counts a check.
    pub(super) fn count(&self, outcome: CheckOutcome) {
        let counter = match outcome {
            CheckOutcome::Passed => &self.passed,
            CheckOutcome::Failed(CheckFault::Local) => &self.not_made,
            CheckOutcome::Failed(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Stores the first words of the answer to a check, if the backend failed it.
    pub(super) fn note_words(&self, found: CheckFinding) {
        if matches!(found.outcome, CheckOutcome::Failed(fault) if fault != CheckFault::Local) {
            self.lock().add_words(found.heard);
        }
    }

    /// Applies an event, see [`Health::on`].
    pub(super) fn on(&self, event: HealthEvent, rules: HealthRules<'_>, now: Instant) -> Option<StateChange> {
        let mut health = self.lock();
        let change = health.on(event, rules, now);
        self.is_wanted.store(health.is_wanted(), Ordering::Relaxed);
        let change = change?;
        let lived = health.since().saturating_duration_since(self.born).as_millis();
        self.since.store(u64::try_from(lived).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.start_slowly();
        self.entered[change.to as usize].fetch_add(1, Ordering::Relaxed);
        self.state.store(change.to as u8, Ordering::SeqCst);
        Some(change)
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        // A panic while the lock was held cannot leave a half-made state: each field is valid alone.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
