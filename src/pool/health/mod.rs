//! Whether a backend may be used: a pure state machine, `(event, now) -> change`.
//!
//! Several causes speak at once, and each is remembered for itself. The state is what the strongest of
//! them says:
//!
//! | cause, the strongest first                             | state       | new connections | checks | it ends when                     |
//! |--------------------------------------------------------|-------------|-----------------|--------|----------------------------------|
//! | the operator or the agent says maintenance             | maintenance | none            | pause  | who said so says ready           |
//! | `fall` checks failed in a row, or the agent says down  | down        | none            | go on  | `rise` passed; the agent says up |
//! | the operator or the agent says drain                   | draining    | none            | go on  | who said so says ready           |
//! | `consecutive_failures` clients met the same trouble    | ejected     | none            | go on  | its time is over, or see below   |
//! | none of these                                          | up          | yes             | go on  |                                  |
//!
//! Down stands above draining because it says more: what is still open there is probably lost. When a
//! cause ends, the next one shows. Only maintenance changes what is below it: it ends an ejection, and
//! what checks had found before it is a guess afterwards.
//!
//! It starts up. Nothing is known of a backend that was just configured, and holding traffic back
//! until its first check would make each start and each added backend an outage of its own. But for
//! the same reason the very first result decides at once: a guess needs no `fall` failures in a row
//! to be given up, so a backend that was never there costs clients one check at the most. From then
//! on `rise` and `fall` results in a row move it.
//!
//! Only a backend that is up is ejected: of the others nothing new is to be learned. An ejection for failed
//! connects ends early when `rise` checks passed in a row; one for early resets does not, as checks may not
//! see these.
//!
//! A slow start needs no state of its own: it follows from how long a backend has been up
//! ([`Health::since`]). Failures are counted elsewhere, in atomics, because workers do it.
//!
//! It does not run checks (`probe` does) and holds no clock.

mod checked;
mod ejected;

use std::sync::Arc;
use std::time::Instant;

use super::{EjectionSpec, HealthSpec, OperatorState};
use crate::telemetry::FailedCheck;
use crate::wire::alert;
pub use checked::CheckFailure;
use checked::Checked;
pub use ejected::Ejection;
use ejected::Ejections;

/// Whether a backend takes new connections, and why not. Open connections stay in any state, unless the
/// pool closes those of backends that are down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BackendState {
    /// It does.
    Up,
    /// Its checks fail, or its agent says so.
    Down,
    /// It is to be emptied.
    Draining,
    /// Clients failed there, and it is left alone for a while.
    Ejected,
    /// It is to be left alone altogether; it is not checked.
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

    /// The number in the metric of the state. 1 is up, as in the metric that says whether a backend is up.
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

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The backend did what was asked.
    Passed,
    /// It did not, or the check could not be made.
    Failed(CheckFault),
}

/// Why a check did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckFault {
    /// Nothing listens there.
    #[error("connection refused")]
    Refused,
    /// No answer within the check's time.
    #[error("timed out")]
    Timeout,
    /// No route to the host or its network.
    #[error("unreachable")]
    Unreachable,
    /// It closed or reset the connection before it had answered.
    #[error("closed before it answered")]
    Closed,
    /// It answered something else than what shows that it works.
    #[error("unexpected answer")]
    Unexpected,
    /// It refused the handshake of a check with this alert.
    #[error("TLS alert {0}, {name}", name = alert::name(*.0))]
    TlsAlert(u8),
    /// The host name of the check has no address.
    #[error("the host name of the check has no address")]
    NoAddress,
    /// The certificate of a check over TLS is not one that `ca_file` vouches for.
    #[error("certificate not accepted")]
    Certificate,
    /// The check could not be made: this process was out of descriptors, ports or memory, or the accept queue of
    /// the backend's Unix socket stayed full. It says nothing about the backend and never counts against it.
    #[error("out of local resources, or its accept queue was full")]
    Local,
    /// Any other error.
    #[error("failed")]
    Other,
}

impl CheckFault {
    /// The kind it is counted as.
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

/// What a client met at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Trouble {
    /// It could not be connected.
    #[error("connects failed")]
    Connect,
    /// It reset a connection soon and before it had sent a byte.
    #[error("connections were reset at once")]
    EarlyReset,
}

impl Trouble {
    /// Both, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::Connect, Self::EarlyReset];

    /// The value of the label `kind`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::EarlyReset => "early_reset",
        }
    }
}

/// What a backend's agent says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentWord {
    /// It is to serve: ends the agent's drain and maintenance.
    Ready,
    /// It works: ends the agent's down.
    Up,
    /// It does not work.
    Down,
    /// It is to be emptied.
    Drain,
    /// It is to be left alone.
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
    /// What moved it.
    pub reason: ChangeReason,
}

