//! What follows when a backend comes into another state: it is logged, an ejection ends in its time, and
//! what is open to a backend that is down is closed, if its pool says so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use humantime::format_duration;

use super::Server;
use crate::live::{Notice, Pace};
use crate::pool::{
    AgentReport, Backend, Change, CheckOutcome, CheckReport, OnDown, Sighting, State, Withheld,
};
use crate::snapshot::{Served, Snapshot};
use crate::telemetry::{CloseReason, EjectionOutcome};
use crate::worker::Order;

/// What is still to be done about backends.
#[derive(Default)]
pub(super) struct Aftercare {
    /// When ejections are over, by the backends' numbers. What a reload took away stays until then.
    ejected: HashMap<u64, (Instant, Arc<Backend>)>,
    /// The notices that were given, by the backends' numbers.
    notices: HashMap<u64, Given>,
    /// The pace of each pool that closes connections, by its name: all of its backends share it.
    paces: HashMap<Arc<str>, (u32, Arc<Pace>)>,
    /// The pools that were in panic when last looked at, by their names.
    in_panic: HashSet<Arc<str>>,
}

/// A notice, and the rate that its pool had then.
struct Given {
    rate: u32,
    notice: Arc<Notice>,
}

impl Aftercare {
    /// Takes in what a check found.
    pub(super) fn apply(&mut self, server: &Server, report: &CheckReport) {
        let snapshot = server.view.snapshot.load();
        let Some(served) = snapshot.pools.get(&report.pool) else { return };
        if let CheckOutcome::Failed(fault) = report.outcome {
            served.metrics.failed_check(fault.failed_check());
        }
        if let Some(change) = served.pool.apply(report, Instant::now()) {
            self.follow(server, served, &report.backend, change);
        }
    }

    /// Takes in what an agent said.
    pub(super) fn hear_agent(&mut self, server: &Server, report: &AgentReport) {
        let snapshot = server.view.snapshot.load();
        let Some(served) = snapshot.pools.get(&report.pool) else { return };
        for change in served.pool.hear_agent(report, Instant::now()) {
            self.follow(server, served, &report.backend, change);
        }
        // It may have spoken of its weight alone.
        self.notice_panic(server, served);
    }

    /// Ejects a backend at which clients failed, unless its pool cannot do without it.
    pub(super) fn eject(&mut self, server: &Server, sighting: &Sighting) {
        let snapshot = server.view.snapshot.load();
        let backend = &sighting.backend;
        let Some(served) = snapshot.pools.get(backend.pool()) else { return };
        let outcome = match served.pool.eject(sighting, Instant::now()) {
            Ok(None) => return,
            Ok(Some(change)) => {
                self.follow(server, served, backend, change);
                EjectionOutcome::Ejected
            }
            Err(withheld) => {
                let (pool, trouble, backend) = (backend.pool(), sighting.trouble, backend.name());
                tracing::debug!(%pool, %backend, %trouble, %withheld, "backend is not ejected");
                match withheld {
                    Withheld::MostEjected => EjectionOutcome::MaxEjected,
                    Withheld::LastOne => EjectionOutcome::LastOne,
                }
            }
        };
        served.metrics.ejection(outcome);
    }

    /// When the next ejection is over.
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

    /// Brings everything in line with a pool that has just come into force.
    pub(super) fn settle(&mut self, server: &Server, served: &Served) {
        for (backend, change) in served.pool.settle(Instant::now()) {
            self.follow(server, served, &backend, change);
        }
        self.notice_panic(server, served);
        self.review_notices(server, served);
    }

    /// A pool may have changed what it does about backends that are down. Notices to the connections of
    /// those that are gone stay until their drain is over.
    fn review_notices(&mut self, server: &Server, served: &Served) {
        for backend in served.pool.backends() {
            self.review_notice(server, served, backend);
        }
    }

    /// In panic clients are sent to backends that are down, and must not be closed there.
    fn notice_panic(&mut self, server: &Server, served: &Served) {
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
    pub(super) fn retain(&mut self, snapshot: &Snapshot) {
        self.paces.retain(|pool, _| snapshot.pools.contains_key(pool));
        self.in_panic.retain(|pool| snapshot.pools.contains_key(pool));
    }

    /// Forgets what is gone for good.
    pub(super) fn forget(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.withdraw(*number);
        }
    }

    fn follow(&mut self, server: &Server, served: &Served, backend: &Arc<Backend>, change: Change) {
        log(backend, change);
        self.notice_panic(server, served);
        if let Some(ejection) = backend.ejection().filter(|_| change.to == State::Ejected) {
            self.ejected.insert(backend.number(), (ejection.until, Arc::clone(backend)));
        }
        self.review_notice(server, served, backend);
    }

    /// If the backend is down and its pool closes what is open then, begins with that; if not, ends it.
    fn review_notice(&mut self, server: &Server, served: &Served, backend: &Backend) {
        let rate = close_rate(served, backend);
        if self.notices.get(&backend.number()).map(|given| given.rate) == rate {
            return;
        }
        self.withdraw(backend.number());
        let Some(rate) = rate else { return };
        let pace = self.pace(backend.pool(), rate);
        let notice = Notice::new(backend.number(), CloseReason::BackendDown, pace);
        let (pool, open) = (backend.pool(), backend.active());
        if open > 0 {
            tracing::info!(%pool, backend = %backend.name(), open, rate, "closing what is open to a backend");
        }
        for worker in &server.workers {
            worker.order(Order::CloseInTurn(Arc::clone(&notice)));
        }
        self.notices.insert(backend.number(), Given { rate, notice });
    }

    fn pace(&mut self, pool: &Arc<str>, rate: u32) -> Arc<Pace> {
        let (was, pace) = self.paces.entry(Arc::clone(pool)).or_insert_with(|| (rate, Pace::new(rate)));
        if *was != rate {
            (*was, *pace) = (rate, Pace::new(rate));
        }
        Arc::clone(pace)
    }

    fn withdraw(&mut self, number: u64) {
        if let Some(given) = self.notices.remove(&number) {
            given.notice.withdraw();
        }
    }
}

/// How many connections of a backend are to be closed a second, if any are.
fn close_rate(served: &Served, backend: &Backend) -> Option<u32> {
    match served.pool.spec().on_down {
        OnDown::Close { rate } if backend.state() == State::Down && !served.pool.is_in_panic() => Some(rate),
        _ => None,
    }
}

fn log(backend: &Backend, change: Change) {
    let (pool, reason, ejection) = (backend.pool(), change.reason, backend.ejection());
    let backend = backend.name();
    match change.to {
        State::Up => tracing::info!(%pool, %backend, %reason, "backend is up"),
        State::Down => tracing::warn!(%pool, %backend, %reason, "backend is down"),
        State::Draining => tracing::info!(%pool, %backend, %reason, "backend is draining"),
        State::Maintenance => tracing::info!(%pool, %backend, %reason, "backend is in maintenance"),
        State::Ejected => {
            let time = format_duration(ejection.map(|ejection| ejection.time).unwrap_or_default());
            let in_a_row = ejection.map(|ejection| ejection.in_a_row);
            tracing::warn!(%pool, %backend, %reason, %time, in_a_row, "backend is ejected");
        }
    }
}
