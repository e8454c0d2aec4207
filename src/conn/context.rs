//! The state that connections share: the state of one worker, and the state of the process.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::leaving::LeavingQueue;
use super::migration::MigrationSenders;
use crate::limit::{Gate, Overload, SourceTable};
use crate::live::ConnectionRegistry;
use crate::pool::FailureReport;
use crate::relay::Engines;
use crate::snapshot::Snapshot;
use crate::telemetry::{AccessLog, Metrics, SaturationLog};

/// The state that the connections of one worker share.
pub struct WorkerContext {
    /// The snapshot in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The worker's connections.
    pub registry: Rc<ConnectionRegistry>,
    /// The worker's buffer and pipes.
    pub engines: Rc<Engines>,
    /// The limits of the process.
    pub bounds: Arc<ProcessBounds>,
    /// The access log of the process.
    pub access_log: AccessLog,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// The channels to the other workers.
    pub migration_senders: Arc<MigrationSenders>,
    /// The channel to control for failures of clients at a backend.
    pub failure_reports: mpsc::Sender<FailureReport>,
    /// The queue of connections that go on in a successor; `None` before a hand-over.
    pub leaving: RefCell<Option<Arc<LeavingQueue>>>,
}

/// The state that all connections of the process share.
pub struct ProcessBounds {
    /// Open connections.
    pub connections: Arc<Gate>,
    /// The descriptors from which the limit of connections follows; 0 if the configuration sets the limit.
    pub descriptors: AtomicU64,
    /// The connections and rates of each source.
    pub sources: Arc<SourceTable>,
    /// Refused clients that are held in the tarpit.
    pub tarpit: Arc<Gate>,
    /// True while the process is near its limit.
    pub overload: Overload,
    /// The limits that refuse connections now.
    pub saturation: SaturationLog,
    /// The hello memory: it holds the bytes of hellos that were not whole after the first read, until a backend
    /// is connected.
    pub hello_memory: Arc<Gate>,
    /// The number of the next connection.
    pub next_id: AtomicU64,
    /// The addresses on which this process listens. No connection is forwarded to them.
    pub own: ArcSwap<Vec<SocketAddr>>,
}

impl ProcessBounds {
    /// The descriptors from which the limit of connections follows, or `None` if the configuration sets the limit.
    pub fn limit_from_descriptors(&self) -> Option<u64> {
        Some(self.descriptors.load(Ordering::Relaxed)).filter(|descriptors| *descriptors > 0)
    }
}
