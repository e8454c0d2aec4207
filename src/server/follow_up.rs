//! The consequences of a backend's change of state. The change is logged. An ejection ends when its time is
//! over. If the pool is configured so, the connections of a backend that is down are closed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use humantime::format_duration;

use super::backend_log;
use super::events::{EventKind, Severity};
use super::in_force::{ChangedPart, InForce};
use super::start::Server;
use crate::ids::BackendId;
use crate::live::{CloseNotice, ClosePace, ConnectionGroup};
use crate::pool::{
    AgentReport, Backend, BackendState, CheckOutcome, CheckReport, Discovery, EjectionRefusal, FailureReport,
    OnDown, StateChange,
};
use crate::snapshot::{ServedPool, Snapshot};
use crate::telemetry::{CloseReason, EjectionOutcome};
use crate::worker::WorkerCommand;

/// The work that is still to be done about backends.
#[derive(Default)]
pub(super) struct FollowUp {
    /// The times at which ejections are over, by backend. A backend that a reload removed stays here until then.
    ejected: HashMap<BackendId, (Instant, Arc<Backend>)>,
    /// The close notices in force, by backend.
    notices: HashMap<BackendId, IssuedNotice>,
    /// The pace of each pool that closes connections, by pool name. All backends of a pool share it.
    paces: HashMap<Arc<str>, (u32, Arc<ClosePace>)>,
    /// The pools that were in panic at the last review, by name.
    in_panic: HashSet<Arc<str>>,
    /// The pools that have no backend for new connections, by name, and the start of that state.
    without_backend: HashMap<Arc<str>, Instant>,
}

/// A notice, and the rate of its pool when the notice was issued.
struct IssuedNotice {
    rate: u32,
    notice: Arc<CloseNotice>,
}

impl FollowUp {
    /// Applies the result of a check.
    pub(super) fn apply(&mut self, server: &Server, report: &CheckReport) {
        let snapshot = server.view.snapshot.load();
        let Some(served) = snapshot.pools.get(&report.pool) else { return };
        served.metrics.check_seconds.record(report.took);
        report.backend.traffic().counts().checked(report.took);
        if let CheckOutcome::Failed(fault) = report.found.outcome {
            served.metrics.failed_check(fault.failed_check());
        }
        if let Some(change) = served.pool.apply(report, Instant::now()) {
            self.follow(server, served, &report.backend, change);
        }
    }

    /// Applies the answer of an agent.
    pub(super) fn apply_agent(&mut self, server: &Server, report: &AgentReport) {
        let snapshot = server.view.snapshot.load();
        let Some(served) = snapshot.pools.get(&report.pool) else { return };
        for change in served.pool.apply_agent_report(report, Instant::now()) {
            self.follow(server, served, &report.backend, change);
        }
        // The answer may have changed only the weight, which is no change of state.
        self.review_pool(server, served);
    }

    /// Ejects a backend at which clients failed, unless a rule of its pool forbids the ejection.
    pub(super) fn eject(&mut self, server: &Server, failure_report: &FailureReport) {
        let snapshot = server.view.snapshot.load();
        let backend = &failure_report.backend;
        let Some(served) = snapshot.pools.get(backend.pool()) else { return };
        let outcome = match served.pool.eject(failure_report, Instant::now()) {
            Ok(None) => return,
            Ok(Some(change)) => {
                self.follow(server, served, backend, change);
                EjectionOutcome::Ejected
            }
            Err(withheld) => {
                let (pool, trouble, backend) = (backend.pool(), failure_report.trouble, backend.name());
                tracing::debug!(%pool, %backend, %trouble, %withheld, "backend is not ejected");
                match withheld {
                    EjectionRefusal::MostEjected => EjectionOutcome::MaxEjected,
                    EjectionRefusal::LastOne => EjectionOutcome::LastOne,
                }
            }
        };
        served.metrics.ejection(outcome);
    }

