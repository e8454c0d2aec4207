//! The life of the process: start, signals, reload, stop.
//!
//! [`Server::start`] binds and starts everything or nothing. [`Server::run`] is the control loop. It has a separate
//! thread and runtime, so that no check, scrape or reload delays a byte. It alone applies changes: the results of
//! checks, new configurations, the stop.

mod access_log;
mod agents;
mod backend_log;
mod build;
mod building;
mod census;
mod changes;
mod confine;
mod descriptors;
mod discovery;
mod draining;
mod events;
mod follow_up;
mod list_files;
mod notify;
mod opening_build;
mod own_backends;
mod read_file;
mod reload;
mod route_files;
mod run;
mod saturation;
mod series;
mod signals;
mod sockets;
mod source;
mod standing;
mod tentative;
mod view;

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

pub use build::BuildFault;
pub use census::{Census, CensusScope, SourceCount};
pub use changes::Changes;
pub use confine::{ConfineFault, confine};
pub use events::{ConfigState, EventKind, EventLog, KEPT_EVENTS, LastReload, Severity, StatusEvent};
pub use own_backends::CycleFault;
pub use reload::ReloadFault;
pub use run::Signals;
pub use signals::EarlySignals;
pub use source::{SourceFault, tproxy_rules};
pub use standing::{StandingFaults, StandingKind};
pub use tentative::wait_for_addresses;
pub use view::{LifeStage, ServerHandle, View};

use crate::config::Config;
use crate::conn::{MigrationSenders, ProcessBounds};
use crate::limit::{Gate, Overload, SourceTable};
use crate::listener::BindFault;
use crate::live::Loads;
use crate::pool::FailureReport;
use crate::reclaim;
use crate::snapshot::Snapshot;
use crate::sys::{privileges, self_connect};
use crate::telemetry::{AccessLog, Metrics, SaturationLog};
use crate::worker::{Worker, WorkerCommand, WorkerResources};
use descriptors::Descriptors;
use draining::DrainingSet;
use sockets::{SocketPlan, Sockets, bind_missing};
use view::ControlRequest;

/// The failure reports that may wait. More are lost, and are sent again while clients fail.
const FAILURE_REPORTS: usize = 1024;

