//! Metrics, logs and close reasons.
//!
//! This module counts and writes the events that other modules report, and takes no decision. Label values come from
//! the configuration or from the enums here, never from a client.

pub mod access_log;
pub mod close_reason;
pub mod exposition;
mod haproxy_line;
mod history;
mod line;
pub mod metrics;
mod offered;
mod phase;
pub mod program_log;
pub mod record;
mod record_line;
mod saturation;
mod version;

pub use access_log::{
    AccessLog, AccessLogEvents, AccessLogSpec, AccessLogTarget, Flushed, OpenedAccessLog, RetiredAccessLog,
};
pub use close_reason::{CloseKind, CloseReason};
pub use exposition::Exposition;
pub use history::{History, HistorySample, KEPT_SAMPLES, SAMPLE_INTERVAL};
pub use line::AccessLogFormat;
pub use metrics::{
    ActiveConnection, AdminRefusal, AgentAnswer, BackendCounts, ClientOpening, ConnectOutcome,
    ConnectionTotals, EjectionOutcome, FailedCheck, HelloOutcome, ListenerMetrics, Metrics, PipeFallback,
    PoolMetrics, ProcessMetrics, ProxyOutcome, ReloadOutcome, RouteCounts, TotalsReading, UpgradeOutcome,
};
pub use offered::Offered;
pub use phase::{EndedBy, Phase};
pub use program_log::{LogControl, LogFormat, LogLevel, LogSpec, ProgramLog};
pub use record::{AccessEvent, AccessRecord, ClientAddr, OpenCounts};
pub use saturation::{Episode, Saturation, SaturationLog, SaturationScope};
pub use version::{COMMIT, VERSION, VERSION_AND_COMMIT};

/// Handles of single series, which the counting code keeps: a look-up by name costs a hundred times an increment.
pub use ::metrics::{Counter, Gauge, Histogram};

/// The direction in which bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the backend.
    FromClient,
    /// From the backend to the client.
    FromBackend,
}

impl Direction {
    /// Both directions, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::FromClient, Self::FromBackend];

    /// The value of the label `direction`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::FromClient => "from_client",
            Self::FromBackend => "from_backend",
        }
    }
}

/// The means by which bytes were moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// `read` and `write` through a buffer of the worker.
    Copied,
    /// `splice` through a kernel pipe.
    Spliced,
}

impl Engine {
    /// Both engines, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::Copied, Self::Spliced];

    /// The value of the label `engine`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Copied => "copied",
            Self::Spliced => "spliced",
        }
    }
}
