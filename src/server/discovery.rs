//! Backends that come and go while the process runs. The results of discovery become part of the snapshot.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::build::{self, FoundPools};
use super::events::{EventKind, Severity};
use super::in_force::{ChangedPart, InForce};
use super::inherited::InheritedState;
use super::start::Server;
use super::view::View;
use super::work::Work;
use crate::config::Config;
use crate::pool::{Discoveries, DiscoveryReport, FaultChange, Pool, PoolSpec};
use crate::snapshot::ServedPool;

/// The longest wait for discovery. A start waits for the backends of every pool. A reload waits for the first
/// report of each new source. After this time the other pools are served. A pool without backends refuses its
/// clients until it has backends.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The time after which a source without an answer no longer delays a start or a reload. It applies to pools with
/// other backends. A resolver that serves answers well within this time.
const LATE_ANSWER: Duration = Duration::from_millis(500);

/// The reports that wait in a phase in which no pool may change. If there are more, they wait in their channel.
const HELD: usize = 256;

/// The number of backends that a line of the log names.
const NAMED: usize = 10;

/// The discovery sources of all pools, and the channel of their reports. Their tasks end when it is dropped.
pub(super) struct DiscoveryFollower {
    pub(super) sources: Discoveries,
    pub(super) reports: mpsc::Receiver<DiscoveryReport>,
}

/// A pool whose backends a report has changed: its name, and the index of the source.
pub(super) type ChangedPool = (Arc<str>, usize);

impl DiscoveryFollower {
    /// Starts without sources.
    pub(super) fn new() -> Self {
        let (sources, reports) = Discoveries::new();
        Self { sources, reports }
    }

    /// Puts the prepared sources in force, and ends the sources that no pool has any more. At the start it only
    /// prepares them: the first checks need the addresses of the host names that they query.
    pub(super) fn in_force(&mut self, change: &InForce, config: &Config) {
        match change.part {
            ChangedPart::Bound => self.sources.prepare(&config.pools),
            ChangedPart::Configuration => self.sources.commit(),
            ChangedPart::Pool(..) | ChangedPart::Routes => {}
        }
    }

    /// Returns the backends that the prepared sources found for a configuration.
    pub(super) fn prepared(&self, config: &Config) -> FoundPools {
        let found =
            config.pools.iter().map(|pool| Some((Arc::clone(&pool.name), self.sources.prepared(pool)?)));
        found.flatten().collect()
    }

    /// Applies a report to its source. Returns the pool that is to be replaced, if its backends have changed.
    pub(super) fn apply(&mut self, report: DiscoveryReport, view: &View) -> Option<ChangedPool> {
        let changed = self.sources.apply_report(report, SystemTime::now());
        for FaultChange { pool, source, fault } in self.sources.take_fault_changes() {
            let (severity, text) = match fault {
                Some(fault) => {
                    (Severity::Warning, format!("discovery of pool {pool} failed: {source}: {fault}"))
                }
                None => (Severity::Info, format!("discovery of pool {pool} works again: {source}")),
            };
            view.events.note(EventKind::Pool, severity, text);
        }
        changed
    }

    /// Puts a pool in force with the backends that its sources have found now. Returns `None` if nothing is different.
    pub(super) fn replace_pool(
        &self,
        (name, source): ChangedPool,
        server: &Server,
        inherited: &InheritedState,
    ) -> Option<InForce> {
        let written = server.config.pools.iter().find(|pool| pool.name == name)?;
        let snapshot = server.view.snapshot.load();
        let old = snapshot.pools.get(&name)?;
        let new = self.build_pool(written, old, server, inherited)?;
        let drain = written.discover.get(source).and_then(|source| source.drain);
        let drain = drain.unwrap_or(server.config.shutdown.drain);
        log_changes(&old.pool, &new.pool, &server.view);
        Some(InForce::pool(&server.view, new, drain))
    }

    /// Puts a pool in force with its present overrides. Returns `None` if nothing is different.
    pub(super) fn rebuild_pool(
        &self,
        name: &Arc<str>,
        server: &Server,
        inherited: &InheritedState,
    ) -> Option<InForce> {
        let written = server.config.pools.iter().find(|pool| pool.name == *name)?;
        let snapshot = server.view.snapshot.load();
        let new = self.build_pool(written, snapshot.pools.get(name)?, server, inherited)?;
        // No backend is removed.
        Some(InForce::pool(&server.view, new, server.config.shutdown.drain))
    }

