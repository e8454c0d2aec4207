//! The reports of the tasks that follow sources.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::fault::DiscoverFault;
use super::hold::{HeldBackends, Hold};
use super::set::DiscoveredSet;

/// The outcome of one read of a source: a file, or the answers of the DNS.
#[derive(Debug)]
pub(super) enum LookOutcome {
    /// The source was read, without a fault.
    Good,
    /// The answers so far are good, and further answers are awaited.
    Unfinished,
    /// A part of the answers is good.
    Partly(DiscoverFault),
    /// No answer is good.
    Failed(DiscoverFault),
    /// The source was not read. The hold of a backend has ended.
    Expired,
}

impl LookOutcome {
    pub(super) fn fault(&self) -> Option<&DiscoverFault> {
        match self {
            Self::Good | Self::Unfinished | Self::Expired => None,
            Self::Partly(fault) | Self::Failed(fault) => Some(fault),
        }
    }
}

/// The report of a task about one read of its source.
#[derive(Debug)]
pub struct DiscoveryReport {
    pub(super) pool: Arc<str>,
    /// The number of the task, which is unique: a report may outlive its task.
    pub(super) number: u64,
    pub(super) found: Option<DiscoveredSet>,
    /// The backends of `found` that the last answer left out.
    pub(super) held: HeldBackends,
    pub(super) outcome: LookOutcome,
}

/// Sends the reports of one task. Adds the held backends to the backends that were found.
pub(super) struct ReportSender {
    pub(super) pool: Arc<str>,
    pub(super) number: u64,
    pub(super) hold: Hold,
    pub(super) report_to: mpsc::Sender<DiscoveryReport>,
}

impl ReportSender {
    /// Sets that held backends take new connections, or that they take none (`rests`).
    pub(super) fn rest(&mut self, rests: bool) {
        let pool = &*self.pool;
        match (self.hold.rest(rests), rests) {
            (false, _) => {}
            (true, true) => tracing::warn!(
                pool,
                "a service is not available by its DNS answer (SRV target \".\"); its backends get no new connections"
            ),
            (true, false) => tracing::info!(pool, "a service is available again by its DNS answer"),
        }
    }

    /// Reports the outcome of a read. Returns `false` if the receiver is gone.
    pub(super) async fn tell(&mut self, found: Option<DiscoveredSet>, outcome: LookOutcome) -> bool {
        let is_good = !matches!(outcome, LookOutcome::Failed(_));
        let found = found.map(|found| self.hold.note_answer(found, is_good, Instant::now()));
        self.send(found, outcome).await
    }

    /// Waits until the next hold ends; for ever if nothing is held.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn expired(&self) {
        match self.hold.next() {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Reports the addresses that are left when a hold ends. Returns `false` if the receiver is gone.
    pub(super) async fn expire(&mut self) -> bool {
        let left = self.hold.expire(Instant::now());
        self.send(Some(left), LookOutcome::Expired).await
    }

    async fn send(&self, found: Option<DiscoveredSet>, outcome: LookOutcome) -> bool {
        let (pool, number, held) = (Arc::clone(&self.pool), self.number, self.hold.held());
        let report = DiscoveryReport { pool, number, found, held, outcome };
        self.report_to.send(report).await.is_ok()
    }
}
