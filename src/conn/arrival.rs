//! The arrival of a connection in a worker: after its accept, or from another worker.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::accepted::{AcceptedConnection, AdmittedConnection, HeldPolicy};
use super::context::WorkerContext;
use super::migration::{Migration, MigrationContent, StoppedReading, StoppedRelay};
use super::reading::{self, FirstBytes, StoppedClient};
use super::record::{self, ConnectionRecord};
use super::{admission, list_access};
use crate::live::WorkerSlot;
use crate::relay::{Relay, RelayParts};
use crate::sys::{Stream, socket};
use crate::telemetry::CloseReason;

/// An admitted connection in the worker that serves it.
pub(super) struct ArrivedConnection {
    pub(super) client: OwnedFd,
    /// The bytes that were read before.
    pub(super) first: FirstBytes,
    pub(super) policy: HeldPolicy,
    pub(super) record: ConnectionRecord,
    pub(super) context: Rc<WorkerContext>,
}

/// A connection from another worker, now in this worker.
pub(super) enum TakenConnection {
    /// Its first bytes are to be read.
    Arrived(ArrivedConnection),
    /// Its backend is connected.
    Relay(Relay, ConnectionRecord),
}

/// Admits a connection, or refuses it. A refused connection holds no permit.
pub(super) fn admit(arrival: AcceptedConnection, context: &WorkerContext) -> Option<AdmittedConnection> {
    let AcceptedConnection { accepted, policy, .. } = &arrival;
    let id = context.bounds.next_id.fetch_add(1, Ordering::Relaxed);
    let listed = list_access::peer(&accepted.peer, policy);
    match listed.and_then(|()| admission::peer(&accepted.peer, policy, context)) {
        Ok(permit) => Some(AdmittedConnection { arrival, id, permit }),
        Err(reason) => {
            let AcceptedConnection { accepted, policy, .. } = arrival;
            record::refused(id, accepted.peer, reason, &policy, context);
            match listed {
                Ok(()) => admission::refuse_early(accepted.socket, reason, &policy, context),
                Err(_) => list_access::refuse_early(&accepted.socket, &policy),
            }
            None
        }
    }
}

/// Begins a connection in this worker. If another worker has far fewer connections, sends it there instead and
/// returns `None`.
pub(super) fn place(admitted: AdmittedConnection, context: &Rc<WorkerContext>) -> Option<ArrivedConnection> {
    let Some((worker, worker_slot)) = context.registry.worker_slot_elsewhere() else {
        return Some(begin(admitted, context.registry.worker_slot(), context));
    };
    let migration = Migration { worker_slot, content: MigrationContent::Admitted(Box::new(admitted)) };
    match context.migration_senders.send(worker, migration) {
        Err(Migration { content: MigrationContent::Admitted(admitted), .. }) => {
            Some(begin(*admitted, context.registry.worker_slot(), context))
        }
        _ => {
            context.metrics.process().accepted_moved.increment(1);
            None
        }
    }
}

/// Begins a connection in this worker.
pub(super) fn begin(
    admitted: AdmittedConnection,
    worker_slot: WorkerSlot,
    context: &Rc<WorkerContext>,
) -> ArrivedConnection {
    let AdmittedConnection { arrival: AcceptedConnection { accepted, through, policy }, id, permit } =
        admitted;
    let entry = context.registry.register(id, policy.listener_id, worker_slot, Arc::clone(&policy.metrics));
    entry.set_client(&accepted.peer);
    entry.set_reading(policy.protocol.first_bytes().is_some());
    let record = ConnectionRecord::begin(accepted.peer, &policy, permit, entry, context);
    ArrivedConnection {
        client: accepted.socket,
        first: FirstBytes::default(),
        policy: HeldPolicy { through, current: policy },
        record,
        context: Rc::clone(context),
    }
}

/// Takes a connection that another worker sent. If this fails, closes the connection and returns `None`.
pub(super) fn take(migration: Migration, context: &Rc<WorkerContext>) -> Option<TakenConnection> {
    let Migration { worker_slot, content } = migration;
    match content {
        MigrationContent::Admitted(admitted) => {
            Some(TakenConnection::Arrived(begin(*admitted, worker_slot, context)))
        }
        MigrationContent::Reading(stopped) => {
            let StoppedReading { client: StoppedClient { client, first }, policy, record } = *stopped;
            let record = ConnectionRecord::attach(record, worker_slot, context);
            record.entry().set_reading(policy.current.protocol.first_bytes().is_some());
            let context = Rc::clone(context);
            Some(TakenConnection::Arrived(ArrivedConnection { client, first, policy, record, context }))
        }
        MigrationContent::Relay(stopped_relay) => {
            let (relay, record) = attach(*stopped_relay, worker_slot, context)?;
            Some(TakenConnection::Relay(relay, record))
        }
    }
}

/// Sends a connection to another worker.
///
/// # Errors
///
/// If the other worker has ended, returns the connection, with a worker slot of this worker.
pub(super) fn send(worker: usize, relay: Relay, record: ConnectionRecord) -> Result<(), Migration> {
    let context = record.context();
    let Some(stopped_relay) = detach(relay, record) else { return Ok(()) };
    let migration = Migration {
        worker_slot: context.registry.worker_slot_at(worker),
        content: MigrationContent::Relay(stopped_relay),
    };
    match context.migration_senders.send(worker, migration) {
        Err(Migration { content, .. }) => {
            Err(Migration { worker_slot: context.registry.worker_slot(), content })
        }
        Ok(()) => {
            context.metrics.process().streams_moved.increment(1);
            Ok(())
        }
    }
}

/// Takes a stopped relay out of this worker. Returns `None` if the connection was lost.
///
/// If the bytes in a pipe cannot be read back, the connection is lost, and both sides get a reset.
pub(super) fn detach(relay: Relay, record: ConnectionRecord) -> Option<Box<StoppedRelay>> {
    let settings = relay.settings();
    let RelayParts { client, backend, from_client, from_backend } = match relay.stop() {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!(%error, "a connection was lost when it left its worker");
            record.close(CloseReason::Internal);
            return None;
        }
    };
    let (client, backend) = (client.into_fd(), backend.into_fd());
    let record = record.detach();
    Some(Box::new(StoppedRelay { client, backend, from_client, from_backend, settings, record }))
}

/// Registers a stopped relay in this worker. If this fails, closes the connection and returns `None`.
fn attach(
    stopped_relay: StoppedRelay,
    worker_slot: WorkerSlot,
    context: &Rc<WorkerContext>,
) -> Option<(Relay, ConnectionRecord)> {
    let StoppedRelay { client, backend, from_client, from_backend, settings, record } = stopped_relay;
    let record = ConnectionRecord::attach(record, worker_slot, context);
    let (client, backend) = match (Stream::register(client), Stream::register(backend)) {
        (Ok(client), Ok(backend)) => (client, backend),
        (client, backend) => {
            let mut reason = CloseReason::Internal;
            for stream in [client, backend] {
                match stream {
                    Ok(stream) => _ = socket::reset_on_close(&stream),
                    Err(error) => reason = reading::unregistered(&error),
                }
            }
            record.close(reason);
            return None;
        }
    };
    let parts = RelayParts { client, backend, from_client, from_backend };
    Some((Relay::new(parts, settings, Rc::clone(&context.engines)), record))
}
