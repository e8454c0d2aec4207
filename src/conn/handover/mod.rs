//! Connections on their way to another program: a successor takes over the connections of this program.
//!
//! A connection leaves its worker for the [`LeavingQueue`]. The session thread takes it from there, sends it
//! ([`LeavingConnection::message`]), and waits for the acknowledgement. Until then the connection can be given back to
//! its worker. In the successor an [`Adopter`] makes a migration of the message, and a worker takes the migration as it
//! takes those of other workers.

mod adopt;
mod leave;
mod queue;
mod words;

use super::accepted::HeldPolicy;
use super::arrival;
use super::migration::{Migration, MigrationContent, StoppedReading};
use super::reading::StoppedClient;
use super::record::ConnectionRecord;
use crate::relay::Relay;

pub use adopt::{AdoptFault, AdoptedConnections, Adopter, AdopterResources, DepartedListener, DepartedParts};
pub use leave::{BatchOptions, LeavingConnection, RouteNames};
pub use queue::LeavingQueue;

/// Sends a relay to the queue of the successor. Without a hand-over it goes on in this worker.
pub(super) fn send_relay(relay: Relay, record: ConnectionRecord) {
    let context = record.context();
    let worker_slot = context.registry.worker_slot();
    if let Some(stopped) = arrival::detach(relay, record) {
        let migration = Migration { worker_slot, content: MigrationContent::Relay(stopped) };
        queue::send(migration, &context);
    }
}

/// Sends a client whose first bytes are being read to the queue of the successor. Without a hand-over the reading goes
/// on in this worker.
pub(super) fn send_reading(client: StoppedClient, policy: HeldPolicy, record: ConnectionRecord) {
    let context = record.context();
    let worker_slot = context.registry.worker_slot();
    let stopped = StoppedReading { client, policy, record: record.detach() };
    let migration = Migration { worker_slot, content: MigrationContent::Reading(Box::new(stopped)) };
    queue::send(migration, &context);
}
