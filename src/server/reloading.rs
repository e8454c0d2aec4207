//! The changes that control makes while it serves, one at a time: the entries of a list, the routes of a listener, and a
//! reload with its steps.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::changes::Changes;
use super::control::Control;
use super::discovery::{AwaitedAnswers, EnoughAnswers, HeldReports};
use super::events::{EventKind, Severity};
use super::faults::ReloadFault;
use super::notify::ServiceStage;
use super::phase::{Phase, Preparing, Settling};
use super::reload::{CheckedReload, PlannedReload, PreparedReload, ReloadRest};
use super::reload_queue::{ReloadOrigin, ReloadRequest, ReloadRules, ReloadRun};
use super::route_files::BuiltRoutes;
use super::sockets::{NewSockets, bind_missing};
use super::tentative::wait_for_addresses;
use super::work::{Work, on_thread};
use crate::config::{self, Config};
use crate::listener::InheritedSockets;
use crate::pool::DiscoveryReport;
use crate::reclaim;
use crate::telemetry::ReloadOutcome;

/// The time that a reload waits for a file system. Millions of lines take a fraction of this time. So a file
/// system that takes longer hangs.
const FILE_SYSTEM_TIMEOUT: Duration = Duration::from_secs(60);

/// The time that the workers may take to close the sockets that a reload removed. A worker first finishes its present
/// work, and then closes these sockets.
const SOCKETS_CLOSING: Duration = Duration::from_secs(1);

impl Control {
    /// Takes up a change that waits: a reload, or the report about a file.
    pub(super) fn begin_change(&mut self) -> Phase {
        match self.queue.pop() {
            Some(ReloadRequest::Config(config, reply)) => {
                let run = ReloadRun::new(ReloadOrigin::Request(reply), ReloadRules::default());
                self.check(run, Ok(*config))
            }
            Some(ReloadRequest::File) => self.read_file(ReloadOrigin::File, ReloadRules::default()),
            Some(ReloadRequest::FileFor(rules, reply)) => self.read_file(ReloadOrigin::FileFor(reply), rules),
            None => match self.apply_noted() {
                Some(work) => Phase::Rebuilding(work),
                None => Phase::Serving,
            },
        }
    }

    /// Applies the reports about lists and databases, and the overrides that wait. Starts to build the routes of the first
    /// report about routes, on a thread.
    pub(super) fn apply_noted(&mut self) -> Option<Work<BuiltRoutes>> {
        while let Some(report) = self.followers.list_files.take_noted() {
            report.apply(&self.server.view);
        }
        while let Some(report) = self.followers.near_files.take_noted() {
            report.apply(&self.server.view);
        }
        self.followers.apply_overrides(&self.server);
        if let Some(build) = self.next_split() {
            return Some(Work::new(on_thread(move || build.build())));
        }
        let (report, written) = self.followers.route_files.take_noted()?;
        let build = report.begin(written, &self.server)?;
        Some(Work::new(on_thread(move || build.build())))
    }

    /// Puts the routes of a listener in force if they are built.
    pub(super) fn continue_rebuild(&mut self, work: Work<BuiltRoutes>) -> Phase {
        match work.result() {
            Ok(built) => {
                self.routes_built(built);
                Phase::Serving
            }
            Err(work) => Phase::Rebuilding(work),
        }
    }

    /// Puts the routes of a listener in force.
    pub(super) fn routes_built(&mut self, built: BuiltRoutes) {
        if let Some(change) = built.put_in_force(&mut self.server) {
            self.followers.in_force(&change, &self.server);
        }
        self.followers.changed_parts.routes_built();
    }

    /// Starts to read the configuration file, on a thread: a list of millions takes seconds.
    fn read_file(&mut self, origin: ReloadOrigin, rules: ReloadRules) -> Phase {
        let Some(path) = self.file.clone() else {
            match origin {
                ReloadOrigin::File => {
                    tracing::warn!("SIGHUP reloads a file, and this process was started without one");
                }
                ReloadOrigin::FileFor(reply) | ReloadOrigin::Request(reply) => {
                    drop(reply.send(Err(ReloadFault::NoFile)));
                }
            }
            return Phase::Serving;
        };
        self.watchdog.notify(ServiceStage::Reloading);
        let run = ReloadRun::new(origin, rules);
        match self.begin_wait() {
            Some(waiting) => {
                let read = read_and_settle(waiting, path);
                Phase::Reading(run, Work::within(FILE_SYSTEM_TIMEOUT, read))
            }
            None => self.end_reload(run, Err(ReloadFault::StillWaiting)),
        }
    }

