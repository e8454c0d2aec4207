//! Sends connections of this worker to the queue of the successor.

use std::rc::Rc;
use std::time::Instant;

use super::accepted::HeldPolicy;
use super::arrival;
use super::context::WorkerContext;
use super::leaving::LeavingConnection;
use super::migration::{Migration, MigrationContent, StoppedReading};
use super::reading::StoppedClient;
use super::record::ConnectionRecord;
use crate::relay::Relay;

/// Sends a relay to the queue of the successor. Without a hand-over it goes on in this worker.
pub(super) fn send_relay(relay: Relay, record: ConnectionRecord) {
    let context = record.context();
    let worker_slot = context.registry.worker_slot();
    if let Some(stopped) = arrival::detach(relay, record) {
        let migration = Migration { worker_slot, content: MigrationContent::Relay(stopped) };
        send(migration, &context);
    }
}

/// Sends a client whose first bytes are being read to the queue of the successor. Without a hand-over the reading goes
/// on in this worker.
pub(super) fn send_reading(client: StoppedClient, policy: HeldPolicy, record: ConnectionRecord) {
    let context = record.context();
    let worker_slot = context.registry.worker_slot();
    let stopped = StoppedReading { client, policy, record: record.detach() };
    let migration = Migration { worker_slot, content: MigrationContent::Reading(Box::new(stopped)) };
    send(migration, &context);
}

/// Adds a connection to the queue of this worker. If there is no open queue, the connection goes on in this worker.
fn send(migration: Migration, context: &Rc<WorkerContext>) {
    let connection = LeavingConnection { worker: context.registry.worker(), migration, left: Instant::now() };
    let queue = context.leaving.borrow().clone();
    let returned = match queue {
        Some(queue) => queue.push(connection).err(),
        None => Some(Box::new(connection)),
    };
    if let Some(connection) = returned {
        crate::conn::take_over(connection.migration, context);
    }
}
