//! Reads the query of a request about connections: the filter, the order, the limit, the pace.

use std::time::{Duration, Instant};

use crate::admin::query::{self, FASTEST, QueryFault};
use crate::admin::unknown::unknown;
use crate::config::did_you_mean;
use crate::live::{BackendFilter, ConnectionFilter, ConnectionQuery, ConnectionSort, NameGlob, OpenStage};
use crate::route::PrefixFault;
use crate::server::{NotFound, TooManyOrders};
use crate::snapshot::Snapshot;

/// The number of rows: the default, and the maximum.
const ROWS: usize = 100;
const MOST_ROWS: usize = 1000;

/// The parameters of a filter.
pub(super) const FILTERS: [&str; 8] =
    ["pool", "backend", "listener", "source", "sni", "stage", "older", "idle"];

/// The reason for which a request about connections is refused.
#[derive(Debug, thiserror::Error)]
pub(in crate::admin) enum ConnectionRefusal {
    /// The id is no number.
    #[error("{0:?} is not the id of a connection: an id is a number, as in GET /api/v1/connections")]
    Id(Box<str>),
    /// The connection is not open, or was not found in time.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The query has other parameters.
    #[error("the query may only have, each once and with a value: {0}")]
    Query(String),
    /// The query has a broken escape.
    #[error("in a query, % must come before two hexadecimal digits, and the bytes must be UTF-8")]
    Escape,
    /// The source is no network.
    #[error("`source` must be an address or a network such as 192.0.2.0/24: {0}")]
    Source(PrefixFault),
    /// The value is none of some words.
    #[error("`{key}` is {written:?}, and must be one of: {words}{}", suggestion(*.meant))]
    Word {
        /// The parameter.
        key: &'static str,
        /// Its value.
        written: Box<str>,
        /// The words that it may have.
        words: String,
        /// The word that was probably meant.
        meant: Option<&'static str>,
    },
    /// The text is no duration.
    #[error("`{0}` must be a duration such as 10m, 1h or 2days")]
    Duration(&'static str),
    /// The limit is out of bounds.
    #[error("`limit` must be a number from 1 to {MOST_ROWS}")]
    Limit,
    /// The pace is not a number of connections in a time.
    #[error("`rate` must be a number from 1 to {FASTEST} with /s, /m or /h, such as 20/s")]
    Rate,
    /// The value is neither true nor false.
    #[error("`dry_run` must be true or false")]
    DryRun,
    /// An order to close connections has no filter.
    #[error(
        "the order has no filter, so it would close every connection: use at least one of {}; older=0s matches every \
         connection",
        FILTERS.join(", ")
    )]
    NoFilter,
    /// Nothing has the name that the filter has.
    #[error("{0}; no open connection has this name either")]
    Unknown(String),
    /// Too many orders are being carried out.
    #[error(transparent)]
    TooManyOrders(#[from] TooManyOrders),
}

/// Returns the end of a message that names the word that was probably meant.
fn suggestion(meant: Option<&str>) -> String {
    meant.map_or_else(String::new, |meant| format!("; did you mean {meant:?}?"))
}

/// An order to close connections.
#[derive(Debug)]
pub(super) struct CloseRequest {
    pub(super) filter: ConnectionFilter,
    /// The time of one turn.
    pub(super) interval: Duration,
    pub(super) is_dry_run: bool,
}

/// Reads the request for a list.
pub(super) fn list(query: Option<&str>, snapshot: &Snapshot) -> Result<ConnectionQuery, ConnectionRefusal> {
    let [pool, backend, listener, source, sni, stage, older, idle, sort, limit] =
        values(query, with_filters(["sort", "limit"]))?;
    let filter = filter([pool, backend, listener, source, sni, stage, older, idle], snapshot)?;
    let sort = match sort {
        Some(written) => word("sort", &written, ConnectionSort::ALL.map(|sort| (sort.word(), sort)))?,
        None => ConnectionSort::default(),
    };
    let limit = match limit {
        Some(text) => text.parse().ok().filter(|limit| (1..=MOST_ROWS).contains(limit)),
        None => Some(ROWS),
    };
    Ok(ConnectionQuery { filter, sort, limit: limit.ok_or(ConnectionRefusal::Limit)?, now: Instant::now() })
}

