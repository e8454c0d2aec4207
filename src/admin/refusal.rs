//! The answers to requests that admin refuses, with their counts and log lines: each refusal is counted, and one
//! refusal a minute is logged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use super::acceptor::AdminPeer;
use crate::telemetry::{AdminRefusal, Metrics};

/// The least time between two lines in the log.
const QUIET: Duration = Duration::from_secs(60);

/// Returns the answer to a refused request.
pub(super) fn answer_to(refusal: AdminRefusal) -> (StatusCode, &'static str) {
    match refusal {
        AdminRefusal::Host => (
            StatusCode::MISDIRECTED_REQUEST,
            "the header Host has a name that is not configured: use an IP address or localhost, or add the \
             name to admin.hosts\n",
        ),
        AdminRefusal::CrossSite => {
            (StatusCode::FORBIDDEN, "requests from pages of other sites are refused\n")
        }
        AdminRefusal::Token => (
            StatusCode::UNAUTHORIZED,
            "this request needs the token of admin.token_file: \"Authorization: Bearer TOKEN\", or --token-file; \
             without token_file, changes need a Unix socket: admin.listen = \"unix:/run/pointsman/admin.sock\"\n",
        ),
        AdminRefusal::ContentType => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a request for a change must have \"Content-Type: application/json\", or no content\n",
        ),
        AdminRefusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many connections at once\n"),
        AdminRefusal::TooLarge => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "a request may have at most 16 KiB\n")
        }
        AdminRefusal::Timeout => (
            StatusCode::REQUEST_TIMEOUT,
            "the request was not complete, or its answer not ready, within 10 seconds\n",
        ),
    }
}

/// Limits log lines to one a minute.
#[derive(Debug, Default)]
pub(super) struct LogInterval(Mutex<Option<Instant>>);

impl LogInterval {
    /// Returns true if another line may be logged now.
    pub(super) fn may_log(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = last.is_none_or(|last| last.elapsed() >= QUIET);
        if is_time {
            *last = Some(Instant::now());
        }
        is_time
    }
}

/// Counts and logs the connections that the acceptor closes before there is a whole request. Shared by all
/// connections.
pub(super) struct Refusals {
    metrics: Arc<Metrics>,
    log_interval: LogInterval,
}

impl Refusals {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics, log_interval: LogInterval::default() })
    }

    /// Counts and logs one refusal.
    pub(super) fn note(&self, refusal: AdminRefusal, peer: &AdminPeer) {
        self.metrics.process().admin_refused(refusal);
        let reason = refusal.word();
        match self.log_interval.may_log() {
            true => {
                tracing::warn!(
                    %peer, reason,
                    "admin closed a connection; further such events within a minute are only counted"
                );
            }
            false => tracing::debug!(%peer, reason, "admin closed a connection"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_is_logged() {
        let log_interval = LogInterval::default();
        assert!(log_interval.may_log());
        assert!(!log_interval.may_log());
    }

    #[test]
    fn every_refusal_has_an_answer_of_its_own() {
        let codes: std::collections::BTreeSet<_> =
            AdminRefusal::ALL.map(|refusal| answer_to(refusal).0).into();
        assert_eq!(codes.len(), AdminRefusal::ALL.len());
    }
}
