//! The page /api/v1/routes: the routes of all listeners with the time of their last connection, so that an operator finds
//! names that are no longer used.

use std::collections::{BTreeMap, BinaryHeap};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::json;
use super::query::{self, QueryFault};
use crate::server::{UnknownListener, View, find_listener};
use crate::snapshot::{Action, Policy, PoolSlot, RouteTarget, Snapshot};
use crate::telemetry::RouteCounts;

/// The parameters of the query.
const WORDS: [&str; 3] = ["listener", "unused", "limit"];

/// The number of rows: the default, and the maximum.
const ROWS: usize = 1000;
const MOST_ROWS: usize = 10_000;

/// The reason for which a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoutesRefusal {
    /// There is no such listener.
    #[error(transparent)]
    Listener(#[from] UnknownListener),
    /// The text is no duration.
    #[error("`unused` must be a duration such as 12h, 7d or 30days")]
    Unused,
    /// The limit is out of bounds.
    #[error("`limit` must be a number from 1 to {MOST_ROWS}")]
    Limit,
    /// The query has other parameters.
    #[error("the query may only have each of these once, with a value: {}", WORDS.join(", "))]
    Query,
    /// The query has a broken escape.
    #[error("in a query, % must come before two hexadecimal digits, and the bytes must be UTF-8")]
    Escape,
}

/// The page. New fields may be added; the existing ones do not change.
#[derive(Debug, Serialize)]
struct RoutesPage<'a> {
    /// The time since which the first of these routes is counted. RFC 3339, UTC.
    since: String,
    /// The routes of the listener, or of all listeners.
    total: usize,
    /// The routes of the listener that were not used for the time of the query.
    matched: usize,
    /// True if some of the latter have no row.
    cut: bool,
    /// Routes that were never used come first, then the route whose last use was longest ago.
    routes: Vec<RouteStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct RouteStatus<'a> {
    listener: &'a str,
    /// The name of the route in the log.
    route: &'a str,
    /// `pool`, `split`, `reject` or `drop`.
    action: &'static str,
    /// The pool; null if the action is another.
    pool: Option<String>,
    /// The pools of a split; null if the action is another.
    split: Option<Vec<String>>,
    /// The connections since `since`.
    connections: u64,
    /// The time of the last of them; null if there was none. RFC 3339, UTC.
    last_used: Option<String>,
    /// The time since which the route is counted.
    since: String,
    /// The time since the last use. For a route that was never used, the time since `since`.
    unused_seconds: u64,
}

/// The request for a list.
#[derive(Debug, PartialEq, Eq)]
struct RoutesRequest {
    listener: Option<String>,
    unused: Duration,
    limit: usize,
}

/// A route in the order of the page: the first one was never used.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct RouteOrder<'a> {
    last_used: Option<SystemTime>,
    since: SystemTime,
    listener: &'a str,
    route: &'a str,
    /// The number of the route in its listener.
    index: usize,
}

/// Returns the page for a query.
pub(super) fn json(view: &View, query: Option<&str>) -> Result<String, RoutesRefusal> {
    let request = parse(query)?;
    let snapshot = view.snapshot.load_full();
    let listeners = listeners(&snapshot, request.listener.as_deref())?;
    Ok(json::page(&page(&listeners, &request, SystemTime::now())))
}

fn parse(query: Option<&str>) -> Result<RoutesRequest, RoutesRefusal> {
    let [listener, unused, limit] = query::values(query, WORDS).map_err(|fault| match fault {
        QueryFault::Other => RoutesRefusal::Query,
        QueryFault::Escape => RoutesRefusal::Escape,
    })?;
    let unused = unused.map(|text| humantime::parse_duration(&text).map_err(|_| RoutesRefusal::Unused));
    let limit = match limit {
        Some(text) => text.parse().ok().filter(|limit| (1..=MOST_ROWS).contains(limit)),
        None => Some(ROWS),
    };
    Ok(RoutesRequest {
        listener,
        unused: unused.transpose()?.unwrap_or_default(),
        limit: limit.ok_or(RoutesRefusal::Limit)?,
    })
}

/// Returns the policy of a listener, or those of all listeners, by their names.
fn listeners<'a>(
    snapshot: &'a Snapshot,
    name: Option<&str>,
) -> Result<BTreeMap<&'a str, &'a Policy>, UnknownListener> {
    match name {
        Some(name) => {
            let policy = find_listener(snapshot, name)?;
            Ok([(&*policy.listener, policy)].into())
        }
        // Every address of a listener has the same policy.
        None => Ok(snapshot.policies.values().map(|policy| (&*policy.listener, &**policy)).collect()),
    }
}

