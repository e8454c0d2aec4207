//! The control loop. It waits for events in one place, in every phase, and handles one event after the other.
//! Each event may lead to another phase. No event waits for the work of a phase.
//!
//! [`Control::step`] has the effect of each event in each phase. `reloading.rs` has the steps of a reload, and
//! `stop.rs` has the steps of the stop.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow::{Break, Continue};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::build;
use super::build_fault::BuildFault;
use super::discovery::{AwaitedAnswers, EnoughAnswers, HeldReports};
use super::event::{BackendEvent, ControlEvent, FileEvent, RoutineEvent};
use super::events::{EventKind, Severity};
use super::followers::Followers;
use super::handover::incumbent::WelcomeFacts;
use super::handover::listening::HandoverListener;
use super::handover::port::HandoverPort;
use super::handover::refusals;
use super::handover::session::SuccessorState;
use super::handover::successor::Incumbent;
use super::in_force::InForce;
use super::list_files;
use super::notify::{ServiceStage, Watchdog};
use super::overrides::OverrideRefusal;
use super::phase::{Flow, Phase, StartStep, Starting};
use super::readiness;
use super::reload_queue::ReloadQueue;
use super::saturation::SaturationWatch;
use super::service_manager::ServiceManager;
use super::signals::{SignalStreams, Signals, log_sigquit, log_sigusr2};
use super::sockets::SocketPlan;
use super::start::Server;
use super::view::LifeStage;
use super::work::{Work, on_thread};
use crate::pool::{DiscoveryReport, PoolSpec};
use crate::snapshot::Snapshot;
use crate::telemetry::LogControl;
use crate::worker::Worker;

/// The time between two upkeeps of the histograms. A histogram holds every sample until its next upkeep.
const UPKEEP: Duration = Duration::from_secs(5);

/// The server in its control loop. It ends with the loop; only `server.view` may be kept longer.
pub(super) struct Control {
    /// The server, and its configuration in force.
    pub(super) server: Server,
    /// The followers of what is in force. Their tasks end with them.
    pub(super) followers: Followers,
    /// The reloads that wait for their turn. `Phase::Serving` takes them up, and a stop refuses them.
    pub(super) queue: ReloadQueue,
    /// Alive while a thread works on files for a reload: it reads the configuration or binds listeners. The
    /// thread may outlive the reload, and no other reload works on files until the thread has ended.
    pub(super) waiting: Weak<()>,
    /// The file that SIGHUP reads; `None` if there is none.
    pub(super) file: Option<PathBuf>,
    /// The program's own log; `None` if it belongs to another program.
    pub(super) log: Option<LogControl>,
    /// The signals of the process. Without streams if another part of the program handles them.
    pub(super) signals: SignalStreams,
    /// The notifications of the service manager.
    pub(super) watchdog: Watchdog,
    /// The programs that ask to take over, and the threads of their sessions.
    pub(super) port: HandoverPort,
    /// The program from which this one takes over; `None` after an ordinary start.
    pub(super) incumbent: Option<Incumbent>,
    /// True if this process has handed over, and stays without connections until it is stopped.
    pub(super) stays: bool,
    /// The reason for which this program stops although no stop was requested.
    pub(super) failure: Option<String>,
    /// The state of the session with a successor that has the sockets and the connections.
    pub(super) successor: SuccessorState,
    /// The episodes of saturation.
    saturation: SaturationWatch,
    /// The time of the next upkeep.
    upkeep: Interval,
}

