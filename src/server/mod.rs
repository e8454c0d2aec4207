//! The life of the process: start, signals, reload, stop.
//!
//! [`Server::start`] binds and starts everything or nothing; [`Server::run`] is the control loop, on a
//! thread and runtime of its own, so that no check, scrape or reload delays a byte. It alone applies
//! changes: what checks found, new configurations, the end.

mod aftercare;
mod agents;
mod build;
mod building;
mod confine;
mod discovery;
mod front;
mod leaving;
mod list_files;
mod notify;
mod read_file;
mod reload;
mod route_files;
mod run;
mod source;
mod view;

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

pub use build::BuildFault;
pub use confine::{ConfineFault, confine};
pub use reload::{Changes, ReloadFault};
pub use run::Signals;
pub use source::{SourceFault, tproxy_rules};
pub use view::{Life, Remote, View};

use crate::config::Config;
use crate::conn::{Bounds, Doors};
use crate::limit::{Gate, Over, Overload, Rate, SourceTable};
use crate::listener::BindFault;
use crate::live::Loads;
use crate::pool::Sighting;
use crate::pool::forward::NAMES_AT_ONCE;
use crate::reclaim;
use crate::snapshot::Snapshot;
use crate::sys::{privileges, process};
use crate::telemetry::{AccessLog, Metrics};
use crate::worker::{Order, Supplies, Worker};
use leaving::Leaving;
use reload::{SocketPlan, Sockets};
use view::Request;

/// Descriptors kept for everything that is not a connection: listeners, epoll, some checks, files, admin.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Pipes of the whole process; each takes two descriptors and at most 1 MiB of kernel memory while
/// bytes are in it.
const MOST_PIPES: u64 = 256;

/// Sightings of failing backends that may wait; more are lost, and come again while clients fail.
const SIGHTINGS: usize = 1024;

