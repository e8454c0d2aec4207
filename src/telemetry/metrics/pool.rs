//! The metrics of each pool.

use std::sync::{Arc, LazyLock};

use metrics::{Counter, Histogram};

use super::{Distribution, LazySeries, MetricRegistry, families};
use crate::telemetry::{CloseKind, Direction};

/// The result of one attempt to connect to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnectOutcome {
    /// Connected.
    Ok,
    /// The backend's host refused (ECONNREFUSED, ECONNRESET).
    Refused,
    /// No answer in time (by our timeout, or ETIMEDOUT).
    Timeout,
    /// No way to the backend (EHOSTUNREACH, ENETUNREACH, ENETDOWN, or no Unix socket at its path).
    Unreachable,
    /// This host had no port, descriptor or memory left.
    Local,
    /// The client left during the attempt, or another address of its host was faster.
    Aborted,
    /// Connected, but the opening did not lead to TLS.
    Greeting,
    /// Another error, such as the error that a firewall's rule on this host causes.
    Other,
}

impl ConnectOutcome {
    /// Every outcome, in the order of the declaration.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Local,
        Self::Aborted,
        Self::Greeting,
        Self::Other,
    ];

    /// Returns the value of the label `outcome`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Local => "local",
            Self::Aborted => "aborted",
            Self::Greeting => "greeting",
            Self::Other => "other",
        }
    }
}

/// The result of a failure report: many clients in a row failed at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EjectionOutcome {
    /// The backend was ejected.
    Ejected,
    /// The pool is at its limit of ejected backends (`max_ejected`).
    MaxEjected,
    /// No other backend was available.
    LastOne,
}

impl EjectionOutcome {
    /// Every outcome, in the order of the declaration.
    pub const ALL: [Self; 3] = [Self::Ejected, Self::MaxEjected, Self::LastOne];

    /// Returns the value of the label `outcome`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ejected => "ejected",
            Self::MaxEjected => "max_ejected",
            Self::LastOne => "last_one",
        }
    }
}

/// The fault of a health check that did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FailedCheck {
    /// No process listened.
    Refused,
    /// No answer in time.
    Timeout,
    /// No way to the backend.
    Unreachable,
    /// The backend closed or reset before its answer.
    Closed,
    /// The answer does not show that the backend works.
    Unexpected,
    /// A TLS alert.
    TlsAlert,
    /// The certificate is not accepted.
    Certificate,
    /// The host name of the check has no address.
    Dns,
    /// This host had no port, descriptor or memory left.
    Local,
    /// Another fault.
    Other,
}

impl FailedCheck {
    /// Every fault, in the order of the declaration.
    pub const ALL: [Self; 10] = [
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Closed,
        Self::Unexpected,
        Self::TlsAlert,
        Self::Certificate,
        Self::Dns,
        Self::Local,
        Self::Other,
    ];

    /// Returns the value of the label `fault`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Closed => "closed",
            Self::Unexpected => "unexpected",
            Self::TlsAlert => "tls_alert",
            Self::Certificate => "certificate",
            Self::Dns => "dns",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

/// The result of one query to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AgentAnswer {
    /// The answer had known words.
    Heard,
    /// No connection was made, or no whole line came in time.
    Silent,
    /// The line had no known word.
    Nonsense,
}

impl AgentAnswer {
    /// Every answer, in the order of the declaration.
    pub const ALL: [Self; 3] = [Self::Heard, Self::Silent, Self::Nonsense];

    /// Returns the value of the label `result`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Heard => "heard",
            Self::Silent => "silent",
            Self::Nonsense => "nonsense",
        }
    }
}

/// The metrics of one pool. All workers share them.
#[derive(Debug)]
pub struct PoolMetrics {
    /// The time of a successful attempt, recorded as a `Duration`.
    pub connect_seconds: Histogram,
    /// Connections that found no backend available.
    pub no_backend: Counter,
    /// Connections that waited for room at a backend.
    pub queued: LazySeries<Counter>,
    /// Waiting connections for which the queue's timeout passed.
    pub queue_timeouts: LazySeries<Counter>,
    /// Connections that found every backend full and could not enter the queue.
    pub queue_refused: LazySeries<Counter>,
    /// The time of a wait that ended with room at a backend, recorded as a `Duration`.
    pub queue_seconds: LazySeries<Histogram>,
    /// The time from a connect to the first byte of the backend; read at each scrape.
    pub first_byte: Distribution,
    /// Connections that ended before their backend had sent a byte.
    pub silent: Counter,
    /// The time of a check, recorded as a `Duration`.
    pub check_seconds: LazySeries<Histogram>,
    bytes: [Counter; Direction::ALL.len()],
    closed: [Counter; CloseKind::ALL.len()],
    attempts: [LazySeries<Counter>; ConnectOutcome::ALL.len()],
    ejections: [LazySeries<Counter>; EjectionOutcome::ALL.len()],
    failed_checks: [LazySeries<Counter>; FailedCheck::ALL.len()],
    agents: [LazySeries<Counter>; AgentAnswer::ALL.len()],
}

