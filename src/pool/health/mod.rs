//! The state of a backend: a pure state machine, `(event, now) -> change`.
//!
//! Several causes are in force at once, and each is stored separately. The state is the state of the strongest
//! cause:
//!
//! | cause, the strongest first                             | state       | new connections | checks | it ends when                     |
//! |--------------------------------------------------------|-------------|-----------------|--------|----------------------------------|
//! | the operator or the agent demands maintenance          | maintenance | none            | pause  | its source withdraws it          |
//! | `fall` checks failed in a row, or the agent says down  | down        | none            | go on  | `rise` passed; the agent says up |
//! | the operator or the agent demands drain                | draining    | none            | go on  | its source withdraws it          |
//! | `consecutive_failures` clients met the same trouble    | ejected     | none            | go on  | its time is over, or see below   |
//! | none of these                                          | up          | yes             | go on  |                                  |
//!
//! Down is stronger than draining, because it is more serious: the open connections are probably lost. When a
//! cause ends, the next strongest cause applies. Only maintenance changes weaker causes: it ends an ejection,
//! and the results of checks before it are no longer certain afterwards.
//!
//! The first state of a backend is up. Nothing is known of a backend that was just configured. If such a
//! backend got no traffic before its first check, each start and each added backend would cause an outage. For
//! the same reason the very first result decides at once, without `fall` failures in a row: so a backend that
//! never worked fails clients for the time of one check at most. From then on `rise` and `fall` results in a
//! row change the state.
//!
//! Only a backend that is up is ejected: clients do not connect to backends in another state. An ejection for
//! failed connects ends early when `rise` checks passed in a row. An ejection for early resets does not,
//! because checks may not see the resets.
//!
//! A slow start needs no state of its own: it follows from the time that a backend has been up ([`Health::since`]).
//! Failures are counted elsewhere, in atomics, because workers count them.
//!
//! This module runs no checks (`probe` does) and reads no clock.

mod change;
mod checked;
mod ejected;
mod handed;
mod operator_state;
mod outcome;
mod trouble;

use std::sync::Arc;
use std::time::Instant;

use super::check_spec::HealthSpec;
use checked::Checked;
use ejected::Ejections;

pub use change::{AgentWord, BackendState, ChangeReason, StateChange};
pub use checked::CheckFailure;
pub use ejected::{Ejection, EjectionSpec};
pub use operator_state::OperatorState;
pub use outcome::{CheckFault, CheckFinding, CheckOutcome};
pub use trouble::Trouble;

/// Something that may change a backend's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthEvent {
    /// A check ended.
    Check(CheckOutcome),
    /// Enough clients in a row had the same trouble, and the pool has other backends.
    Failures(Trouble),
    /// Time has passed: an ejection may be over.
    Time,
    /// The state that the operator demands, repeated at each reload.
    Operator(OperatorState),
    /// The state that the agent demands.
    Agent(AgentWord),
    /// There are no checks.
    ChecksOff,
    /// There is no agent.
    AgentOff,
    /// There is no ejection.
    EjectionOff,
}

/// The pool's settings for the states of its backends. Read at each event, so a reload may change them; the stored
/// causes stay.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HealthRules<'a> {
    pub(super) health: Option<&'a HealthSpec>,
    pub(super) ejection: Option<&'a EjectionSpec>,
}

/// The health of one backend.
#[derive(Clone, Debug)]
pub(super) struct Health {
    state: BackendState,
    /// The time at which `state` began.
    since: Instant,
    operator_state: OperatorState,
    /// The state that the agent demands.
    agent_demand: OperatorState,
    agent_down: bool,
    checked: Checked,
    ejections: Ejections,
}

impl Health {
    /// Creates the health of a backend of which only the operator state is known. The backend is up if this
    /// state is "in use".
    pub(super) fn new(operator_state: OperatorState, now: Instant) -> Self {
        let mut health = Self {
            state: BackendState::Up,
            since: now,
            operator_state,
            agent_demand: OperatorState::Ready,
            agent_down: false,
            checked: Checked::UNKNOWN,
            ejections: Ejections::default(),
        };
        health.state = health.strongest();
        health
    }

    /// Its state.
    pub(super) fn state(&self) -> BackendState {
        self.state
    }

    /// Returns true if neither the operator nor the agent demands drain or maintenance. Its health does not matter.
    pub(super) fn is_wanted(&self) -> bool {
        (self.operator_state, self.agent_demand) == (OperatorState::Ready, OperatorState::Ready)
    }