/// Why the server could not start. Nothing stays bound.
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
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Connections cannot come from where a pool says.
    #[error(transparent)]
    Source(#[from] SourceFault),
    /// A thread or a runtime could not be started.
    #[error("cannot start to serve: {0}")]
    System(#[from] io::Error),
}

/// A server whose workers serve already, unless backends must be found first.
pub struct Server {
    /// What is in force; where a reload cannot change something, what was there at the start.
    /// Shared with the threads that compare and build.
    config: Arc<Config>,
    descriptors: Descriptors,
    view: Arc<View>,
    access_log: AccessLog,
    sockets: Sockets,
    /// The sockets of the start, bound but not yet given to the workers: backends are to be found first.
    /// Who connects meanwhile waits in the kernel's queue.
    held: Option<SocketPlan>,
    workers: Vec<Worker>,
    remote: Remote,
    requests: mpsc::UnboundedReceiver<Request>,
    sightings: mpsc::Receiver<Sighting>,
}

impl Server {
    /// Binds every address, starts the workers and lets connections in; where backends are to be discovered
    /// it lets them in when [`Server::run`] has found some, or has looked long enough.
    ///
    /// # Errors
    ///
    /// What could not be bound, opened or started.
    pub fn start(mut config: Config) -> Result<Self, StartFault> {
        source::try_sources(&config)?;
        reclaim::start()?;
        let metrics = Metrics::new();
        let descriptors = Descriptors { limit: process::raise_descriptor_limit()?, workers: config.workers };
        let connections = descriptors.connections(&config);
        let places = Gate::new(connections);
        let hello_memory = Gate::new(config.limits.hello_memory);
        let bounds = Arc::new(Bounds {
            overload: Overload::new(&places, &hello_memory),
            connections: places,
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
        if let Some(lines) = config.access_log.refused_per_second {
            metrics.bound_refusal_lines(Rate::new(lines, Duration::from_secs(1), lines));
        }
        descriptors.bound(&bounds, &config, connections);
        let mut sockets = Sockets::default();
        let plan = sockets.plan(&config, config.workers)?;
        let nothing = Leaving::default();
        let sources = build::Sources { leaving: &nothing, discoveries: None, metrics: &metrics };
        let snapshot = build::snapshot(&config, &Snapshot::default(), sources)?;
        list_files::forget_read(&mut config);
        let must_look = config.pools.iter().any(|pool| pool.discover.is_some());
        let life = if must_look { Life::Starting } else { Life::Serving };
        let access_log = open_access_log(&config, &metrics)?;
        let view = Arc::new(View {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            bounds: Arc::clone(&bounds),
            metrics: Arc::clone(&metrics),
            started: SystemTime::now(),
            workers: config.workers,
            life: AtomicU8::new(life as u8),
            addresses: Mutex::default(),
        });
        let (doors, parcels) = Doors::new(config.workers);
        let (tell_sightings, sightings) = mpsc::channel(SIGHTINGS);
        let supplies = Supplies {
            snapshot: Arc::clone(&view.snapshot),
            bounds,
            access_log: access_log.clone(),
            metrics: Arc::clone(&metrics),
            pipes: descriptors.pipes_of_a_worker(),
            doors,
            loads: Loads::new(config.workers),
            sightings: tell_sightings,
        };
        let workers = parcels
            .into_iter()
            .enumerate()
            .map(|(number, parcels)| Worker::start(number, supplies.clone(), parcels))
            .collect::<io::Result<Vec<_>>>()?;
        view.set_addresses(plan.addresses(), &config);
        let held = if must_look {
            Some(plan)
        } else {
            // Nothing was open before, so nothing is closed.
            let _closed = sockets.carry_out(plan, &workers);
            None
        };
        metrics.process().workers.set(config.workers as f64);
        metrics.process().connections_limit.set(connections as f64);
        metrics.process().started(view.started);
        let (sender, requests) = mpsc::unbounded_channel();
        let remote = Remote::new(sender, Arc::clone(&view));
        // The reading of the configuration leaves free pages behind.
        reclaim::trim_later();
        Ok(Self {
            config: Arc::new(config),
            descriptors,
            view,
            access_log,
            sockets,
            held,
            workers,
            remote,
            requests,
            sightings,
        })
    }

    /// Puts the limits of the process in force that follow from a configuration.
    fn bound(&self, config: &Config) {
        let connections = self.descriptors.connections(config);
        self.descriptors.bound(&self.view.bounds, config, connections);
        self.view.metrics.process().connections_limit.set(connections as f64);
    }

    /// Lets the workers let go of policies that are no longer in force.
    fn renew_policies(&self) {
        self.workers.iter().for_each(|worker| worker.order(Order::RenewPolicies));
    }

    /// A handle for other threads.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }
}

/// What the process may open, and how that is divided.
#[derive(Clone, Copy)]
struct Descriptors {
    limit: u64,
    workers: usize,
}

impl Descriptors {
    fn pipes(self) -> u64 {
        MOST_PIPES.min(self.limit / 16).max(self.workers as u64)
    }

    fn pipes_of_a_worker(self) -> usize {
        usize::try_from((self.pipes() / self.workers as u64).max(1)).unwrap_or(1)
    }

    /// How many refused clients may be held: those of the configuration, but never more than an eighth of the
    /// descriptors.
    fn tarpit(self, config: &Config) -> u64 {
        if holds_refused(config) { config.limits.tarpit.min(self.limit / 8) } else { 0 }
    }

    /// Puts the limits of a configuration in force that stand behind those of listeners, routes and pools.
    fn bound(self, bounds: &Bounds, config: &Config, connections: u64) {
        bounds.connections.set_limit(connections);
        bounds.hello_memory.set_limit(config.limits.hello_memory);
        bounds.overload.set(&config.limits.overload);
        bounds.tarpit.set_limit(self.tarpit(config));
        bounds.sources.set_when_full(config.limits.when_full);
        let mut listeners = config.listeners.iter().filter_map(|spec| spec.policy.admission.as_ref());
        if listeners.any(|admission| admission.per_source.is_some()) {
            bounds.sources.prepare();
        }
    }

    /// How many connections the process may have, by its configuration or by what is left for them.
    fn connections(self, config: &Config) -> u64 {
        let sockets: u64 = config.listeners.iter().map(|spec| spec.binds.len() as u64).sum();
        let reserved = RESERVED_DESCRIPTORS
            + sockets * self.workers as u64
            + 2 * self.pipes()
            + checks(config)
            + names(config)
            + self.tarpit(config);
        let most = (self.limit.saturating_sub(reserved) / 2).max(1);
        let connections = config.max_connections.unwrap_or(most);
        if connections > most {
            tracing::warn!(
                max_connections = connections,
                descriptors = self.limit,
                enough_for = most,
                "the descriptors do not suffice for max_connections; raise LimitNOFILE"
            );
        }
        connections
    }
}

/// Whether anybody who is refused is held.
fn holds_refused(config: &Config) -> bool {
    let listeners = || config.listeners.iter().map(|spec| &spec.policy);
    let admissions =
        listeners().filter_map(|policy| policy.admission.as_ref()).map(|admission| admission.over);
    let routes =
        listeners().flat_map(|policy| policy.protocol.routes()).filter_map(|route| route.limits.as_ref());
    let pools = config.pools.iter().filter_map(|pool| pool.limits.as_ref());
    let mut all = admissions.chain(routes.chain(pools).map(|quota| quota.over));
    all.any(|over| matches!(over, Over::Tarpit(_)))
}

/// Descriptors that checks may take beyond those that are kept anyway.
fn checks(config: &Config) -> u64 {
    const KEPT: usize = 64;
    let asked = config.pools.iter().map(|pool| {
        let kinds = usize::from(pool.health.is_some()) + usize::from(pool.agent.is_some());
        kinds * pool.backends.len()
    });
    let most = asked.sum::<usize>().min(config.max_checks);
    most.saturating_sub(KEPT) as u64
}

/// Descriptors that the look-ups of pools that forward by name may take: two questions for each name.
fn names(config: &Config) -> u64 {
    let pools = config.pools.iter().filter(|pool| pool.forward.is_some()).count();
    2 * (NAMES_AT_ONCE * pools) as u64
}

fn open_access_log(config: &Config, metrics: &Metrics) -> Result<AccessLog, StartFault> {
    let process = metrics.process();
    let (dropped, written) = (process.access_log_dropped.clone(), process.access_log_written.clone());
    AccessLog::start(&config.access_log, dropped, written)
        .map_err(|source| StartFault::AccessLog { path: config.access_log.to.to_string(), source })
}
