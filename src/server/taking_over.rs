//! The steps of the successor in a hand-over: it accepts when the incumbent has stopped to accept, and adopts its
//! connections.

use std::io;
use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::control::Control;
use super::event::ControlEvent;
use super::events::{EventKind, Severity};
use super::handover::UpgradeStep;
use super::handover::session::{SuccessorEnd, TakeOverEvent};
use super::handover::state;
use super::in_force::InForce;
use super::notify::ServiceStage;
use super::phase::{Flow, Phase, StartStep, Starting};
use super::service_manager::ServiceManager;
use super::sockets::SocketPlan;
use super::upgrade_state::{MoveReport, UpgradeRole, millis_since_1970};
use super::view::LifeStage;
use crate::conn::handover::{Adopter, AdopterResources};
use crate::telemetry::{COMMIT, UpgradeOutcome, VERSION};
use crate::wire::handover::{Go, ProcessState, Welcome, micros, millis};

/// Returns the report of a move to the command that started this program.
fn moved_step(welcome: &Welcome, report: &MoveReport) -> UpgradeStep {
    UpgradeStep::Moved {
        moved: report.moved,
        moved_in_us: micros(report.took),
        longest_pause_us: micros(report.longest_pause),
        remaining: report.remaining,
        stages: report.stages.clone(),
        incumbent: welcome.pid,
        ends_ms: millis_since_1970(SystemTime::now()).saturating_add(welcome.drain_ms),
    }
}

impl Control {
    /// Accepts clients. A successor first waits until the incumbent has stopped to accept.
    pub(super) fn accept_or_take_over(&mut self, sockets: SocketPlan, change: InForce) -> Flow {
        let Some(link) = self.incumbent.as_mut().and_then(|incumbent| incumbent.link.take()) else {
            return Continue(self.accept_clients(sockets, &change));
        };
        let server = &self.server;
        let resources = AdopterResources {
            snapshot: Arc::clone(&server.view.snapshot),
            bounds: Arc::clone(&server.view.bounds),
            metrics: Arc::clone(&server.view.metrics),
            senders: server.migration_senders.clone(),
            loads: Arc::clone(&server.loads),
        };
        let adopter = Adopter::new(resources, self.followers.draining.departed());
        if let Some(incumbent) = &self.incumbent {
            let after = incumbent.asked.elapsed();
            self.server.reporter.report(&UpgradeStep::Ready {
                version: VERSION.to_owned(),
                commit: COMMIT.to_owned(),
                pid: std::process::id(),
                after_ms: millis(after),
                sockets: incumbent.sockets as u64,
            });
        }
        match link.start(adopter, self.port.sender()) {
            Ok(stop) => {
                if let Some(incumbent) = &mut self.incumbent {
                    incumbent.stop = Some(stop);
                }
                Continue(Phase::Starting(Starting { sockets, step: StartStep::TakingOver(change) }))
            }
            Err(error) => Break(Err(error)),
        }
    }

    /// Handles an event of the session before this program accepts.
    pub(super) fn take_over_while_starting(&mut self, starting: Starting, event: TakeOverEvent) -> Flow {
        match (starting, event) {
            (Starting { sockets, step: StartStep::TakingOver(change) }, TakeOverEvent::Go(go)) => {
                let Go { next_id, additions } = go;
                let view = &self.server.view;
                view.bounds.next_id.store(next_id, Ordering::Relaxed);
                state::restore_additions(&view.snapshot.load(), &additions, Instant::now().into_std());
                Continue(self.accept_clients(sockets, &change))
            }
            (
                Starting { sockets, step: StartStep::TakingOver(change) },
                event @ TakeOverEvent::Left(SuccessorEnd::Gone, _),
            ) => {
                let phase = self.accept_clients(sockets, &change);
                self.take_over_goes_on(event);
                Continue(phase)
            }
            (_, TakeOverEvent::Left(_, reason)) => {
                let fault = format!("the running program did not hand over, and goes on: {reason}");
                self.server.reporter.fail(&fault);
                Break(Err(io::Error::other(fault)))
            }
            (starting, event) => {
                self.take_over_goes_on(event);
                Continue(Phase::Starting(starting))
            }
        }
    }

    /// Handles an event of the session while clients are served.
    pub(super) fn take_over_while_serving(&mut self, phase: Phase, event: TakeOverEvent) -> Phase {
        match self.take_over_goes_on(event) {
            false => phase,
            // A stop in this phase does the same.
            true => match self.step(phase, ControlEvent::Stop) {
                Continue(phase) => phase,
                Break(_) => self.stop(Duration::ZERO),
            },
        }
    }

