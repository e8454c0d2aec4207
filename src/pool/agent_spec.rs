//! The spec of a pool's agents.

use std::sync::Arc;
use std::time::Duration;

use super::check_target::CheckTarget;

/// Agents of a pool's backends: an agent answers each connection with a line about its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSpec {
    /// The target. The port is given here or at each backend.
    pub target: CheckTarget,
    /// The time between the starts of two queries to one agent. Default 2 s.
    pub interval: Duration,
    /// The time limit of one answer. Default: the interval, at most 5 s.
    pub timeout: Duration,
    /// The bytes that are sent first. Default: none.
    pub send: Option<Arc<[u8]>>,
}
