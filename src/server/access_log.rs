//! The access log of the configuration in force. It is opened at the start, and again if a reload changes it.

use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::faults::StartFault;
use crate::config::Config;
use crate::limit::Rate;
use crate::telemetry::{AccessLog, AccessLogSpec, Flushed, Metrics, OpenedAccessLog};

/// The time that the queued records may take to be written to the old destination.
const LAST_RECORDS: Duration = Duration::from_secs(10);

/// Opens the access log at the start.
pub(super) fn open(config: &Config, metrics: &Metrics) -> Result<AccessLog, StartFault> {
    let process = metrics.process();
    let (dropped, written) = (process.access_log_dropped.clone(), process.access_log_written.clone());
    AccessLog::start(&config.access_log, dropped, written)
        .map_err(|source| StartFault::AccessLog { path: config.access_log.to.to_string(), source })
}

/// Returns the rate of refusal lines that each listener gets.
pub(super) fn refusal_lines(spec: &AccessLogSpec) -> Option<Rate> {
    spec.refused_per_second.map(|lines| Rate::new(lines, Duration::from_secs(1), lines))
}

/// Sends the records of connections that end from now on to another destination.
pub(super) fn switch(log: &AccessLog, opened: OpenedAccessLog, spec: &AccessLogSpec, metrics: &Metrics) {
    metrics.bound_refusal_lines(refusal_lines(spec));
    let old = log.switch(opened);
    // The old destination writes its queue and ends. A disk that hangs holds this thread for a while.
    drop(spawn_blocking(move || {
        if old.finish(Instant::now() + LAST_RECORDS) == Flushed::Abandoned {
            tracing::warn!("access log: the old destination takes no lines; its queued lines may be lost");
        }
    }));
}