    /// Goes on with a reload if its file was read.
    pub(super) fn continue_reading(
        &mut self,
        run: ReloadRun,
        work: Work<Option<Result<Config, ReloadFault>>>,
    ) -> Phase {
        match work.result() {
            Ok(Some(read)) => self.check(run, read),
            Ok(None) => self.end_reload(run, Err(ReloadFault::NoAnswer)),
            Err(work) => Phase::Reading(run, work),
        }
    }

    /// Returns a value to keep until a file system has answered, or `None` while an earlier reload waits for a
    /// file system.
    fn begin_wait(&mut self) -> Option<Arc<()>> {
        if self.waiting.strong_count() > 0 {
            return None;
        }
        let waiting = Arc::new(());
        self.waiting = Arc::downgrade(&waiting);
        Some(waiting)
    }

    /// Checks a configuration, and binds its new addresses.
    fn check(&mut self, run: ReloadRun, read: Result<Config, ReloadFault>) -> Phase {
        let checked = read.and_then(|config| CheckedReload::new(config, run.rules.clone(), &self.server));
        let next = checked.and_then(|checked| self.bind(checked));
        self.enter_step(run, next)
    }

    /// Continues a reload with its next step, or ends it with a fault. After a fault, the running configuration stays in force.
    fn enter_step(&mut self, run: ReloadRun, next: Result<Preparing, ReloadFault>) -> Phase {
        match next {
            Ok(preparing) => Phase::Preparing(run, preparing),
            Err(fault) => {
                self.followers.discovery.sources.abandon();
                self.end_reload(run, Err(fault))
            }
        }
    }

    /// Starts to bind the addresses that are not bound yet, on a thread.
    fn bind(&mut self, checked: CheckedReload) -> Result<Preparing, ReloadFault> {
        let missing = checked.missing(&self.server);
        if missing.is_empty() {
            return self.plan_sockets(checked, NewSockets::new());
        }
        let waiting = self.begin_wait().ok_or(ReloadFault::StillWaiting)?;
        let (ours, workers) = (self.server.sockets.bound(), self.server.workers.len());
        let bind = on_thread(move || {
            let _until_the_end = waiting;
            bind_missing(missing, ours, &mut InheritedSockets::default(), workers).map_err(ReloadFault::from)
        });
        Ok(Preparing::Binding(checked, Work::within(FILE_SYSTEM_TIMEOUT, bind)))
    }

    /// Plans the sockets, and starts to open the access log if the configuration has another access log.
    fn plan_sockets(&mut self, checked: CheckedReload, fresh: NewSockets) -> Result<Preparing, ReloadFault> {
        let sockets = checked.sockets(fresh, &self.server)?;
        match checked.open_access_log(&self.server) {
            Some(work) => Ok(Preparing::OpeningLog(checked, sockets, work)),
            None => Ok(self.discover(checked.plan(sockets, None))),
        }
    }

    /// Starts to follow the sources of the new configuration, and waits for the first report of each. So a pool
    /// that changes from written to discovered backends has backends from the start.
    fn discover(&mut self, planned: PlannedReload) -> Preparing {
        self.followers.discovery.sources.prepare(&planned.config().pools);
        self.continue_discovery(planned, AwaitedAnswers::new(EnoughAnswers::Reports))
    }

    /// Builds the snapshot if the answers are enough.
    fn continue_discovery(&mut self, planned: PlannedReload, mut answers: AwaitedAnswers) -> Preparing {
        if !answers.is_over(&self.followers.discovery.sources) {
            return Preparing::Discovering(planned, answers);
        }
        let found = self.followers.discovery.prepared(planned.config());
        let inherited = self.followers.draining.inherited();
        let (building, work) = planned.build(&self.server, found, inherited);
        Preparing::Building(building, work, HeldReports::default())
    }

