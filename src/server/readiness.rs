//! The readiness of this node. [`View::readiness()`] computes the answer and its reason. `/ready`, `pointsman health --ready`,
//! the status, its problems and the metric show this result.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use humantime::format_duration;

use super::events::{EventKind, Severity};
use super::needed_pools::NeedsChange;
use super::view::{LifeStage, View};
use crate::config::ReadySpec;
use crate::limit::Moment;
use crate::pool::{Backend, Pool};

/// The reason for which the node is ready or not. Of several reasons, the first one in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyReason {
    /// The process starts, and takes no connections yet.
    Starting,
    /// A stop was requested, or another program has taken over.
    Draining,
    /// An operator made the node leave.
    Leaving,
    /// The process is near its limits, and `limits.ready_when_overloaded` is false.
    Overloaded,
    /// A pool of `ready_needs` has no available backend.
    Needs,
    /// The node is ready.
    Ready,
}

impl ReadyReason {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::Starting, Self::Draining, Self::Leaving, Self::Overloaded, Self::Needs, Self::Ready];

    /// The word in the answer of `/ready`, in the status and in the metric.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Leaving => "leaving",
            Self::Overloaded => "overloaded",
            Self::Needs => "needs",
            Self::Ready => "ready",
        }
    }
}

/// The readiness of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The reason.
    pub reason: ReadyReason,
    /// The pools of `ready_needs` without an available backend; empty for other reasons than [`ReadyReason::Needs`].
    pub pools: Vec<Arc<str>>,
    /// The time since which the node is not ready for these pools; `None` for other reasons.
    pub since: Option<SystemTime>,
    /// The pools of `ready_needs` without an available backend for which the node no longer withdraws, and the times
    /// since which they have none. `ready_floor` is over for them.
    pub excused: Vec<(Arc<str>, SystemTime)>,
}

impl Readiness {
    /// Returns true if balancers in front may send new clients.
    pub fn is_ready(&self) -> bool {
        self.reason == ReadyReason::Ready
    }
}

/// The answer of `/ready`: the word of the reason, and the pools that lack a backend.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.word())?;
        match &self.pools[..] {
            [] => Ok(()),
            [pool] => write!(f, ": pool {pool} has no available backend"),
            pools => write!(f, ": pools {} have no available backend", pools.join(", ")),
        }
    }
}

impl View {
    /// Returns the readiness of the node.
    pub fn readiness(&self) -> Readiness {
        let (unready, excused) = {
            let needs = self.needs.lock();
            (needs.unready(), needs.excused())
        };
        let reason = match self.life() {
            LifeStage::Starting => ReadyReason::Starting,
            LifeStage::Draining => ReadyReason::Draining,
            LifeStage::Serving if self.overrides.leave().is_some() => ReadyReason::Leaving,
            LifeStage::Serving if !self.bounds.overload.is_ready(Moment::now()) => ReadyReason::Overloaded,
            LifeStage::Serving if unready.is_some() => ReadyReason::Needs,
            LifeStage::Serving => ReadyReason::Ready,
        };
        let (now, clock) = (Instant::now(), SystemTime::now());
        let time = |moment: Instant| clock - now.saturating_duration_since(moment);
        let (pools, since) = match unready.filter(|_| reason == ReadyReason::Needs) {
            Some((pools, since)) => (pools, Some(time(since))),
            None => (Vec::new(), None),
        };
        let excused = excused.into_iter().map(|(pool, since)| (pool, time(since))).collect();
        Readiness { reason, pools, since, excused }
    }
}

/// Returns the time at which the readiness changes if no pool changes before. `None` while the process does not serve:
/// other reasons decide then.
pub(super) fn next_review(view: &View, spec: &ReadySpec) -> Option<Instant> {
    match view.life() {
        LifeStage::Serving => view.needs.lock().next(spec),
        LifeStage::Starting | LifeStage::Draining => None,
    }
}

/// Reviews the pools that the node needs, and logs a change of the readiness. The first review takes place when the process
/// begins to serve: discovery has ended by then.
pub(super) fn review(view: &View, spec: &ReadySpec) {
    if view.life() != LifeStage::Serving {
        return;
    }
    let snapshot = view.snapshot.load();
    let has_backend = |pool: &str| {
        snapshot.pools.get(pool).is_some_and(|served| served.pool.has_backend() && is_proved(&served.pool))
    };
    let change = view.needs.lock().review(spec, has_backend, Instant::now());
    if let Some(change) = change {
        report(&change, spec, view);
    }
}

/// Returns true if a check of the pool has passed, or if the pool has no checks. Backends count as available before their
/// first check, so a node with a dead pool would be ready after each start.
fn is_proved(pool: &Pool) -> bool {
    let has_passed = |backend: &Arc<Backend>| backend.health().checks_passed() > 0;
    pool.spec().health.is_none() || pool.backends().iter().any(has_passed)
}

fn report(change: &NeedsChange, spec: &ReadySpec, view: &View) {
    let floor = format_duration(spec.floor);
    let (severity, text) = match change {
        NeedsChange::NotYet(pools) => {
            let pools = pools.join(", ");
            tracing::info!(
                %pools, %floor,
                "not ready yet: a pool of ready_needs has no backend that is known to work; /ready answers 503 until it has \
                 one, for ready_floor at most"
            );
            let text = format!(
                "not ready yet: no backend of {pools} is known to work (ready_needs); /ready answers 503 for {floor} at most"
            );
            (Severity::Info, text)
        }
        NeedsChange::Unready(pools) => {
            let pools = pools.join(", ");
            tracing::warn!(
                %pools, %floor,
                "not ready: a pool of ready_needs has no available backend; /ready answers 503 until it has one, for \
                 ready_floor at most"
            );
            let text = format!(
                "not ready: no available backend in {pools} (ready_needs); /ready answers 503 for {floor} at most"
            );
            (Severity::Warning, text)
        }
        NeedsChange::Ready(after) => {
            let after = format_duration(std::time::Duration::from_secs(after.as_secs()));
            tracing::info!(%after, "ready: no pool of ready_needs is without a backend");
            (Severity::Info, format!("ready after {after}: no pool of ready_needs is without a backend"))
        }
        NeedsChange::Excused(pools) => {
            let pools = pools.join(", ");
            tracing::warn!(
                %pools, %floor,
                "ready although a pool of ready_needs has no available backend: ready_floor is over, and the other nodes \
                 may be without this pool too"
            );
            let text = format!(
                "ready again although {pools} has no available backend: ready_floor ({floor}) is over, and the other nodes \
                 may be without it too"
            );
            (Severity::Warning, text)
        }
    };
    view.events.note(EventKind::Process, severity, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_the_pools() {
        let check = |reason, pools: &[&str], expected: &str| {
            let pools = pools.iter().map(|pool| Arc::from(*pool)).collect();
            let readiness = Readiness { reason, pools, since: None, excused: Vec::new() };
            assert_eq!(readiness.to_string(), expected);
            assert_eq!(readiness.is_ready(), expected == "ready");
        };
        check(ReadyReason::Ready, &[], "ready");
        check(ReadyReason::Leaving, &[], "leaving");
        check(ReadyReason::Needs, &["mail"], "needs: pool mail has no available backend");
        check(ReadyReason::Needs, &["mail", "web"], "needs: pools mail, web have no available backend");
    }

    #[test]
    fn each_reason_has_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = ReadyReason::ALL.map(ReadyReason::word).into();
        assert_eq!(words.len(), ReadyReason::ALL.len());
    }
}