impl PoolMetrics {
    pub(super) fn new(registry: &Arc<MetricRegistry>, name: &str) -> Self {
        let attempts = |outcome: ConnectOutcome| {
            registry.lazy_counter(&families::CONNECT_ATTEMPTS, &[("pool", name), ("outcome", outcome.word())])
        };
        let ejections = |outcome: EjectionOutcome| {
            registry.lazy_counter(&families::EJECTIONS, &[("pool", name), ("outcome", outcome.word())])
        };
        let agent = |answer: AgentAnswer| {
            registry.lazy_counter(&families::AGENT_CHECKS, &[("pool", name), ("result", answer.word())])
        };
        let failed = |fault: FailedCheck| {
            registry.lazy_counter(&families::CHECK_FAILURES, &[("pool", name), ("fault", fault.word())])
        };
        let bytes = |direction: Direction| {
            registry.counter(&families::POOL_BYTES, &[("pool", name), ("direction", direction.word())])
        };
        let closed = |kind: CloseKind| {
            registry.counter(&families::POOL_CLOSED, &[("pool", name), ("reason", kind.word())])
        };
        Self {
            first_byte: Distribution::new(&families::FIRST_BYTE_SECONDS),
            silent: registry.counter(&families::SILENT, &[("pool", name)]),
            check_seconds: registry.lazy_histogram(&families::CHECK_SECONDS, &[("pool", name)]),
            bytes: Direction::ALL.map(bytes),
            closed: CloseKind::ALL.map(closed),
            connect_seconds: registry.histogram(&families::CONNECT_SECONDS, &[("pool", name)]),
            no_backend: registry.counter(&families::NO_BACKEND, &[("pool", name)]),
            queued: registry.lazy_counter(&families::QUEUED, &[("pool", name)]),
            queue_timeouts: registry.lazy_counter(&families::QUEUE_TIMEOUTS, &[("pool", name)]),
            queue_refused: registry.lazy_counter(&families::QUEUE_REFUSED, &[("pool", name)]),
            queue_seconds: registry.lazy_histogram(&families::QUEUE_SECONDS, &[("pool", name)]),
            attempts: ConnectOutcome::ALL.map(attempts),
            ejections: EjectionOutcome::ALL.map(ejections),
            failed_checks: FailedCheck::ALL.map(failed),
            agents: AgentAnswer::ALL.map(agent),
        }
    }

    /// Announces that an attempt to connect may end in this way.
    pub fn may_connect(&self, outcome: ConnectOutcome) {
        LazyLock::force(&self.attempts[outcome as usize]);
    }

    /// Announces that backends of the pool may be full, so that connections are queued or refused.
    pub fn may_queue(&self) {
        for counter in [&self.queued, &self.queue_timeouts, &self.queue_refused] {
            LazyLock::force(counter);
        }
        LazyLock::force(&self.queue_seconds);
    }

    /// Announces that backends may be ejected.
    pub fn may_eject(&self) {
        self.ejections.iter().for_each(|counter| _ = LazyLock::force(counter));
    }

    /// Announces that backends of the pool are checked.
    pub fn may_check(&self) {
        self.failed_checks.iter().for_each(|counter| _ = LazyLock::force(counter));
        LazyLock::force(&self.check_seconds);
    }

    /// Announces that agents are queried.
    pub fn may_ask_agents(&self) {
        self.agents.iter().for_each(|counter| _ = LazyLock::force(counter));
    }

    /// Counts a connection of the pool that ended.
    pub fn close(&self, kind: CloseKind) {
        self.closed[kind as usize].increment(1);
    }

    /// Adds bytes that were relayed.
    pub fn moved(&self, direction: Direction, bytes: u64) {
        self.bytes[direction as usize].increment(bytes);
    }

    /// Counts one attempt to connect.
    pub fn connect(&self, outcome: ConnectOutcome) {
        self.attempts[outcome as usize].increment(1);
    }

    /// Counts the result of a failure report about a backend.
    pub fn ejection(&self, outcome: EjectionOutcome) {
        self.ejections[outcome as usize].increment(1);
    }

    /// Counts one health check that did not pass.
    pub fn failed_check(&self, fault: FailedCheck) {
        self.failed_checks[fault as usize].increment(1);
    }

    /// Counts one query to an agent.
    pub fn agent(&self, answer: AgentAnswer) {
        self.agents[answer as usize].increment(1);
    }
}
