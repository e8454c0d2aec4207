//! What happened: every metric, the access log, the reasons for which connections end.

use std::path::PathBuf;

pub mod close_reason;

pub use close_reason::{CloseReason, Phase, Who};

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the backend.
    FromClient,
    /// From the backend to the client.
    FromBackend,
}

/// What moved the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// `read` and `write` through a buffer of the worker.
    Copied,
    /// `splice` through a kernel pipe.
    Spliced,
}

/// Where the access log goes and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogSpec {
    /// The destination.
    pub to: AccessLogTarget,
    /// The form of a line.
    pub format: AccessLogFormat,
}

/// The destination of access-log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// No access log.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to; opened again on SIGUSR1.
    File(PathBuf),
}

/// The form of an access-log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Text,
}
