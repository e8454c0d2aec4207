//! The health of a backend as others read it: what checks, agents, ejections and the operator wrote.
//!
//! The state machine ([`Health`]) is behind a lock, for the one task that applies changes. Picks read copies of its
//! results, which are atomics.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::allowance::Allowance;
use super::handed::{add, words};
use crate::pool::health::{
    BackendState, ChangeReason, CheckFailure, CheckFault, CheckFinding, CheckOutcome, Ejection, Health,
    HealthEvent, HealthRules, OperatorState, StateChange,
};
use crate::wire::agent::AgentDirective;
use crate::wire::handover::{CountsByWord, HandedBackendCounts, HandedHealth, millis};

/// The health of a backend: read by each pick, written a few times per check interval at the most. Shared by each
/// [`Backend`](super::Backend) of one server that did not leave its pool.
#[derive(Debug)]
pub struct HealthView {
    /// The [`BackendState`]: a copy of the state in `health`, to be read without the lock.
    state: AtomicU8,
    /// The time at which the state began, in milliseconds after `born`. Negative if it began in an earlier process.
    since: AtomicI64,
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
            since: AtomicI64::new(0),
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
        let since = self.since.load(Ordering::Relaxed);
        let distance = Duration::from_millis(since.unsigned_abs());
        let moment =
            if since < 0 { self.born.checked_sub(distance) } else { self.born.checked_add(distance) };
        moment.unwrap_or(self.born)
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
        self.note_since(&health);
        self.start_slowly();
        self.entered[change.to as usize].fetch_add(1, Ordering::Relaxed);
        self.state.store(change.to as u8, Ordering::SeqCst);
        Some(change)
    }

    /// Copies the time at which the state began.
    fn note_since(&self, health: &Health) {
        let since = health.since();
        let after = millis(since.saturating_duration_since(self.born));
        let before = millis(self.born.saturating_duration_since(since));
        let millis = i64::try_from(after).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX);
        self.since.store(millis, Ordering::Relaxed);
    }

    /// Returns the health for a hand-over to another process.
    pub(super) fn hand_over(&self, now: Instant) -> HandedHealth {
        HandedHealth {
            starts_slowly: self.starts_slowly(),
            agent_share: Some(self.agent_share()).filter(|&share| share != 100),
            agent_max_connections: self.agent_max_connections(),
            ..self.lock().hand_over(now)
        }
    }

    /// Puts the health of another process in force. Only for a backend that has no clients yet.
    pub(super) fn restore(&self, handed: &HandedHealth, now: Instant) {
        let mut health = self.lock();
        health.restore(handed, now);
        self.is_wanted.store(health.is_wanted(), Ordering::Relaxed);
        self.note_since(&health);
        // The demand of the operator may have ended a state.
        let is_new = handed.state != health.state().word();
        self.starts_slowly.store(handed.starts_slowly || is_new, Ordering::Relaxed);
        self.state.store(health.state() as u8, Ordering::SeqCst);
        if let Some(share) = handed.agent_share {
            self.allowance.take_in(AgentDirective::Share(share));
        }
        if let Some(most) = handed.agent_max_connections {
            self.allowance.take_in(AgentDirective::MaxConnections(u32::try_from(most).unwrap_or(u32::MAX)));
        }
    }

    /// Returns the counts of entered states, by their words.
    pub(super) fn entered_by_word(&self) -> CountsByWord {
        words(BackendState::ALL, BackendState::word, |state| self.entered(state))
    }

    /// Returns the counts of checks, by result.
    pub(super) fn checks_by_result(&self) -> CountsByWord {
        let counters = self.check_counters().into_iter();
        let counts = counters.map(|(word, counter)| (word.to_owned(), counter.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Adds the counts of another process.
    pub(super) fn add_counts(&self, handed: &HandedBackendCounts) {
        for state in BackendState::ALL {
            add(&self.entered[state as usize], handed.entered.get(state.word()));
        }
        for (word, counter) in self.check_counters() {
            add(counter, handed.checks.get(word));
        }
    }

    fn check_counters(&self) -> [(&'static str, &AtomicU64); 3] {
        [("passed", &self.passed), ("failed", &self.failed), ("not_made", &self.not_made)]
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        // A panic while the lock was held cannot leave a half-made state: each field is valid alone.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
