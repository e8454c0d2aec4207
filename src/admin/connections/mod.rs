//! The pages /api/v1/connections: the open connections, one of them with its sockets, and orders to close some.

mod page;
mod query;
mod verdict;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::guard::RequestOrigin;
use super::json;
use crate::live::{ClosePace, ConnectionQuery, ConnectionSort};
use crate::server::{ConnectionList, EventKind, NotFound, OverrideKey, OverrideKind, Severity, View};
pub(super) use page::list_page;
#[cfg(test)]
pub(super) use page::{DetailsPage, ListPage};
pub(super) use query::ConnectionRefusal;
use query::check_names;

/// The effect of the end of one connection.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct ClosedPage {
    id: u64,
    result: &'static str,
}

/// The effect of an order to close connections.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct OrderPage {
    /// The connections that pass the filter.
    matched: u64,
    /// True if no connection is closed.
    dry_run: bool,
    /// The time until the last connection is closed.
    takes_seconds: f64,
    /// The workers that did not answer in time. Their connections are not counted.
    silent_workers: usize,
}

/// Lists connections.
pub(super) async fn list(view: &View, query: Option<&str>) -> Result<ConnectionList, ConnectionRefusal> {
    let snapshot = view.snapshot.load_full();
    let query = query::list(query, &snapshot)?;
    let filter = query.filter.clone();
    let list = view.list_connections(query).await;
    if list.page.matched == 0 {
        check_names(&filter, &snapshot)?;
    }
    Ok(list)
}

/// Describes one connection.
pub(super) async fn one(view: &View, id: &str) -> Result<String, ConnectionRefusal> {
    let details = view.describe_connection(number(id)?).await?;
    let pool = details.row.card.pool.as_deref().unwrap_or_default();
    let pause = view.overrides.get(&OverrideKey::of_pool(OverrideKind::Pause, pool));
    Ok(page::details(details, pause.as_ref().map(|set| &*set.by)))
}

/// Closes one connection.
pub(super) async fn kill(view: &View, id: &str, by: RequestOrigin) -> Result<String, ConnectionRefusal> {
    let closed = view.close_connection(number(id)?).await?;
    let (id, client, listener) = (closed.id, page::client(closed.client), &closed.listener);
    let (pool, backend) = (closed.card.pool.as_deref(), closed.card.backend.as_deref());
    tracing::info!(id, client, %listener, pool, backend, %by, "an operator closed a connection");
    let text = format!("connection {id} of client {client} at listener {listener} was closed, by {by}");
    view.events.note(EventKind::Connections, Severity::Info, text);
    Ok(json::page(&ClosedPage { id, result: "closed" }))
}

/// Closes the connections of a filter, one after the other.
pub(super) async fn close(
    view: &View,
    query: Option<&str>,
    by: RequestOrigin,
) -> Result<String, ConnectionRefusal> {
    let snapshot = view.snapshot.load_full();
    let request = query::close(query, &snapshot)?;
    let (filter, interval) = (request.filter.clone(), request.interval);
    let (matched, silent_workers) = match request.is_dry_run {
        true => {
            let (filter, sort, now) = (request.filter, ConnectionSort::default(), Instant::now());
            let list = view.list_connections(ConnectionQuery { filter, sort, limit: 1, now }).await;
            (list.page.matched, list.silent_workers)
        }
        false => {
            let start = view.close_connections(request.filter, ClosePace::with_interval(interval)).await?;
            (start.matched, start.silent_workers)
        }
    };
    if matched == 0 {
        check_names(&filter, &snapshot)?;
    }
    let takes = interval.mul_f64(matched as f64);
    if !request.is_dry_run && (matched > 0 || silent_workers > 0) {
        note(view, query.unwrap_or_default(), matched, takes, by);
    }
    let takes_seconds = takes.as_secs_f64();
    Ok(json::page(&OrderPage { matched, dry_run: request.is_dry_run, takes_seconds, silent_workers }))
}

/// Cancels all orders to close connections.
pub(super) fn cancel(view: &View, by: RequestOrigin) -> String {
    let cancelled = view.cancel_close_orders();
    if cancelled > 0 {
        tracing::info!(cancelled, %by, "an operator cancelled the orders to close connections");
        let text = format!("{cancelled} orders to close connections were cancelled, by {by}");
        view.events.note(EventKind::Connections, Severity::Info, text);
    }
    json::page(&CancelPage { cancelled })
}

/// The page of cancelled orders.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct CancelPage {
    /// The orders that were being carried out.
    cancelled: usize,
}

/// Logs an order to close connections.
fn note(view: &View, query: &str, matched: u64, takes: Duration, by: RequestOrigin) {
    let seconds = takes.as_secs();
    tracing::info!(filter = query, matched, seconds, %by, "an operator closes connections, one after the other");
    let text = format!("{matched} connections ({query}) are closed within {seconds} s, by {by}");
    view.events.note(EventKind::Connections, Severity::Info, text);
}

/// Returns the number of a connection.
fn number(id: &str) -> Result<u64, ConnectionRefusal> {
    let is_number = id.bytes().all(|byte| byte.is_ascii_digit());
    id.parse().ok().filter(|_| is_number).ok_or_else(|| ConnectionRefusal::Id(id.into()))
}

impl ConnectionRefusal {
    /// Returns true if no such connection is open.
    pub(super) fn is_of_a_missing_connection(&self) -> bool {
        matches!(self, Self::NotFound(NotFound::NotOpen))
    }

    /// Returns true if the request is right, and cannot be done now.
    pub(super) fn is_of_a_busy_process(&self) -> bool {
        matches!(self, Self::NotFound(NotFound::Unanswered(_)))
    }
}