/// Returns the page. Of a million routes it holds no more than the limit at once.
fn page<'a>(
    listeners: &BTreeMap<&'a str, &'a Policy>,
    request: &RoutesRequest,
    now: SystemTime,
) -> RoutesPage<'a> {
    let (mut total, mut matched, mut first) = (0, 0, now);
    let mut rows = BinaryHeap::new();
    for (&listener, policy) in listeners {
        for (index, route, counts) in counted(&policy.protocol.routes().targets) {
            total += 1;
            let (last_used, since) = (counts.last_used(), counts.since());
            first = first.min(since);
            if unused_for(last_used, since, now) >= request.unused {
                matched += 1;
                rows.push(RouteOrder { last_used, since, listener, route, index });
                if rows.len() > request.limit {
                    rows.pop();
                }
            }
        }
    }
    let rows = rows.into_sorted_vec();
    let cut = rows.len() < matched;
    let routes = rows.iter().filter_map(|row| status(row, listeners.get(row.listener)?, now)).collect();
    RoutesPage { since: time(first), total, matched, cut, routes }
}

/// Returns the routes of a listener with their numbers. The names of one route with a name are one route.
fn counted(targets: &[RouteTarget]) -> impl Iterator<Item = (usize, &str, &RouteCounts)> {
    let mut last: Option<&RouteTarget> = None;
    targets.iter().enumerate().filter_map(move |(index, target)| {
        let counts = target.counts.as_deref()?;
        let before = last.replace(target);
        let is_further_name = before.is_some_and(|before| {
            before.counts.as_deref().is_some_and(|other| ptr::eq(other, counts))
                && is_same(&before.action, &target.action)
        });
        (!is_further_name).then_some((index, &*target.route, counts))
    })
}

fn is_same(one: &Action, other: &Action) -> bool {
    match (one, other) {
        (Action::Pool(one), Action::Pool(other)) => Arc::ptr_eq(one, other),
        (Action::Split(one), Action::Split(other)) => Arc::ptr_eq(one, other),
        (Action::Reject, Action::Reject) | (Action::Drop, Action::Drop) => true,
        _ => false,
    }
}

/// Returns the time for which a route was not used, as far as this is known.
fn unused_for(last_used: Option<SystemTime>, since: SystemTime, now: SystemTime) -> Duration {
    // A clock that was set back since gives 0.
    now.duration_since(last_used.unwrap_or(since)).unwrap_or_default()
}

fn status<'a>(row: &RouteOrder<'a>, policy: &Policy, now: SystemTime) -> Option<RouteStatus<'a>> {
    let target = policy.protocol.routes().targets.get(row.index)?;
    let (action, pool, split) = match &target.action {
        Action::Pool(slot) => ("pool", Some(pool(slot)), None),
        Action::Split(split) => ("split", None, Some(split.1.iter().map(|slot| pool(slot)).collect())),
        Action::Reject => ("reject", None, None),
        Action::Drop => ("drop", None, None),
    };
    Some(RouteStatus {
        listener: row.listener,
        route: row.route,
        action,
        pool,
        split,
        connections: target.counts.as_ref()?.connections(),
        last_used: row.last_used.map(time),
        since: time(row.since),
        unused_seconds: unused_for(row.last_used, row.since, now).as_secs(),
    })
}

fn pool(slot: &PoolSlot) -> String {
    slot.served().pool.spec().name.to_string()
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time.max(UNIX_EPOCH)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Result<RoutesRequest, &str>) {
        let found = parse(Some(query)).map_err(|refusal| refusal.to_string());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{query}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{query}: {found}"),
            (found, expected) => panic!("{query}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn queries_are_read() {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        let request = |listener: Option<&str>, unused: Duration, limit: usize| {
            Ok(RoutesRequest { listener: listener.map(str::to_owned), unused, limit })
        };
        check("", request(None, Duration::ZERO, ROWS));
        check("listener=tls&unused=7d&limit=10000", request(Some("tls"), days(7), MOST_ROWS));
        check("unused=1day%2012h", request(None, Duration::from_secs(36 * 3600), ROWS));
        check("limit=0", Err("from 1 to 10000"));
        check("limit=10001", Err("from 1 to 10000"));
        check("unused=7", Err("a duration such as"));
        check("unused=", Err("a duration such as"));
        check("unused=-1d", Err("a duration such as"));
        check("used=7d", Err("listener, unused, limit"));
        check("limit=1&limit=2", Err("listener, unused, limit"));
        check("listener=%zz", Err("% must come before"));
    }

    #[test]
    fn a_route_without_a_use_comes_first() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let row = |last_used: Option<u64>, since: u64, route: &'static str| RouteOrder {
            last_used: last_used.map(at),
            since: at(since),
            listener: "l",
            route,
            index: 0,
        };
        let rows = [
            row(None, 5, "b"),
            row(None, 5, "c"),
            row(None, 6, "a"),
            row(Some(1), 0, "d"),
            row(Some(2), 0, "a"),
        ];
        assert!(rows.is_sorted());
    }

    #[test]
    fn an_unused_route_is_known_since_it_is_counted() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let check = |last_used: Option<u64>, since: u64, now: u64, expected: u64| {
            let found = unused_for(last_used.map(at), at(since), at(now));
            assert_eq!(found.as_secs(), expected, "{last_used:?} {since} {now}");
        };
        check(None, 100, 150, 50);
        check(Some(120), 100, 150, 30);
        check(Some(160), 100, 150, 0);
    }
}
