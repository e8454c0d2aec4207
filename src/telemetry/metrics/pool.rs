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

/// What came of many clients in a row failing at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EjectionOutcome {
    /// The backend was ejected.
    Ejected,
    /// As many of the pool are ejected as may be.
    MaxEjected,
    /// No other backend was available.
    LastOne,
}

impl EjectionOutcome {
    /// Every outcome, in the order of the declaration.
    pub const ALL: [Self; 3] = [Self::Ejected, Self::MaxEjected, Self::LastOne];

    /// The value of the label `outcome`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ejected => "ejected",
            Self::MaxEjected => "max_ejected",
            Self::LastOne => "last_one",
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
    attempts: [Counter; ConnectOutcome::ALL.len()],
    ejections: [Counter; EjectionOutcome::ALL.len()],
}

impl PoolMetrics {
    pub(super) fn new(registry: &Registry, name: &str) -> Self {
        let attempts = |outcome: ConnectOutcome| {
            registry.counter(&families::CONNECT_ATTEMPTS, &[("pool", name), ("outcome", outcome.word())])
        };
        let ejections = |outcome: EjectionOutcome| {
            registry.counter(&families::EJECTIONS, &[("pool", name), ("outcome", outcome.word())])
        };
        Self {
            connect_seconds: registry.histogram(&families::CONNECT_SECONDS, &[("pool", name)]),
            no_backend: registry.counter(&families::NO_BACKEND, &[("pool", name)]),
            attempts: ConnectOutcome::ALL.map(attempts),
            ejections: EjectionOutcome::ALL.map(ejections),
        }
    }

    /// Counts one attempt to connect.
    pub fn connect(&self, outcome: ConnectOutcome) {
        self.attempts[outcome as usize].increment(1);
    }

    /// Counts what came of many clients in a row failing at a backend.
    pub fn ejection(&self, outcome: EjectionOutcome) {
        self.ejections[outcome as usize].increment(1);
    }
}
