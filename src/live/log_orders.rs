//! Orders the interval records of a worker's open connections, by a task that walks the registry in slices.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::intervals::LogRound;
use super::registry::ConnectionRegistry;
use crate::executor::{self, yield_now};

/// Orders the interval records that are due: the task of each such connection gets a command. The worker calls it at
/// each [`TICK`](super::TICK). `interval` is the time from one record of an open relay to the next; `None` is no such
/// records.
///
/// # Panics
///
/// On a thread without an executor.
pub fn order(registry: &Rc<ConnectionRegistry>, interval: Option<Duration>) {
    if let Some(round) = registry.begin_log_round(interval) {
        executor::spawn(order_all(Rc::clone(registry), round));
    }
}

async fn order_all(registry: Rc<ConnectionRegistry>, round: LogRound) {
    let now = Instant::now();
    let walk = registry.walk(now);
    while walk.visit(|entry, _| entry.order_log(now, round)) {
        yield_now().await;
    }
    drop(walk);
    registry.end_log_round();
}
