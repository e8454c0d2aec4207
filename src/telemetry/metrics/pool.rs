//! What is counted for each pool.

use metrics::{Counter, Histogram};

use super::{Registry, families};

/// What came of one attempt to connect to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnectOutcome {
    /// Connected.
    Ok,
    /// The backend's host refused (ECONNREFUSED, ECONNRESET).
    Refused,
    /// No answer in time (ours or ETIMEDOUT).
    Timeout,
    /// No way there (EHOSTUNREACH, ENETUNREACH, ENETDOWN, or no Unix socket at its path).
    Unreachable,
    /// This machine could not: no port, descriptor or memory left.
    Local,
    /// The client left meanwhile.
    Aborted,
    /// Anything else, such as a firewall's rule on this machine.
    Other,
}

impl ConnectOutcome {
    /// Every outcome, in the order of the declaration.
    pub const ALL: [Self; 7] =
        [Self::Ok, Self::Refused, Self::Timeout, Self::Unreachable, Self::Local, Self::Aborted, Self::Other];

    /// The value of the label `outcome`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Local => "local",
            Self::Aborted => "aborted",
            Self::Other => "other",
        }
    }
}

/// The metrics of one pool. Shared by all workers.
#[derive(Debug)]
pub struct PoolMetrics {
    /// The time of a successful attempt; record a `Duration`.
    pub connect_seconds: Histogram,
    /// Connections that found no backend available.
    pub no_backend: Counter,
    /// Connections that had to wait for a place at a backend.
    pub queued: Counter,
    /// Those of them that waited too long.
    pub queue_timeouts: Counter,
    /// Connections that found every backend full and were not let into the queue.
    pub queue_refused: Counter,
    /// The time of a wait that ended with a place; record a `Duration`.
    pub queue_seconds: Histogram,
    attempts: [Counter; ConnectOutcome::ALL.len()],
}

impl PoolMetrics {
    pub(super) fn new(registry: &Registry, name: &str) -> Self {
        let attempts = |outcome: ConnectOutcome| {
            registry.counter(&families::CONNECT_ATTEMPTS, &[("pool", name), ("outcome", outcome.word())])
        };
        Self {
            connect_seconds: registry.histogram(&families::CONNECT_SECONDS, &[("pool", name)]),
            no_backend: registry.counter(&families::NO_BACKEND, &[("pool", name)]),
            queued: registry.counter(&families::QUEUED, &[("pool", name)]),
            queue_timeouts: registry.counter(&families::QUEUE_TIMEOUTS, &[("pool", name)]),
            queue_refused: registry.counter(&families::QUEUE_REFUSED, &[("pool", name)]),
            queue_seconds: registry.histogram(&families::QUEUE_SECONDS, &[("pool", name)]),
            attempts: ConnectOutcome::ALL.map(attempts),
        }
    }

    /// Counts one attempt to connect.
    pub fn connect(&self, outcome: ConnectOutcome) {
        self.attempts[outcome as usize].increment(1);
    }
}
