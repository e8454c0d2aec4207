//! What happened: every metric, the logs, the reasons for which connections end.
//!
//! It counts and writes what it is told and takes no decision. Label values come from the configuration
//! or from the enums here, never from a client.

pub mod access_log;
pub mod close_reason;
pub mod exposition;
pub mod metrics;
mod offered;
mod phase;
pub mod program_log;
pub mod record;
mod saturation;
mod version;

pub use access_log::{
    AccessLog, AccessLogFormat, AccessLogSpec, AccessLogTarget, Flushed, OpenedAccessLog, RetiredAccessLog,
};
pub use close_reason::{CloseKind, CloseReason};
pub use exposition::Exposition;
pub use metrics::{
    ActiveConnection, AdminRefusal, AgentAnswer, BackendCounts, ClientOpening, ConnectOutcome,
    EjectionOutcome, FailedCheck, HelloOutcome, ListenerMetrics, Metrics, PipeFallback, PoolMetrics,
    ProcessMetrics, ProxyOutcome, ReloadOutcome, RouteCounts,
};
pub use offered::Offered;
pub use phase::{EndedBy, Phase};
pub use program_log::{LogControl, LogFormat, LogLevel, LogSpec, ProgramLog};
pub use record::{AccessRecord, ClientAddr};
pub use saturation::{Episode, Saturation, SaturationLog, SaturationScope};
pub use version::{COMMIT, VERSION, VERSION_AND_COMMIT};

/// Handles of single series, cached by whoever counts: a look-up by name costs a hundred times an increment.
pub use ::metrics::{Counter, Gauge, Histogram};

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the backend.
    FromClient,
    /// From the backend to the client.
    FromBackend,
}

impl Direction {
    /// Both, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::FromClient, Self::FromBackend];

    /// The value of the label `direction`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::FromClient => "from_client",
            Self::FromBackend => "from_backend",
        }
    }
}

/// What moved the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// `read` and `write` through a buffer of the worker.
    Copied,
    /// `splice` through a kernel pipe.
    Spliced,
}

impl Engine {
    /// Both, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::Copied, Self::Spliced];

    /// The value of the label `engine`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Copied => "copied",
            Self::Spliced => "spliced",
        }
    }
}
