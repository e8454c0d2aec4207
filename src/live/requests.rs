//! The requests of an operator to the registry of a worker: list, find, describe, close.
//!
//! Each is a task of the worker that walks the registry in slices of 512 connections. After each slice it gives the other
//! tasks a turn, so a walk delays no byte by more than one slice takes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::closing::{CloseCause, CloseOrder, CloseQueue};
use super::command::ConnectionCommand;
use super::entry::ConnectionEntry;
use super::legs::ConnectionLegs;
use super::listing::{MOST_LISTED, OpenConnections};
use super::page::{ConnectionPage, ConnectionQuery, PageBuilder};
use super::registry::ConnectionRegistry;
use super::stage::OpenStage;
use super::view::ConnectionRow;
use crate::executor::{timeout_at, yield_now};
use crate::telemetry::CloseReason;

/// The time in which the task of a connection answers a request for its sockets. It has a turn at once, unless the
/// worker is overloaded.
const DESCRIBING: Duration = Duration::from_millis(500);

/// A connection with its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionDetails {
    /// Its names and figures.
    pub row: ConnectionRow,
    /// Its sockets; `None` until its backend is connected, and if its task did not answer.
    pub legs: Option<ConnectionLegs>,
}

/// Lists connections.
pub async fn list(
    registry: Rc<ConnectionRegistry>,
    query: ConnectionQuery,
    to: oneshot::Sender<ConnectionPage>,
) {
    let mut page = PageBuilder::new(query);
    let walk = registry.walk(page.now());
    // A request that timed out needs no more work.
    while !to.is_closed() && walk.visit(|_, view| page.see(view)) {
        yield_now().await;
    }
    let _ = to.send(page.finish());
}

/// Sends the list of open connections, for the counts by source. A request that comes while another task makes the list
/// waits for the next list, so that many requests cost no more than one after the other.
pub async fn list_open(registry: Rc<ConnectionRegistry>, to: oneshot::Sender<OpenConnections>) {
    if !registry.add_listing(to) {
        return;
    }
    loop {
        let waiting = registry.take_listings();
        if waiting.is_empty() {
            return;
        }
        let mut listed = Vec::with_capacity(registry.len().min(MOST_LISTED));
        let walk = registry.walk(Instant::now());
        while walk.visit(|entry, _| {
            if listed.len() < MOST_LISTED {
                listed.push(entry.listed());
            }
        }) {
            yield_now().await;
        }
        let listed = Arc::new(listed);
        waiting.into_iter().for_each(|to| _ = to.send(Arc::clone(&listed)));
    }
}

/// Describes the connection with this number. The sender is dropped if this worker does not have it.
pub async fn describe(registry: Rc<ConnectionRegistry>, id: u64, to: oneshot::Sender<ConnectionDetails>) {
    let Some((entry, row)) = find(&registry, id).await else { return };
    let legs = match row.stage {
        OpenStage::Relaying => {
            let described = registry.describe(&entry);
            timeout_at(Instant::now() + DESCRIBING, described).await.ok().and_then(Result::ok)
        }
        _ => None,
    };
    let _ = to.send(ConnectionDetails { row, legs });
}

/// Closes the connection with this number. The sender is dropped if this worker does not have it.
pub async fn close(registry: Rc<ConnectionRegistry>, id: u64, to: oneshot::Sender<ConnectionRow>) {
    if let Some((entry, row)) = find(&registry, id).await {
        entry.send_command(ConnectionCommand::Close(CloseReason::ClosedByOperator));
        let _ = to.send(row);
    }
}

/// Closes the connections of an order, each in its turn. `to` gets the number of connections that the order is about,
/// before the first turn. An order may have fewer places.
pub async fn close_in_order(
    registry: Rc<ConnectionRegistry>,
    order: Arc<CloseOrder>,
    to: oneshot::Sender<u64>,
) {
    let queue = CloseQueue::new(CloseCause::Order(Arc::clone(&order)));
    let mut count = 0;
    let walk = registry.walk(Instant::now());
    while walk.visit(|entry, view| {
        if order.selects(view) {
            count += 1;
            // A connection that waits in another queue too is closed in its first turn.
            if order.take_place() {
                queue.add(entry);
            }
        }
    }) {
        yield_now().await;
    }
    drop(walk);
    let _ = to.send(count);
    queue.run();
}

/// Finds the connection with this number.
async fn find(registry: &Rc<ConnectionRegistry>, id: u64) -> Option<(Rc<ConnectionEntry>, ConnectionRow)> {
    let walk = registry.walk(Instant::now());
    let mut found = None;
    while found.is_none()
        && walk.visit(|entry, view| {
            if view.id == id {
                found = Some((Rc::clone(entry), view.row()));
            }
        })
    {
        yield_now().await;
    }
    found
}
