//! The pages /api/v1/overrides: what operators changed at run time, and the changes themselves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::guard::RequestOrigin;
use super::json::{self, rfc3339};
use super::query::{self, QueryFault};
use super::unknown::unknown;
use crate::pool::OperatorState;
use crate::server::{
    Override, OverrideChange, OverrideKey, OverrideKind, OverrideOutcome, OverrideRefusal, OverrideValue,
    SplitShares, View,
};
use crate::snapshot::{Action, Snapshot};

/// The longest time for which an override is set. The file is for longer times.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The reason for which a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum OverrideFault {
    /// The path names no kind of override.
    #[error("there is no override of this kind; the kinds are: state, weight, pause, split, leave, log")]
    Kind,
    /// A pool, a backend, a listener or a route does not exist.
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
    /// The route refuses its connections.
    #[error("the route leads to no pool: it rejects or drops its connections")]
    NoPool,
    /// No other backend of the pool takes connections.
    #[error(
        "backend `{0}` is the last one of pool `{1}` that takes connections: without it new clients are refused. `force` takes it \
         out nevertheless (--force, or force=true in the API); `pause` lets new clients wait instead"
    )]
    Last(String, String),
    /// Control refuses the change.
    #[error(transparent)]
    Refused(#[from] OverrideRefusal),
}

/// An override in force.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct OverrideStatus {
    /// `state`, `weight`, `pause`, `split`, `leave` or `log`.
    pub(super) kind: &'static str,
    /// Null for `split`, `leave` and `log`.
    pub(super) pool: Option<String>,
    /// Null for the other kinds than `state` and `weight`.
    pub(super) backend: Option<String>,
    /// Null for the other kinds than `split`.
    pub(super) listener: Option<String>,
    /// Null for the other kinds than `split`.
    pub(super) route: Option<String>,
    /// The state, the weight, `paused`, the shares, `not ready` or the level.
    pub(super) value: String,
    /// RFC 3339, UTC.
    pub(super) since: String,
    /// The operator who set it.
    pub(super) by: String,
    /// Null for an override that an operator must end.
    pub(super) ends_in_seconds: Option<u64>,
    /// The open connections of the backend, the pool or the process; null if it does not exist now, and for `split`.
    pub(super) open: Option<u64>,
    /// The connections that wait in the queue of the pool; null without a pool.
    pub(super) waiting: Option<usize>,
}

/// The effect of a change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct OverrideResult {
    /// `set`, `replaced`, `ended` or `absent`.
    result: &'static str,
    kind: &'static str,
    pool: Option<String>,
    backend: Option<String>,
    listener: Option<String>,
    route: Option<String>,
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

