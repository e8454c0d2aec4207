//! The pages /api/v1/overrides: what operators changed at run time, and the changes themselves.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::guard::RequestOrigin;
use super::json;
use super::query::{self, QueryFault};
use super::unknown::unknown;
use crate::pool::OperatorState;
use crate::server::{
    Override, OverrideChange, OverrideKey, OverrideKind, OverrideOutcome, OverrideRefusal, OverrideValue,
    View,
};
use crate::snapshot::Snapshot;

/// The longest time for which an override is set. The file is for longer times.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The reason for which a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum OverrideFault {
    /// The path names no kind of override.
    #[error("there is no override of this kind; the kinds are: state, weight, pause, leave, log")]
    Kind,
    /// A pool or backend does not exist.
    #[error("{0}")]
    Unknown(String),
    /// The query has other parameters, or lacks one.
    #[error("the query of this override takes: {0}")]
    Query(&'static str),
    /// The query has a broken escape.
    #[error("in a query, % must come before two hexadecimal digits, and the bytes must be UTF-8")]
    Escape,
    /// The text is no value of this kind.
    #[error("{0}")]
    Value(&'static str),
    /// The text is no duration, or out of bounds.
    #[error("`for` must be a duration such as 2h, above 0 and at most 366days")]
    Time,
    /// A pause has no end.
    #[error(
        "a pause needs `for`, such as for=60s: new connections wait, and a pause that is forgotten refuses them all"
    )]
    Endless,
    /// Control refuses the change.
    #[error(transparent)]
    Refused(#[from] OverrideRefusal),
}

/// An override in force.
#[derive(Debug, Serialize)]
pub(super) struct OverrideStatus {
    /// `state`, `weight`, `pause`, `leave` or `log`.
    pub(super) kind: &'static str,
    /// Null for `leave` and `log`.
    pub(super) pool: Option<String>,
    /// Null for `pause`, `leave` and `log`.
    pub(super) backend: Option<String>,
    /// The state, the weight, `paused`, `not ready` or the level.
    pub(super) value: String,
    /// RFC 3339, UTC.
    pub(super) since: String,
    /// The operator who set it.
    pub(super) by: String,
    /// Null for an override that an operator must end.
    pub(super) ends_in_seconds: Option<u64>,
    /// The open connections of the backend, the pool or the process; null if it does not exist now.
    pub(super) open: Option<u64>,
    /// The connections that wait in the queue of the pool; null without a pool.
    pub(super) waiting: Option<usize>,
}

/// The effect of a change.
#[derive(Debug, Serialize)]
struct OverrideResult {
    /// `set`, `replaced`, `ended` or `absent`.
    result: &'static str,
    kind: &'static str,
    pool: Option<String>,
    backend: Option<String>,
    value: Option<String>,
    ends_in_seconds: Option<u64>,
    open: Option<u64>,
}

/// Returns all overrides.
pub(super) fn all(view: &View) -> Vec<OverrideStatus> {
    let (snapshot, now) = (view.snapshot.load_full(), Instant::now());
    view.overrides.all().into_iter().map(|(key, set)| status(&key, &set, view, &snapshot, now)).collect()
}

/// Returns the whole page, with a line end.
pub(super) fn json(view: &View) -> String {
    json::page(&all(view))
}

/// Sets an override. The query has `pool`, `backend`, `value` and `for`, as far as the kind needs them.
pub(super) async fn set(
    view: &View,
    kind: &str,
    query: Option<&str>,
    by: RequestOrigin,
) -> Result<String, OverrideFault> {
    let kind = OverrideKind::of_word(kind).ok_or(OverrideFault::Kind)?;
    let [pool, backend, value, time] = values(kind, query, ["pool", "backend", "value", "for"])?;
    let takes_value = matches!(kind, OverrideKind::State | OverrideKind::Weight | OverrideKind::Log);
    if takes_value != value.is_some() {
        return Err(OverrideFault::Query(parameters(kind)));
    }
    if kind == OverrideKind::State && value.as_deref() == Some(OperatorState::Ready.word()) {
        let written = written(kind, pool.as_deref(), backend.as_deref());
        // A backend that is gone would be overridden again when it comes back.
        if view.overrides.get(&written).is_some() && key(view, kind, pool.clone(), backend.clone()).is_err() {
            let by = by.to_string().into();
            return change(view, OverrideChange { key: written, value: None, time: None, by }).await;
        }
    }
    let key = key(view, kind, pool, backend)?;
    let value = OverrideValue::of_text(kind, value.as_deref().unwrap_or_default()).ok_or(match kind {
        OverrideKind::Weight => OverrideFault::Value(
            "`value` must be a weight from 1 to 65535; a backend that is to get no new connections is drained instead",
        ),
        OverrideKind::Log => OverrideFault::Value("`value` must be error, warn, info, debug or trace"),
        _ => OverrideFault::Value("`value` must be drain, maintenance or ready"),
    })?;
    let time = time.map(|text| {
        let time = humantime::parse_duration(&text).map_err(|_| OverrideFault::Time)?;
        if time.is_zero() || time > LONGEST { Err(OverrideFault::Time) } else { Ok(time) }
    });
    let time = time.transpose()?;
    if kind == OverrideKind::Pause && time.is_none() {
        return Err(OverrideFault::Endless);
    }
    change(view, OverrideChange { key, value: Some(value), time, by: by.to_string().into() }).await
}

