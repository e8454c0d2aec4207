//! Lists, describes and closes open connections, at the request of an operator.
//!
//! Each worker walks its own registry and answers. The answers are merged here, on the control runtime.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::close_orders::TooManyOrders;
use super::view::View;
use crate::live::requests::ConnectionDetails;
use crate::live::{CloseOrder, ClosePace, ConnectionFilter, ConnectionPage, ConnectionQuery, ConnectionRow};
use crate::telemetry::CloseReason;
use crate::worker::WorkerHandle;

/// The time that a worker may take to answer. The answer of a slower worker is missing.
const ANSWER: Duration = Duration::from_secs(2);

/// The answers of the workers.
pub(super) struct Answers<T> {
    pub(super) given: Vec<T>,
    /// The workers that did not answer in time.
    pub(super) silent: usize,
}

/// A list of the connections of all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionList {
    /// The list.
    pub page: ConnectionPage,
    /// The workers that did not answer in time. Their connections are missing.
    pub silent_workers: usize,
}

/// The start of an order to close connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseStart {
    /// The connections that the order is about.
    pub matched: u64,
    /// The workers that did not answer in time. They may close more connections.
    pub silent_workers: usize,
}

/// The reason why a connection was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// No connection with this number is open.
    #[error("no open connection has this id; GET /api/v1/connections lists the open connections")]
    NotOpen,
    /// Workers did not answer in time, and the others do not have it.
    #[error(
        "{0} workers did not answer within 2 s, and the others do not have the connection; the log says which do not respond"
    )]
    Unanswered(usize),
}

impl View {
    /// Lists open connections.
    pub async fn list_connections(&self, query: ConnectionQuery) -> ConnectionList {
        let answers = self.ask_workers(|worker| worker.list_connections(query.clone())).await;
        let page = ConnectionPage::merge(answers.given, query.sort, query.limit);
        ConnectionList { page, silent_workers: answers.silent }
    }

    /// Describes the connection with this number.
    ///
    /// # Errors
    ///
    /// The reason why it was not found.
    pub async fn describe_connection(&self, id: u64) -> Result<ConnectionDetails, NotFound> {
        self.find(|worker| worker.describe_connection(id)).await
    }

    /// Closes the connection with this number, and returns it as it was.
    ///
    /// # Errors
    ///
    /// The reason why it was not found.
    pub async fn close_connection(&self, id: u64) -> Result<ConnectionRow, NotFound> {
        self.find(|worker| worker.close_connection(id)).await
    }

    /// Begins to close the connections that pass a filter now, one after the other.
    ///
    /// # Errors
    ///
    /// As many orders as may be are being carried out.
    pub async fn close_connections(
        &self,
        filter: ConnectionFilter,
        pace: Arc<ClosePace>,
    ) -> Result<CloseStart, TooManyOrders> {
        self.carry_out(CloseOrder::new(Box::new(filter), CloseReason::ClosedByOperator, pace, u64::MAX)).await
    }

    /// Begins to carry out an order.
    pub(super) async fn carry_out(&self, order: Arc<CloseOrder>) -> Result<CloseStart, TooManyOrders> {
        self.close_orders.add(&order)?;
        Ok(self.give_order(&order).await)
    }

    /// Sends an order to the workers.
    pub(super) async fn give_order(&self, order: &Arc<CloseOrder>) -> CloseStart {
        let answers = self.ask_workers(|worker| worker.close_in_order(Arc::clone(order))).await;
        CloseStart { matched: answers.given.iter().sum(), silent_workers: answers.silent }
    }

    /// Cancels all orders to close connections. Returns their number. Connections whose turn has not come stay open.
    pub fn cancel_close_orders(&self) -> usize {
        self.close_orders.cancel_all()
    }

    /// Sends a request to every worker and waits for the answers. A worker without an answer drops the channel.
    pub(super) async fn ask_workers<T>(
        &self,
        ask: impl Fn(&WorkerHandle) -> oneshot::Receiver<T>,
    ) -> Answers<T> {
        let asked: Vec<_> = self.inboxes.iter().map(ask).collect();
        let deadline = Instant::now() + ANSWER;
        let mut answers = Answers { given: Vec::with_capacity(asked.len()), silent: 0 };
        for answer in asked {
            match timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => answers.given.push(answer),
                Ok(Err(_)) => {}
                Err(_) => answers.silent += 1,
            }
        }
        answers
    }

    /// Returns the answer of the worker that has a connection. A second round finds a connection that moved from one worker
    /// to another in the first.
    async fn find<T>(&self, ask: impl Fn(&WorkerHandle) -> oneshot::Receiver<T>) -> Result<T, NotFound> {
        for _ in 0..2 {
            let mut answers = self.ask_workers(&ask).await;
            match answers.given.pop() {
                Some(found) => return Ok(found),
                None if answers.silent > 0 => return Err(NotFound::Unanswered(answers.silent)),
                None => {}
            }
        }
        Err(NotFound::NotOpen)
    }
}
