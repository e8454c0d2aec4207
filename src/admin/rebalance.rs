//! The page /api/v1/rebalance: closes the connections of a pool that would go to another backend now.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::guard::RequestOrigin;
use super::json;
use super::query::{self, FASTEST, QueryFault};
use super::reload::share;
use super::unknown::unknown;
use crate::live::ClosePace;
use crate::server::{EventKind, RebalanceRefusal, RebalanceRequest, Severity, View};

/// The largest part of a pool's connections that is closed without `most`.
const MOST: f64 = 0.1;

/// The reason for which a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum RebalanceFault {
    /// The query has other parameters, or lacks the pool.
    #[error(
        "the query takes: pool, and each once rate (such as 20/s), most (such as 10%) and dry_run (true or false)"
    )]
    Query,
    /// The query has a broken escape.
    #[error(
        "in a query, % must come before two hexadecimal digits, and the bytes must be UTF-8: write 10%25 for 10%"
    )]
    Escape,
    /// The text is no percentage.
    #[error("`most` must be a percentage from 0% to 100%, such as 10%")]
    Share,
    /// The pace is not a number of connections in a time.
    #[error("`rate` must be a number from 1 to {FASTEST} with /s, /m or /h, such as 20/s")]
    Rate,
    /// There is no such pool.
    #[error("{0}")]
    Unknown(String),
    /// No connection is closed.
    #[error(transparent)]
    Refused(#[from] RebalanceRefusal),
}

/// The result of a request.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct RebalancePage {
    pool: String,
    /// The connected connections of the pool.
    open: u64,
    /// Those that are not where new ones would be. Without a dry run they are closed.
    misplaced: u64,
    /// True if these would go to another backend by their key; false if these are above the fair share of their backend.
    hashed: bool,
    /// The largest part that may be closed, 0 to 1.
    most: f64,
    /// True if no connection is closed.
    dry_run: bool,
    /// The time until the last connection is closed.
    takes_seconds: f64,
    /// The workers that did not answer in time. Their connections are not counted.
    silent_workers: usize,
}

/// Rebalances a pool. The query has `pool`, and may have `rate`, `most` and `dry_run`.
pub(super) async fn rebalance(
    view: &View,
    query: Option<&str>,
    by: RequestOrigin,
) -> Result<String, RebalanceFault> {
    let [name, rate, most, dry_run] =
        query::values(query, ["pool", "rate", "most", "dry_run"]).map_err(|fault| match fault {
            QueryFault::Other => RebalanceFault::Query,
            QueryFault::Escape => RebalanceFault::Escape,
        })?;
    let name = name.ok_or(RebalanceFault::Query)?;
    let interval = query::interval(rate.as_deref()).ok_or(RebalanceFault::Rate)?;
    let most = most.as_deref().map_or(Some(MOST), share).ok_or(RebalanceFault::Share)?;
    let is_dry_run = query::truth(dry_run.as_deref()).ok_or(RebalanceFault::Query)?;
    let pool = {
        let snapshot = view.snapshot.load();
        let found = snapshot.pools.get(&*name).map(|served| Arc::clone(&served.pool));
        found.ok_or_else(|| {
            let names = snapshot.pools.keys().map(|name| &**name);
            RebalanceFault::Unknown(unknown("pool", &name, "The pools are", names))
        })?
    };
    let pace = ClosePace::with_interval(interval);
    let done = view.rebalance(RebalanceRequest { pool, pace, most, is_dry_run }).await?;
    let takes = interval.mul_f64(done.misplaced as f64);
    if !is_dry_run && done.misplaced > 0 {
        note(view, &name, done.misplaced, done.open, takes, by);
    }
    Ok(json::page(&RebalancePage {
        pool: name,
        open: done.open,
        misplaced: done.misplaced,
        hashed: done.is_hashed,
        most,
        dry_run: is_dry_run,
        takes_seconds: takes.as_secs_f64(),
        silent_workers: done.silent_workers,
    }))
}

/// Logs that connections are closed.
fn note(view: &View, pool: &str, misplaced: u64, open: u64, takes: Duration, by: RequestOrigin) {
    let takes = humantime::format_duration(Duration::from_secs(takes.as_secs()));
    tracing::info!(pool, misplaced, open, %takes, %by, "an operator rebalances a pool: connections are closed one after the other");
    let text = format!(
        "pool {pool} is rebalanced: {misplaced} of {open} connections are closed within {takes}, by {by}"
    );
    view.events.note(EventKind::Connections, Severity::Info, text);
}
