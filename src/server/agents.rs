//! The agents of all pools: sends their queries and logs the agents that do not answer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::build;
use super::in_force::{ChangedPart, InForce};
use super::view::View;
use crate::ids::BackendId;
use crate::pool::{AgentReport, Agents, Backend, CheckLimit, CheckNames, Discoveries, Pool};

/// The reports that may wait. If there are more, the agents wait.
const REPORTS: usize = 1024;

/// The agents that are queried, and the channel of their reports.
pub(super) struct AgentFollower {
    pools: HashMap<Arc<str>, Agents>,
    reports: mpsc::Receiver<AgentReport>,
    report_to: mpsc::Sender<AgentReport>,
    /// The backends whose agents gave no usable answer to the last query, by pool. The set is used to log such
    /// an agent only once.
    silent: HashMap<Arc<str>, HashSet<BackendId>>,
}

impl AgentFollower {
    pub(super) fn new() -> Self {
        let (report_to, reports) = mpsc::channel(REPORTS);
        Self { pools: HashMap::new(), reports, report_to, silent: HashMap::new() }
    }

    /// Queries the agents of the backends that came into force, and ends the queries for removed ones. `discoveries` has
    /// the addresses of the host names that agents connect to.
    pub(super) fn in_force(&mut self, change: &InForce, discoveries: &Discoveries, limit: &Arc<CheckLimit>) {
        match change.part {
            ChangedPart::Bound | ChangedPart::Configuration => {
                self.pools.retain(|name, _| change.new.pools.contains_key(name));
                self.silent.retain(|name, _| change.new.pools.contains_key(name));
            }
            ChangedPart::Pool(..) | ChangedPart::Routes => {}
        }
        for served in change.pools() {
            let names = discoveries.check_names(&served.pool.spec().name);
            self.follow(&served.pool, &names, limit);
        }
    }

    fn follow(&mut self, pool: &Pool, names: &CheckNames, limit: &Arc<CheckLimit>) {
        let agents = self.pools.entry(Arc::clone(&pool.spec().name)).or_default();
        agents.follow(pool, names, &self.report_to, limit, build::random());
        if let Some(silent) = self.silent.get_mut(&pool.spec().name) {
            let backends: HashSet<BackendId> = pool.backends().iter().map(|backend| backend.id()).collect();
            silent.retain(|backend| backends.contains(backend));
        }
    }

    /// Waits for the next report.
    ///
    /// # Cancel safety
    ///
    /// No report is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> AgentReport {
        match self.reports.recv().await {
            Some(report) => report,
            // `self` has a sender, so the channel never ends.
            None => std::future::pending().await,
        }
    }

    /// Counts an answer. Logs when an agent stops to answer and when it answers again.
    pub(super) fn note(&mut self, view: &View, report: &AgentReport) {
        view.metrics.pool(&report.pool).agent(report.answer());
        let (pool, backend): (_, &Backend) = (&report.pool, &report.backend);
        let name = backend.name();
        let silent = self.silent.entry(Arc::clone(pool)).or_default();
        match &report.heard {
            Ok(_) => {
                if silent.remove(&backend.id()) {
                    tracing::info!(%pool, backend = %name, "the agent answers again");
                }
            }
            Err(error) => {
                if silent.insert(backend.id()) {
                    tracing::warn!(
                        %pool, backend = %name, %error,
                        "the agent gave no usable answer; its last answer stays in force"
                    );
                }
            }
        }
    }
}