    /// Handles an event of the session. Returns true if this program must stop, because the
    /// incumbent goes on.
    pub(super) fn take_over_goes_on(&mut self, event: TakeOverEvent) -> bool {
        match event {
            // This program accepts already.
            TakeOverEvent::Go(_) => {}
            TakeOverEvent::Departed(parts) => {
                let drain = self.server.config.shutdown.drain;
                self.followers.draining.note_departed(parts, Instant::now(), drain);
            }
            TakeOverEvent::TookOver(report) => self.took_over(&report),
            TakeOverEvent::Alone(counts) => self.alone(&counts),
            TakeOverEvent::Left(SuccessorEnd::Failed, reason) => {
                let fault = format!("the running program takes everything back: {reason}");
                tracing::error!(%fault, "this program does not take over and stops");
                self.server.reporter.fail(&fault);
                self.failure = Some(fault);
                self.leave_sockets();
                return true;
            }
            TakeOverEvent::Left(SuccessorEnd::Gone, reason) => {
                tracing::error!(%reason, "the program before this one ended while it handed over; this program goes on");
                self.took_over(&MoveReport::default());
            }
            TakeOverEvent::Left(SuccessorEnd::Stopped, reason) => {
                tracing::info!(
                    %reason,
                    "the session with the program before this one is over, and that program still has connections: they end \
                     there, and their counts are lost"
                );
                self.server.view.upgrade.is_over();
                self.server.view.metrics.process().set_upgrade_remaining(0);
            }
            TakeOverEvent::Left(SuccessorEnd::Late, reason) => {
                tracing::warn!(%reason, "the program before this one ended with its last connections");
                self.server.view.upgrade.is_over();
                self.server.view.metrics.process().set_upgrade_remaining(0);
            }
        }
        false
    }

    /// Stops to accept, and leaves the sockets and their files to the incumbent, which goes on.
    fn leave_sockets(&mut self) {
        // The workers stop before they get any later command.
        let _left = self.server.sockets.leave(&self.server.workers);
        self.server.sockets.disarm();
        self.server.view.admin_sockets.disarm();
        self.port.disarm();
    }

    /// Ends the session with the incumbent, which goes on with the connections that this program does not have. If this
    /// program is not the main program, the incumbent goes on with the sockets too.
    pub(super) fn leave_incumbent(&mut self) {
        let Some(incumbent) = &mut self.incumbent else { return };
        let Some(stop) = incumbent.stop.take() else { return };
        stop.stop();
        if !incumbent.is_main {
            self.leave_sockets();
        }
    }

    /// Becomes the main program.
    fn took_over(&mut self, report: &MoveReport) {
        let Some(incumbent) = &mut self.incumbent else { return };
        incumbent.is_main = true;
        let welcome = &incumbent.welcome;
        let watchdog = welcome.watchdog_us.map(Duration::from_micros);
        let socket = welcome.notify_socket.clone().map(Into::into);
        let manager = ServiceManager::of_successor(
            ServiceManager::from_environment(),
            ServiceManager { socket, watchdog },
        );
        self.watchdog.take_over(&manager, welcome.pid);
        if self.server.view.life() == LifeStage::Draining {
            self.watchdog.notify(ServiceStage::Stopping);
        }
        self.port.open(manager);
        let MoveReport { moved, remaining, took, longest_pause, .. } = *report;
        tracing::info!(
            incumbent = welcome.pid, version = %welcome.version, moved, remaining, ?took, ?longest_pause,
            "took over from the program before"
        );
        let view = &self.server.view;
        let text = format!(
            "took over {moved} connections from process {} ({}); {remaining} remain there",
            welcome.pid, welcome.version
        );
        view.events.note(EventKind::Upgrade, Severity::Info, text);
        view.metrics.process().upgrade(UpgradeOutcome::Ok);
        view.upgrade.note(UpgradeRole::Successor, (welcome.pid, &welcome.version), Ok(report.clone()));
        view.metrics.process().set_upgrade_remaining(report.remaining);
        self.server.reporter.report(&moved_step(welcome, report));
    }

    /// Takes the last counts of the incumbent, which has ended.
    fn alone(&mut self, counts: &ProcessState) {
        state::add_counts(&self.server.view, counts);
        if let Some(incumbent) = &mut self.incumbent {
            incumbent.stop = None;
        }
        self.server.view.upgrade.is_over();
        self.server.view.metrics.process().set_upgrade_remaining(0);
        tracing::info!("the program before this one has ended");
    }
}
