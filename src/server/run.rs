//! The control loop.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant as StdInstant, SystemTime};

use humantime::format_duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::agents::AgentFollower;
use super::building::Built;
use super::changes::Changes;
use super::draining::{DrainingSet, ExpiredDrains};
use super::events::{EventKind, Severity};
use super::follow_up::FollowUp;
use super::list_files::{ListFiles, ListReport, leave_followed};
use super::notify::{ServiceStage, Watchdog};
use super::own_backends::refuse_cycles;
use super::reload::ReloadFault;
use super::route_files::{RouteFiles, RoutesReport};
use super::saturation::SaturationWatch;
use super::signals::{EarlySignals, SignalStreams, any_signal, log_unused_signal};
use super::source::try_sources;
use super::standing::StandingKind;
use super::view::ControlRequest;
use super::{LifeStage, Server, build};
use crate::config::Config;
use crate::limit::LimitsSpec;
use crate::pool::{
    AgentReport, CheckLimit, CheckReport, Checks, Discoveries, DiscoveryReport, FailureReport,
};
use crate::reclaim::{self, Deferred};
use crate::snapshot::ServedPool;
use crate::telemetry::{LogControl, ReloadOutcome};
use crate::worker::WorkerCommand;

/// Time between two upkeeps of the histograms, which hold every sample until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// The reports of checks that may wait. If there are more, the checks wait.
const REPORTS: usize = 1024;

/// The time that connections may take to close after the workers got the order to close them.
const CLOSING: Duration = Duration::from_secs(5);

/// The time that the workers may take to close the sockets that a reload removed. A worker first finishes its present
/// work, and then closes these sockets.
const SOCKETS_CLOSING: Duration = Duration::from_secs(1);

/// The time that the blocking threads of the runtime may take to end with it. Such a thread reads a file, perhaps on a
/// file system that never answers. Nothing depends on the result.
const LAST_READS: Duration = Duration::from_secs(1);

/// The most blocking threads beside the control loop: for files, and for slow pages of admin. A configuration names
/// fewer files than this. Each file holds at most one thread (`sys/file_call.rs`), a reload holds one more, and so does
/// each of the few connections of admin. So files that hang take no thread from others. A thread is started when it is
/// needed, and ends after 10 s without work.
const BLOCKING_THREADS: usize = 16 * 1024;

/// The time that the access log may take to write its queue when the process ends. It also holds for destinations that
/// a reload removed shortly before.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// The signals of the process: handled or ignored.
#[derive(Debug)]
pub enum Signals {
    /// Another part of the program handles them.
    Ignore,
    /// SIGTERM and SIGINT drain, SIGHUP reloads the file, SIGUSR1 opens the access log again.
    Obey {
        /// The signals that were caught while the program started.
        early: EarlySignals,
        /// The file that SIGHUP reads; `None` if there is none.
        file: Option<PathBuf>,
        /// The program's own log, which a reload changes; `None` if another part of the program set it up.
        log: Option<LogControl>,
    },
}

/// An event that wakes the control loop.
pub(super) enum ControlEvent {
    Request(ControlRequest),
    Report(CheckReport),
    Agent(AgentReport),
    Failures(FailureReport),
    EjectionOver,
    Discovered(DiscoveryReport),
    Routes(RoutesReport),
    List(ListReport),
    Signal(SignalKind),
    /// A worker has ended. It is named by its index in the list of workers, and must be removed from the list.
    Worker(usize, io::Result<()>),
    Upkeep,
    Watchdog,
    Overdue,
    Saturation,
}

impl Server {
    /// Serves until a stop is requested and the connections have drained. `also` runs beside it on the same runtime: it
    /// is the admin listener.
    ///
    /// # Errors
    ///
    /// If a worker ended without an order, or if connections did not end after the order to close them.
    pub fn run(self, signals: Signals, also: impl Future<Output = ()>) -> io::Result<()> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build_local(LocalOptions::default())?;
        let access_log = self.access_log.clone();
        let result = runtime.block_on(async {
            let control = Control::new(self, signals)?;
            tokio::pin!(also);
            let mut served = std::pin::pin!(control.serve());
            tokio::select! {
                result = &mut served => result,
                // The admin listener does not end by itself; if it does, serving goes on.
                () = &mut also => served.await,
            }
        });
        // The access log itself logs the records that it abandons.
        let _ = access_log.shutdown(StdInstant::now() + LAST_RECORDS);
        runtime.shutdown_timeout(LAST_READS);
        result
    }
}

