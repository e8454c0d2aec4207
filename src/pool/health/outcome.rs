//! The results of checks.

use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::FailedCheck;
use crate::wire::alert;

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The backend passed the check.
    Passed,
    /// The backend failed the check, or the check could not be made.
    Failed(CheckFault),
}

/// The reason for which a check did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckFault {
    /// Nothing listens there.
    #[error("connection refused")]
    Refused,
    /// No answer within the time limit of the check.
    #[error("timed out")]
    Timeout,
    /// No route to the host or its network.
    #[error("unreachable")]
    Unreachable,
    /// The backend closed or reset the connection before it had answered.
    #[error("closed before it answered")]
    Closed,
    /// The answer is not the expected one.
    #[error("unexpected answer")]
    Unexpected,
    /// The backend refused the handshake of a check with this alert.
    #[error("TLS alert {0}, {name}", name = alert::name(*.0))]
    TlsAlert(u8),
    /// The host name of the check has no address.
    #[error("the host name of the check has no address")]
    NoAddress,
    /// `ca_file` does not accept the certificate that the server sent in a check over TLS.
    #[error("certificate not accepted")]
    Certificate,
    /// The check could not be made: this process was out of descriptors, ports or memory, or the accept queue of the
    /// backend's Unix socket stayed full. This never counts against the backend.
    #[error("out of local resources, or its accept queue was full")]
    Local,
    /// Any other error.
    #[error("failed")]
    Other,
}

impl CheckFault {
    /// Returns the kind under which the fault is counted.
    pub fn failed_check(self) -> FailedCheck {
        match self {
            Self::Refused => FailedCheck::Refused,
            Self::Timeout => FailedCheck::Timeout,
            Self::Unreachable => FailedCheck::Unreachable,
            Self::Closed => FailedCheck::Closed,
            Self::Unexpected => FailedCheck::Unexpected,
            Self::TlsAlert(_) => FailedCheck::TlsAlert,
            Self::Certificate => FailedCheck::Certificate,
            Self::NoAddress => FailedCheck::Dns,
            Self::Local => FailedCheck::Local,
            Self::Other => FailedCheck::Other,
        }
    }

    /// Returns the fault of a kind. `alert` is the number of the alert, if the kind is an alert.
    pub fn of_failed_check(kind: FailedCheck, alert: Option<u8>) -> Self {
        match kind {
            FailedCheck::Refused => Self::Refused,
            FailedCheck::Timeout => Self::Timeout,
            FailedCheck::Unreachable => Self::Unreachable,
            FailedCheck::Closed => Self::Closed,
            FailedCheck::Unexpected => Self::Unexpected,
            FailedCheck::TlsAlert => alert.map_or(Self::Other, Self::TlsAlert),
            FailedCheck::Certificate => Self::Certificate,
            FailedCheck::Dns => Self::NoAddress,
            FailedCheck::Local => Self::Local,
            FailedCheck::Other => Self::Other,
        }
    }
}

/// The result of one check, with details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFinding {
    /// The result.
    pub outcome: CheckOutcome,
    /// The first words of an answer that was not accepted, cut; `None` if there were none.
    pub heard: Option<Arc<str>>,
    /// The last part of the check's duration: the answer was complete, and the check only waited for bytes that
    /// would make the answer wrong.
    pub listened: Duration,
}

impl From<CheckOutcome> for CheckFinding {
    fn from(outcome: CheckOutcome) -> Self {
        Self { outcome, heard: None, listened: Duration::ZERO }
    }
}
