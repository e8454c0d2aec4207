//! A connection on its way from one worker to another.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::accepted::{AdmittedConnection, HeldPolicy};
use super::fields::RecordFields;
use super::holds::Holds;
use super::reading::StoppedClient;
use crate::live::{MigratingEntry, WorkerSlot};
use crate::relay::{RelaySettings, StoppedFlow};

/// A connection that another worker is to serve, with its entry in that worker's registry.
pub struct Migration {
    pub(super) worker_slot: WorkerSlot,
    pub(super) content: MigrationContent,
}

pub(super) enum MigrationContent {
    /// A connection that was just accepted.
    Admitted(Box<AdmittedConnection>),
    /// A connection whose first bytes are being read, back from the way to a successor or handed over by another program.
    Reading(Box<StoppedReading>),
    /// A stopped relay.
    Relay(Box<StoppedRelay>),
}

impl MigrationContent {
    /// Returns the record; `None` if the connection has not begun.
    pub(super) fn record(&self) -> Option<&MigratingRecord> {
        match self {
            Self::Admitted(_) => None,
            Self::Reading(stopped) => Some(&stopped.record),
            Self::Relay(stopped) => Some(&stopped.record),
        }
    }
}

/// A connection whose first bytes are being read, and that no reactor has registered.
pub(super) struct StoppedReading {
    pub(super) client: StoppedClient,
    pub(super) policy: HeldPolicy,
    pub(super) record: MigratingRecord,
}

/// A stopped relay that no reactor has registered.
pub(super) struct StoppedRelay {
    pub(super) client: OwnedFd,
    pub(super) backend: OwnedFd,
    pub(super) from_client: StoppedFlow,
    pub(super) from_backend: StoppedFlow,
    pub(super) settings: RelaySettings,
    pub(super) record: MigratingRecord,
}

/// The record of a connection between two workers.
pub(super) struct MigratingRecord {
    pub(super) holds: Holds<MigratingEntry>,
    pub(super) fields: RecordFields,
}

/// The channels to all workers, indexed by worker.
pub struct MigrationSenders(Vec<mpsc::UnboundedSender<Migration>>);

impl MigrationSenders {
    /// Opens a channel to each worker. The worker slots that are taken bound the length of a channel:
    /// connections go only to a worker that has fewer connections than the sender, or moves fewer bytes.
    pub fn new(workers: usize) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Migration>>) {
        let (migration_senders, migrations) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        (Arc::new(Self(migration_senders)), migrations)
    }

    /// The number of workers.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Sends a connection to a worker, or returns it if that worker has ended.
    pub(super) fn send(&self, worker: usize, migration: Migration) -> Result<(), Migration> {
        self.0[worker].send(migration).map_err(|returned| returned.0)
    }
}