/// The server in its control loop.
pub(super) struct Control {
    pub(super) server: Server,
    pub(super) file: Option<PathBuf>,
    /// The program's own log; `None` if it belongs to another program.
    log: Option<LogControl>,
    pub(super) signals: SignalStreams,
    /// Alive while a thread works on files for a reload: it reads the configuration or binds listeners.
    pub(super) waiting: Weak<()>,
    /// The events that arrived while a file was read. They are handled before all others.
    pub(super) postponed: VecDeque<ControlEvent>,
    checks: HashMap<Arc<str>, Checks>,
    pub(super) reports: mpsc::Receiver<CheckReport>,
    report_to: mpsc::Sender<CheckReport>,
    agents: AgentFollower,
    check_limit: Arc<CheckLimit>,
    pub(super) discoveries: Discoveries,
    pub(super) findings: mpsc::Receiver<DiscoveryReport>,
    pub(super) route_files: RouteFiles,
    list_files: ListFiles,
    pub(super) draining: DrainingSet,
    pub(super) follow_up: FollowUp,
    saturation: SaturationWatch,
    upkeep: tokio::time::Interval,
    pub(super) watchdog: Watchdog,
}

impl Control {
    pub(super) fn new(server: Server, signals: Signals) -> io::Result<Self> {
        let (file, log, signals, seen) = match signals {
            Signals::Ignore => (None, None, SignalStreams::new(), Vec::new()),
            Signals::Obey { early, file, log } => {
                let (signals, seen) = early.hand_over()?;
                (file, log, signals, seen)
            }
        };
        server.view.config_state().file.clone_from(&file);
        let (report_to, reports) = mpsc::channel(REPORTS);
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let delayed = server.view.metrics.process().checks_delayed.clone();
        let check_limit = CheckLimit::new(server.descriptors.checks_at_once(&server.config), delayed);
        let (discoveries, findings) = Discoveries::new();
        let watchdog = Watchdog::new(server.view.metrics.process().notify_failures.clone());
        let mut control = Self {
            server,
            file,
            log,
            signals,
            waiting: Weak::new(),
            postponed: seen.into_iter().map(ControlEvent::Signal).collect(),
            checks: HashMap::new(),
            reports,
            report_to,
            agents: AgentFollower::new(),
            check_limit,
            discoveries,
            findings,
            route_files: RouteFiles::new(),
            list_files: ListFiles::new(),
            draining: DrainingSet::default(),
            follow_up: FollowUp::default(),
            saturation: SaturationWatch::default(),
            upkeep,
            watchdog,
        };
        // The first checks need the addresses of the host names that they query.
        control.discoveries.prepare(&control.server.config.pools);
        control.follow_pools();
        control.route_files.follow(&control.server.config);
        control.list_files.follow(&control.server.config);
        Ok(control)
    }

    async fn serve(mut self) -> io::Result<()> {
        if self.open().await? {
            self.watchdog.notify(ServiceStage::Ready);
            self.log_serving();
        }
        loop {
            match self.next().await {
                ControlEvent::Request(ControlRequest::Stop) => return self.stop().await,
                ControlEvent::Signal(kind) if ends(kind) => return self.stop().await,
                ControlEvent::Worker(at, result) => {
                    return Err(lost(self.server.workers[at].number(), result));
                }
                event => self.handle(event).await,
            }
        }
    }

    fn log_serving(&self) {
        let server = &self.server;
        tracing::info!(
            workers = server.workers.len(),
            max_connections = server.view.bounds.connections.limit(),
            descriptors = server.descriptors.limit(),
            listeners = ?server.view.shown_addresses(),
            "serving"
        );
        server.view.events.note(EventKind::Process, Severity::Info, "serving");
    }

