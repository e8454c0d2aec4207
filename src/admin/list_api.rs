//! The pages /api/v1/lists: the contents of the lists, the reason why an address is in a list, and changes of
//! entries at run time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::Serialize;

use super::guard::RequestOrigin;
use super::json;
use super::query::{self, QueryFault};
use crate::route::{Country, IpPrefix, PrefixFault};
use crate::server::{EventKind, Severity, View};
use crate::snapshot::List;
use crate::snapshot::additions::{AdditionOutcome, ListFull};
use crate::snapshot::list::Listed;

/// The longest time for which an entry is added. The file is for longer times.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The reason for which a request for lists is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListRefusal {
    /// The configuration has no such list.
    #[error("there is no list of that name; GET /api/v1/lists returns all lists")]
    NoList,
    /// The entry is no network.
    #[error("this is not an entry: {0}")]
    Entry(#[from] PrefixFault),
    /// The text is no address.
    #[error("`address` is not an IP address")]
    Address,
    /// The text is no duration, or out of bounds.
    #[error("`ttl` must be a duration such as 1h, above 0 and at most 366days")]
    Ttl,
    /// The network is so wide that it is probably a mistake.
    #[error(
        "{0} has a large part of all addresses: a prefix shorter than /8 (/16 for IPv6) needs force=true, or --force"
    )]
    Wide(IpPrefix),
    /// The value is neither true nor false.
    #[error("`force` must be true or false")]
    Force,
    /// The query has other parameters.
    #[error("the query may only have: {0}")]
    Query(String),
    /// The query has a broken escape.
    #[error("in a query, % must come before two hexadecimal digits, and the bytes must be UTF-8")]
    Escape,
    /// The list has as many additions as it may have.
    #[error(transparent)]
    Full(#[from] ListFull),
}

/// One list.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct ListStatus<'a> {
    name: &'a str,
    entries: Entries,
    /// Null if there is no file.
    file: Option<String>,
    /// The countries whose networks are taken out of the file; empty for a file that is the list itself.
    countries: Vec<String>,
    /// The time of the last successful read of the file; null if there was none. RFC 3339, UTC.
    last_load: Option<String>,
    loads: u64,
    failed_loads: u64,
    empty_loads: u64,
    /// Connections that were refused because their address is in the list.
    refusals: u64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct Entries {
    /// Entries in the configuration itself.
    written: usize,
    file: usize,
    /// Entries added at run time.
    added: usize,
}

/// One list with the entries added at run time.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct WithAdditions<'a> {
    #[serde(flatten)]
    list: ListStatus<'a>,
    added: Vec<Addition>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct Addition {
    entry: String,
    /// Null for an entry that stays until the process ends.
    ttl_seconds: Option<u64>,
}

/// The answer to the question whether an address is in a list, with the reasons.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct MembershipAnswer<'a> {
    list: &'a str,
    address: String,
    listed: bool,
    by: Vec<MembershipReason>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct MembershipReason {
    /// `entries`, `file` or `added`.
    part: &'static str,
    /// The entry. For `entries` and `file` it is the whole range of addresses that contains the address.
    entry: String,
    /// Null for an entry without an end.
    ttl_seconds: Option<u64>,
}

/// The effect of a change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct ListChange<'a> {
    list: &'a str,
    entry: String,
    /// `added`, `extended`, `removed` or `absent`.
    result: &'static str,
    ttl_seconds: Option<u64>,
}

/// Returns all lists.
pub(super) fn all(view: &View) -> String {
    let snapshot = view.snapshot.load_full();
    json::page(&snapshot.lists.values().map(|list| status(list)).collect::<Vec<_>>())
}

/// Returns one list, or the answer for one address: `query` may have `address`.
pub(super) fn one(view: &View, name: &str, query: Option<&str>) -> Result<String, ListRefusal> {
    let list = find(view, name)?;
    let now = Instant::now();
    let Some(address) = value(query, "address")? else {
        let added = list.kept.additions.all(now).into_iter();
        let added =
            added.map(|(entry, end)| Addition { entry: entry.to_string(), ttl_seconds: left(end, now) });
        return Ok(json::page(&WithAdditions { list: status(&list), added: added.collect() }));
    };
    let address: IpAddr = address.parse().map_err(|_| ListRefusal::Address)?;
    let by: Vec<_> = list.reasons(address, now).into_iter().map(|listed| reason(&listed, now)).collect();
    let (listed, address) = (!by.is_empty(), address.to_canonical().to_string());
    Ok(json::page(&MembershipAnswer { list: &list.name, address, listed, by }))
}