/// Reads an order to close connections.
pub(super) fn close(query: Option<&str>, snapshot: &Snapshot) -> Result<CloseRequest, ConnectionRefusal> {
    let [pool, backend, listener, source, sni, stage, older, idle, rate, dry_run] =
        values(query, with_filters(["rate", "dry_run"]))?;
    let filter = filter([pool, backend, listener, source, sni, stage, older, idle], snapshot)?;
    if filter.is_empty() {
        return Err(ConnectionRefusal::NoFilter);
    }
    let interval = query::interval(rate.as_deref()).ok_or(ConnectionRefusal::Rate)?;
    let is_dry_run = query::truth(dry_run.as_deref()).ok_or(ConnectionRefusal::DryRun)?;
    Ok(CloseRequest { filter, interval, is_dry_run })
}

/// Returns the parameters of a filter and two more.
fn with_filters(more: [&'static str; 2]) -> [&'static str; FILTERS.len() + 2] {
    let mut words = FILTERS.into_iter().chain(more);
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

fn values<const COUNT: usize>(
    query: Option<&str>,
    words: [&'static str; COUNT],
) -> Result<[Option<String>; COUNT], ConnectionRefusal> {
    query::values(query, words).map_err(|fault| match fault {
        QueryFault::Other => ConnectionRefusal::Query(words.join(", ")),
        QueryFault::Escape => ConnectionRefusal::Escape,
    })
}

/// Returns the filter of these values, which are in the order of [`FILTERS`].
fn filter(
    values: [Option<String>; FILTERS.len()],
    snapshot: &Snapshot,
) -> Result<ConnectionFilter, ConnectionRefusal> {
    let [pool, backend, listener, source, sni, stage, older, idle] = values;
    let duration = |key: &'static str, text: Option<String>| {
        text.map(|text| humantime::parse_duration(&text).map_err(|_| ConnectionRefusal::Duration(key)))
            .transpose()
    };
    let stages = || OpenStage::ALL.map(|stage| (stage.word(), stage));
    Ok(ConnectionFilter {
        pool: pool.map(Into::into),
        backend: backend.map(|text| backend_filter(&text, snapshot)),
        listener: listener.map(Into::into),
        source: source.map(|text| text.parse()).transpose().map_err(ConnectionRefusal::Source)?,
        sni: sni.map(|text| NameGlob::new(&text)),
        stage: stage.map(|text| word("stage", &text, stages())).transpose()?,
        older: duration("older", older)?,
        idle: duration("idle", idle)?,
    })
}

/// Returns the filter for `POOL/BACKEND` or `BACKEND`. The name of a backend may be the path of a socket, so a slash
/// separates only behind the name of a pool.
fn backend_filter(text: &str, snapshot: &Snapshot) -> BackendFilter {
    match text.split_once('/').filter(|(pool, _)| snapshot.pools.contains_key(*pool)) {
        Some((pool, name)) => BackendFilter { pool: Some(pool.into()), name: name.into() },
        None => BackendFilter { pool: None, name: text.into() },
    }
}

/// Returns the value of a word.
fn word<T, const COUNT: usize>(
    key: &'static str,
    written: &str,
    words: [(&'static str, T); COUNT],
) -> Result<T, ConnectionRefusal> {
    let known = words.each_ref().map(|(word, _)| *word);
    let found = words.into_iter().find(|(word, _)| *word == written).map(|(_, value)| value);
    found.ok_or_else(|| ConnectionRefusal::Word {
        key,
        written: written.into(),
        words: known.join(", "),
        meant: did_you_mean(written, known),
    })
}

/// Checks the names of a filter that no connection passes. A name without a connection may be that of a thing that the
/// configuration has, or a mistake.
pub(super) fn check_names(filter: &ConnectionFilter, snapshot: &Snapshot) -> Result<(), ConnectionRefusal> {
    if let Some(pool) = &filter.pool {
        known("pool", pool, || snapshot.pools.keys().map(|name| &**name))?;
    }
    if let Some(listener) = &filter.listener {
        known("listener", listener, || snapshot.policies.values().map(|policy| &*policy.listener))?;
    }
    if let Some(backend) = &filter.backend {
        let is_of = |pool: &str| backend.pool.as_deref().is_none_or(|wanted| wanted == pool);
        known("backend", &backend.name, || {
            let pools = snapshot.pools.iter().filter(|(name, _)| is_of(name));
            pools.flat_map(|(_, served)| served.pool.backends()).map(|backend| &**backend.name())
        })?;
    }
    Ok(())
}

fn known<'n, N: Iterator<Item = &'n str>>(
    kind: &'static str,
    written: &str,
    names: impl Fn() -> N,
) -> Result<(), ConnectionRefusal> {
    if names().any(|name| name == written) {
        return Ok(());
    }
    // Backends of several pools may have one name.
    let unique: Vec<_> = names().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let list = format!("The {kind}s are");
    Err(ConnectionRefusal::Unknown(unknown(kind, written, &list, unique.iter().copied())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        list(Some(query), &Snapshot::default()).unwrap_err().to_string()
    }

    fn refused_order(query: &str) -> String {
        close(Some(query), &Snapshot::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_query_sets_each_part() {
        let query = "pool=p&backend=b&listener=l&source=192.0.2.0/24&sni=*.a&stage=reading&older=1h&idle=10m&\
                     sort=rate&limit=1000";
        let read = list(Some(query), &Snapshot::default()).unwrap();
        let expected = ConnectionFilter {
            pool: Some("p".into()),
            backend: Some(BackendFilter { pool: None, name: "b".into() }),
            listener: Some("l".into()),
            source: "192.0.2.0/24".parse().ok(),
            sni: Some(NameGlob::new("*.a")),
            stage: Some(OpenStage::Reading),
            older: Some(Duration::from_secs(3600)),
            idle: Some(Duration::from_secs(600)),
        };
        assert_eq!((read.filter, read.sort, read.limit), (expected, ConnectionSort::Rate, 1000));
        let read = list(None, &Snapshot::default()).unwrap();
        assert_eq!((read.filter.is_empty(), read.sort, read.limit), (true, ConnectionSort::Age, 100));
    }

    #[test]
    fn bad_values_are_refused_with_the_way_to_write_them() {
        let check = |query: &str, part: &str| {
            let refusal = refused(query);
            assert!(refusal.contains(part), "{query}: {refusal}");
        };
        check("limit=0", "`limit` must be a number from 1 to 1000");
        check("limit=1001", "`limit` must be");
        check("limit=x", "`limit` must be");
        check("older=1", "`older` must be a duration such as 10m");
        check("idle=ten", "`idle` must be a duration");
        check("sort=rat", "must be one of: age, bytes, rate, idle; did you mean \"rate\"?");
        check("stage=relayin", "reading, queued, dialing, refusing, relaying; did you mean \"relaying\"?");
        check("stage=zzz", "must be one of: reading, queued, dialing, refusing, relaying");
        check("source=192.0.2.1/24", "`source` must be an address or a network such as 192.0.2.0/24: ");
        check("source=example.com", "`source` must be");
        check("pol=a", "may only have, each once and with a value: pool, backend, listener");
        check("pool=a&pool=b", "may only have");
        check("sni=%zz", "% must come before");
        check("rate=20/s", "may only have");
    }

    #[test]
    fn an_order_needs_a_filter_and_has_a_pace() {
        let check = |rate: &str, millis: Option<u64>| {
            let read = close(Some(&format!("pool=p&rate={rate}")), &Snapshot::default());
            let found = read.ok().map(|read| read.interval);
            assert_eq!(found, millis.map(Duration::from_millis), "{rate}");
        };
        check("20/s", Some(50));
        check("1/s", Some(1000));
        check("30/m", Some(2000));
        check("1/h", Some(3_600_000));
        for wrong in ["0/s", "20", "20/d", "+20/s", "/s", "-1/s", "100001/s", "1.5/s", ""] {
            check(wrong, None);
        }
        assert_eq!(close(Some("pool=p"), &Snapshot::default()).unwrap().interval, Duration::from_millis(50));
        assert!(close(Some("pool=p&dry_run=true"), &Snapshot::default()).unwrap().is_dry_run);
        assert!(
            refused_order("rate=20/s").contains("would close every connection: use at least one of pool")
        );
        assert!(refused_order("").contains("older=0s matches every connection"));
        assert!(refused_order("pool=p&dry_run=yes").contains("`dry_run` must be true or false"));
        assert!(refused_order("pool=p&rate=fast").contains("such as 20/s"));
        assert!(refused_order("pool=p&limit=3").contains("rate, dry_run"));
    }

    #[test]
    fn an_unknown_name_is_refused_with_what_exists() {
        let names = || ["main", "mail", "other"].into_iter();
        assert!(known("pool", "main", names).is_ok());
        let refusal = known("pool", "mian", names).unwrap_err().to_string();
        assert_eq!(
            refusal,
            "there is no pool `mian`; did you mean `main`? The pools are: mail, main, other; no open connection has this name \
             either"
        );
    }
}
