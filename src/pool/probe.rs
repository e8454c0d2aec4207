//! Active checks: one task for each backend that asks it at intervals and sends what it heard.
//!
//! The tasks change nothing themselves; the receiver of the reports hands them to
//! [`Pool::apply`](super::Pool::apply). They belong on the control runtime, where they delay no byte.
//!
//! The first check of a backend comes at a random moment within the first interval, and each later
//! interval is stretched or shortened by up to a tenth: a thousand backends, or ten nodes that were
//! started together, do not knock all at once. A check opens a connection and closes it, without a
//! byte, so what listens there sees a client that changed its mind.
//!
//! A backend in maintenance is not asked: it may be taken apart, and its state is not up to checks.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher24;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Backend, CheckFault, CheckKind, CheckOutcome, HealthSpec, Pool, State};
use crate::sys::fault::is_out_of_resources;
use crate::sys::{Address, socket};

/// How one check of one backend ended.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The name of the backend's pool.
    pub pool: Arc<str>,
    /// The backend as it was when its task was started; a reload may have replaced it since.
    pub backend: Arc<Backend>,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// How long it took.
    pub took: Duration,
}

/// The running checks of one pool. They end when it is dropped.
#[derive(Debug, Default)]
pub struct Checks {
    spec: Option<HealthSpec>,
    /// By the backend's name.
    watches: HashMap<Arc<str>, Watch>,
}

impl Checks {
    /// No checks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks what `pool` holds now: starts what is missing and ends what is gone. A check of an
    /// unchanged backend is left alone, so that frequent reloads do not push its next one away.
    ///
    /// The reports go to `reports`; while it is full the checks wait, and they end when its receiver
    /// is gone. `luck` is any random number.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn follow(&mut self, pool: &Pool, reports: &mpsc::Sender<CheckReport>, luck: u64) {
        let spec = pool.spec().health.as_ref();
        if self.spec.as_ref() != spec {
            self.watches.clear();
            self.spec = spec.cloned();
        }
        let Some(spec) = spec else { return };
        self.watches.retain(|name, watch| {
            pool.backend(name).is_some_and(|backend| backend.shares_health(&watch.backend))
        });
        let mut luck = Luck::new(luck);
        for backend in pool.backends() {
            self.watches.entry(Arc::clone(backend.name())).or_insert_with(|| {
                let schedule = Schedule::new(spec.interval, Luck::new(luck.next()));
                let task = watch(Arc::clone(backend), spec.clone(), schedule, reports.clone());
                Watch { backend: Arc::clone(backend), task: tokio::spawn(task).abort_handle() }
            });
        }
    }
}

/// One backend's task, ended on drop.
#[derive(Debug)]
struct Watch {
    backend: Arc<Backend>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks `backend` for ever, or until nobody hears the reports.
///
/// # Cancel safety
///
/// May be dropped at any moment: a check under way is given up and not reported.
async fn watch(
    backend: Arc<Backend>,
    spec: HealthSpec,
    mut schedule: Schedule,
    reports: mpsc::Sender<CheckReport>,
) {
    sleep_until(Instant::now() + schedule.first()).await;
    loop {
        let started = Instant::now();
        if backend.state() != State::Maintenance {
            let outcome = check(backend.address(), &spec).await;
            let report = CheckReport {
                pool: Arc::clone(backend.pool()),
                backend: Arc::clone(&backend),
                outcome,
                took: started.elapsed(),
            };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        // From start to start; a check that took longer than the interval is followed at once.
        sleep_until(started + schedule.period()).await;
    }
}

/// Makes one check.
///
/// # Cancel safety
///
/// Dropping it closes the connection.
async fn check(address: &Address, spec: &HealthSpec) -> CheckOutcome {
    let CheckKind::Tcp = spec.check;
    match timeout(spec.timeout, socket::connect(address)).await {
        Ok(Ok(_closed_at_once)) => CheckOutcome::Passed,
        Ok(Err(error)) => CheckOutcome::Failed(fault(&error)),
        Err(_elapsed) => CheckOutcome::Failed(CheckFault::Timeout),
    }
}

/// Whose fault a failed connect is.
///
/// Only what passes by itself and hits any address alike is our own ([`CheckFault::Local`]). A
/// connect that this host's rules forbid is not: clients could not be brought there either.
fn fault(error: &io::Error) -> CheckFault {
    use io::ErrorKind as Kind;
    match error.kind() {
        _ if is_out_of_resources(error) => CheckFault::Local,
        Kind::AddrNotAvailable => CheckFault::Local,
        // A Unix socket's path without a socket is a closed port.
        Kind::ConnectionRefused | Kind::NotFound => CheckFault::Refused,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => CheckFault::Unreachable,
        Kind::TimedOut => CheckFault::Timeout,
        _ => CheckFault::Other,
    }
}

/// An interval below this would be a busy loop against a backend that refuses at once.
const SHORTEST: Duration = Duration::from_millis(1);

/// Intervals are computed with below this, far from where adding to an `Instant` overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// When to check.
#[derive(Debug)]
struct Schedule {
    interval: Duration,
    luck: Luck,
}

impl Schedule {
    fn new(interval: Duration, luck: Luck) -> Self {
        Self { interval: interval.clamp(SHORTEST, LONGEST), luck }
    }

    /// How long to wait for the first check: anything below one interval.
    fn first(&mut self) -> Duration {
        self.interval.mul_f64(self.luck.fraction())
    }

    /// The time between the starts of two checks: the interval, give or take a tenth.
    fn period(&mut self) -> Duration {
        self.interval.mul_f64(0.9 + 0.2 * self.luck.fraction())
    }
}

/// A row of numbers that follows from its start: SipHash of a counter, keyed by that start.
#[derive(Debug)]
struct Luck {
    start: u64,
    drawn: u64,
}

impl Luck {
    fn new(start: u64) -> Self {
        Self { start, drawn: 0 }
    }

    fn next(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        SipHasher24::new_with_keys(self.start, self.drawn).hash(&[])
    }

    /// At least 0, below 1.
    fn fraction(&mut self) -> f64 {
        // The 53 bits that an f64 holds exactly.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
