//! Start: binds and builds everything, or nothing.

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::admin_sockets::{AdminSockets, AdminStage};
use super::build::{self, FoundPools};
use super::close_orders::CloseOrders;
use super::descriptors::Descriptors;
use super::events::{ConfigState, EventLog};
use super::faults::StartFault;
use super::handover::listening::HandoverSocket;
use super::handover::state::PendingState;
use super::handover::successor::Incumbent;
use super::handover::{Inheritance, Reporter};
use super::history::SharedHistory;
use super::inherited::InheritedState;
use super::needed_pools::SharedNeeds;
use super::overrides::{OverrideTable, Overrides};
use super::sockets::{SocketPlan, Sockets, bind_missing};
use super::standing::StandingFaults;
use super::upgrade_state::UpgradeState;
use super::view::{self, ControlRequest, KeysInForce, LifeStage, ServerHandle, View};
use super::{access_log, list_files, near_files, own_backends, source};
use crate::config::Config;
use crate::conn::{MigrationSenders, ProcessBounds};
use crate::limit::{Gate, Overload, SourceTable};
use crate::listener::{InheritedSockets, SocketPart};
use crate::live::Loads;
use crate::pool::FailureReport;
use crate::reclaim;
use crate::snapshot::Snapshot;
use crate::sys::self_connect;
use crate::telemetry::{AccessLog, Metrics, SaturationLog};
use crate::wire::handover::ProcessState;
use crate::worker::{Worker, WorkerCommand, WorkerResources};

/// The failure reports that may wait. Further reports are lost. They are sent again while clients fail.
const FAILURE_REPORTS: usize = 1024;

/// A server whose addresses are bound. [`Server::run`] accepts clients.
pub struct Server {
    /// The configuration in force. A key that a reload cannot change has the value of the start. The threads that
    /// compare and build share it; each reload replaces it.
    pub(super) config: Arc<Config>,
    /// The shares of the descriptors; fixed at the start.
    pub(super) descriptors: Descriptors,
    /// The state that other threads read. It may outlive the server.
    pub(super) view: Arc<View>,
    /// The access log, shared with the workers. [`Server::run`] writes its queue at the end.
    pub(super) access_log: AccessLog,
    /// The listening sockets that the workers have.
    pub(super) sockets: Sockets,
    /// The sockets of the start. They are bound, and the workers do not have them yet: first the control loop must
    /// run, and the backends must be found. Clients that connect meanwhile wait in the kernel's queue. Empty once the
    /// control loop runs.
    pub(super) held: SocketPlan,
    /// The workers that have not ended. Dropping a worker's value does not end its thread.
    pub(super) workers: Vec<Worker>,
    /// The channels by which connections move between workers.
    pub(super) migration_senders: Arc<MigrationSenders>,
    /// The loads of the workers.
    pub(super) loads: Arc<Loads>,
    /// The program from which this one takes over.
    pub(super) incumbent: Option<Incumbent>,
    /// The reports to the command that started this program to take over.
    pub(super) reporter: Reporter,
    /// The socket at which a successor asks; `None` if there is no hand-over. The control loop takes it.
    pub(super) handover_socket: Option<HandoverSocket>,
    remote: ServerHandle,
    /// The requests of other threads. `remote` has a sender, so the channel never ends.
    pub(super) requests: mpsc::UnboundedReceiver<ControlRequest>,
    /// The reports of workers that clients failed at a backend.
    pub(super) failure_reports: mpsc::Receiver<FailureReport>,
    /// The state of an incumbent that is not in force yet. `None` once clients are accepted.
    pub(super) pending_state: Option<Box<PendingState>>,
}

impl Server {
    /// Binds every address and starts the workers. [`Server::run`] accepts connections. If backends are to be
    /// discovered, it first waits for them, for 5 s at most.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound, a file cannot be opened, or a thread cannot be started.
    pub fn start(config: Config) -> Result<Self, StartFault> {
        Self::start_with(config, &mut InheritedSockets::default())
    }