/// Sets an override. The query has the parts of the subject, `value`, `for` and `force`, as far as the kind needs them.
pub(super) async fn set(
    view: &View,
    kind: &str,
    query: Option<&str>,
    by: RequestOrigin,
) -> Result<String, OverrideFault> {
    let kind = OverrideKind::of_word(kind).ok_or(OverrideFault::Kind)?;
    let [pool, backend, listener, route, value, time, force] =
        values(kind, query, ["pool", "backend", "listener", "route", "value", "for", "force"])?;
    let subject = WrittenSubject { pool, backend, listener, route };
    let takes_value = !matches!(kind, OverrideKind::Pause | OverrideKind::Leave);
    if takes_value != value.is_some() {
        return Err(OverrideFault::Query(parameters(kind)));
    }
    if kind == OverrideKind::State && value.as_deref() == Some(OperatorState::Ready.word()) {
        let written = subject.key(kind);
        // A backend that is gone would be overridden again when it comes back.
        if view.overrides.get(&written).is_some() && subject.existing(view, kind).is_err() {
            let by = by.to_string().into();
            return change(view, OverrideChange { key: written, value: None, time: None, by }).await;
        }
    }
    let key = subject.existing(view, kind)?;
    let value = OverrideValue::of_text(kind, value.as_deref().unwrap_or_default()).ok_or(match kind {
        OverrideKind::Weight => OverrideFault::Value(
            "`value` must be a weight from 1 to 65535; a backend that is to get no new connections is drained instead",
        ),
        OverrideKind::Log => OverrideFault::Value("`value` must be error, warn, info, debug or trace"),
        OverrideKind::Split => OverrideFault::Value(
            "`value` must have shares of pools, such as canary=10% or a=20%,b=30%: at most two decimals, each pool \
             once, at most 16 pools and 100 % in all; in a URL, % is written %25",
        ),
        _ => OverrideFault::Value("`value` must be drain, maintenance or ready"),
    })?;
    let forced = query::truth(force.as_deref()).ok_or(OverrideFault::Query(parameters(kind)))?;
    match &value {
        OverrideValue::Split(shares) => check_shares(view, shares)?,
        OverrideValue::State(OperatorState::Drain | OperatorState::Maintenance) if !forced => {
            check_last(view, &key)?;
        }
        _ => {}
    }
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

/// Ends an override. The query has the parts of the subject, as far as the kind needs them. An override that has ended is no
/// fault, and its pool or backend may be gone.
pub(super) async fn end(
    view: &View,
    kind: &str,
    query: Option<&str>,
    by: RequestOrigin,
) -> Result<String, OverrideFault> {
    let kind = OverrideKind::of_word(kind).ok_or(OverrideFault::Kind)?;
    let [pool, backend, listener, route] = values(kind, query, ["pool", "backend", "listener", "route"])?;
    let subject = WrittenSubject { pool, backend, listener, route };
    let written = subject.key(kind);
    let key = match view.overrides.get(&written) {
        Some(_) => written,
        None => subject.existing(view, kind)?,
    };
    change(view, OverrideChange { key, value: None, time: None, by: by.to_string().into() }).await
}

/// The subject of an override as a request has it. Its parts may not exist.
struct WrittenSubject {
    pool: Option<String>,
    backend: Option<String>,
    listener: Option<String>,
    route: Option<String>,
}

impl WrittenSubject {
    /// Returns the key of this subject.
    fn key(&self, kind: OverrideKind) -> OverrideKey {
        let name = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        OverrideKey {
            kind,
            pool: name(&self.pool),
            backend: name(&self.backend),
            listener: name(&self.listener),
            route: name(&self.route),
        }
    }

    /// Returns the key of this subject. Its parts must exist, and must be those that the kind needs.
    fn existing(&self, view: &View, kind: OverrideKind) -> Result<OverrideKey, OverrideFault> {
        let needed = match kind {
            OverrideKind::State | OverrideKind::Weight => [true, true, false, false],
            OverrideKind::Pause => [true, false, false, false],
            OverrideKind::Split => [false, false, true, true],
            OverrideKind::Leave | OverrideKind::Log => [false; 4],
        };
        let parts = [&self.pool, &self.backend, &self.listener, &self.route];
        if parts.map(|part| part.is_some()) != needed {
            return Err(OverrideFault::Query(parameters(kind)));
        }
        let snapshot = view.snapshot.load();
        if let Some(pool) = &self.pool {
            let Some(served) = snapshot.pools.get(&**pool) else {
                return Err(OverrideFault::Unknown(unknown_pool(pool, &snapshot)));
            };
            if let Some(backend) = self.backend.as_ref().filter(|name| served.pool.backend(name).is_none()) {
                let names = served.pool.backends().iter().map(|backend| &**backend.name());
                let message = unknown("backend", backend, "The backends of the pool are", names);
                return Err(OverrideFault::Unknown(message));
            }
        }
        if let (Some(listener), Some(route)) = (&self.listener, &self.route) {
            check_route(&snapshot, listener, route)?;
        }
        Ok(self.key(kind))
    }
}

fn unknown_pool(pool: &str, snapshot: &Snapshot) -> String {
    unknown("pool", pool, "The pools are", snapshot.pools.keys().map(|name| &**name))
}

/// Checks that a route exists and leads to pools.
fn check_route(snapshot: &Snapshot, listener: &str, route: &str) -> Result<(), OverrideFault> {
    let policies = || snapshot.policies.values();
    let Some(policy) = policies().find(|policy| *policy.listener == *listener) else {
        let names: BTreeSet<&str> = policies().map(|policy| &*policy.listener).collect();
        let names: Vec<_> = names.into_iter().collect();
        let message = unknown("listener", listener, "The listeners are", names.iter().copied());
        return Err(OverrideFault::Unknown(message));
    };
    let targets = || policy.protocol.routes().targets.iter();
    let Some(target) = targets().find(|target| *target.route == *route) else {
        let names = targets().map(|target| &*target.route);
        let message = unknown("route", route, "The routes of the listener are", names);
        return Err(OverrideFault::Unknown(message));
    };
    match target.action {
        Action::Pool(_) | Action::Split(_) => Ok(()),
        Action::Reject | Action::Drop => Err(OverrideFault::NoPool),
    }
}

/// Checks that a backend is not the last one that takes connections of its pool. During a pause of the pool it may be: new
/// connections wait, and a failover takes the old primary out of use before the new one is ready.
fn check_last(view: &View, key: &OverrideKey) -> Result<(), OverrideFault> {
    let snapshot = view.snapshot.load();
    let Some(served) = snapshot.pools.get(&key.pool) else { return Ok(()) };
    if served.pool.is_paused() {
        return Ok(());
    }
    let mut available = served.pool.backends().iter().filter(|backend| backend.is_available());
    let is_last =
        available.next().is_some_and(|only| *only.name() == key.backend) && available.next().is_none();
    match is_last {
        true => Err(OverrideFault::Last(key.backend.to_string(), key.pool.to_string())),
        false => Ok(()),
    }
}

/// Checks that the pools of a split exist.
fn check_shares(view: &View, shares: &SplitShares) -> Result<(), OverrideFault> {
    let snapshot = view.snapshot.load();
    match shares.pools().find(|pool| !snapshot.pools.contains_key(*pool)) {
        Some(pool) => Err(OverrideFault::Unknown(unknown_pool(pool, &snapshot))),
        None => Ok(()),
    }
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
        listener: some(&key.listener),
        route: some(&key.route),
        value: set.as_ref().map(|set| set.value.to_string()),
        ends_in_seconds: set.as_ref().and_then(|set| seconds_left(set, now)),
        open,
    }))
}

/// Returns the parameters of a kind, for messages.
fn parameters(kind: OverrideKind) -> &'static str {
    match kind {
        OverrideKind::State => "pool, backend, value (drain, maintenance or ready), for, and force=true",
        OverrideKind::Weight => "pool, backend, value (a weight), and for",
        OverrideKind::Pause => "pool and for",
        OverrideKind::Split => "listener, route, value (shares such as canary=10%), and for",
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
        listener: some(&key.listener),
        route: some(&key.route),
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
    match key.kind {
        OverrideKind::Leave | OverrideKind::Log => return Some(view.bounds.connections.inside()),
        OverrideKind::Split => return None,
        OverrideKind::State | OverrideKind::Weight | OverrideKind::Pause => {}
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
