//! The states of a backend, its changes, and their reasons.

use super::operator_state::OperatorState;
use super::outcome::CheckFault;
use super::trouble::Trouble;

/// The state of a backend: up, or the reason for which it takes no new connections. Open connections stay in
/// any state, unless the pool closes the connections of backends that are down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BackendState {
    /// It takes new connections.
    Up,
    /// Its checks fail, or its agent reports it as down.
    Down,
    /// Its open connections may end, and it gets no new connections.
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

    /// Returns the state with this word, or `None` for an unknown word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// The number in the metric of the state. 1 is up, as in the metric `pointsman_backend_up`.
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
    /// Enough checks failed in a row; this is the fault of the last check.
    #[error("checks failed: {0}")]
    ChecksFailed(CheckFault),
    /// The checks were switched off, and their results were dropped.
    #[error("checks were switched off")]
    ChecksOff,
    /// Too many clients in a row had this trouble.
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
    #[error("the operator state is {}", .0.word())]
    Operator(OperatorState),
    /// The agent demands this state.
    #[error("its agent reported {}", .0.word())]
    Agent(AgentWord),
    /// The agent is no longer queried, and its demands are dropped.
    #[error("its agent is no longer queried")]
    AgentOff,
}
