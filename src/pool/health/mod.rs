//! The state of a backend: a pure state machine, `(event, now) -> change`.
//!
//! Several causes are in force at once, and each is stored separately. The state is that of the strongest one:
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
//! cause ends, the next one applies. Only maintenance changes weaker causes: it ends an ejection, and the results of
//! checks before it are no longer certain afterwards.
//!
//! A backend starts up. Nothing is known of a backend that was just configured. If it got no traffic before its first
//! check, each start and each added backend would cause an outage. For the same reason the very first result decides at
//! once, without `fall` failures in a row: so a backend that never worked fails clients for the time of one check at
//! most. From then on `rise` and `fall` results in a row change the state.
//!
//! Only a backend that is up is ejected: clients do not connect to others. An ejection for failed connects ends early
//! when `rise` checks passed in a row. An ejection for early resets does not, because checks may not see the resets.
//!
//! A slow start needs no state of its own: it follows from the time that a backend has been up ([`Health::since`]).
//! Failures are counted elsewhere, in atomics, because workers count them.
//!
//! This module runs no checks (`probe` does) and reads no clock.

mod checked;
mod ejected;
mod operator_state;

use std::sync::Arc;
use std::time::Instant;

use super::probe::check_spec::HealthSpec;
use crate::telemetry::FailedCheck;
use crate::wire::alert;
pub use checked::CheckFailure;
use checked::Checked;
use ejected::Ejections;
pub use ejected::{Ejection, EjectionSpec};
pub use operator_state::OperatorState;

/// The state of a backend: up, or the reason for which it takes no new connections. Open connections stay in any
/// state, unless the pool closes those of backends that are down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BackendState {
    /// It takes new connections.
    Up,
    /// Its checks fail, or its agent reports it as down.
    Down,
    /// Its open connections may end, and it gets no new ones.
    Draining,
    /// Clients failed there, and it gets no connections for a while.
    Ejected,
    /// It gets no connections and no checks.
    Maintenance,
}

impl BackendState {
    /// Every state, in the order of the declaration.
    pub const ALL: [Self; 5] = [Self::Up, Self::Down, Self::Draining, Self::Ejected, Self::Maintenance];

    /// The word in metric labels, in the status page and in the log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Ejected => "ejected",
            Self::Maintenance => "maintenance",
        }
    }

    /// The number in the metric of the state. 1 is up, as in the metric that says if a backend is up.
    pub const fn number(self) -> u8 {
        match self {
            Self::Down => 0,
            Self::Up => 1,
            Self::Draining => 2,
            Self::Ejected => 3,
            Self::Maintenance => 4,
        }
    }
}

impl std::fmt::Display for BackendState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The backend passed the check.
    Passed,
    /// The backend failed the check, or the check could not be made.
    Failed(CheckFault),
}

/// The reason for which a check did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckFault {
    /// Nothing listens there.
    #[error("connection refused")]
    Refused,
    /// No answer within the time limit of the check.
    #[error("timed out")]
    Timeout,
    /// No route to the host or its network.
    #[error("unreachable")]
    Unreachable,
    /// The backend closed or reset the connection before it had answered.
    #[error("closed before it answered")]
    Closed,
    /// The answer is not the expected one.
    #[error("unexpected answer")]
    Unexpected,
    /// The backend refused the handshake of a check with this alert.
    #[error("TLS alert {0}, {name}", name = alert::name(*.0))]
    TlsAlert(u8),
    /// The host name of the check has no address.
    #[error("the host name of the check has no address")]
    NoAddress,
    /// The certificate of a check over TLS is not one that `ca_file` accepts.
    #[error("certificate not accepted")]
    Certificate,
    /// The check could not be made: this process was out of descriptors, ports or memory, or the accept queue of the
    /// backend's Unix socket stayed full. This never counts against the backend.
    #[error("out of local resources, or its accept queue was full")]
    Local,
    /// Any other error.
    #[error("failed")]
    Other,
}

impl CheckFault {
    /// The kind under which it is counted.
    pub fn failed_check(self) -> FailedCheck {
        match self {
            Self::Refused => FailedCheck::Refused,
            Self::Timeout => FailedCheck::Timeout,
            Self::Unreachable => FailedCheck::Unreachable,
            Self::Closed => FailedCheck::Closed,
            Self::Unexpected => FailedCheck::Unexpected,
            Self::TlsAlert(_) => FailedCheck::TlsAlert,
            Self::Certificate => FailedCheck::Certificate,
            Self::NoAddress => FailedCheck::Dns,
            Self::Local => FailedCheck::Local,
            Self::Other => FailedCheck::Other,
        }
    }
}

/// A failure that a client met at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Trouble {
    /// The connect failed.
    #[error("connects failed")]
    Connect,
    /// The backend reset a connection early, before it had sent a byte.
    #[error("connections were reset at once")]
    EarlyReset,
}

impl Trouble {
    /// All troubles, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::Connect, Self::EarlyReset];

    /// The value of the label `kind`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::EarlyReset => "early_reset",
        }
    }
}

/// A state that a backend's agent demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentWord {
    /// In use: ends the agent's drain and maintenance.
    Ready,
    /// The backend works: ends the agent's down.
    Up,
    /// The backend does not work.
    Down,
    /// Drain: no new connections.
    Drain,
    /// Maintenance: no connections and no checks.
    Maintenance,
}

impl AgentWord {
    /// The word in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Up => "up",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

/// A backend moved from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The state it left.
    pub from: BackendState,
    /// The state it is in now.
    pub to: BackendState,
    /// The cause of the change.
    pub reason: ChangeReason,
}

/// The cause of a change to another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeReason {
    /// Enough checks passed in a row.
    #[error("checks passed")]
    ChecksPassed,
    /// Enough checks failed in a row; this is the fault of the last one.
    #[error("checks failed: {0}")]
    ChecksFailed(CheckFault),
    /// The checks were switched off, and their results were dropped.
    #[error("checks were switched off")]
    ChecksOff,
    /// Too many clients in a row met this trouble.
    #[error("{failures} {trouble} in a row")]
    Failures {
        /// The trouble.
        trouble: Trouble,
        /// The number of these clients.
        failures: u32,
    },
    /// The time of the ejection is over.
    #[error("its ejection is over")]
    EjectionOver,
    /// Ejection was switched off.
    #[error("ejection was switched off")]
    EjectionOff,
    /// The operator demands this state.
    #[error("the configuration says {}", .0.word())]
    Operator(OperatorState),
    /// The agent demands this state.
    #[error("its agent says {}", .0.word())]
    Agent(AgentWord),
    /// The agent is no longer queried, and its demands are dropped.
    #[error("its agent is no longer queried")]
    AgentOff,
}

/// Something that may change a backend's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthEvent {
    /// A check ended.
    Check(CheckOutcome),
    /// Enough clients in a row met the same trouble, and the pool has other backends.
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
    /// Creates a backend of which only the operator state is known: up, if that is "in use".
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

    /// Returns true if neither the operator nor the agent demands drain or maintenance, whatever its health is.
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

    /// The failure of the last check; `None` if the last check passed and the checks say up.
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