    /// Starts as [`Server::start`] does, with the sockets of an incumbent for the addresses that it has too. Inherited
    /// sockets of listeners that are not in the configuration are closed. Those of other parts stay in `inherited`. The
    /// incumbent is not affected before [`Server::run`] accepts connections.
    ///
    /// # Errors
    ///
    /// As [`Server::start`].
    pub fn start_with(
        mut config: Config,
        inherited_sockets: &mut InheritedSockets,
    ) -> Result<Self, StartFault> {
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
            descriptors: AtomicU64::new(0),
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
        // The incumbent answers until this process accepts.
        let admin_stage =
            if inherited_sockets.is_empty() { AdminStage::Accepting } else { AdminStage::Paused };
        let fresh = bind_missing(sockets.missing(&config), Vec::new(), inherited_sockets, config.workers)?;
        inherited_sockets.close(SocketPart::Listener);
        let plan = sockets.plan(&config, fresh)?;
        let inherited = InheritedState::default();
        // The overrides of an incumbent come later.
        let overrides = OverrideTable::new();
        let inputs = build::BuildInputs {
            config: &config,
            inherited: &inherited,
            overrides: &overrides,
            metrics: &metrics,
        };
        let snapshot = build::snapshot(&Snapshot::default(), FoundPools::new(), inputs)?;
        list_files::forget_read(&mut config);
        near_files::forget_read(&mut config);
        let access_log = access_log::open(&config, &metrics)?;
        view::count_routes(&snapshot);
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let (migration_senders, migrations) = MigrationSenders::new(config.workers);
        let (failure_sender, failure_reports) = mpsc::channel(FAILURE_REPORTS);
        let loads = Loads::new(config.workers);
        let resources = WorkerResources {
            snapshot: Arc::clone(&snapshot),
            bounds: Arc::clone(&bounds),
            access_log: access_log.clone(),
            metrics: Arc::clone(&metrics),
            pipes: descriptors.pipes_of_a_worker(),
            migration_senders: Arc::clone(&migration_senders),
            loads: Arc::clone(&loads),
            failure_reports: failure_sender,
        };
        let workers = migrations
            .into_iter()
            .enumerate()
            .map(|(number, migrations)| Worker::start(number, resources.clone(), migrations))
            .collect::<io::Result<Vec<_>>>()?;
        let started = SystemTime::now();
        let (sender, requests) = mpsc::unbounded_channel();
        let view = Arc::new(View {
            snapshot,
            bounds,
            metrics: Arc::clone(&metrics),
            started,
            events: EventLog::default(),
            standing: StandingFaults::default(),
            upgrade: UpgradeState::default(),
            overrides: Overrides::default(),
            needs: SharedNeeds::default(),
            requests: sender.clone(),
            access_log: access_log.clone(),
            admin_sockets: AdminSockets::new(admin_stage),
            close_orders: CloseOrders::default(),
            history: SharedHistory::begin(started),
            config: Mutex::new(ConfigState::new(started)),
            keys: ArcSwap::from_pointee(KeysInForce::of(&config)),
            workers: config.workers,
            inboxes: workers.iter().map(Worker::inbox).collect(),
            life: AtomicU8::new(LifeStage::Starting as u8),
            addresses: Mutex::default(),
        });
        view.set_addresses(plan.addresses(), &config);
        metrics.process().workers.set(config.workers as f64);
        metrics.process().connections_limit.set(connections as f64);
        metrics.process().started(view.started);
        let remote = ServerHandle::new(sender, Arc::clone(&view));
        // Reading the configuration leaves free pages.
        reclaim::trim_later();
        Ok(Self {
            config: Arc::new(config),
            descriptors,
            view,
            access_log,
            sockets,
            held: plan,
            workers,
            migration_senders,
            loads,
            incumbent: None,
            reporter: Reporter::default(),
            handover_socket: None,
            remote,
            requests,
            failure_reports,
            pending_state: None,
        })
    }

    /// Waits for a successor at this socket.
    pub(crate) fn set_handover_socket(&mut self, socket: HandoverSocket) {
        self.handover_socket = Some(socket);
    }

    /// Takes over from a running program: [`Server::run`] accepts connections when that program has stopped to accept.
    /// `asked` is the time of the request.
    pub fn take_over(
        &mut self,
        inheritance: Inheritance,
        sockets: usize,
        asked: Instant,
        reporter: Reporter,
    ) {
        let Inheritance { welcome, state, session, .. } = inheritance;
        self.restore_state(state);
        self.incumbent =
            Some(Incumbent { welcome, link: Some(session), stop: None, is_main: false, asked, sockets });
        self.reporter = reporter;
    }

    /// Restores the state of the incumbent. Must be called before [`Server::run`]. The backends that are to be
    /// discovered are restored when they are found.
    pub fn restore_state(&mut self, state: ProcessState) {
        self.pending_state = Some(Box::new(PendingState::restore(state, &self.view)));
    }

    /// Puts the process limits in force, as the configuration sets them.
    pub(super) fn bound(&self) {
        let connections = self.descriptors.connections(&self.config);
        self.descriptors.bound(&self.view.bounds, &self.config, connections);
        self.view.metrics.process().connections_limit.set(connections as f64);
    }

    /// Sends a command to each worker.
    pub(super) fn order_all(&self, command: impl Fn() -> WorkerCommand) {
        self.workers.iter().for_each(|worker| worker.order(command()));
    }

    /// Makes the workers drop policies that are no longer in force.
    pub(super) fn renew_policies(&self) {
        self.order_all(|| WorkerCommand::RenewPolicies);
    }

    /// A handle for other threads.
    pub fn remote(&self) -> ServerHandle {
        self.remote.clone()
    }
}
