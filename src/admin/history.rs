//! The page /api/v1/history: the last ten minutes, with a value for each second.

use serde::Serialize;
use std::collections::BTreeMap;

use super::json;
use super::query;
use crate::server::View;
use crate::telemetry::{CloseKind, Direction, HistorySample, KEPT_SAMPLES, SAMPLE_INTERVAL};

/// The answer to a query that is not valid.
pub(super) const BAD_QUERY: &str = "the query may only have `seconds`, a number from 1 to 600\n";

/// The page. New fields may be added; the existing ones do not change. All arrays have the same length. The oldest value
/// is the first.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct HistoryPage {
    interval_seconds: u64,
    /// The time of the last values. RFC 3339, UTC.
    end: String,
    open: Vec<u64>,
    accepted: Vec<u64>,
    from_client_bytes: Vec<u64>,
    from_backend_bytes: Vec<u64>,
    /// The connections that ended, by the word of their kind.
    ended: BTreeMap<&'static str, Vec<u64>>,
}

/// Returns the number of samples in a query such as `seconds=60`; `None` if it is not valid.
pub(super) fn wanted(query: Option<&str>) -> Option<usize> {
    query::number(query, "seconds", KEPT_SAMPLES, 1..=KEPT_SAMPLES)
}

/// Returns the whole page, with a line end.
pub(super) fn json(view: &View, most: usize) -> String {
    let history = view.history.last(most);
    let series =
        |value: &dyn Fn(&HistorySample) -> u64| history.samples.iter().map(value).collect::<Vec<_>>();
    let bytes = |direction: Direction| series(&|sample| sample.events.bytes[direction as usize]);
    json::compact(&HistoryPage {
        interval_seconds: SAMPLE_INTERVAL.as_secs(),
        end: json::rfc3339(history.end),
        open: series(&|sample| sample.open),
        accepted: series(&|sample| sample.events.accepted),
        from_client_bytes: bytes(Direction::FromClient),
        from_backend_bytes: bytes(Direction::FromBackend),
        ended: CloseKind::ALL
            .into_iter()
            .map(|kind| (kind.word(), series(&|sample| sample.events.ended[kind as usize])))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_sets_the_number() {
        let check = |query: &str, expected: Option<usize>| {
            assert_eq!(wanted(Some(query)), expected, "{query:?}");
        };
        assert_eq!(wanted(None), Some(KEPT_SAMPLES));
        check("", Some(KEPT_SAMPLES));
        check("seconds=1", Some(1));
        check("seconds=600", Some(600));
        check("seconds=601", None);
        check("seconds=0", None);
        check("seconds=-1", None);
        check("seconds=", None);
        check("minutes=1", None);
        assert!(BAD_QUERY.contains(&format!("to {KEPT_SAMPLES}\n")));
    }
}