    /// Returns the time at which the next ejection is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.ejected.values().map(|(until, _)| *until).min()
    }

    /// Readmits the backends whose ejection is over.
    pub(super) fn readmit(&mut self, server: &Server) {
        let snapshot = server.view.snapshot.load();
        let now = Instant::now();
        let over: Vec<_> = self.ejected.extract_if(|_, (until, _)| *until <= now).collect();
        for (_, (_, backend)) in over {
            let Some(served) = snapshot.pools.get(backend.pool()) else { continue };
            if let Some(change) = served.pool.readmit(&backend, now) {
                self.follow(server, served, &backend, change);
            }
        }
    }

    /// Updates states, logs and notices for the pools that came into force, and forgets removed pools.
    pub(super) fn in_force(&mut self, change: &InForce, server: &Server) {
        match change.part {
            ChangedPart::Bound | ChangedPart::Configuration => self.retain(&change.new),
            ChangedPart::Pool(..) | ChangedPart::Routes => {}
        }
        for served in change.pools() {
            self.settle(server, served);
        }
    }

    fn settle(&mut self, server: &Server, served: &ServedPool) {
        for (backend, change) in served.pool.settle(Instant::now()) {
            self.follow(server, served, &backend, change);
        }
        // The ejections of an earlier process are not changes of this one.
        for backend in served.pool.backends() {
            self.note_ejection(backend);
        }
        self.review_pool(server, served);
        self.review_notices(server, served);
    }

    /// Notes the end of a backend's ejection, if it has one.
    fn note_ejection(&mut self, backend: &Arc<Backend>) {
        if let Some(ejection) = backend.health().ejection() {
            self.ejected.insert(backend.id(), (ejection.until, Arc::clone(backend)));
        }
    }

    /// Reviews the panic and the availability of a pool.
    fn review_pool(&mut self, server: &Server, served: &ServedPool) {
        self.review_panic(server, served);
        self.log_availability(server, served);
    }

    /// Logs once that a pool has no backend for new connections, and later once that the pool has a backend
    /// again.
    fn log_availability(&mut self, server: &Server, served: &ServedPool) {
        if is_undiscovered(served) {
            return;
        }
        let (pool, has_backend) = (&served.pool.spec().name, served.pool.has_backend());
        let left = backend_log::left(&served.pool);
        match self.without_backend.get(pool) {
            None if !has_backend => {
                let open: u64 = served.pool.backends().iter().map(|backend| backend.active()).sum();
                tracing::error!(%pool, %left, open, "pool has no backend left: new connections are refused");
                let text = format!("pool {pool} has no backend left: new connections are refused");
                server.view.events.note(EventKind::Pool, Severity::Error, text);
                self.without_backend.insert(Arc::clone(pool), Instant::now());
            }
            Some(since) if has_backend => {
                let after = format_duration(Duration::from_secs(since.elapsed().as_secs()));
                tracing::info!(%pool, %left, %after, "pool has a backend again");
                let text = format!("pool {pool} has a backend again after {after}");
                server.view.events.note(EventKind::Pool, Severity::Info, text);
                self.without_backend.remove(pool);
            }
            _ => {}
        }
    }

    /// Updates the notices of a pool: its reaction to backends that are down may have changed. Notices to the
    /// connections of removed backends stay until their drain is over.
    fn review_notices(&mut self, server: &Server, served: &ServedPool) {
        for backend in served.pool.backends() {
            self.review_notice(server, served, backend);
        }
    }

    /// Updates the panic state of a pool. In panic mode, picks also send clients to backends that are down. The
    /// connections of these clients must not be closed.
    fn review_panic(&mut self, server: &Server, served: &ServedPool) {
        let (pool, is_panic) = (&served.pool.spec().name, served.pool.is_in_panic());
        if self.in_panic.contains(pool) == is_panic {
            return;
        }
        if is_panic {
            self.in_panic.insert(Arc::clone(pool));
        } else {
            self.in_panic.remove(pool);
        }
        self.review_notices(server, served);
    }

    /// Forgets pools that are not in the snapshot.
    fn retain(&mut self, snapshot: &Snapshot) {
        self.paces.retain(|pool, _| snapshot.pools.contains_key(pool));
        self.in_panic.retain(|pool| snapshot.pools.contains_key(pool));
        self.without_backend.retain(|pool, _| snapshot.pools.contains_key(pool));
    }

    /// Withdraws the notices of backends that are removed for good.
    pub(super) fn forget(&mut self, groups: &[ConnectionGroup]) {
        for group in groups {
            if let ConnectionGroup::Backend(backend) = group {
                self.withdraw(*backend);
            }
        }
    }

    fn follow(&mut self, server: &Server, served: &ServedPool, backend: &Arc<Backend>, change: StateChange) {
        backend_log::log(&served.pool, backend, change, &server.view.events);
        self.review_pool(server, served);
        self.note_ejection(backend);
        self.review_notice(server, served, backend);
    }

    /// Starts to close the connections of a backend if the backend is down and its pool is configured so.
    /// Otherwise withdraws the notice to close them.
    fn review_notice(&mut self, server: &Server, served: &ServedPool, backend: &Backend) {
        let rate = close_rate(served, backend);
        if self.notices.get(&backend.id()).map(|given| given.rate) == rate {
            return;
        }
        self.withdraw(backend.id());
        let Some(rate) = rate else { return };
        let pace = self.pace(backend.pool(), rate);
        let notice = CloseNotice::new(backend.id(), CloseReason::BackendDown, pace);
        let (pool, open) = (backend.pool(), backend.active());
        if open > 0 {
            tracing::info!(%pool, backend = %backend.name(), open, rate, "closing the connections of a backend");
        }
        for worker in &server.workers {
            worker.order(WorkerCommand::CloseInTurn(Arc::clone(&notice)));
        }
        self.notices.insert(backend.id(), IssuedNotice { rate, notice });
    }

    fn pace(&mut self, pool: &Arc<str>, rate: u32) -> Arc<ClosePace> {
        let (was, pace) = self.paces.entry(Arc::clone(pool)).or_insert_with(|| (rate, ClosePace::new(rate)));
        if *was != rate {
            (*was, *pace) = (rate, ClosePace::new(rate));
        }
        Arc::clone(pace)
    }

    fn withdraw(&mut self, backend: BackendId) {
        if let Some(given) = self.notices.remove(&backend) {
            given.notice.withdraw();
        }
    }
}

/// Returns true if a pool has no backends yet, because one of its sources has not answered for the first time.
fn is_undiscovered(served: &ServedPool) -> bool {
    let is_new = |source: &Arc<Discovery>| source.succeeded().is_none() && source.failures() == 0;
    !served.pool.spec().discover.is_empty()
        && served.pool.backends().is_empty()
        && (served.discovery.is_empty() || served.discovery.iter().any(is_new))
}

/// Returns the number of a backend's connections to close in a second, or `None` if they stay.
fn close_rate(served: &ServedPool, backend: &Backend) -> Option<u32> {
    match served.pool.spec().on_down {
        OnDown::Close { rate } if backend.state() == BackendState::Down && !served.pool.is_in_panic() => {
            Some(rate)
        }
        _ => None,
    }
}