    /// Builds a pool with the backends that its sources have found. Returns `None` if nothing is different.
    fn build_pool(
        &self,
        written: &PoolSpec,
        old: &Arc<ServedPool>,
        server: &Server,
        inherited: &InheritedState,
    ) -> Option<Arc<ServedPool>> {
        let inputs = build::BuildInputs {
            config: &server.config,
            inherited,
            overrides: &server.view.overrides.copy(),
            metrics: &server.view.metrics,
        };
        let new = build::served(written, Some(old), self.sources.in_force(written), inputs);
        (!Arc::ptr_eq(old, &new)).then_some(new)
    }
}

/// The reports that wait because a snapshot is built meanwhile: no pool may change during the build.
#[derive(Default)]
pub(super) struct HeldReports(Vec<DiscoveryReport>);

impl HeldReports {
    /// Returns true if there is room for a further report.
    pub(super) fn has_room(&self) -> bool {
        self.0.len() < HELD
    }

    /// Adds a report.
    pub(super) fn push(&mut self, report: DiscoveryReport) {
        self.0.push(report);
    }

    /// Returns the reports, in order.
    pub(super) fn into_reports(self) -> Vec<DiscoveryReport> {
        self.0
    }
}

/// The wait for the first answers of prepared sources, with its two deadlines.
pub(super) struct AwaitedAnswers {
    began: Instant,
    enough: EnoughAnswers,
    /// Ends at the next deadline.
    deadline: Work<()>,
}

/// The answers for which a phase waits.
#[derive(Clone, Copy)]
pub(super) enum EnoughAnswers {
    /// Backends for every pool.
    Backends,
    /// A report of each new source.
    Reports,
}

impl AwaitedAnswers {
    /// Starts to wait.
    pub(super) fn new(enough: EnoughAnswers) -> Self {
        Self { began: Instant::now(), enough, deadline: Work::pause(LATE_ANSWER) }
    }

    /// Returns true if the answers are enough by now, or their time is over. Otherwise the wait goes on.
    pub(super) fn is_over(&mut self, sources: &Discoveries) -> bool {
        let waited = self.began.elapsed();
        if waited >= FIRST_ANSWER {
            return true;
        }
        if let Work::Done(()) = self.deadline {
            self.deadline = Work::pause(FIRST_ANSWER - waited);
        }
        match (self.enough, waited >= LATE_ANSWER) {
            (EnoughAnswers::Backends, false) => sources.are_found(),
            (EnoughAnswers::Backends, true) => sources.have_backends(),
            (EnoughAnswers::Reports, false) => sources.have_reported(),
            (EnoughAnswers::Reports, true) => sources.have_backends_or_reports(),
        }
    }

    /// Returns ready at the next deadline.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.poll_done(cx)
    }
}

fn log_changes(old: &Pool, new: &Pool, view: &View) {
    let named = |here: &Pool, there: &Pool| {
        let mut names: Vec<String> = Vec::new();
        let mut more = 0_usize;
        for backend in here.backends() {
            let is_there = there.backend(backend.name()).is_some_and(|other| other.is_same(backend));
            match names.len() {
                _ if is_there => {}
                NAMED.. => more += 1,
                _ => names.push(backend.name().to_string()),
            }
        }
        if more > 0 {
            names.push(format!("and {more} more"));
        }
        names.join(", ")
    };
    let (pool, backends) = (&new.spec().name, new.backends().len());
    let (added, removed) = (named(new, old), named(old, new));
    tracing::info!(%pool, %added, %removed, backends, "discovery changed the backends");
    let text = format!(
        "discovery changed the backends of pool {pool}: added {}; removed {}; {backends} now",
        or_none(&added),
        or_none(&removed)
    );
    view.events.note(EventKind::Pool, Severity::Info, text);
}

fn or_none(names: &str) -> &str {
    if names.is_empty() { "none" } else { names }
}
