//! The health checks of all pools.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::build;
use super::in_force::{ChangedPart, InForce};
use super::start::Server;
use crate::pool::{CheckLimit, CheckReport, Checks, Discoveries};

/// The reports of checks that may wait. If there are more, the checks wait.
const REPORTS: usize = 1024;

/// The checks that run, and the channel of their reports. The checks end when it is dropped.
pub(super) struct CheckFollower {
    pools: HashMap<Arc<str>, Checks>,
    /// The most checks and agents at once. The tasks of both share it.
    pub(super) limit: Arc<CheckLimit>,
    reports: mpsc::Receiver<CheckReport>,
    report_to: mpsc::Sender<CheckReport>,
}

impl CheckFollower {
    /// Starts without checks.
    pub(super) fn new(server: &Server) -> Self {
        let (report_to, reports) = mpsc::channel(REPORTS);
        let delayed = server.view.metrics.process().checks_delayed.clone();
        let limit = CheckLimit::new(server.descriptors.checks_at_once(&server.config), delayed);
        Self { pools: HashMap::new(), limit, reports, report_to }
    }

    /// Checks the backends that came into force, and ends the checks of removed ones. `discoveries` has the addresses
    /// of the host names that checks connect to.
    pub(super) fn in_force(&mut self, change: &InForce, server: &Server, discoveries: &Discoveries) {
        match change.part {
            ChangedPart::Bound | ChangedPart::Configuration => {
                self.limit.set(server.descriptors.checks_at_once(&server.config));
                self.pools.retain(|name, _| change.new.pools.contains_key(name));
            }
            ChangedPart::Pool(..) | ChangedPart::Routes => {}
        }
        for served in change.pools() {
            let name = &served.pool.spec().name;
            let names = discoveries.check_names(name);
            let checks = self.pools.entry(Arc::clone(name)).or_default();
            checks.follow(&served.pool, &names, &self.report_to, &self.limit, build::random());
        }
    }

    /// Waits for the next report.
    ///
    /// # Cancel safety
    ///
    /// No report is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> CheckReport {
        match self.reports.recv().await {
            Some(report) => report,
            // `self` has a sender, so the channel never ends.
            None => std::future::pending().await,
        }
    }
}
