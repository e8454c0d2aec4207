//! The page /api/v1/upgrade: the last hand-over of this process. The status has the same value.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::json;
use crate::server::{UpgradeReport, View};

/// The last hand-over. New fields may be added; the existing ones do not change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct UpgradeStatus {
    /// The time at which the connections had moved, or at which the hand-over failed. RFC 3339, UTC.
    time: String,
    /// The part of this process: `incumbent` or `successor`.
    role: &'static str,
    /// The process id of the other program.
    other_pid: u32,
    other_version: String,
    /// `ok`, or `failed` if the incumbent went on.
    result: &'static str,
    /// Null if the hand-over failed.
    moved: Option<u64>,
    /// The connections that could not move at that time. Null if the hand-over failed.
    remaining: Option<u64>,
    remaining_by_stage: Option<BTreeMap<String, u64>>,
    /// The time from the first batch to the last acknowledgement.
    moved_in_seconds: Option<f64>,
    /// The longest time for which a connection stood still.
    longest_pause_seconds: Option<f64>,
    /// The 99th percentile of these times.
    p99_pause_seconds: Option<f64>,
    /// The reason for a failure.
    fault: Option<String>,
    /// True once the incumbent has no connection left. Always true after a failure.
    is_over: bool,
}

impl From<UpgradeReport> for UpgradeStatus {
    fn from(report: UpgradeReport) -> Self {
        let UpgradeReport { at, role, other, other_version, result, is_over } = report;
        let (moved, fault) = match result {
            Ok(moved) => (Some(moved), None),
            Err(fault) => (None, Some(fault)),
        };
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        Self {
            time: json::rfc3339(at),
            role: role.word(),
            other_pid: other,
            other_version,
            result: if fault.is_none() { "ok" } else { "failed" },
            moved: moved.as_ref().map(|report| report.moved),
            remaining: moved.as_ref().map(|report| report.remaining),
            remaining_by_stage: moved.as_ref().map(|report| report.stages.clone()),
            moved_in_seconds: seconds(moved.as_ref().map(|report| report.took)),
            longest_pause_seconds: seconds(moved.as_ref().map(|report| report.longest_pause)),
            p99_pause_seconds: seconds(moved.as_ref().map(|report| report.p99_pause)),
            fault,
            is_over,
        }
    }
}

/// Returns the last hand-over; `None` if there was none.
pub(super) fn last(view: &View) -> Option<UpgradeStatus> {
    view.upgrade.last().map(UpgradeStatus::from)
}

/// Returns the whole page, with a line end: `null` if there was no hand-over.
pub(super) fn json(view: &View) -> String {
    page(last(view).as_ref())
}

fn page(upgrade: Option<&UpgradeStatus>) -> String {
    json::page(&upgrade)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;
    use crate::server::{MoveReport, UpgradeRole};

    fn check(role: UpgradeRole, result: Result<MoveReport, String>, is_over: bool, expected: &Value) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_250);
        let report =
            UpgradeReport { at, role, other: 4711, other_version: "0.4.0".to_owned(), result, is_over };
        let text = page(Some(&report.into()));
        assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn the_page_has_the_last_hand_over() {
        assert_eq!(page(None), "null\n");
        let report = MoveReport {
            moved: 5009,
            remaining: 3,
            stages: BTreeMap::from([("dialing".to_owned(), 1), ("reading".to_owned(), 2)]),
            took: Duration::from_millis(212),
            longest_pause: Duration::from_millis(9),
            p99_pause: Duration::from_micros(4500),
        };
        let moved = json!({
            "time": "2026-09-21T14:13:20.250Z", "role": "successor", "other_pid": 4711, "other_version": "0.4.0",
            "result": "ok", "moved": 5009, "remaining": 3,
            "remaining_by_stage": { "dialing": 1, "reading": 2 }, "moved_in_seconds": 0.212,
            "longest_pause_seconds": 0.009, "p99_pause_seconds": 0.0045, "fault": null, "is_over": false,
        });
        check(UpgradeRole::Successor, Ok(report), false, &moved);
        let failed = json!({
            "time": "2026-09-21T14:13:20.250Z", "role": "incumbent", "other_pid": 4711, "other_version": "0.4.0",
            "result": "failed", "moved": null, "remaining": null,
            "remaining_by_stage": null, "moved_in_seconds": null,
            "longest_pause_seconds": null, "p99_pause_seconds": null, "fault": "it ended", "is_over": true,
        });
        check(UpgradeRole::Incumbent, Err("it ended".to_owned()), true, &failed);
    }
}
