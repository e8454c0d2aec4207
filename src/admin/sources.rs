//! The page /api/v1/sources: the sources with the most open connections, at any listener.

use std::collections::HashMap;

use serde::Serialize;

use super::json;
use super::query;
use crate::ids::ListenerId;
use crate::server::{CensusScope, View};

/// The number of sources on the page: the default, and the maximum.
const TOP: usize = 10;
const MOST: usize = 1000;

/// The page. New fields may be added; the existing ones do not change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Sources<'a> {
    /// The sources with open connections. A source counts once at each listener.
    open: u64,
    /// The open connections of all sources.
    connections: u64,
    /// The sources in the table of the limits.
    known: u64,
    /// The slots of that table.
    limit: usize,
    /// The sources with the most open connections, the heaviest first.
    heaviest: Vec<SourceStatus<'a>>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct SourceStatus<'a> {
    /// The first address of the source, or a private link as `link:0xEA:vpce-...`.
    source: String,
    /// The whole id of the private link; null for an address.
    private_link: Option<String>,
    /// Null if a reload removed the listener.
    listener: Option<&'a str>,
    open: u32,
    /// The open connections whose first bytes are still being read.
    hellos: u32,
}

/// Returns the number of sources in a query such as `top=20`; `None` if it is not valid.
pub(super) fn wanted(query: Option<&str>) -> Option<usize> {
    query::number(query, "top", TOP, 1..=MOST)
}

/// Returns the whole page, with a line end. Connections are counted now, with or without limits of the listener.
pub(super) async fn json(view: &View, top: usize) -> String {
    let census = view.census(CensusScope::All, top).await;
    let snapshot = view.snapshot.load_full();
    let names: HashMap<ListenerId, &str> =
        snapshot.policies.values().map(|policy| (policy.listener_id, &*policy.listener)).collect();
    let table = &view.bounds.sources;
    let heaviest = census.heaviest.into_iter().map(|count| SourceStatus {
        private_link: count.source.link().map(|link| link.id().to_owned()),
        source: count.source.to_string(),
        listener: names.get(&count.listener).copied(),
        open: count.open,
        hellos: count.reading,
    });
    let sources = Sources {
        open: census.sources,
        connections: census.connections,
        known: table.known(),
        limit: table.capacity(),
        heaviest: heaviest.collect(),
    };
    json::page(&sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Option<usize>) {
        assert_eq!(wanted(Some(query)), expected, "{query:?}");
    }

    #[test]
    fn the_query_sets_the_number() {
        assert_eq!(wanted(None), Some(TOP));
        check("", Some(TOP));
        check("top=1", Some(1));
        check("top=1000", Some(1000));
        check("top=%31%30", Some(10));
        check("top=1001", None);
        check("top=0", None);
        check("top=", None);
        check("top=-1", None);
        check("top=9999999999999999999999", None);
        check("bottom=3", None);
    }
}