    /// Takes the report of a discovery source while a reload is prepared.
    pub(super) fn answer_for_reload(
        &mut self,
        run: ReloadRun,
        preparing: Preparing,
        report: DiscoveryReport,
    ) -> Phase {
        let preparing = match preparing {
            Preparing::Building(building, work, mut held) => {
                held.push(report);
                Preparing::Building(building, work, held)
            }
            Preparing::ChangingFiles(prepared, work, mut held) => {
                held.push(report);
                Preparing::ChangingFiles(prepared, work, held)
            }
            Preparing::Discovering(planned, answers) => {
                self.followers.apply_discovery(report, &self.server);
                self.continue_discovery(planned, answers)
            }
            earlier @ (Preparing::Binding(..) | Preparing::OpeningLog(..)) => {
                self.followers.apply_discovery(report, &self.server);
                earlier
            }
        };
        Phase::Preparing(run, preparing)
    }

    /// Goes on with a reload if the work of its step is done.
    pub(super) fn continue_reload(&mut self, run: ReloadRun, preparing: Preparing) -> Phase {
        let next = match preparing {
            Preparing::Binding(checked, work) => match work.result() {
                Ok(Some(fresh)) => fresh.and_then(|fresh| self.plan_sockets(checked, fresh)),
                Ok(None) => Err(ReloadFault::NoAnswer),
                Err(work) => Ok(Preparing::Binding(checked, work)),
            },
            Preparing::OpeningLog(checked, sockets, work) => match work.result() {
                Ok(opened) => opened.map(|opened| self.discover(checked.plan(sockets, Some(opened)))),
                Err(work) => Ok(Preparing::OpeningLog(checked, sockets, work)),
            },
            Preparing::Discovering(planned, answers) => Ok(self.continue_discovery(planned, answers)),
            Preparing::Building(building, work, held) => match work.result() {
                Ok(Ok(built)) => return self.change_files(run, building.prepared(built), held),
                Ok(Err(fault)) => {
                    let phase = self.enter_step(run, Err(fault));
                    self.followers.apply_held(held, &self.server);
                    return phase;
                }
                Err(work) => Ok(Preparing::Building(building, work, held)),
            },
            Preparing::ChangingFiles(prepared, work, held) => match work.result() {
                Ok(()) => return Phase::Settling(run, self.put_in_force(prepared, held)),
                Err(work) => Ok(Preparing::ChangingFiles(prepared, work, held)),
            },
        };
        self.enter_step(run, next)
    }

    /// Starts to change the files of Unix sockets, on a thread.
    fn change_files(&mut self, run: ReloadRun, prepared: PreparedReload, held: HeldReports) -> Phase {
        match prepared.file_changes(&mut self.server).make() {
            Some(work) => Phase::Preparing(run, Preparing::ChangingFiles(prepared, work, held)),
            None => Phase::Settling(run, self.put_in_force(prepared, held)),
        }
    }

    /// Puts a configuration in force, and waits for the workers to close the sockets that it removed.
    fn put_in_force(&mut self, prepared: PreparedReload, held: HeldReports) -> Settling {
        let (change, rest) = prepared.put_in_force(&mut self.server, self.log.as_ref());
        self.followers.in_force(&change, &self.server);
        self.followers.apply_held(held, &self.server);
        let ReloadRest { changes, mut closed, reset_by } = rest;
        if let Some(by) = reset_by {
            self.reset_overrides(&by);
        }
        let closed = async move {
            let _ = timeout(SOCKETS_CLOSING, closed.recv()).await;
        };
        Settling { changes, closed: Work::new(closed) }
    }

    /// Ends a reload. The process serves, with the new configuration or with the old one.
    pub(super) fn end_reload(&mut self, run: ReloadRun, result: Result<Changes, ReloadFault>) -> Phase {
        self.report_reload(run, result);
        Phase::Serving
    }

    /// Logs and counts the result of a reload, and sends it to the requester.
    pub(super) fn report_reload(&mut self, run: ReloadRun, result: Result<Changes, ReloadFault>) {
        let outcome = match &result {
            Ok(changes) => self.log_reload(changes),
            Err(fault) => self.log_fault(fault),
        };
        // Reading leaves free pages, also if the configuration was not put in force.
        reclaim::trim_later();
        self.server.view.metrics.process().reloaded(outcome, SystemTime::now(), run.began.elapsed());
        self.answer(run.origin, result);
    }

