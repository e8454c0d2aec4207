//! The page /api/v1/top: the server names and sources with the most new connections.

use serde::Serialize;
use std::fmt::Display;

use super::json;
use super::query;
use crate::live::{HeavyItem, HeavyItems, TOP_SLOTS};
use crate::server::TopAnswer;

/// The number of entries in each list: the default, and the maximum.
const TOP: usize = 20;
const MOST: usize = 1000;

/// The answer to a query that is not valid.
pub(super) const BAD_QUERY: &str = "the query may only have `top`, a number from 1 to 1000\n";

/// The page. New fields may be added; the existing ones do not change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct TopPage {
    /// The begin of the time that is counted. RFC 3339, UTC.
    since: String,
    /// The workers that did not answer in time. Their connections are missing.
    workers_silent: usize,
    names: TopList,
    unknown_names: TopList,
    sources: TopList,
}

/// The counts of one kind.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct TopList {
    /// The connections that were counted.
    connections: u64,
    /// The names that each worker counts at once.
    slots: usize,
    /// The most connections that a name may have that no worker counts. No error exceeds it.
    error_bound: u64,
    /// The names with the most connections, the highest count first.
    top: Vec<TopEntry>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct TopEntry {
    name: String,
    /// The most connections that it may have.
    connections: u64,
    /// The most by which `connections` is too high.
    error: u64,
}

/// Returns the number of entries in a query such as `top=20`; `None` if it is not valid.
pub(super) fn wanted(query: Option<&str>) -> Option<usize> {
    query::number(query, "top", TOP, 1..=MOST)
}

/// Returns the whole page, with a line end.
pub(super) fn json(answer: TopAnswer, most: usize) -> String {
    let TopAnswer { items, since, silent_workers } = answer;
    json::page(&TopPage {
        since: json::rfc3339(since),
        workers_silent: silent_workers,
        names: list(items.names, most),
        unknown_names: list(items.unknown_names, most),
        sources: list(items.sources, most),
    })
}

fn list<K: Display>(items: HeavyItems<K>, most: usize) -> TopList {
    let entry = |HeavyItem { key, count, error }: HeavyItem<K>| TopEntry {
        name: key.to_string(),
        connections: count,
        error,
    };
    TopList {
        connections: items.total,
        slots: TOP_SLOTS,
        error_bound: items.error_bound,
        top: items.items.into_iter().take(most).map(entry).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_sets_the_number() {
        let check = |query: &str, expected: Option<usize>| {
            assert_eq!(wanted(Some(query)), expected, "{query:?}");
        };
        assert_eq!(wanted(None), Some(TOP));
        check("top=1", Some(1));
        check("top=1000", Some(MOST));
        check("top=1001", None);
        check("top=0", None);
        check("top=x", None);
        check("most=1", None);
        assert!(BAD_QUERY.contains(&format!("to {MOST}\n")));
    }
}
