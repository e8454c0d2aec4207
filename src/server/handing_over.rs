//! The steps of the incumbent in a hand-over: it offers its sockets, stops to accept, and drains when the successor has
//! its connections.

use std::ops::ControlFlow::Continue;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::control::Control;
use super::events::{EventKind, Severity};
use super::handover::moving::MoverParts;
use super::handover::refusals;
use super::handover::session::Offer;
use super::handover::session::{HandOverEvent, MainProcess, SessionEnd, SuccessorRequest, SuccessorState};
use super::handover::state::ControlCopies;
use super::phase::{DrainStep, Draining, Flow, HandOverStep, HandingOver, Phase};
use super::reload_queue::{ReloadRequest, ReloadRules};
use super::upgrade_state::{MoveReport, UpgradeRole};
use super::view::LifeStage;
use super::work::Work;
use crate::sys::process;
use crate::telemetry::UpgradeOutcome;
use crate::telemetry::metrics::{MetricDoc, families};
use crate::wire::handover::Refused;
use crate::worker::WorkerCommand;

/// Numbers of connections that the incumbent may still give after it has stopped to accept.
const SPARE_NUMBERS: u64 = 100_000;

impl Control {
    /// Handles an event of a hand-over while clients are served and no change is under way.
    pub(super) fn hand_over_while_serving(&mut self, event: HandOverEvent) -> Phase {
        match event {
            HandOverEvent::Asked(request) => self.begin_hand_over(request),
            other => {
                self.hand_over_meanwhile(other, refusals::starting());
                Phase::Serving
            }
        }
    }

    /// Handles an event of a hand-over in a phase in which none can begin. `busy` is the reason for a refusal.
    pub(super) fn hand_over_meanwhile(&mut self, event: HandOverEvent, busy: Refused) {
        match event {
            HandOverEvent::Asked(request) => refuse(&request, busy),
            HandOverEvent::Reload(reply) => {
                self.queue.push(ReloadRequest::FileFor(ReloadRules::default(), reply))
            }
            // The session ended in another phase.
            HandOverEvent::Ready(_) | HandOverEvent::Moved(..) | HandOverEvent::Ended(_) => {}
        }
    }

    /// Handles an event of a hand-over while the process stops.
    pub(super) fn hand_over_while_stopping(&mut self, event: HandOverEvent) {
        match event {
            HandOverEvent::Reload(reply) => ReloadRequest::FileFor(ReloadRules::default(), reply).refuse(),
            HandOverEvent::Ended(_) if self.successor == SuccessorState::Counting => {
                self.successor = SuccessorState::Done;
            }
            other => self.hand_over_meanwhile(other, refusals::stopping()),
        }
    }

    /// Begins a hand-over: offers the sockets.
    fn begin_hand_over(&mut self, request: SuccessorRequest) -> Phase {
        if let Some(pool) = self.server.view.overrides.paused_pool() {
            refuse(&request, refusals::paused(&pool));
            return Phase::Serving;
        }
        let SuccessorRequest { hello, reply, stop } = request;
        let server = &self.server;
        let mut sockets = server.sockets.lend();
        sockets.extend(server.view.admin_sockets.lend());
        sockets.extend(self.port.lend());
        let offer = Offer {
            sockets,
            mover: MoverParts {
                workers: server.workers.iter().map(crate::worker::Worker::inbox).collect(),
                senders: server.migration_senders.clone(),
            },
            copies: ControlCopies::new(&self.followers.draining, &self.followers.discovery.sources),
        };
        tracing::info!(
            successor = hello.pid, version = %hello.version, commit = %hello.commit,
            "a new program takes over"
        );
        if reply.send(Ok(offer)).is_err() {
            return Phase::Serving;
        }
        Phase::HandingOver(HandingOver {
            successor: hello.pid,
            version: hello.version,
            began: Instant::now(),
            stop,
            step: HandOverStep::Offering,
        })
    }

    /// Handles an event of the hand-over that is under way.
    pub(super) fn hand_over_goes_on(&mut self, mut handing: HandingOver, event: HandOverEvent) -> Flow {
        match event {
            HandOverEvent::Asked(request) => {
                refuse(&request, refusals::under_way(handing.successor, handing.began.elapsed()));
            }
            HandOverEvent::Reload(reply) => {
                ReloadRequest::FileFor(ReloadRules::default(), reply).refuse_during_hand_over()
            }
            HandOverEvent::Ready(reply) => {
                let mut left = self.server.sockets.leave(&self.server.workers);
                self.server.view.admin_sockets.pause();
                let left = Work::new(async move { while left.recv().await.is_some() {} });
                handing.step = HandOverStep::Pausing(left, reply);
            }
            HandOverEvent::Moved(report, main) => {
                return Continue(self.handed_over(&handing, &report, main));
            }
            HandOverEvent::Ended(SessionEnd::Failed { reason, moved }) => {
                self.take_back(&handing, &reason, moved);
                return Continue(Phase::Serving);
            }
            HandOverEvent::Ended(SessionEnd::Done) => {}
        }
        Continue(Phase::HandingOver(handing))
    }

