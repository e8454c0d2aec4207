//! Moves connections from one worker to another.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::record::{ConnectionRecord, MigratingRecord};
use super::{AdmittedConnection, WorkerContext, reading};
use crate::live::WorkerSlot;
use crate::relay::{Engines, FlowStage, Relay, RelayParts, RelaySettings};
use crate::sys::{Stream, socket};
use crate::telemetry::CloseReason;

/// A connection that another worker is to serve, with its entry in that worker's registry.
pub struct Migration {
    pub(super) worker_slot: WorkerSlot,
    pub(super) content: MigrationContent,
}

pub(super) enum MigrationContent {
    /// A connection that was just accepted.
    Admitted(Box<AdmittedConnection>),
    /// A stopped relay.
    Relay(Box<StoppedRelay>),
}

/// A stopped relay that no reactor has registered.
pub(super) struct StoppedRelay {
    client: OwnedFd,
    backend: OwnedFd,
    from_client: (Vec<u8>, FlowStage),
    from_backend: (Vec<u8>, FlowStage),
    settings: RelaySettings,
    record: MigratingRecord,
}

/// The channels to all workers, indexed by worker.
pub struct MigrationSenders(Vec<mpsc::UnboundedSender<Migration>>);

impl MigrationSenders {
    /// Opens a channel to each worker. The seats taken there bound its length: a worker gets a connection only
    /// while it has fewer connections, or moves fewer bytes, than the sender.
    pub fn new(workers: usize) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Migration>>) {
        let (migration_senders, migrations) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        (Arc::new(Self(migration_senders)), migrations)
    }

    /// Sends a connection to a worker, or returns it if that worker has ended.
    pub(super) fn send(&self, worker: usize, migration: Migration) -> Result<(), Migration> {
        self.0[worker].send(migration).map_err(|returned| returned.0)
    }
}

impl StoppedRelay {
    /// Takes a stopped relay out of this worker.
    ///
    /// If the bytes in a pipe cannot be read back, the connection is lost, and both sides get a reset.
    pub(super) fn detach(relay: Relay, record: ConnectionRecord) -> Option<Box<Self>> {
        let settings = relay.settings();
        let RelayParts { client, backend, from_client, from_backend } = match relay.stop() {
            Ok(parts) => parts,
            Err(error) => {
                tracing::error!(%error, "a connection was lost on its way to another worker");
                record.close(CloseReason::Internal);
                return None;
            }
        };
        let (client, backend) = (client.into_fd(), backend.into_fd());
        Some(Box::new(Self { client, backend, from_client, from_backend, settings, record: record.detach() }))
    }

    /// Registers the connection in this worker. Returns `None`, after the connection was closed, if that
    /// fails.
    pub(super) fn attach(
        self,
        worker_slot: WorkerSlot,
        context: &Rc<WorkerContext>,
    ) -> Option<(Relay, ConnectionRecord)> {
        let record = ConnectionRecord::attach(self.record, worker_slot, context);
        let (client, backend) = match (Stream::register(self.client), Stream::register(self.backend)) {
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
        let parts =
            RelayParts { client, backend, from_client: self.from_client, from_backend: self.from_backend };
        let engines: Rc<Engines> = Rc::clone(&context.engines);
        Some((Relay::resume(parts, self.settings, engines), record))
    }
}
