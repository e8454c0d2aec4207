//! The spec of a pool's checks.

use std::time::Duration;

use super::check_target::CheckTarget;
use super::tls_spec::TlsSpec;
use crate::wire::Script;
use crate::wire::proxy_protocol::HeaderVersion;

/// Active checks of a pool's backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// The kind of check.
    pub check: CheckKind,
    /// The target of the check. Default: the address of the backend.
    pub target: CheckTarget,
    /// The PROXY header that is sent first, or `None`.
    pub proxy_protocol: Option<CheckHeader>,
    /// The TLS that the check goes through, or `None`. Always `None` in a build without the feature `tls-checks`.
    pub tls: Option<TlsSpec>,
    /// Time between the starts of two checks of one backend. Default 2 s.
    pub interval: Duration,
    /// The time between two checks while the last result contradicts the backend's state. Default: the
    /// interval.
    pub fast_interval: Duration,
    /// The time between two checks while the backend is down. Default: the interval.
    pub down_interval: Duration,
    /// The time limit of one check. Default: the interval, at most 5 s.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up. Default 2.
    pub rise: u32,
    /// Failures in a row that take a backend down. Default 3.
    pub fall: u32,
}

impl Default for HealthSpec {
    fn default() -> Self {
        let interval = Duration::from_secs(2);
        Self {
            check: CheckKind::Tcp,
            target: CheckTarget::default(),
            proxy_protocol: None,
            tls: None,
            interval,
            fast_interval: interval,
            down_interval: interval,
            timeout: interval,
            rise: 2,
            fall: 3,
        }
    }
}

/// The PROXY header of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckHeader {
    /// A header for a connection of the sender itself. Version 2 sends LOCAL. Version 1 sends the two ends of
    /// the connection.
    Local(HeaderVersion),
    /// A header with the two ends of the connection, in the form of a header for a client. For servers that close on
    /// LOCAL.
    Proxy(HeaderVersion),
}

/// The kind of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Opens a TCP connection and closes it.
    Tcp,
    /// Opens a TCP connection and runs this dialogue on it.
    Dialogue(Script),
}