    /// Lets the successor accept, once the workers have stopped to accept.
    pub(super) fn continue_hand_over(&mut self, handing: HandingOver) -> Phase {
        let HandingOver { step, .. } = handing;
        let step = match step {
            HandOverStep::Pausing(work, reply) => match work.result() {
                Ok(()) => {
                    let next = self.server.view.bounds.next_id.load(Ordering::Relaxed) + SPARE_NUMBERS;
                    // If the session is over, its end follows.
                    let _ = reply.send(next);
                    HandOverStep::Moving
                }
                Err(work) => HandOverStep::Pausing(work, reply),
            },
            step @ (HandOverStep::Offering | HandOverStep::Moving) => step,
        };
        Phase::HandingOver(HandingOver { step, ..handing })
    }

    /// Accepts clients again, because the successor did not take over.
    fn take_back(&mut self, handing: &HandingOver, reason: &str, moved: u64) {
        let HandingOver { successor, .. } = *handing;
        self.resume(handing);
        let view = &self.server.view;
        view.metrics.process().upgrade(UpgradeOutcome::Failed);
        tracing::error!(successor, %reason, moved, "the new program did not take over; this program goes on");
        let text = format!("process {successor} did not take over: {reason}");
        view.events.note(EventKind::Upgrade, Severity::Error, text);
        view.upgrade.note(UpgradeRole::Incumbent, (successor, &handing.version), Err(reason.to_owned()));
    }

    /// Accepts clients again, if the workers have stopped to accept.
    fn resume(&mut self, handing: &HandingOver) {
        if !matches!(handing.step, HandOverStep::Offering) {
            self.server.sockets.resume(&self.server.workers);
            self.server.view.admin_sockets.resume();
        }
    }

    /// Drains: the successor has the sockets and the connections.
    fn handed_over(&mut self, handing: &HandingOver, report: &MoveReport, main: MainProcess) -> Phase {
        let successor = handing.successor;
        self.leave_incumbent();
        self.successor = SuccessorState::Counting;
        self.stays = process::is_first() || main == MainProcess::Incumbent;
        if main == MainProcess::Successor {
            self.watchdog.hand_over();
        }
        self.server.sockets.disarm();
        self.server.view.admin_sockets.disarm();
        self.port.disarm();
        let view = &self.server.view;
        view.life.store(LifeStage::Draining as u8, Ordering::Relaxed);
        let MoveReport { moved, remaining, took, longest_pause, .. } = *report;
        tracing::info!(
            successor,
            moved,
            remaining,
            ?took,
            ?longest_pause,
            "the new program has taken over; this program ends with its last connection"
        );
        view.upgrade.note(UpgradeRole::Incumbent, (successor, &handing.version), Ok(report.clone()));
        self.queue.refuse_all();
        self.server.order_all(|| WorkerCommand::Finish);
        let drain = self.server.config.shutdown.drain;
        Phase::Draining(Draining::new(DrainStep::Finishing(Work::pause(drain))))
    }

    /// Begins the stop in a hand-over. The connections that the successor does not have drain here.
    pub(super) fn stop_hand_over(&mut self, handing: HandingOver) -> Phase {
        handing.stop.stop();
        self.resume(&handing);
        self.stop(self.server.config.shutdown.grace)
    }

    /// Logs the counts of all connections. A scrape no longer reaches this process.
    fn log_counts(&self) {
        let view = &self.server.view;
        let counters = view.metrics.counters();
        let sum = |family: &MetricDoc| -> u64 {
            counters.iter().filter(|counter| counter.family == family.name).map(|counter| counter.value).sum()
        };
        tracing::info!(
            accepted = sum(&families::CONNECTIONS),
            adopted = sum(&families::CONNECTIONS_ADOPTED),
            closed = sum(&families::CONNECTIONS_CLOSED),
            handed_over = sum(&families::CONNECTIONS_HANDED_OVER),
            active = view.bounds.connections.inside(),
            "this program ends after its hand-over; the counts include those of the programs before it"
        );
    }

    /// Handles a stop of a process that has handed over. One that stays after its hand-over ends after its last connections,
    /// and a further stop closes these. Any other closes them at once.
    pub(super) fn stop_after_hand_over(&mut self, draining: Draining) -> Phase {
        match std::mem::replace(&mut self.stays, false) {
            true => Phase::Draining(draining),
            false => self.shorten_drain(draining),
        }
    }

    /// Waits until the successor has the last counts. A process that must not end then stays until it is stopped. The
    /// first process of a container is such a process: if it ended, the container would be started again and would take
    /// over back.
    pub(super) async fn end_after_hand_over(&mut self) {
        match self.successor {
            SuccessorState::None => return,
            SuccessorState::Counting => self.port.ended().await,
            SuccessorState::Done => {}
        }
        self.log_counts();
        if self.stays {
            tracing::info!("this process stays, without connections, until it is stopped");
            tokio::select! {
                () = self.signals.stopped() => {}
                () = self.watchdog.feed_for_ever() => {}
            }
        }
    }
}

/// Refuses a program that asks to take over.
fn refuse(request: &SuccessorRequest, refused: Refused) {
    tracing::warn!(
        pid = request.hello.pid,
        reason = refused.reason,
        "a new program asked to take over and is refused"
    );
    let _ = request.reply.send(Err(refused));
}
