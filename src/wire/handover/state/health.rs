//! The health of a backend.

use serde::{Deserialize, Serialize};

/// The health of a backend, with each cause of its state. The demand of the operator is not here: it comes from the
/// configuration of the successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedHealth {
    /// The word of its state.
    pub state: String,
    /// The time for which it has had this state.
    pub state_age_ms: u64,
    /// True if a slow start may be under way.
    pub starts_slowly: bool,
    /// The state that its agent demands: `ready`, `drain` or `maintenance`.
    pub agent_demand: String,
    /// True if its agent reports it as down.
    pub agent_down: bool,
    /// The percentage of its share that its agent allows; `None` is all of it.
    pub agent_share: Option<u8>,
    /// The connections that its agent allows; `None` is no limit.
    pub agent_max_connections: Option<u64>,
    /// The state by its checks.
    pub checks: HandedChecks,
    /// Its ejections.
    pub ejections: HandedEjections,
}

/// The state of a backend by its checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedChecks {
    /// True if it is down by its checks.
    pub is_down: bool,
    /// True if a check has ended, so that the state is certain.
    pub is_known: bool,
    /// The number of results in a row that contradict the state.
    pub against: u32,
    /// The failure of the last failed check.
    pub failure: Option<HandedFailure>,
}

/// The failure of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedFailure {
    /// The word of the fault, as in metrics.
    pub fault: String,
    /// The number of the TLS alert, if the fault is an alert.
    pub alert: Option<u8>,
    /// The first words of the answer.
    pub heard: Option<String>,
}

/// The ejections of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedEjections {
    /// The present ejection.
    pub present: Option<HandedEjection>,
    /// The number of ejections in a row, the present ejection included.
    pub row: u32,
    /// The time since the last ejection ended; `None` if none has ended.
    pub ended_age_ms: Option<u64>,
}

/// An ejection that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedEjection {
    /// The word of the clients' trouble.
    pub trouble: String,
    /// Its whole duration.
    pub time_ms: u64,
    /// The time until it ends.
    pub left_ms: u64,
    /// Its number among the ejections in a row.
    pub in_a_row: u32,
    /// The number of clients in a row that had the trouble.
    pub failures: u32,
    /// Checks passed in a row since it began.
    pub passed: u32,
}
