//! The phases of the process. Everything that takes time is data in a phase: running work, deadlines, and the
//! channel for the result of a reload. `control.rs` has the effect of each event in each phase.
//!
//! ```text
//! Starting -> Serving -> Draining -> Closing -> end
//!             |  ^  ^
//!             |  |  +-- Rebuilding (the routes of one listener)
//!             v  |
//!             Reading -> Preparing -> Settling (a reload)
//! ```
//!
//! Each phase but the last two may also go to `Draining`. `HandingOver` begins in `Serving`. It goes on to `Draining` when
//! the successor has the connections, and back to `Serving` if the successor fails.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::build_fault::BuildFault;
use super::changes::Changes;
use super::discovery::{AwaitedAnswers, HeldReports};
use super::faults::ReloadFault;
use super::handover::session::{ReadyReply, SessionStop};
use super::in_force::InForce;
use super::reload::{BuildingReload, BuiltConfig, CheckedReload, PlannedReload, PreparedReload};
use super::reload_queue::ReloadRun;
use super::route_files::BuiltRoutes;
use super::sockets::{NewSockets, SocketPlan};
use super::work::Work;
use crate::config::Config;
use crate::snapshot::Snapshot;
use crate::telemetry::OpenedAccessLog;

/// The phase of the process.
pub(super) enum Phase {
    /// The addresses are bound. No client is accepted before the first backends are found.
    Starting(Starting),
    /// Clients are served, and no change is under way.
    Serving,
    /// Clients are served, and the routes of one listener are built again.
    Rebuilding(Work<BuiltRoutes>),
    /// Clients are served, and the configuration file is read. The result is `None` if a file system does not answer.
    Reading(ReloadRun, Work<Option<Result<Config, ReloadFault>>>),
    /// Clients are served, and a reload is prepared.
    Preparing(ReloadRun, Preparing),
    /// A reload is in force, and workers close the sockets that it removed.
    Settling(ReloadRun, Settling),
    /// A new program takes over the sockets and the connections.
    HandingOver(HandingOver),
    /// A stop was requested, or a successor has taken over. Clients are served until their connections end or the time is over.
    Draining(Draining),
    /// The connections were ordered to close. The work ends at the time at which they must be closed.
    Closing(Work<()>),
}

/// The start: the first backends are awaited.
pub(super) struct Starting {
    /// The sockets of the start.
    pub(super) sockets: SocketPlan,
    pub(super) step: StartStep,
}

/// The steps of the start.
pub(super) enum StartStep {
    /// The first answers of discovery are awaited.
    Discovering(AwaitedAnswers),
    /// The snapshot with the backends that were found is built on a thread. Reports wait.
    Building(Work<Result<Arc<Snapshot>, BuildFault>>, HeldReports),
    /// The snapshot is in force. The incumbent still accepts, and its session decides when this process accepts.
    TakingOver(InForce),
}

/// The steps of a reload before it comes into force.
pub(super) enum Preparing {
    /// New addresses are bound on a thread. The result is `None` if a file system does not answer.
    Binding(CheckedReload, Work<Option<Result<NewSockets, ReloadFault>>>),
    /// The new access log is opened on a thread.
    OpeningLog(CheckedReload, SocketPlan, Work<Result<OpenedAccessLog, ReloadFault>>),
    /// The first answers of new discovery sources are awaited.
    Discovering(PlannedReload, AwaitedAnswers),
    /// The configurations are compared and the snapshot is built, on a thread. Reports of discovery wait.
    Building(BuildingReload, Work<Result<BuiltConfig, ReloadFault>>, HeldReports),
    /// The files of Unix sockets change on a thread. Reports of discovery wait.
    ChangingFiles(PreparedReload, Work<()>, HeldReports),
}

/// The rest of a reload that is in force.
pub(super) struct Settling {
    pub(super) changes: Changes,
    /// Ends when the workers have closed the removed sockets, or the time for this is over.
    pub(super) closed: Work<()>,
}

/// A hand-over that is under way.
pub(super) struct HandingOver {
    /// The process id of the successor.
    pub(super) successor: u32,
    /// Its version.
    pub(super) version: String,
    /// The time of its request.
    pub(super) began: Instant,
    /// Ends the session.
    pub(super) stop: SessionStop,
    /// The step.
    pub(super) step: HandOverStep,
}

/// The steps of a hand-over.
pub(super) enum HandOverStep {
    /// The successor is being built. Clients are accepted here.
    Offering,
    /// The workers stop to accept. Then the successor gets the number of its first connection.
    Pausing(Work<()>, ReadyReply),
    /// The successor accepts, and the connections move.
    Moving,
}

