//! The events of the control loop. `control.rs` has the effect of each event in each phase.

use std::io;

use super::handover::session::{HandOverEvent, SessionEvent, TakeOverEvent};
use super::list_files::ListReport;
use super::near_files::NearReport;
use super::overrides::OverrideRequest;
use super::reload_queue::ReloadRequest;
use super::route_files::RoutesReport;
use super::signals::SignalEffect;
use super::view::ControlRequest;
use crate::pool::{AgentReport, CheckReport, DiscoveryReport, FailureReport};

/// An event that wakes the control loop.
pub(super) enum ControlEvent {
    /// SIGTERM, SIGINT or a request to stop. The first request begins the stop. Each further request ends a
    /// wait of the stop.
    Stop,
    /// A worker has ended. The number is the worker's index in the list of workers. The worker must be removed
    /// from the list.
    Worker(usize, io::Result<()>),
    /// SIGHUP or a request to reload.
    Reload(ReloadRequest),
    /// The work of the phase is done or its time is over, or the phase has a change to take up.
    Due,
    /// A step of a hand-over to a successor.
    HandOver(HandOverEvent),
    /// A step of the hand-over from the incumbent.
    TakeOver(TakeOverEvent),
    /// A discovery source was read or queried.
    Discovered(DiscoveryReport),
    /// A file that is followed was read.
    File(FileEvent),
    /// The state of a backend may change.
    Backend(BackendEvent),
    /// An operator requested an override.
    Override(OverrideRequest),
    /// Routine work is due. It is the same in every phase.
    Routine(RoutineEvent),
}

/// A file that is followed was read.
pub(super) enum FileEvent {
    /// The routes of a listener.
    Routes(RoutesReport),
    /// The entries of a list.
    List(ListReport),
    /// The places of clients.
    Near(NearReport),
}

/// The state of a backend may change.
pub(super) enum BackendEvent {
    /// A check has a result.
    Checked(CheckReport),
    /// An agent was queried.
    Agent(AgentReport),
    /// Clients failed at a backend.
    Failures(FailureReport),
    /// The time of an ejection is over.
    EjectionOver,
}

/// Routine work of control. It is the same in every phase.
pub(super) enum RoutineEvent {
    /// Do what is done every few seconds: histograms, expired entries of lists, drains that ended.
    Upkeep,
    /// Feed the watchdog, or notify the service manager again.
    Watchdog,
    /// Close the connections of removed listeners and backends whose drain time is over.
    Overdue,
    /// End the overrides whose time is over.
    OverrideOver,
    /// Review the pools without which the node is not ready.
    Readiness,
    /// Log episodes of saturation.
    Saturation,
    /// Open the access log again: SIGUSR1.
    ReopenLog,
    /// Log that SIGUSR2 has no effect.
    LogSigusr2,
    /// Log that SIGQUIT has no effect.
    LogSigquit,
}

impl From<SignalEffect> for ControlEvent {
    fn from(effect: SignalEffect) -> Self {
        match effect {
            SignalEffect::Stop => Self::Stop,
            SignalEffect::Reload => Self::Reload(ReloadRequest::File),
            SignalEffect::ReopenLog => Self::Routine(RoutineEvent::ReopenLog),
            SignalEffect::LogSigusr2 => Self::Routine(RoutineEvent::LogSigusr2),
            SignalEffect::LogSigquit => Self::Routine(RoutineEvent::LogSigquit),
        }
    }
}

impl From<SessionEvent> for ControlEvent {
    fn from(event: SessionEvent) -> Self {
        match event {
            SessionEvent::HandOver(event) => Self::HandOver(event),
            SessionEvent::TakeOver(event) => Self::TakeOver(event),
        }
    }
}

impl From<ControlRequest> for ControlEvent {
    fn from(request: ControlRequest) -> Self {
        match request {
            ControlRequest::Stop => Self::Stop,
            ControlRequest::Override(request) => Self::Override(request),
            ControlRequest::ReloadFile(rules, reply) => Self::Reload(ReloadRequest::FileFor(rules, reply)),
            ControlRequest::Reload(config, reply) => Self::Reload(ReloadRequest::Config(config, reply)),
        }
    }
}
