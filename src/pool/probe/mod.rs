//! Active checks: one task for each backend checks it at intervals and sends the results.
//!
//! The tasks change nothing themselves; the receiver of the reports passes them to
//! [`Pool::apply`](super::Pool::apply). They run on the control runtime, where they delay no byte of a client.
//!
//! The first check of a backend comes at a random moment within the first interval. Each later interval is
//! longer or shorter by up to a tenth. So the checks of a thousand backends, or of ten nodes that were started
//! together, are spread over time. A [`CheckLimit`] bounds the checks under way at once. A `tcp` check opens a
//! connection and closes it without a byte: for the backend, this is a client that left at once. The other
//! kinds of check have a [dialogue](crate::wire::dialogue).
//!
//! A backend in maintenance is not checked: it may be switched off, and its state does not depend on checks.

mod check;
mod endpoint;
mod limit;
mod schedule;
mod talking;
#[cfg(feature = "tls-checks")]
mod tls;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::backend::Backend;
use super::check_spec::HealthSpec;
use super::check_target::CheckTargets;
use super::discover::CheckNames;
use super::health::{BackendState, CheckFault, CheckFinding, CheckOutcome};
use super::pool_in_use::Pool;
use crate::sys::Address;
use check::check;

pub(super) use check::connect;
pub(super) use endpoint::CheckEndpoint;
pub use endpoint::ConnectFault;
pub use limit::CheckLimit;
#[cfg(feature = "tls-checks")]
pub use tls::{CaFault, read_certificates};
pub(super) use watches::{Shared, Watch, Watches};

/// The result of one check of one backend.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The name of the backend's pool.
    pub pool: Arc<str>,
    /// The backend as it was when its task was started; a reload may have replaced it since.
    pub backend: Arc<Backend>,
    /// The result.
    pub found: CheckFinding,
    /// The duration of the check, up to the answer that decided.
    pub took: Duration,
}

/// The running checks of one pool. They end when it is dropped.
#[derive(Debug, Default)]
pub struct Checks(Watches<HealthSpec>);

impl Checks {
    /// Creates a set without checks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks the present backends of `pool`: starts missing tasks and ends the tasks of removed backends. The
    /// task of an unchanged backend goes on, so that frequent reloads do not delay its next check.
    ///
    /// The results go to `reports`. While that channel is full the tasks wait, and they end when its receiver is
    /// gone. `randomness` is any random number.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn follow(
        &mut self,
        pool: &Pool,
        names: &CheckNames,
        reports: &mpsc::Sender<CheckReport>,
        limit: &Arc<CheckLimit>,
        randomness: u64,
    ) {
        let shared = Shared { names, limit, reports, randomness };
        let endpoint = |spec: &HealthSpec, targets: &CheckTargets, backend: &Address| {
            spec.target.endpoint(&targets.health, backend)
        };
        self.0.follow(pool, pool.spec().health.as_ref(), &shared, endpoint, run);
    }
}

/// Checks a backend until the receiver of the reports is gone.
///
/// # Cancel safety
///
/// May be dropped at any moment: a running check is aborted and not reported.
async fn run(watch: Watch<HealthSpec, CheckReport>) {
    let Watch { backend, asked, spec, limit, reports, mut schedule } = watch;
    sleep_until(Instant::now() + schedule.first(spec.interval)).await;
    let mut row = ResultRun::default();
    loop {
        if backend.state() == BackendState::Maintenance {
            row = ResultRun::default();
            sleep_until(Instant::now() + schedule.period(spec.interval)).await;
            continue;
        }
        let place = limit.enter().await;
        let started = Instant::now();
        let found = check(&asked, &spec, schedule.bytes()).await;
        drop(place);
        let outcome = found.outcome;
        if let CheckOutcome::Failed(fault) = outcome {
            let (pool, name, heard) = (backend.pool(), backend.name(), found.heard.as_deref());
            tracing::debug!(%pool, backend = %name, %fault, heard, "check failed");
        }
        let report = CheckReport {
            pool: Arc::clone(backend.pool()),
            backend: Arc::clone(&backend),
            took: started.elapsed().saturating_sub(found.listened),
            found,
        };
        if reports.send(report).await.is_err() {
            return;
        }
        // From start to start. A check that took longer than the interval is followed by the next at once.
        let interval = row.interval(&spec, outcome, backend.state());
        sleep_until(started + schedule.period(interval)).await;
    }
}

/// A run of equal results.
#[derive(Debug, Default)]
struct ResultRun {
    passed: bool,
    length: u32,
}

impl ResultRun {
    /// Returns the interval after a result. The interval is `fast_interval` while more such results would
    /// change the state. A backend that is down for another reason than its checks is checked in the usual
    /// interval.
    fn interval(&mut self, spec: &HealthSpec, outcome: CheckOutcome, state: BackendState) -> Duration {
        let passed = match outcome {
            CheckOutcome::Passed => true,
            // The result shows nothing about the backend.
            CheckOutcome::Failed(CheckFault::Local) => return spec.interval,
            CheckOutcome::Failed(_) => false,
        };
        let length = if passed == self.passed { self.length.saturating_add(1) } else { 1 };
        *self = Self { passed, length };
        match (passed, state == BackendState::Down) {
            (true, true) if length < spec.rise => spec.fast_interval,
            (true, _) => spec.interval,
            (false, false) if length < spec.fall => spec.fast_interval,
            // Down, or about to be as soon as this result is applied.
            (false, _) => spec.down_interval,
        }
    }
}

#[cfg(test)]
mod tests;