    /// Handles every event but the requests to stop.
    async fn handle(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Request(ControlRequest::Reload(config, reply)) => {
                let _ = reply.send(self.reload(StdInstant::now(), Ok(*config)).await);
            }
            ControlEvent::Signal(kind) if kind == SignalKind::hangup() => self.reload_file().await,
            ControlEvent::Routes(report) => self.routes_read(report).await,
            event => self.apply(event),
        }
    }

    /// Handles an event that needs no wait. Requests to stop, reloads and reports of routes are ignored.
    pub(super) fn apply(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Signal(kind) if kind == SignalKind::user_defined1() => {
                self.server.access_log.reopen()
            }
            ControlEvent::Signal(kind) if log_unused_signal(kind) => {}
            ControlEvent::Report(report) => self.follow_up.apply(&self.server, &report),
            ControlEvent::Agent(report) => {
                self.agents.note(&self.server.view, &report);
                self.follow_up.apply_agent(&self.server, &report);
            }
            ControlEvent::Failures(failure_report) => self.follow_up.eject(&self.server, &failure_report),
            ControlEvent::EjectionOver => self.follow_up.readmit(&self.server),
            ControlEvent::Discovered(report) => self.discovered(report),
            ControlEvent::List(report) => self.list_read(report),
            ControlEvent::Upkeep => {
                self.server.view.metrics.upkeep();
                self.sweep_lists();
                let ends = self.draining.drained();
                self.report_drains(&ends);
            }
            ControlEvent::Watchdog => self.watchdog.beat(&self.server.workers),
            ControlEvent::Overdue => self.close_overdue(),
            ControlEvent::Saturation => self.saturation.follow(&self.server.view),
            ControlEvent::Request(_)
            | ControlEvent::Signal(_)
            | ControlEvent::Worker(..)
            | ControlEvent::Routes(_) => {}
        }
    }

    async fn next(&mut self) -> ControlEvent {
        match self.postponed.pop_front() {
            Some(event) => event,
            None => self.receive().await,
        }
    }

    /// Waits for the next event.
    ///
    ///
    /// # Cancel safety
    ///
    ///
    /// No event is lost if the future is dropped.
    pub(super) async fn receive(&mut self) -> ControlEvent {
        let overdue = self.draining.next();
        let ejection = self.follow_up.next().map(Instant::from_std);
        tokio::select! {
            Some(request) = self.server.requests.recv() => ControlEvent::Request(request),
            Some(report) = self.reports.recv() => ControlEvent::Report(report),
            report = self.agents.next() => ControlEvent::Agent(report),
            Some(failure_report) = self.server.failure_reports.recv() => ControlEvent::Failures(failure_report),
            Some(report) = self.findings.recv() => ControlEvent::Discovered(report),
            report = self.route_files.next() => ControlEvent::Routes(report),
            report = self.list_files.next() => ControlEvent::List(report),
            kind = any_signal(&mut self.signals) => ControlEvent::Signal(kind),
            (at, result) = any_worker(&mut self.server.workers) => ControlEvent::Worker(at, result),
            _ = self.upkeep.tick() => ControlEvent::Upkeep,
            () = self.watchdog.due() => ControlEvent::Watchdog,
            () = at(overdue) => ControlEvent::Overdue,
            () = self.saturation.due(&self.server.view) => ControlEvent::Saturation,
            () = at(ejection) => ControlEvent::EjectionOver,
        }
    }

    /// Updates the backends to match their pools, starts the checks of new backends and ends those of removed ones.
    pub(super) fn follow_pools(&mut self) {
        let snapshot = self.server.view.snapshot.load_full();
        self.follow_up.retain(&snapshot);
        self.checks.retain(|name, _| snapshot.pools.contains_key(name));
        self.agents.retain(&snapshot);
        snapshot.pools.values().for_each(|served| self.follow_pool(served));
    }

    /// Does the same for one pool of the snapshot.
    pub(super) fn follow_pool(&mut self, served: &ServedPool) {
        let (pool, name) = (&served.pool, &served.pool.spec().name);
        self.follow_up.settle(&self.server, served);
        let checks = self.checks.entry(Arc::clone(name)).or_default();
        let names = self.discoveries.check_names(name);
        checks.follow(pool, &names, &self.report_to, &self.check_limit, build::random());
        self.agents.follow(pool, &names, &self.check_limit);
        if let Some(forward) = pool.forward() {
            forward.follow();
        }
    }

    /// Puts a configuration in force, or leaves everything as it is. Either is logged and counted. `began` is the time
    /// at which the reading of the configuration began.
    pub(super) async fn reload(
        &mut self,
        began: StdInstant,
        read: Result<Config, ReloadFault>,
    ) -> Result<Changes, ReloadFault> {
        let result = match read {
            Ok(config) => self.replace(config).await,
            Err(fault) => Err(fault),
        };
        let view = &self.server.view;
        let outcome = match &result {
            Ok(changes) => {
                tracing::info!(%changes, "reloaded");
                if !changes.needs_restart.is_empty() {
                    let keys = changes.needs_restart.join(", ");
                    tracing::warn!(
                        "a restart is needed for {keys}; until then the values of the start stay in force"
                    );
                }
                view.standing.set_restart(&changes.needs_restart);
                let severity =
                    if changes.needs_restart.is_empty() { Severity::Info } else { Severity::Warning };
                view.events.note(EventKind::Reload, severity, format!("reloaded: {changes}"));
                view.config_state().reloaded(Ok(changes.to_string()));
                ReloadOutcome::Ok
            }
            Err(ReloadFault::Stopping) => {
                tracing::warn!("not reloaded: the process is about to end");
                return result;
            }
            Err(error) => {
                tracing::error!(%error, "not reloaded; the running configuration stays");
                let text = format!("not reloaded: {}", error.brief());
                view.events.note(EventKind::Reload, Severity::Error, text);
                view.config_state().reloaded(Err(error.to_string()));
                ReloadOutcome::Failed
            }
        };
        // Reading leaves free pages, also if the configuration was not put in force.
        reclaim::trim_later();
        self.server.view.metrics.process().reloaded(outcome, SystemTime::now(), began.elapsed());
        result
    }

    async fn replace(&mut self, config: Config) -> Result<Changes, ReloadFault> {
        let mut config = Deferred::new(config);
        leave_followed(&mut config, &self.server.config);
        try_sources(&config)?;
        refuse_cycles(&config)?;
        let descriptors = self.server.descriptors;
        descriptors
            .suffice(&config)
            .map_err(|least| ReloadFault::FewDescriptors { limit: descriptors.limit(), least })?;
        let plan = self.bind(&config).await?;
        let access_log = self.prepare_access_log(&config).await?;
        if !self.prepare_discovery(&config).await {
            return Err(ReloadFault::Stopping);
        }
        let built = self.build(config).await;
        if built.is_err() {
            self.discoveries.abandon();
        }
        let Built { changes, config, snapshot } = built?;
        let server = &mut self.server;
        let old = server.view.snapshot.load_full();
        self.discoveries.commit();
        self.draining.note(&old, &snapshot, Instant::now(), config.shutdown.drain);
        server.view.put_in_force(snapshot);
        // The files change before their sockets close, so that no client finds a file and is refused.
        server.sockets.file_changes(&plan).make().await;
        let mut closed = server.sockets.carry_out(plan, &server.workers);
        server.renew_policies();
        server.view.set_addresses(server.sockets.addresses(), &config);
        server.bound(&config);
        server.switch_access_log(access_log, &config.access_log);
        self.check_limit.set(server.descriptors.checks_at_once(&config));
        let config = Arc::new(in_force(config.into_inner(), &server.config));
        if let Some(log) = self.log.as_ref().filter(|_| config.log != server.config.log) {
            log.change(&server.config.log, &config.log);
        }
        reclaim::free_later(std::mem::replace(&mut server.config, config));
        self.route_files.follow(&self.server.config);
        self.list_files.follow(&self.server.config);
        // The reload read the route files again, so their old faults are over.
        self.server.view.standing.retain(StandingKind::Routes, |_| false);
        self.server.view.standing.retain(StandingKind::List, |list| self.list_files.is_kept(list));
        self.follow_pools();
        // A removed address is free when the reload is over: the next reload may bind it again.
        let _ = timeout(SOCKETS_CLOSING, closed.recv()).await;
        Ok(changes)
    }

    /// Closes the open connections of removed listeners and backends whose drain time is over.
    fn close_overdue(&mut self) {
        let ExpiredDrains { groups: gone, ends } = self.draining.overdue(Instant::now());
        self.report_drains(&ends);
        self.follow_up.forget(&gone);
        for worker in &self.server.workers {
            worker.order(WorkerCommand::CloseGroups(Arc::clone(&gone)));
        }
    }

    /// Refuses new connections, lets the open ones finish, and closes the rest at the deadline.
    async fn stop(mut self) -> io::Result<()> {
        let mut spec = self.server.config.shutdown;
        if self.server.view.life() == LifeStage::Starting {
            // No client was let in yet, so no grace is needed.
            spec.grace = Duration::ZERO;
        }
        self.server.view.life.store(LifeStage::Draining as u8, Ordering::Relaxed);
        self.watchdog.notify(ServiceStage::Stopping);
        let (grace, drain) = (format_duration(spec.grace), format_duration(spec.drain));
        tracing::info!(%grace, %drain, "stopping");
        self.server.view.events.note(EventKind::Process, Severity::Info, "stopping");
        self.wait(spec.grace).await?;
        self.remove_socket_files().await;
        for worker in &self.server.workers {
            worker.order(WorkerCommand::Finish);
        }
        if self.wait_for_workers(spec.drain).await? {
            tracing::info!("every connection has ended");
            return Ok(());
        }
        let open = self.server.view.bounds.connections.inside();
        tracing::warn!(open, "the time for draining is over; the open connections are closed");
        for worker in &self.server.workers {
            worker.order(WorkerCommand::CloseAll);
        }
        match timeout(CLOSING, self.all_workers()).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::other("connections did not end")),
        }
    }

    /// Removes the files of Unix sockets before their queues close. Waits 1 s at most for a file system that does not
    /// answer.
    async fn remove_socket_files(&mut self) {
        let files = self.server.sockets.take_files();
        if !files.is_empty() {
            let _ = timeout(LAST_READS, spawn_blocking(move || drop(files))).await;
        }
    }

    /// Handles events for a while. A second request to stop ends the wait.
    async fn wait(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let event = tokio::select! {
                event = self.next() => event,
                () = sleep_until(until) => return Ok(()),
            };
            match event {
                ControlEvent::Request(ControlRequest::Stop) => return Ok(()),
                ControlEvent::Signal(kind) if ends(kind) => return Ok(()),
                ControlEvent::Worker(at, result) => {
                    return Err(lost(self.server.workers[at].number(), result));
                }
                event => self.handle_while_stopping(event).await,
            }
        }
        Ok(())
    }

    /// Waits until the workers have ended and returns `true`. Returns `false` if the time is over or a second request
    /// to stop ends the wait.
    async fn wait_for_workers(&mut self, time: Duration) -> io::Result<bool> {
        let until = Instant::now() + time;
        loop {
            let event = tokio::select! {
                event = self.next() => event,
                () = sleep_until(until) => return Ok(false),
            };
            match event {
                ControlEvent::Request(ControlRequest::Stop) => return Ok(false),
                ControlEvent::Signal(kind) if ends(kind) => return Ok(false),
                ControlEvent::Worker(at, result) => {
                    let worker = self.server.workers.remove(at);
                    result.map_err(|error| lost(worker.number(), Err(error)))?;
                    if self.server.workers.is_empty() {
                        return Ok(true);
                    }
                }
                event => self.handle_while_stopping(event).await,
            }
        }
    }

    async fn handle_while_stopping(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Request(ControlRequest::Reload(_, reply)) => {
                let _ = reply.send(Err(ReloadFault::Stopping));
            }
            ControlEvent::Signal(kind) if kind == SignalKind::hangup() => {
                tracing::warn!("not reloaded: the process is stopping");
            }
            event => self.handle(event).await,
        }
    }

    async fn all_workers(&mut self) -> io::Result<()> {
        for worker in &mut self.server.workers {
            worker.ended().await?;
        }
        Ok(())
    }
}

/// Returns a new configuration with the running values of the keys that only a restart can change.
/// [`Changes::needs_restart`] names these keys.
fn in_force(new: Config, running: &Config) -> Config {
    Config {
        workers: running.workers,
        admin: running.admin.clone(),
        given_admin: running.given_admin.clone(),
        landlock: running.landlock,
        limits: LimitsSpec { sources: running.limits.sources, ..new.limits },
        ..new
    }
}

pub(super) fn ends(kind: SignalKind) -> bool {
    kind == SignalKind::terminate() || kind == SignalKind::interrupt()
}

fn lost(number: usize, result: io::Result<()>) -> io::Error {
    let why = match result {
        Ok(()) => "it ended on its own".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::error!(worker = number, %why, "a worker is lost with its listeners; the process ends");
    io::Error::other(format!("worker {number} is lost: {why}"))
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn any_worker(workers: &mut [crate::worker::Worker]) -> (usize, io::Result<()>) {
    std::future::poll_fn(|cx| {
        for (at, worker) in workers.iter_mut().enumerate() {
            if let std::task::Poll::Ready(result) = worker.poll_ended(cx) {
                return std::task::Poll::Ready((at, result));
            }
        }
        std::task::Poll::Pending
    })
    .await
}