/// What moved a backend to another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeReason {
    /// Enough checks passed in a row.
    #[error("checks passed")]
    ChecksPassed,
    /// Enough checks failed in a row; this is the last one's fault.
    #[error("checks failed: {0}")]
    ChecksFailed(CheckFault),
    /// The checks were switched off, and with them went what they had found.
    #[error("checks were switched off")]
    ChecksOff,
    /// Too many clients in a row met this.
    #[error("{failures} {trouble} in a row")]
    Failures {
        /// What they met.
        trouble: Trouble,
        /// How many they were.
        failures: u32,
    },
    /// The time of the ejection is over.
    #[error("its ejection is over")]
    EjectionOver,
    /// Ejection was switched off.
    #[error("ejection was switched off")]
    EjectionOff,
    /// The operator says so.
    #[error("the configuration says {}", .0.word())]
    Duty(OperatorState),
    /// The agent says so.
    #[error("its agent says {}", .0.word())]
    Agent(AgentWord),
    /// The agent is no longer asked, and what it had said is forgotten.
    #[error("its agent is no longer asked")]
    AgentOff,
}

/// Something that may change a backend's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthEvent {
    /// A check ended.
    Check(CheckOutcome),
    /// As many clients in a row as are enough met the same, and the pool can do without the backend.
    Failures(Trouble),
    /// Time has passed: an ejection may be over.
    Time,
    /// What the operator wants, said again at each reload.
    Duty(OperatorState),
    /// What the agent says.
    Agent(AgentWord),
    /// There are no checks.
    ChecksOff,
    /// There is no agent.
    AgentOff,
    /// There is no ejection.
    EjectionOff,
}

/// What a pool has decided about the states of its backends. Read at each event, so a reload may change it
/// and what is known stays.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HealthRules<'a> {
    pub(super) health: Option<&'a HealthSpec>,
    pub(super) ejection: Option<&'a EjectionSpec>,
}

/// What is known of one backend.
#[derive(Clone, Debug)]
pub(super) struct Health {
    state: BackendState,
    /// When `state` began.
    since: Instant,
    operator_state: OperatorState,
    /// What the agent wants.
    agent_duty: OperatorState,
    agent_down: bool,
    checked: Checked,
    ejections: Ejections,
}

impl Health {
    /// A backend of which nothing is known but what the operator wants: up, if that is to serve.
    pub(super) fn new(operator_state: OperatorState, now: Instant) -> Self {
        let mut health = Self {
            state: BackendState::Up,
            since: now,
            operator_state,
            agent_duty: OperatorState::Ready,
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

    /// Whether neither the operator nor the agent wants it emptied or left alone, whatever its health.
    pub(super) fn is_wanted(&self) -> bool {
        (self.operator_state, self.agent_duty) == (OperatorState::Ready, OperatorState::Ready)
    }

    /// Why it is in its state: what the strongest cause says now. `None` while it is up.
    pub(super) fn reason(&self) -> Option<ChangeReason> {
        let of_duty = |wanted: OperatorState, word: AgentWord| {
            Some(if self.operator_state == wanted {
                ChangeReason::Duty(wanted)
            } else {
                ChangeReason::Agent(word)
            })
        };
        match self.state {
            BackendState::Up => None,
            BackendState::Maintenance => of_duty(OperatorState::Maintenance, AgentWord::Maintenance),
            BackendState::Draining => of_duty(OperatorState::Drain, AgentWord::Drain),
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

    /// What the last failed check met; `None` if the last one passed and its checks say up.
    pub(super) fn check_failure(&self) -> Option<&CheckFailure> {
        self.checked.failure()
    }

    /// Adds the words that the backend sent in the check that was taken in last.
    pub(super) fn add_words(&mut self, heard: Option<Arc<str>>) {
        self.checked.add_words(heard);
    }

    /// When the present state began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Its ejection, even if a stronger cause hides it.
    pub(super) fn ejection(&self) -> Option<Ejection> {
        self.ejections.present()
    }

    /// Takes in an event; the change, if the state is another now.
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

    /// Remembers what an event says; what it would be called if it changes the state.
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
            HealthEvent::Duty(operator_state) => {
                self.operator_state = operator_state;
                Some(ChangeReason::Duty(operator_state))
            }
            HealthEvent::Agent(word) => {
                match word {
                    AgentWord::Ready => self.agent_duty = OperatorState::Ready,
                    AgentWord::Drain => self.agent_duty = OperatorState::Drain,
                    AgentWord::Maintenance => self.agent_duty = OperatorState::Maintenance,
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
                (self.agent_duty, self.agent_down) = (OperatorState::Ready, false);
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
        // The last of a check that began before.
        if self.state == BackendState::Maintenance {
            return None;
        }
        let readmitted = self.ejections.observe(outcome, spec.rise, now);
        self.checked.observe(outcome, spec).or(readmitted.then_some(ChangeReason::ChecksPassed))
    }

    /// The table at the top of this file.
    fn strongest(&self) -> BackendState {
        let duties = [self.operator_state, self.agent_duty];
        if duties.contains(&OperatorState::Maintenance) {
            BackendState::Maintenance
        } else if self.agent_down || !self.checked.is_up() {
            BackendState::Down
        } else if duties.contains(&OperatorState::Drain) {
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