/// Ends an override. The query has `pool` and `backend`, as far as the kind needs them. An override that has ended is no
/// fault, and its pool or backend may be gone.
pub(super) async fn end(
    view: &View,
    kind: &str,
    query: Option<&str>,
    by: RequestOrigin,
) -> Result<String, OverrideFault> {
    let kind = OverrideKind::of_word(kind).ok_or(OverrideFault::Kind)?;
    let [pool, backend] = values(kind, query, ["pool", "backend"])?;
    let written = written(kind, pool.as_deref(), backend.as_deref());
    let key = match view.overrides.get(&written) {
        Some(_) => written,
        None => key(view, kind, pool, backend)?,
    };
    change(view, OverrideChange { key, value: None, time: None, by: by.to_string().into() }).await
}

/// Returns the key as a request has it. Its pool and its backend may not exist.
fn written(kind: OverrideKind, pool: Option<&str>, backend: Option<&str>) -> OverrideKey {
    OverrideKey { kind, pool: pool.unwrap_or_default().into(), backend: backend.unwrap_or_default().into() }
}

async fn change(view: &View, change: OverrideChange) -> Result<String, OverrideFault> {
    let key = change.key.clone();
    let outcome = view.override_part(change).await?;
    let set = match outcome {
        OverrideOutcome::Set | OverrideOutcome::Replaced => view.overrides.get(&key),
        OverrideOutcome::Ended | OverrideOutcome::Absent => None,
    };
    let now = Instant::now();
    let open = open(&key, view, &view.snapshot.load());
    Ok(json::page(&OverrideResult {
        result: outcome.word(),
        kind: key.kind.word(),
        pool: some(&key.pool),
        backend: some(&key.backend),
        value: set.as_ref().map(|set| set.value.to_string()),
        ends_in_seconds: set.as_ref().and_then(|set| seconds_left(set, now)),
        open,
    }))
}

/// Returns the key of an override. Its pool and its backend must exist.
fn key(
    view: &View,
    kind: OverrideKind,
    pool: Option<String>,
    backend: Option<String>,
) -> Result<OverrideKey, OverrideFault> {
    let (needs_pool, needs_backend) = match kind {
        OverrideKind::State | OverrideKind::Weight => (true, true),
        OverrideKind::Pause => (true, false),
        OverrideKind::Leave | OverrideKind::Log => (false, false),
    };
    if (pool.is_some(), backend.is_some()) != (needs_pool, needs_backend) {
        return Err(OverrideFault::Query(parameters(kind)));
    }
    let Some(pool) = pool else { return Ok(OverrideKey::of_process(kind)) };
    let snapshot = view.snapshot.load();
    let Some(served) = snapshot.pools.get(&*pool) else {
        let names = snapshot.pools.keys().map(|name| &**name);
        return Err(OverrideFault::Unknown(unknown("pool", &pool, "The pools are", names)));
    };
    let Some(backend) = backend else {
        return Ok(OverrideKey { kind, pool: pool.into(), backend: "".into() });
    };
    if served.pool.backend(&backend).is_none() {
        let names = served.pool.backends().iter().map(|backend| &**backend.name());
        let message = unknown("backend", &backend, "The backends of the pool are", names);
        return Err(OverrideFault::Unknown(message));
    }
    Ok(OverrideKey { kind, pool: pool.into(), backend: backend.into() })
}

/// Returns the parameters of a kind, for messages.
fn parameters(kind: OverrideKind) -> &'static str {
    match kind {
        OverrideKind::State => "pool, backend, value (drain, maintenance or ready), and for",
        OverrideKind::Weight => "pool, backend, value (a weight), and for",
        OverrideKind::Pause => "pool and for",
        OverrideKind::Leave => "only for",
        OverrideKind::Log => "value (error, warn, info, debug or trace), and for",
    }
}

fn values<const COUNT: usize>(
    kind: OverrideKind,
    query: Option<&str>,
    words: [&str; COUNT],
) -> Result<[Option<String>; COUNT], OverrideFault> {
    query::values(query, words).map_err(|fault| match fault {
        QueryFault::Other => OverrideFault::Query(parameters(kind)),
        QueryFault::Escape => OverrideFault::Escape,
    })
}

fn status(
    key: &OverrideKey,
    set: &Override,
    view: &View,
    snapshot: &Snapshot,
    now: Instant,
) -> OverrideStatus {
    OverrideStatus {
        kind: key.kind.word(),
        pool: some(&key.pool),
        backend: some(&key.backend),
        value: set.value.to_string(),
        since: rfc3339(set.since),
        by: set.by.to_string(),
        ends_in_seconds: seconds_left(set, now),
        open: open(key, view, snapshot),
        waiting: snapshot.pools.get(&key.pool).map(|served| served.pool.waiting()),
    }
}

/// Returns the open connections of the subject of an override.
fn open(key: &OverrideKey, view: &View, snapshot: &Snapshot) -> Option<u64> {
    if key.pool.is_empty() {
        return Some(view.bounds.connections.inside());
    }
    let pool = &snapshot.pools.get(&key.pool)?.pool;
    match key.kind {
        OverrideKind::Pause => Some(pool.backends().iter().map(|backend| backend.active()).sum()),
        _ => pool.backend(&key.backend).map(|backend| backend.active()),
    }
}

fn some(name: &str) -> Option<String> {
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// Returns the seconds left, rounded up.
pub(super) fn seconds_left(set: &Override, now: Instant) -> Option<u64> {
    let millis = set.left(now)?.as_millis();
    u64::try_from(millis.div_ceil(1000)).ok()
}

/// Returns a time in the form of RFC 3339, in UTC.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(UNIX_EPOCH)).to_string()
}