impl Control {
    /// Starts to follow what the server has in force. Must be called in the runtime of control.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the handlers of signals.
    pub(super) fn new(mut server: Server, signals: Signals) -> io::Result<Self> {
        let (file, log, signals) = match signals {
            Signals::Ignore => (None, None, SignalStreams::default()),
            Signals::Obey { early, file, log } => (file, log, early.hand_over()?),
        };
        server.view.config_state().come_from(&file, log.as_ref());
        let manager = ServiceManager::from_environment();
        let listener = server.handover_socket.take().map(HandoverListener::new).transpose()?;
        let facts = WelcomeFacts {
            manager: manager.clone(),
            admin: server.config.given_admin.as_ref().map(|admin| admin.listen.to_string()),
            drain: server.config.shutdown.drain,
        };
        let mut port = HandoverPort::new(listener, facts, Arc::clone(&server.view));
        let incumbent = server.incumbent.take();
        // A successor answers further programs once it is the main program.
        if incumbent.is_none() {
            port.open(manager.clone());
        }
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            followers: Followers::new(&mut server),
            queue: ReloadQueue::default(),
            waiting: Weak::new(),
            file,
            log,
            signals,
            watchdog: Watchdog::new(&manager, server.view.metrics.process().notify_failures.clone()),
            port,
            incumbent,
            stays: false,
            failure: None,
            successor: SuccessorState::None,
            saturation: SaturationWatch::default(),
            upkeep,
            server,
        })
    }

    /// Serves until a stop is requested and the connections have ended.
    ///
    /// # Errors
    ///
    /// If a worker ended without an order, or if connections did not end after the order to close them.
    pub(super) async fn serve(mut self) -> io::Result<()> {
        let mut flow = self.start();
        loop {
            let mut phase = match flow {
                Continue(phase) => phase,
                Break(result) => {
                    self.end_after_hand_over().await;
                    return result.and_then(|()| {
                        self.failure.map_or(Ok(()), |failure| Err(io::Error::other(failure)))
                    });
                }
            };
            let event = self.next(&mut phase).await;
            flow = self.step(phase, event);
        }
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub(super) async fn next(&mut self, phase: &mut Phase) -> ControlEvent {
        let has_change = !self.queue.is_empty() || self.followers.has_noted();
        let takes_discovery = phase.takes_discovery();
        let (server, followers) = (&mut self.server, &mut self.followers);
        let overdue = followers.draining.next();
        let ejection = followers.follow_up.next().map(Instant::from_std);
        let review = readiness::next_review(&server.view, &server.config.ready).map(Instant::from_std);
        let override_end = server.view.overrides.next_end().map(Instant::from_std);
        tokio::select! {
            effect = self.signals.next() => effect.into(),
            Some(request) = server.requests.recv() => request.into(),
            (at, result) = any_worker(&mut server.workers) => ControlEvent::Worker(at, result),
            event = self.port.next() => event.into(),
            () = poll_fn(|cx| phase.poll_due(cx, has_change)) => ControlEvent::Due,
            Some(report) = followers.discovery.reports.recv(), if takes_discovery => ControlEvent::Discovered(report),
            report = followers.route_files.next() => ControlEvent::File(FileEvent::Routes(report)),
            report = followers.list_files.next() => ControlEvent::File(FileEvent::List(report)),
            report = followers.near_files.next() => ControlEvent::File(FileEvent::Near(report)),
            report = followers.checks.next() => ControlEvent::Backend(BackendEvent::Checked(report)),
            report = followers.agents.next() => ControlEvent::Backend(BackendEvent::Agent(report)),
            Some(report) = server.failure_reports.recv() => ControlEvent::Backend(BackendEvent::Failures(report)),
            () = at(ejection) => ControlEvent::Backend(BackendEvent::EjectionOver),
            _ = self.upkeep.tick() => ControlEvent::Routine(RoutineEvent::Upkeep),
            () = self.watchdog.due() => ControlEvent::Routine(RoutineEvent::Watchdog),
            () = at(overdue) => ControlEvent::Routine(RoutineEvent::Overdue),
            () = at(review) => ControlEvent::Routine(RoutineEvent::Readiness),
            () = at(override_end) => ControlEvent::Routine(RoutineEvent::OverrideOver),
            () = self.saturation.due(&server.view) => ControlEvent::Routine(RoutineEvent::Saturation),
        }
    }

    /// Handles an event, and returns the phase after it.
    pub(super) fn step(&mut self, phase: Phase, event: ControlEvent) -> Flow {
        use ControlEvent::{
            Backend, Discovered, Due, File, HandOver, Override, Reload, Routine, Stop, TakeOver, Worker,
        };
        use Phase::{
            Closing, Draining, HandingOver, Preparing, Reading, Rebuilding, Serving, Settling, Starting,
        };
        match (phase, event) {
            // The start.
            (Starting(starting), Due) => self.continue_start(starting),
            (Starting(starting), Discovered(report)) => self.first_answer(starting, report),
            (Starting(_) | Serving | Rebuilding(_), Worker(at, result)) => Break(Err(self.lost(at, result))),
            (Starting(_), Stop) => Continue(self.stop(Duration::ZERO)),
            (Serving, Stop) => Continue(self.stop(self.server.config.shutdown.grace)),
            (Rebuilding(work), Stop) => Continue(self.stop_rebuilding(work)),

            // Changes: one at a time.
            (Serving, Due) => Continue(self.begin_change()),
            (Rebuilding(work), Due) => Continue(self.continue_rebuild(work)),
            (Reading(run, work), Due) => Continue(self.continue_reading(run, work)),
            (Preparing(run, preparing), Due) => Continue(self.continue_reload(run, preparing)),
            (Preparing(run, preparing), Discovered(report)) => {
                Continue(self.answer_for_reload(run, preparing, report))
            }
            (Settling(run, settling), Due) => Continue(self.end_reload(run, Ok(settling.changes))),
            (Reading(run, _), Stop) => Continue(self.stop_reload(run)),
            (Preparing(run, preparing), Stop) => Continue(self.stop_preparing(run, preparing)),
            (Settling(run, settling), Stop) => Continue(self.stop_settling(run, settling)),
            (Reading(run, _) | Preparing(run, _), Worker(at, result)) => {
                self.give_up_reload(run);
                Break(Err(self.lost(at, result)))
            }
            (Settling(run, settling), Worker(at, result)) => {
                self.report_reload(run, Ok(settling.changes));
                Break(Err(self.lost(at, result)))
            }
            (
                phase @ (Starting(_) | Serving | Rebuilding(_) | Reading(..) | Preparing(..) | Settling(..)),
                Reload(request),
            ) => {
                self.queue.push(request);
                Continue(phase)
            }

            // The hand-over to a successor.
            (Serving, HandOver(event)) => Continue(self.hand_over_while_serving(event)),
            (HandingOver(handing), HandOver(event)) => self.hand_over_goes_on(handing, event),
            (HandingOver(handing), Due) => Continue(self.continue_hand_over(handing)),
            (HandingOver(handing), Stop) => Continue(self.stop_hand_over(handing)),
            (HandingOver(_), Worker(at, result)) => Break(Err(self.lost(at, result))),
            (phase @ HandingOver(_), Reload(request)) => {
                request.refuse_during_hand_over();
                Continue(phase)
            }
            (phase @ Starting(_), HandOver(event)) => {
                self.hand_over_meanwhile(event, refusals::starting());
                Continue(phase)
            }
            (phase @ (Rebuilding(_) | Reading(..) | Preparing(..) | Settling(..)), HandOver(event)) => {
                self.hand_over_meanwhile(event, refusals::reloading());
                Continue(phase)
            }
            (phase @ (Draining(_) | Closing(_)), HandOver(event)) => {
                self.hand_over_while_stopping(event);
                Continue(phase)
            }

            // The hand-over from the incumbent.
            (Starting(starting), TakeOver(event)) => self.take_over_while_starting(starting, event),
            (
                phase @ (Serving | Rebuilding(_) | Reading(..) | Preparing(..) | Settling(..)
                | HandingOver(_)),
                TakeOver(event),
            ) => Continue(self.take_over_while_serving(phase, event)),
            (phase @ (Draining(_) | Closing(_)), TakeOver(event)) => {
                self.take_over_goes_on(event);
                Continue(phase)
            }

            // The stop.
            (Draining(draining), Due) => self.continue_drain(draining),
            (Draining(draining), Stop) => Continue(self.stop_after_hand_over(draining)),
            (Draining(draining), Worker(at, result)) => self.worker_drained(draining, at, result),
            (Closing(_), Due) => Break(Err(io::Error::other("connections did not end"))),
            (Closing(time), Worker(at, result)) => self.worker_closed(time, at, result),
            // Nothing is left that a further request could shorten.
            (phase @ Closing(_), Stop) => Continue(phase),
            (phase @ (Draining(_) | Closing(_)), Reload(request)) => {
                request.refuse();
                Continue(phase)
            }

            // Overrides: a successor already has the state of this process.
            (phase @ HandingOver(_), Override(request)) => {
                request.refuse(OverrideRefusal::HandingOver);
                Continue(phase)
            }
            (phase @ (Draining(_) | Closing(_)), Override(request)) => {
                request.refuse(OverrideRefusal::Stopping);
                Continue(phase)
            }
            (phase @ (Starting(_) | Preparing(..)), Override(request)) if phase.is_building() => {
                self.override_part_later(request);
                Continue(phase)
            }
            (
                phase @ (Starting(_) | Serving | Rebuilding(_) | Reading(..) | Preparing(..) | Settling(..)),
                Override(request),
            ) => {
                self.override_part(request);
                Continue(phase)
            }

            // The same in every phase.
            (
                phase @ (Serving | Rebuilding(_) | Reading(..) | Settling(..) | HandingOver(_) | Draining(_)
                | Closing(_)),
                Discovered(report),
            ) => {
                self.followers.apply_discovery(report, &self.server);
                Continue(phase)
            }
            (
                phase @ (Starting(_) | Serving | Rebuilding(_) | Reading(..) | Preparing(..) | Settling(..)
                | HandingOver(_) | Draining(_) | Closing(_)),
                File(event),
            ) => {
                self.followers.note(event);
                Continue(phase)
            }
            (
                phase @ (Starting(_) | Serving | Rebuilding(_) | Reading(..) | Preparing(..) | Settling(..)
                | HandingOver(_) | Draining(_) | Closing(_)),
                Backend(event),
            ) => {
                self.followers.apply(event, &self.server);
                Continue(phase)
            }
            (
                phase @ (Starting(_) | Serving | Rebuilding(_) | Reading(..) | Preparing(..) | Settling(..)
                | HandingOver(_) | Draining(_) | Closing(_)),
                Routine(event),
            ) => {
                self.do_routine(event);
                Continue(phase)
            }
        }
    }

    /// Does routine work.
    fn do_routine(&mut self, event: RoutineEvent) {
        match event {
            RoutineEvent::Upkeep => {
                self.server.view.metrics.upkeep();
                list_files::sweep(&self.server.view.snapshot.load());
                self.followers.log_drained(&self.server);
            }
            RoutineEvent::Watchdog => self.watchdog.beat(&self.server.workers),
            RoutineEvent::Overdue => self.followers.close_overdue(&self.server),
            RoutineEvent::OverrideOver => self.end_overrides(),
            RoutineEvent::Readiness => readiness::review(&self.server.view, &self.server.config.ready),
            RoutineEvent::Saturation => self.saturation.follow(&self.server.view),
            RoutineEvent::ReopenLog => self.server.access_log.reopen(),
            RoutineEvent::LogSigusr2 => log_sigusr2(),
            RoutineEvent::LogSigquit => log_sigquit(),
        }
    }

    /// Returns the first phase. If backends are to be discovered, no client is accepted before they are found
    /// or the time for this is over. The look-ups have begun already.
    pub(super) fn start(&mut self) -> Flow {
        let sockets = std::mem::take(&mut self.server.held);
        self.apply_restored_overrides();
        if !self.server.config.pools.iter().any(PoolSpec::has_sources) {
            let change = InForce::bound(&self.server.view);
            self.server.pending_state = None;
            return self.accept_or_take_over(sockets, change);
        }
        let answers = AwaitedAnswers::new(EnoughAnswers::Backends);
        self.continue_start(Starting { sockets, step: StartStep::Discovering(answers) })
    }

    /// Goes on with the start if the answers are enough or the snapshot is built.
    fn continue_start(&mut self, starting: Starting) -> Flow {
        let Starting { sockets, step } = starting;
        let step = match step {
            StartStep::Discovering(mut answers) => {
                if answers.is_over(&self.followers.discovery.sources) {
                    StartStep::Building(self.build_found(), HeldReports::default())
                } else {
                    StartStep::Discovering(answers)
                }
            }
            StartStep::Building(work, held) => match work.result() {
                Ok(Ok(snapshot)) => {
                    if let Some(mut state) = self.server.pending_state.take() {
                        state.restore_backends(&snapshot);
                    }
                    let change = InForce::configuration(&self.server.view, snapshot);
                    log_found(&change);
                    self.followers.in_force(&change, &self.server);
                    self.followers.apply_held(held, &self.server);
                    return self.accept_or_take_over(sockets, change);
                }
                Ok(Err(fault)) => return Break(Err(io::Error::other(fault))),
                Err(work) => StartStep::Building(work, held),
            },
            waiting @ StartStep::TakingOver(_) => waiting,
        };
        Continue(Phase::Starting(Starting { sockets, step }))
    }

    /// Takes the report of a source during the start.
    fn first_answer(&mut self, starting: Starting, report: DiscoveryReport) -> Flow {
        match starting {
            Starting { sockets, step: StartStep::Building(work, mut held) } => {
                held.push(report);
                Continue(Phase::Starting(Starting { sockets, step: StartStep::Building(work, held) }))
            }
            starting @ Starting { step: StartStep::Discovering(_) | StartStep::TakingOver(_), .. } => {
                self.followers.apply_discovery(report, &self.server);
                self.continue_start(starting)
            }
        }
    }

    /// Starts to build the snapshot with the backends that were found, on a thread.
    fn build_found(&self) -> Work<Result<Arc<Snapshot>, BuildFault>> {
        let (config, metrics) = (Arc::clone(&self.server.config), Arc::clone(&self.server.view.metrics));
        let old = self.server.view.snapshot.load_full();
        let found = self.followers.discovery.prepared(&config);
        let inherited = self.followers.draining.inherited();
        let overrides = self.server.view.overrides.copy();
        Work::new(on_thread(move || {
            let inputs = build::BuildInputs {
                config: &config,
                inherited: &inherited,
                overrides: &overrides,
                metrics: &metrics,
            };
            build::snapshot(&old, found, inputs).map(Arc::new)
        }))
    }

    /// Starts to accept clients. `change` is the proof that their policies are in force.
    pub(super) fn accept_clients(&mut self, sockets: SocketPlan, change: &InForce) -> Phase {
        let server = &mut self.server;
        // No socket was open before, so none is closed.
        let _closed = server.sockets.carry_out(sockets, &server.workers, change);
        server.view.admin_sockets.resume();
        server.view.life.store(LifeStage::Serving as u8, Ordering::Relaxed);
        readiness::review(&server.view, &server.config.ready);
        if self.incumbent.is_none() {
            self.watchdog.notify(ServiceStage::Ready);
        }
        tracing::info!(
            workers = server.workers.len(),
            max_connections = server.view.bounds.connections.limit(),
            descriptors = server.descriptors.limit(),
            listeners = ?server.view.shown_addresses(),
            "serving"
        );
        server.view.events.note(EventKind::Process, Severity::Info, "serving");
        Phase::Serving
    }

    /// Logs that a worker has ended on its own, and returns the error with which the process ends.
    pub(super) fn lost(&self, at: usize, result: io::Result<()>) -> io::Error {
        let number = self.server.workers[at].number();
        let why = match result {
            Ok(()) => "it ended on its own".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::error!(worker = number, %why, "a worker is lost with its listeners; the process ends");
        io::Error::other(format!("worker {number} is lost: {why}"))
    }
}

/// Logs the backends of the start.
fn log_found(change: &InForce) {
    for (pool, served) in &change.new.pools {
        match served.pool.backends().len() {
            _ if served.pool.spec().discover.is_empty() => {}
            0 => {
                tracing::warn!(%pool, "no backends were found; clients are refused until a backend is found")
            }
            backends => tracing::info!(%pool, backends, "backends were found"),
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits until a worker has ended. Returns its index.
///
/// # Cancel safety
///
/// No end is lost if the future is dropped.
async fn any_worker(workers: &mut [Worker]) -> (usize, io::Result<()>) {
    poll_fn(|cx| {
        for (at, worker) in workers.iter_mut().enumerate() {
            if let Poll::Ready(result) = worker.poll_ended(cx) {
                return Poll::Ready((at, result));
            }
        }
        Poll::Pending
    })
    .await
}
