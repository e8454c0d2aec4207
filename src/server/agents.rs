//! The agents of all pools: who is asked, and who says nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{View, build};
use crate::pool::{AgentReport, Agents, Backend, CheckLimit, CheckNames, Pool};
use crate::snapshot::Snapshot;

/// Reports that may wait; then the agents wait.
const REPORTS: usize = 1024;

/// Those who are asked, and where their answers arrive.
pub(super) struct AgentFollower {
    pools: HashMap<Arc<str>, Agents>,
    reports: mpsc::Receiver<AgentReport>,
    report_to: mpsc::Sender<AgentReport>,
    /// Backends whose agents said nothing of use when they were last asked, by their pools and numbers, so that
    /// it is said once.
    silent: HashMap<Arc<str>, HashSet<u64>>,
}

impl AgentFollower {
    pub(super) fn new() -> Self {
        let (report_to, reports) = mpsc::channel(REPORTS);
        Self { pools: HashMap::new(), reports, report_to, silent: HashMap::new() }
    }

    /// Asks the agents of what a pool holds, and no others.
    pub(super) fn follow(&mut self, pool: &Pool, names: &CheckNames, limit: &Arc<CheckLimit>) {
        let agents = self.pools.entry(Arc::clone(&pool.spec().name)).or_default();
        agents.follow(pool, names, &self.report_to, limit, build::random());
        if let Some(silent) = self.silent.get_mut(&pool.spec().name) {
            let numbers: HashSet<u64> = pool.backends().iter().map(|backend| backend.number()).collect();
            silent.retain(|number| numbers.contains(number));
        }
    }

    /// Asks no more for pools that are not in the snapshot.
    pub(super) fn retain(&mut self, snapshot: &Snapshot) {
        self.pools.retain(|name, _| snapshot.pools.contains_key(name));
        self.silent.retain(|name, _| snapshot.pools.contains_key(name));
    }

    /// The next answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits, nothing is lost.
    pub(super) async fn next(&mut self) -> AgentReport {
        match self.reports.recv().await {
            Some(report) => report,
            // The desk has a sender of its own, so this does not come.
            None => std::future::pending().await,
        }
    }

    /// Counts an answer, and says when an agent falls silent and when it is heard again.
    pub(super) fn note(&mut self, view: &View, report: &AgentReport) {
        view.metrics.pool(&report.pool).agent(report.answer());
        let (pool, backend): (_, &Backend) = (&report.pool, &report.backend);
        let name = backend.name();
        let silent = self.silent.entry(Arc::clone(pool)).or_default();
        match &report.heard {
            Ok(_) => {
                if silent.remove(&backend.number()) {
                    tracing::info!(%pool, backend = %name, "the agent is heard again");
                }
            }
            Err(error) => {
                if silent.insert(backend.number()) {
                    tracing::warn!(%pool, backend = %name, %error, "the agent says nothing; what it said before holds");
                }
            }
        }
    }
}
