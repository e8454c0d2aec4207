//! The log lines of backends that change their state, and their events in the status.
//!
//! A line has the reason, the answer of the backend to its last check, and the number of its open connections. It
//! also has the number of backends in the pool that take new connections.

use humantime::format_duration;

use super::events::{EventKind, EventLog, Severity};
use crate::pool::{Backend, BackendState, ChangeReason, Pool, StateChange};

/// Returns how many of all backends of a pool take new connections, as "1 of 3".
pub(super) fn left(pool: &Pool) -> String {
    format!("{} of {}", pool.available(), pool.backends().len())
}

/// Logs a change of a backend's state, and adds it to the events.
pub(super) fn log(pool: &Pool, backend: &Backend, change: StateChange, events: &EventLog) {
    // The strongest cause, which may be older than the cause of this change.
    let reason = backend.health().reason().filter(|_| change.to != BackendState::Up).unwrap_or(change.reason);
    let failure =
        backend.health().check_failure().filter(|_| matches!(reason, ChangeReason::ChecksFailed(_)));
    let heard = failure.as_ref().and_then(|failure| failure.heard.as_deref());
    let ejection = backend.health().ejection();
    let (reason, left, open) = (reason.to_string(), left(pool), backend.active());
    let (pool, backend) = (backend.pool(), backend.name());
    note(&format!("{pool}/{backend}"), change.to, &reason, heard, events);
    match change.to {
        BackendState::Up => tracing::info!(%pool, %backend, reason, %left, open, "backend up"),
        BackendState::Down => tracing::warn!(%pool, %backend, reason, heard, %left, open, "backend down"),
        BackendState::Draining => tracing::info!(%pool, %backend, reason, %left, open, "backend draining"),
        BackendState::Maintenance => {
            tracing::info!(%pool, %backend, reason, %left, open, "backend in maintenance")
        }
        BackendState::Ejected => {
            let time = format_duration(ejection.map(|ejection| ejection.time).unwrap_or_default());
            let in_a_row = ejection.map(|ejection| ejection.in_a_row);
            tracing::warn!(%pool, %backend, reason, %left, open, %time, in_a_row, "backend ejected");
        }
    }
}

fn note(name: &str, state: BackendState, reason: &str, heard: Option<&str>, events: &EventLog) {
    let severity = match state {
        BackendState::Up | BackendState::Draining | BackendState::Maintenance => Severity::Info,
        BackendState::Down | BackendState::Ejected => Severity::Warning,
    };
    let heard = heard.map(|answer| format!(": \"{answer}\"")).unwrap_or_default();
    events.note(EventKind::Backend, severity, format!("{name} is {}: {reason}{heard}", state.word()));
}
