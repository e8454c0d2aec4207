//! The words in the file to checked specs, all faults at once.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::listener::ListenerSpec;
use crate::pool::PoolSpec;
use crate::telemetry::AccessLogSpec;

/// A whole configuration, checked: every reference resolves, every value is in range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Threads that serve, at least 1 (0 in the file is one per core). A change needs a restart.
    pub workers: usize,
    /// Open connections of the process; `None` is half of the descriptors left after a reserve.
    pub max_connections: Option<u64>,
    /// The admin listener, or `None` when there is none.
    pub admin: Option<SocketAddr>,
    /// The access log.
    pub access_log: AccessLogSpec,
    /// The listeners, sorted by name.
    pub listeners: Vec<ListenerSpec>,
    /// The pools, sorted by name.
    pub pools: Vec<PoolSpec>,
    /// The program's own log.
    pub log: LogSpec,
    /// How the process ends.
    pub shutdown: ShutdownSpec,
}

/// How the process ends after SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownSpec {
    /// /ready answers 503 but connections are still accepted, so that routers can turn away. Default 0.
    pub grace: Duration,
    /// How long open connections may then go on. Default 30 s.
    pub drain: Duration,
}

/// The program's own log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSpec {
    /// What is worth a line.
    pub level: String,
}
pub struct Faults;
impl Faults {
    pub fn render(&self, _c: bool) -> String {
        String::new()
    }
}
pub struct Warnings;
impl Warnings {
    pub fn summaries(&self) -> Vec<String> {
        Vec::new()
    }
}
pub fn load(_p: &Path) -> Result<(Config, Warnings), Faults> {
    Err(Faults)
}