    fn log_reload(&self, changes: &Changes) -> ReloadOutcome {
        tracing::info!(%changes, "reloaded");
        let view = &self.server.view;
        let severity = if changes.needs_restart.is_empty() {
            Severity::Info
        } else {
            let keys = changes.needs_restart.join(", ");
            tracing::warn!(
                "a restart is needed for {keys}; until then the values of the start stay in force"
            );
            Severity::Warning
        };
        view.standing.set_restart(&changes.needs_restart);
        view.events.note(EventKind::Reload, severity, format!("reloaded: {changes}"));
        view.config_state().reloaded(Ok(changes.to_string()));
        ReloadOutcome::Ok
    }

    fn log_fault(&self, fault: &ReloadFault) -> ReloadOutcome {
        tracing::error!(error = %fault, "not reloaded; the running configuration stays");
        let view = &self.server.view;
        view.events.note(EventKind::Reload, Severity::Error, format!("not reloaded: {}", fault.brief()));
        view.config_state().reloaded(Err(fault.to_string()));
        ReloadOutcome::Failed
    }

    /// Sends the result of a reload to its requester, or to the service manager.
    fn answer(&mut self, origin: ReloadOrigin, result: Result<Changes, ReloadFault>) {
        match origin {
            ReloadOrigin::File => self.watchdog.notify(ServiceStage::Ready),
            ReloadOrigin::FileFor(reply) => {
                self.watchdog.notify(ServiceStage::Ready);
                drop(reply.send(result));
            }
            // A requester that is gone needs no answer.
            ReloadOrigin::Request(reply) => drop(reply.send(result)),
        }
    }

    /// Ends a reload that is not in force, because the process ends.
    pub(super) fn give_up_reload(&mut self, run: ReloadRun) {
        tracing::warn!("not reloaded: the process is about to end");
        self.answer(run.origin, Err(ReloadFault::Stopping));
    }

    /// Ends a reload that is not in force, and begins the stop.
    pub(super) fn stop_reload(&mut self, run: ReloadRun) -> Phase {
        self.give_up_reload(run);
        self.stop(self.server.config.shutdown.grace)
    }

    /// Begins the stop while a reload is prepared. Discovery goes on with the sources in force.
    ///
    /// A reload that changes the files of Unix sockets already comes into force at once: a listener whose file is
    /// removed must not go on without it.
    pub(super) fn stop_preparing(&mut self, run: ReloadRun, preparing: Preparing) -> Phase {
        match preparing {
            Preparing::Binding(..) | Preparing::OpeningLog(..) | Preparing::Discovering(..) => {
                self.followers.discovery.sources.abandon();
            }
            Preparing::Building(_, _, held) => {
                self.followers.discovery.sources.abandon();
                self.followers.apply_held(held, &self.server);
            }
            Preparing::ChangingFiles(prepared, _, held) => {
                let settling = self.put_in_force(prepared, held);
                return self.stop_settling(run, settling);
            }
        }
        self.stop_reload(run)
    }

    /// Ends a reload that is in force, and begins the stop.
    pub(super) fn stop_settling(&mut self, run: ReloadRun, settling: Settling) -> Phase {
        self.report_reload(run, Ok(settling.changes));
        self.stop(self.server.config.shutdown.grace)
    }
}

/// Reads the file on another thread, and waits for the addresses in it that the kernel still checks. `waiting` is
/// dropped when the file was read.
async fn read_and_settle(waiting: Arc<()>, path: PathBuf) -> Result<Config, ReloadFault> {
    let read = on_thread(move || {
        let _until_the_end = waiting;
        read(&path)
    });
    let config = read.await?;
    wait_for_addresses(&config).await;
    Ok(config)
}

fn read(path: &Path) -> Result<Config, ReloadFault> {
    match config::load(path) {
        Ok((config, warnings)) => {
            if !warnings.is_empty() {
                tracing::warn!("the configuration is good, but:\n{}", warnings.without_lines());
            }
            Ok(config)
        }
        Err(faults) => Err(ReloadFault::File(faults)),
    }
}
