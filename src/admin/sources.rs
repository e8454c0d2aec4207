//! The page /api/v1/sources: which sources have the most connections open, at any listener.

use std::collections::HashMap;

use serde::Serialize;

use super::query;
use crate::server::{CensusScope, View};

/// How many are told unless the question says otherwise, and at most.
const TOP: usize = 10;
const MOST: usize = 1000;

/// The page. Fields that come later are added; those here stay what they are.
#[derive(Debug, Serialize)]
struct Sources<'a> {
    /// Sources with open connections; a source counts at each listener.
    open: u64,
    /// Open connections of all sources.
    connections: u64,
    /// Sources in the table of those with limits.
    known: u64,
    /// Places of that table.
    limit: usize,
    /// Those with the most open connections, the heaviest first.
    heaviest: Vec<SourceStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct SourceStatus<'a> {
    /// Its first address, or a private link as `link:0xEA:vpce-...`.
    source: String,
    /// The whole id of the private link; null for an address.
    private_link: Option<String>,
    /// Null where a reload took the listener away.
    listener: Option<&'a str>,
    open: u32,
    /// Those of them whose first bytes are still being read.
    hellos: u32,
}

/// How many a question wants, such as `top=20`; `None` if that cannot be said.
pub(super) fn wanted(query: Option<&str>) -> Option<usize> {
    let Some(number) = query::value(query, "top").ok()? else { return Some(TOP) };
    let number = number.parse().ok()?;
    (1..=MOST).contains(&number).then_some(number)
}

/// The whole page, with a line end. Connections are counted now, whether or not a listener limits its sources.
pub(super) async fn json(view: &View, top: usize) -> String {
    let census = view.census(CensusScope::All, top).await;
    let snapshot = view.snapshot.load_full();
    let names: HashMap<u64, &str> =
        snapshot.policies.values().map(|policy| (policy.number, &*policy.listener)).collect();
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
    let mut page = serde_json::to_string_pretty(&sources).expect("it has string keys only and no map");
    page.push('\n');
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Option<usize>) {
        assert_eq!(wanted(Some(query)), expected, "{query:?}");
    }

    #[test]
    fn a_question_may_say_how_many() {
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