/// The reason why the server could not start. Nothing stays bound.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindFault),
    /// The configuration cannot be built.
    #[error(transparent)]
    Build(#[from] BuildFault),
    /// The access log cannot be opened.
    #[error(
        "cannot open the access log {path}: {source}; check the directory and its permissions, or set access_log.to = \"off\"{hint}",
        hint = privileges::hint(source)
    )]
    AccessLog {
        /// Its destination as configured.
        path: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// Connections cannot come from the source address of a pool.
    #[error(transparent)]
    Source(#[from] SourceFault),
    /// A backend leads back to its own pool.
    #[error(transparent)]
    Cycle(#[from] CycleFault),
    /// The process may open fewer descriptors than one connection needs.
    #[error(
        "the process may open {limit} descriptors, and needs {least} to serve one connection; these include a socket for each worker, port and family; raise the hard limit of open files (LimitNOFILE= of a unit, `ulimit -Hn`, --ulimit nofile of a container), or lower `workers` or the number of ports"
    )]
    FewDescriptors {
        /// The descriptors that it may open.
        limit: u64,
        /// The descriptors that it needs.
        least: u64,
    },
    /// A thread or a runtime could not be started.
    #[error("cannot start to serve: {0}")]
    System(#[from] io::Error),
}

/// A server whose addresses are bound; [`Server::run`] lets clients in.
pub struct Server {
    /// The configuration in force. A key that a reload cannot change has the value of the start. The threads that
    /// compare and build share it.
    config: Arc<Config>,
    descriptors: Descriptors,
    view: Arc<View>,
    access_log: AccessLog,
    sockets: Sockets,
    /// The sockets of the start. They are bound, and the workers do not have them yet: first the control loop must
    /// run, and the backends must be found. Clients that connect meanwhile wait in the kernel's queue.
    held: Option<SocketPlan>,
    workers: Vec<Worker>,
    remote: ServerHandle,
    requests: mpsc::UnboundedReceiver<ControlRequest>,
    failure_reports: mpsc::Receiver<FailureReport>,
}

impl Server {
    /// Binds every address and starts the workers. [`Server::run`] lets connections in. If backends are to be
    /// discovered, it first waits for them, for 5 s at most.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound, a file cannot be opened, or a thread cannot be started.
    pub fn start(mut config: Config) -> Result<Self, StartFault> {
        self_connect::learn();
        source::try_sources(&config)?;
        own_backends::refuse_cycles(&config)?;
        reclaim::start()?;
        let metrics = Metrics::new();
        let descriptors = Descriptors::of_process(config.workers)?;
        descriptors
            .suffice(&config)
            .map_err(|least| StartFault::FewDescriptors { limit: descriptors.limit(), least })?;
        let connections = descriptors.connections(&config);
        let connection_slots = Gate::new(connections);
        let hello_memory = Gate::new(config.limits.hello_memory);
        let bounds = Arc::new(ProcessBounds {
            overload: Overload::new(&connection_slots, &hello_memory),
            saturation: SaturationLog::default(),
            connections: connection_slots,
            sources: SourceTable::new(
                config.limits.sources,
                [build::random(), build::random()],
                config.limits.when_full,
            ),
            tarpit: Gate::new(0),
            hello_memory,
            next_id: AtomicU64::new(1),
            own: ArcSwap::default(),
        });
        metrics.bound_refusal_lines(access_log::refusal_lines(&config.access_log));
        descriptors.bound(&bounds, &config, connections);
        let sockets = Sockets::default();
        let fresh = bind_missing(sockets.missing(&config), Vec::new(), config.workers)?;
        let plan = sockets.plan(&config, fresh)?;
        let nothing = DrainingSet::default();
        let sources = build::BuildInputs {
            config: &config,
            draining: &nothing,
            found: build::FoundBackends::Nothing,
            metrics: &metrics,
        };
        let snapshot = build::snapshot(&config, &Snapshot::default(), sources)?;
        list_files::forget_read(&mut config);
        let access_log = access_log::open(&config, &metrics)?;
        view::count_routes(&snapshot);
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let (migration_senders, migrations) = MigrationSenders::new(config.workers);
        let (failure_sender, failure_reports) = mpsc::channel(FAILURE_REPORTS);
        let resources = WorkerResources {
            snapshot: Arc::clone(&snapshot),
            bounds: Arc::clone(&bounds),
            access_log: access_log.clone(),
            metrics: Arc::clone(&metrics),
            pipes: descriptors.pipes_of_a_worker(),
            migration_senders,
            loads: Loads::new(config.workers),
            failure_reports: failure_sender,
        };
        let workers = migrations
            .into_iter()
            .enumerate()
            .map(|(number, migrations)| Worker::start(number, resources.clone(), migrations))
            .collect::<io::Result<Vec<_>>>()?;
        let started = SystemTime::now();
        let view = Arc::new(View {
            snapshot,
            bounds,
            metrics: Arc::clone(&metrics),
            started,
            events: EventLog::default(),
            standing: StandingFaults::default(),
            access_log: access_log.clone(),
            config: Mutex::new(ConfigState::new(started)),
            workers: config.workers,
            inboxes: workers.iter().map(Worker::inbox).collect(),
            life: AtomicU8::new(LifeStage::Starting as u8),
            addresses: Mutex::default(),
        });
        view.set_addresses(plan.addresses(), &config);
        metrics.process().workers.set(config.workers as f64);
        metrics.process().connections_limit.set(connections as f64);
        metrics.process().started(view.started);
        let (sender, requests) = mpsc::unbounded_channel();
        let remote = ServerHandle::new(sender, Arc::clone(&view));
        // Reading the configuration leaves free pages.
        reclaim::trim_later();
        Ok(Self {
            config: Arc::new(config),
            descriptors,
            view,
            access_log,
            sockets,
            held: Some(plan),
            workers,
            remote,
            requests,
            failure_reports,
        })
    }

    /// Puts the limits of the process in force that follow from a configuration.
    fn bound(&self, config: &Config) {
        let connections = self.descriptors.connections(config);
        self.descriptors.bound(&self.view.bounds, config, connections);
        self.view.metrics.process().connections_limit.set(connections as f64);
    }

    /// Makes the workers drop policies that are no longer in force.
    fn renew_policies(&self) {
        self.workers.iter().for_each(|worker| worker.order(WorkerCommand::RenewPolicies));
    }

    /// A handle for other threads.
    pub fn remote(&self) -> ServerHandle {
        self.remote.clone()
    }
}