impl HandingOver {
    /// Returns ready when the step is done.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.step {
            HandOverStep::Offering | HandOverStep::Moving => Poll::Pending,
            HandOverStep::Pausing(work, _) => work.poll_done(cx),
        }
    }
}

#[cfg(test)]
impl HandingOver {
    /// Returns the name of the step.
    pub(super) fn name(&self) -> &'static str {
        match self.step {
            HandOverStep::Offering => "handing over: offering",
            HandOverStep::Pausing(..) => "handing over: pausing",
            HandOverStep::Moving => "handing over: moving",
        }
    }

    /// Waits for ever for the workers, if it waits for them.
    pub(super) fn held(mut self) -> Self {
        if let HandOverStep::Pausing(work, _) = &mut self.step {
            *work = Work::new(std::future::pending());
        }
        self
    }
}

/// The stop, until the connections have ended.
pub(super) struct Draining {
    pub(super) step: DrainStep,
    /// Routes of one listener that are built again: clients whose first bytes are not read yet still need routes.
    pub(super) rebuild: Option<Work<BuiltRoutes>>,
}

/// The steps of a drain.
pub(super) enum DrainStep {
    /// New connections are still accepted. The work ends with the grace.
    Grace(Work<()>),
    /// The files of Unix sockets are removed on a thread, before the queues of their sockets close.
    RemovingFiles(Work<()>),
    /// New connections are refused, and a worker ends with its last connection. The work ends with the drain.
    Finishing(Work<()>),
}

impl Phase {
    /// Returns ready when the work of the phase is done or its time is over, or when the phase can take up a change.
    /// `has_change` is true if a reload or the report about a file waits.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>, has_change: bool) -> Poll<()> {
        match self {
            Self::Starting(starting) => match &mut starting.step {
                StartStep::Discovering(answers) => answers.poll_deadline(cx),
                StartStep::Building(work, _) => work.poll_done(cx),
                StartStep::TakingOver(_) => Poll::Pending,
            },
            Self::Serving if has_change => Poll::Ready(()),
            Self::Serving => Poll::Pending,
            Self::Rebuilding(work) => work.poll_done(cx),
            Self::Reading(_, work) => work.poll_done(cx),
            Self::Preparing(_, preparing) => preparing.poll_due(cx),
            Self::Settling(_, settling) => settling.closed.poll_done(cx),
            Self::HandingOver(handing) => handing.poll_due(cx),
            Self::Draining(draining) => draining.poll_due(cx, has_change),
            Self::Closing(time) => time.poll_done(cx),
        }
    }

    /// Returns true while a whole snapshot is built, or waits to come into force. No pool may be replaced meanwhile.
    pub(super) fn is_building(&self) -> bool {
        matches!(
            self,
            Self::Starting(Starting { step: StartStep::Building(..), .. })
                | Self::Preparing(_, Preparing::Building(..) | Preparing::ChangingFiles(..))
        )
    }

    /// Returns true if the phase takes a report of a discovery source now. Otherwise the report waits in its channel.
    pub(super) fn takes_discovery(&self) -> bool {
        match self {
            Self::Starting(Starting { step: StartStep::Building(_, held), .. })
            | Self::Preparing(_, Preparing::Building(_, _, held) | Preparing::ChangingFiles(_, _, held)) => {
                held.has_room()
            }
            Self::Starting(_)
            | Self::Serving
            | Self::Rebuilding(_)
            | Self::Reading(..)
            | Self::Preparing(..)
            | Self::Settling(..)
            | Self::HandingOver(_)
            | Self::Draining(_)
            | Self::Closing(_) => true,
        }
    }
}

impl Preparing {
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Binding(_, work) => work.poll_done(cx),
            Self::OpeningLog(_, _, work) => work.poll_done(cx),
            Self::Discovering(_, answers) => answers.poll_deadline(cx),
            Self::Building(_, work, _) => work.poll_done(cx),
            Self::ChangingFiles(_, work, _) => work.poll_done(cx),
        }
    }
}

impl Draining {
    /// Starts a step of a drain without a build of routes.
    pub(super) fn new(step: DrainStep) -> Self {
        Self { step, rebuild: None }
    }

    fn poll_due(&mut self, cx: &mut Context<'_>, has_change: bool) -> Poll<()> {
        let change = match &mut self.rebuild {
            Some(work) => work.poll_done(cx),
            None if has_change => Poll::Ready(()),
            None => Poll::Pending,
        };
        let (DrainStep::Grace(time) | DrainStep::RemovingFiles(time) | DrainStep::Finishing(time)) =
            &mut self.step;
        match change {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => time.poll_done(cx),
        }
    }
}

/// The end of the control loop, or the phase in which it goes on.
pub(super) type Flow = std::ops::ControlFlow<io::Result<()>, Phase>;
