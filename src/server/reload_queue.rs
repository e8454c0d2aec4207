//! The requests to reload. One reload runs at a time; further requests wait for their turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::changes::Changes;
use super::faults::ReloadFault;
use crate::config::Config;

/// The channel for the result of a reload.
pub(super) type ReloadReply = oneshot::Sender<Result<Changes, ReloadFault>>;

/// The rules of a reload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReloadRules {
    /// The largest share of the keys of a pool that may go to another backend, 0 to 1; `None` is any.
    pub max_moved: Option<f64>,
    /// The operator who ends all overrides with this reload, if the reload is to end them.
    pub reset_by: Option<Arc<str>>,
}

/// A request to reload.
pub(super) enum ReloadRequest {
    /// SIGHUP: read the file again.
    File,
    /// Read the file again by these rules. The requester waits for the result.
    FileFor(ReloadRules, ReloadReply),
    /// Put this configuration in force.
    Config(Box<Config>, ReloadReply),
}

impl ReloadRequest {
    /// Refuses the request, because the process stops.
    pub(super) fn refuse(self) {
        self.refuse_for(ReloadFault::Stopping);
    }

    /// Refuses the request, because a new program takes over.
    pub(super) fn refuse_during_hand_over(self) {
        self.refuse_for(ReloadFault::HandingOver);
    }

    fn refuse_for(self, fault: ReloadFault) {
        match self {
            Self::File => tracing::warn!("not reloaded: {fault}"),
            // A requester that is gone needs no answer.
            Self::FileFor(_, reply) | Self::Config(_, reply) => drop(reply.send(Err(fault))),
        }
    }
}

/// The requests that wait for their turn, in order.
#[derive(Default)]
pub(super) struct ReloadQueue(VecDeque<ReloadRequest>);

impl ReloadQueue {
    /// Adds a request. Several requests to read the file need one reload only.
    pub(super) fn push(&mut self, request: ReloadRequest) {
        let is_known = matches!(request, ReloadRequest::File)
            && self.0.iter().any(|waiting| matches!(waiting, ReloadRequest::File));
        if !is_known {
            self.0.push_back(request);
        }
    }

    /// Returns true if no request waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the first request.
    pub(super) fn pop(&mut self) -> Option<ReloadRequest> {
        self.0.pop_front()
    }

    /// Refuses all requests, because the process stops.
    pub(super) fn refuse_all(&mut self) {
        self.0.drain(..).for_each(ReloadRequest::refuse);
    }
}

/// A reload that is under way.
pub(super) struct ReloadRun {
    /// The time at which the reading of the configuration began.
    pub(super) began: Instant,
    pub(super) origin: ReloadOrigin,
    pub(super) rules: ReloadRules,
}

/// The origin of a reload that is under way.
pub(super) enum ReloadOrigin {
    /// SIGHUP. The service manager gets notifications of the start and the end.
    File,
    /// A request to read the file again, whose sender waits for the result. The service manager is notified too.
    FileFor(ReloadReply),
    /// A request, whose sender waits for the result.
    Request(ReloadReply),
}

impl ReloadRun {
    /// Starts to measure a reload.
    pub(super) fn new(origin: ReloadOrigin, rules: ReloadRules) -> Self {
        Self { began: Instant::now(), origin, rules }
    }
}