/// Adds an entry; `query` may have `ttl` and `force`.
pub(super) fn add(
    view: &View,
    (name, entry): (&str, &str),
    query: Option<&str>,
    by: RequestOrigin,
) -> Result<String, ListRefusal> {
    let list = find(view, name)?;
    let entry: IpPrefix = entry.parse()?;
    let [ttl, force] = values(query, ["ttl", "force"])?;
    let is_forced = query::truth(force.as_deref()).ok_or(ListRefusal::Force)?;
    if entry.is_wide() && !is_forced {
        return Err(ListRefusal::Wide(entry));
    }
    let ttl = ttl.map(|text| {
        let ttl = humantime::parse_duration(&text).map_err(|_| ListRefusal::Ttl)?;
        if ttl.is_zero() || ttl > LONGEST { Err(ListRefusal::Ttl) } else { Ok(ttl) }
    });
    let ttl = ttl.transpose()?;
    let now = Instant::now();
    let ttl_seconds = ttl.map(|ttl| ttl.as_secs());
    let (result, text) = match list.kept.additions.add(entry, ttl.map(|ttl| now + ttl), now)? {
        AdditionOutcome::New => {
            tracing::info!(list = name, %entry, result = "added", ttl = ttl_seconds, %by, "an entry was added to a list");
            ("added", format!("{entry} was added to list {name}, by {by}"))
        }
        AdditionOutcome::Again => {
            tracing::info!(list = name, %entry, result = "extended", ttl = ttl_seconds, %by, "the end of an entry of a list was changed");
            ("extended", format!("the end of {entry} of list {name} was changed, by {by}"))
        }
    };
    view.events.note(EventKind::List, Severity::Info, text);
    Ok(json::page(&ListChange { list: name, entry: entry.to_string(), result, ttl_seconds }))
}

/// Removes an entry that was added. A missing entry is no fault: it may have ended a moment ago.
pub(super) fn remove(
    view: &View,
    (name, entry): (&str, &str),
    query: Option<&str>,
    by: RequestOrigin,
) -> Result<String, ListRefusal> {
    let list = find(view, name)?;
    let entry: IpPrefix = entry.parse()?;
    if query.is_some() {
        return Err(ListRefusal::Query("nothing".to_owned()));
    }
    let (result, text) = if list.kept.additions.remove(entry, Instant::now()) {
        tracing::info!(list = name, %entry, result = "removed", %by, "an entry was removed from a list");
        ("removed", format!("{entry} was removed from list {name}, by {by}"))
    } else {
        tracing::info!(list = name, %entry, result = "absent", %by, "an entry to remove is not in the list");
        ("absent", format!("{entry} is not in list {name}, and was not removed, by {by}"))
    };
    view.events.note(EventKind::List, Severity::Info, text);
    Ok(json::page(&ListChange { list: name, entry: entry.to_string(), result, ttl_seconds: None }))
}

fn find(view: &View, name: &str) -> Result<Arc<List>, ListRefusal> {
    view.snapshot.load().lists.get(name).cloned().ok_or(ListRefusal::NoList)
}

/// Returns the value of the one parameter that a query may have.
fn value(query: Option<&str>, word: &'static str) -> Result<Option<String>, ListRefusal> {
    values(query, [word]).map(|[value]| value)
}

/// Returns the values of the parameters that a query may have.
fn values<const COUNT: usize>(
    query: Option<&str>,
    words: [&'static str; COUNT],
) -> Result<[Option<String>; COUNT], ListRefusal> {
    query::values(query, words).map_err(|fault| match fault {
        QueryFault::Other => ListRefusal::Query(words.join(" and ")),
        QueryFault::Escape => ListRefusal::Escape,
    })
}

fn status(list: &List) -> ListStatus<'_> {
    let file = list.file();
    let loaded = Some(list.kept.loaded())
        .filter(|millis| *millis > 0)
        .map(|millis| json::rfc3339(UNIX_EPOCH + Duration::from_millis(millis)));
    ListStatus {
        name: &list.name,
        entries: Entries {
            written: list.written(),
            file: file.map_or(0, |(_, count)| count),
            added: list.kept.additions.count(Instant::now()),
        },
        file: file.map(|(source, _)| source.path.display().to_string()),
        countries: file
            .map_or(&[][..], |(source, _)| &source.countries)
            .iter()
            .map(Country::to_string)
            .collect(),
        last_load: loaded,
        loads: list.kept.loads(),
        failed_loads: list.kept.failed_loads(),
        empty_loads: list.kept.empty_loads(),
        refusals: list.kept.refusals(),
    }
}

fn reason(listed: &Listed, now: Instant) -> MembershipReason {
    match listed {
        Listed::Written(span) => {
            MembershipReason { part: "entries", entry: span.to_string(), ttl_seconds: None }
        }
        Listed::File(span) => MembershipReason { part: "file", entry: span.to_string(), ttl_seconds: None },
        Listed::Added(entry, end) => {
            MembershipReason { part: "added", entry: entry.to_string(), ttl_seconds: left(*end, now) }
        }
    }
}

/// Returns the seconds left, rounded up.
fn left(end: Option<Instant>, now: Instant) -> Option<u64> {
    end.map(|end| end.saturating_duration_since(now).as_millis().div_ceil(1000) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seconds_left_are_rounded_up() {
        let now = Instant::now();
        let check = |millis: u64, expected: u64| {
            assert_eq!(left(Some(now + Duration::from_millis(millis)), now), Some(expected), "{millis}");
        };
        check(0, 0);
        check(1, 1);
        check(1000, 1);
        check(1001, 2);
        assert_eq!(left(None, now), None);
    }
}
