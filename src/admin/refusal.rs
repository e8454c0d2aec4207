//! What is said to whom admin refuses, and who else hears of it: the metrics each time, the log once a minute.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use super::acceptor::AdminPeer;
use crate::telemetry::{AdminRefusal, Metrics};

/// The least time between two lines in the log.
const QUIET: Duration = Duration::from_secs(60);

/// The answer to what is refused.
pub(super) fn said(refusal: AdminRefusal) -> (StatusCode, &'static str) {
    match refusal {
        AdminRefusal::Host => (
            StatusCode::MISDIRECTED_REQUEST,
            "the header Host has a name that is not known here: ask by an IP address, by localhost, or add the \
             name to admin.hosts\n",
        ),
        AdminRefusal::CrossSite => (StatusCode::FORBIDDEN, "pages of other sites are not answered\n"),
        AdminRefusal::Token => (
            StatusCode::UNAUTHORIZED,
            "this needs the token of admin.token_file: \"Authorization: Bearer TOKEN\", or --token-file; where there is \
             no token_file, changes need a Unix socket: admin.listen = \"unix:/run/pointsman/admin.sock\"\n",
        ),
        AdminRefusal::ContentType => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "what changes something has \"Content-Type: application/json\", or no content\n",
        ),
        AdminRefusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many connections at once\n"),
        AdminRefusal::TooLarge => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "a request has at most 16 KiB\n")
        }
        AdminRefusal::Timeout => {
            (StatusCode::REQUEST_TIMEOUT, "a request and the making of its answer have 10 seconds\n")
        }
    }
}

/// Lets one line a minute into the log.
#[derive(Debug, Default)]
pub(super) struct LogInterval(Mutex<Option<Instant>>);

impl LogInterval {
    /// Whether it is time for another line.
    pub(super) fn may_tell(&self) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = told.is_none_or(|told| told.elapsed() >= QUIET);
        if is_time {
            *told = Some(Instant::now());
        }
        is_time
    }
}

/// Counts and tells of what the door refuses, before there is a request to judge. Shared by all connections.
pub(super) struct Refusals {
    metrics: Arc<Metrics>,
    quiet: LogInterval,
}

impl Refusals {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics, quiet: LogInterval::default() })
    }

    /// Notes one refusal.
    pub(super) fn note(&self, refusal: AdminRefusal, peer: &AdminPeer) {
        self.metrics.process().admin_refused(refusal);
        let reason = refusal.word();
        match self.quiet.may_tell() {
            true => {
                tracing::warn!(%peer, reason, "admin gave a connection up; more within a minute are only counted");
            }
            false => tracing::debug!(%peer, reason, "admin gave a connection up"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_once_a_minute() {
        let quiet = LogInterval::default();
        assert!(quiet.may_tell());
        assert!(!quiet.may_tell());
    }

    #[test]
    fn every_refusal_has_an_answer_of_its_own() {
        let codes: std::collections::BTreeSet<_> = AdminRefusal::ALL.map(|refusal| said(refusal).0).into();
        assert_eq!(codes.len(), AdminRefusal::ALL.len());
    }
}
