//! The stop: the grace, the drain, and the close of the connections that are left.

use std::io;
use std::ops::ControlFlow::{Break, Continue};
use std::sync::atomic::Ordering;
use std::time::Duration;

use humantime::format_duration;
use tokio::time::timeout;

use super::control::Control;
use super::events::{EventKind, Severity};
use super::notify::ServiceStage;
use super::phase::{DrainStep, Draining, Flow, Phase};
use super::route_files::BuiltRoutes;
use super::view::LifeStage;
use super::work::{Work, on_thread};
use crate::worker::WorkerCommand;

/// The time that connections may take to close after the workers got the order to close them.
const CLOSING: Duration = Duration::from_secs(5);

/// The time that a file system may take to remove the files of Unix sockets.
const REMOVING_FILES: Duration = Duration::from_secs(1);

impl Control {
    /// Begins the stop: no reload starts any more, and new connections are accepted only until the grace is over.
    pub(super) fn stop(&mut self, grace: Duration) -> Phase {
        Phase::Draining(Draining::new(self.begin_drain(grace)))
    }

    /// Begins the stop while the routes of a listener are built. They come into force in the drain: their report is not
    /// sent again.
    pub(super) fn stop_rebuilding(&mut self, work: Work<BuiltRoutes>) -> Phase {
        let step = self.begin_drain(self.server.config.shutdown.grace);
        Phase::Draining(Draining { step, rebuild: Some(work) })
    }

    fn begin_drain(&mut self, grace: Duration) -> DrainStep {
        self.followers.changed_parts.send_all_answers();
        self.leave_incumbent();
        let view = &self.server.view;
        view.life.store(LifeStage::Draining as u8, Ordering::Relaxed);
        self.watchdog.notify(ServiceStage::Stopping);
        let drain = self.server.config.shutdown.drain;
        let (shown_grace, drain) = (format_duration(grace), format_duration(drain));
        tracing::info!(grace = %shown_grace, %drain, "stopping");
        view.events.note(EventKind::Process, Severity::Info, "stopping");
        self.queue.refuse_all();
        if grace.is_zero() { self.remove_files() } else { DrainStep::Grace(Work::pause(grace)) }
    }

    /// Starts to remove the files of Unix sockets, on a thread, before their queues close.
    fn remove_files(&mut self) -> DrainStep {
        let files = self.server.sockets.take_files();
        let admin_files = self.server.view.admin_sockets.take_files();
        if files.is_empty() && admin_files.is_empty() {
            return self.finish();
        }
        let removing = on_thread(move || drop((files, admin_files)));
        let removing = async move { timeout(REMOVING_FILES, removing).await.unwrap_or_default() };
        DrainStep::RemovingFiles(Work::new(removing))
    }

    /// Refuses new connections and closes the admin listeners, so that another process can bind every address. A worker
    /// ends with its last connection.
    fn finish(&mut self) -> DrainStep {
        // The workers close the sockets when control has dropped them.
        self.server.sockets.close();
        self.server.view.admin_sockets.close();
        if let Some(listener) = self.port.take_listener() {
            // Its file is removed, which may wait for a file system.
            drop(on_thread(move || drop(listener)));
        }
        self.server.order_all(|| WorkerCommand::Finish);
        DrainStep::Finishing(Work::pause(self.server.config.shutdown.drain))
    }

    /// Closes the connections that are left.
    fn close(&mut self) -> Phase {
        let open = self.server.view.bounds.connections.inside();
        tracing::warn!(open, "the time for draining is over; the open connections are closed");
        self.server.order_all(|| WorkerCommand::CloseAll);
        Phase::Closing(Work::pause(CLOSING))
    }

    /// Goes on with a drain. Puts built routes in force, and takes up reports about files. If the present step
    /// is over, begins the next step.
    pub(super) fn continue_drain(&mut self, draining: Draining) -> Flow {
        let Draining { step, rebuild } = draining;
        let rebuild = match rebuild.map(Work::result) {
            Some(Err(work)) => Some(work),
            Some(Ok(built)) => {
                self.routes_built(built);
                None
            }
            None => self.apply_noted(),
        };
        let step = match step {
            DrainStep::Grace(Work::Done(())) => self.remove_files(),
            DrainStep::RemovingFiles(Work::Done(())) => self.finish(),
            DrainStep::Finishing(Work::Done(())) => return Continue(self.close()),
            running @ (DrainStep::Grace(Work::Running(_))
            | DrainStep::RemovingFiles(Work::Running(_))
            | DrainStep::Finishing(Work::Running(_))) => running,
        };
        Continue(Phase::Draining(Draining { step, rebuild }))
    }

    /// Ends the wait of a drain: a further stop was requested.
    pub(super) fn shorten_drain(&mut self, draining: Draining) -> Phase {
        let Draining { step, rebuild } = draining;
        match step {
            DrainStep::Grace(_) => {
                let step = self.remove_files();
                Phase::Draining(Draining { step, rebuild })
            }
            DrainStep::RemovingFiles(_) => {
                self.finish();
                self.close()
            }
            DrainStep::Finishing(_) => self.close(),
        }
    }

    /// Takes note that a worker has ended in a drain. The process ends with the last worker.
    pub(super) fn worker_drained(&mut self, draining: Draining, at: usize, result: io::Result<()>) -> Flow {
        match (&draining.step, result) {
            (DrainStep::Finishing(_), Ok(())) => {
                self.server.workers.remove(at);
                if self.server.workers.is_empty() {
                    tracing::info!("every connection has ended");
                    return Break(Ok(()));
                }
                Continue(Phase::Draining(draining))
            }
            // Before the order to finish, a worker must not end at all.
            (DrainStep::Grace(_) | DrainStep::RemovingFiles(_) | DrainStep::Finishing(_), result) => {
                Break(Err(self.lost(at, result)))
            }
        }
    }

    /// Takes note that a worker has ended after the order to close. The process ends with the last worker.
    pub(super) fn worker_closed(&mut self, time: Work<()>, at: usize, result: io::Result<()>) -> Flow {
        if result.is_err() {
            return Break(result);
        }
        self.server.workers.remove(at);
        if self.server.workers.is_empty() { Break(Ok(())) } else { Continue(Phase::Closing(time)) }
    }
}
