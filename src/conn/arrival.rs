//! The arrival of a connection in a worker: after its accept, or from another worker.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::accepted::{AcceptedConnection, AdmittedConnection, HeldPolicy};
use super::context::WorkerContext;
use super::migration::{Migration, MigrationContent, StoppedRelay};
use super::record::{self, ConnectionRecord};
use super::{admission, list_access};
use crate::live::WorkerSlot;
use crate::relay::Relay;
use crate::snapshot::Protocol;

/// An admitted connection in the worker that serves it.
pub(super) struct ArrivedConnection {
    pub(super) client: OwnedFd,
    pub(super) policy: HeldPolicy,
    pub(super) record: ConnectionRecord,
    pub(super) context: Rc<WorkerContext>,
}

/// A connection that another worker sent, in this worker.
pub(super) enum TakenConnection {
    /// Nothing was read from it.
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
    let entry = context.registry.register(id, policy.number, worker_slot, Arc::clone(&policy.metrics));
    entry.set_client(&accepted.peer);
    entry.set_reading(matches!(policy.protocol, Protocol::Tls(_)));
    let mut record = ConnectionRecord::begin(accepted.peer, &policy, entry, context);
    record.hold(permit);
    ArrivedConnection {
        client: accepted.socket,
        policy: HeldPolicy { through, current: policy },
        record,
        context: Rc::clone(context),
    }
}

/// Takes a connection that another worker sent. Returns `None`, after the connection was closed, if that fails.
pub(super) fn take(migration: Migration, context: &Rc<WorkerContext>) -> Option<TakenConnection> {
    let Migration { worker_slot, content } = migration;
    match content {
        MigrationContent::Admitted(admitted) => {
            Some(TakenConnection::Arrived(begin(*admitted, worker_slot, context)))
        }
        MigrationContent::Relay(stopped_relay) => {
            let (relay, record) = stopped_relay.attach(worker_slot, context)?;
            Some(TakenConnection::Relay(relay, record))
        }
    }
}

/// Sends a connection to another worker.
///
/// # Errors
///
/// Returns the connection, with a place in this worker, if the other worker has ended.
pub(super) fn send(worker: usize, relay: Relay, record: ConnectionRecord) -> Result<(), Migration> {
    let context = record.context();
    let Some(stopped_relay) = StoppedRelay::detach(relay, record) else { return Ok(()) };
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