    /// The reason for its state: the present demand of the strongest cause. `None` while it is up.
    pub(super) fn reason(&self) -> Option<ChangeReason> {
        let of_demand = |wanted: OperatorState, word: AgentWord| {
            Some(if self.operator_state == wanted {
                ChangeReason::Operator(wanted)
            } else {
                ChangeReason::Agent(word)
            })
        };
        match self.state {
            BackendState::Up => None,
            BackendState::Maintenance => of_demand(OperatorState::Maintenance, AgentWord::Maintenance),
            BackendState::Draining => of_demand(OperatorState::Drain, AgentWord::Drain),
            BackendState::Down => match self.checked.failure().filter(|_| !self.checked.is_up()) {
                Some(failure) => Some(ChangeReason::ChecksFailed(failure.fault)),
                None => Some(ChangeReason::Agent(AgentWord::Down)),
            },
            BackendState::Ejected => self.ejections.present().map(|ejection| ChangeReason::Failures {
                trouble: ejection.trouble,
                failures: ejection.failures,
            }),
        }
    }

    /// The failure of the last check. `None` if the last check passed and the backend is up by its checks.
    pub(super) fn check_failure(&self) -> Option<&CheckFailure> {
        self.checked.failure()
    }

    /// Adds the text that the backend sent in the last check.
    pub(super) fn add_words(&mut self, heard: Option<Arc<str>>) {
        self.checked.add_words(heard);
    }

    /// The time at which the present state began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Its ejection, even if a stronger cause hides it.
    pub(super) fn ejection(&self) -> Option<Ejection> {
        self.ejections.present()
    }

    /// Applies an event. Returns the change, if the state changed.
    pub(super) fn on(
        &mut self,
        event: HealthEvent,
        rules: HealthRules<'_>,
        now: Instant,
    ) -> Option<StateChange> {
        let reason = self.take_in(event, rules, now)?;
        let to = self.strongest();
        if to == self.state {
            return None;
        }
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        if to == BackendState::Maintenance {
            self.ejections.end(now);
        } else if from == BackendState::Maintenance {
            self.checked.doubt();
        }
        Some(StateChange { from, to, reason })
    }

    /// Stores the demand of an event. Returns the reason to report if the state changes.
    fn take_in(&mut self, event: HealthEvent, rules: HealthRules<'_>, now: Instant) -> Option<ChangeReason> {
        match event {
            HealthEvent::Check(outcome) => self.take_in_check(outcome, rules.health?, now),
            HealthEvent::Failures(trouble) if self.state == BackendState::Up => {
                let spec = rules.ejection?;
                self.ejections.begin(trouble, spec, now);
                Some(ChangeReason::Failures { trouble, failures: spec.consecutive_failures })
            }
            HealthEvent::Failures(_) => None,
            HealthEvent::Time => self.ejections.expire(now).then_some(ChangeReason::EjectionOver),
            HealthEvent::Operator(operator_state) => {
                self.operator_state = operator_state;
                Some(ChangeReason::Operator(operator_state))
            }
            HealthEvent::Agent(word) => {
                match word {
                    AgentWord::Ready => self.agent_demand = OperatorState::Ready,
                    AgentWord::Drain => self.agent_demand = OperatorState::Drain,
                    AgentWord::Maintenance => self.agent_demand = OperatorState::Maintenance,
                    AgentWord::Up => self.agent_down = false,
                    AgentWord::Down => self.agent_down = true,
                }
                Some(ChangeReason::Agent(word))
            }
            HealthEvent::ChecksOff => {
                self.checked = Checked::UNKNOWN;
                Some(ChangeReason::ChecksOff)
            }
            HealthEvent::AgentOff => {
                (self.agent_demand, self.agent_down) = (OperatorState::Ready, false);
                Some(ChangeReason::AgentOff)
            }
            HealthEvent::EjectionOff => {
                self.ejections = Ejections::default();
                Some(ChangeReason::EjectionOff)
            }
        }
    }

    fn take_in_check(
        &mut self,
        outcome: CheckOutcome,
        spec: &HealthSpec,
        now: Instant,
    ) -> Option<ChangeReason> {
        // The result of a check that began before.
        if self.state == BackendState::Maintenance {
            return None;
        }
        let readmitted = self.ejections.observe(outcome, spec.rise, now);
        self.checked.observe(outcome, spec).or(readmitted.then_some(ChangeReason::ChecksPassed))
    }

    /// The state of the strongest cause, see the table at the top of this file.
    fn strongest(&self) -> BackendState {
        let demands = [self.operator_state, self.agent_demand];
        if demands.contains(&OperatorState::Maintenance) {
            BackendState::Maintenance
        } else if self.agent_down || !self.checked.is_up() {
            BackendState::Down
        } else if demands.contains(&OperatorState::Drain) {
            BackendState::Draining
        } else if self.ejections.present().is_some() {
            BackendState::Ejected
        } else {
            BackendState::Up
        }
    }
}

#[cfg(test)]
mod tests;
