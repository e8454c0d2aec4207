//! The hand-over of a backend to another process: its health and its counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Backend, BackendSpec};
use crate::sys::Address;
use crate::wire::handover::{CountsByWord, HandedBackend, HandedBackendCounts, HandedHealth};

impl Backend {
    /// Returns a backend that is in no pool, for connections that another process handed over. It has no checks, and no
    /// new connection is sent there.
    pub fn detached(pool: &Arc<str>, name: Arc<str>, address: Address) -> Arc<Self> {
        Arc::new(Self::new(pool, &BackendSpec::new(name, address), Instant::now(), &Arc::default()))
    }

    /// Returns the backend for a hand-over to another process.
    pub fn hand_over(&self, now: Instant) -> HandedBackend {
        let (entered, checks) = (self.health.entered_by_word(), self.health.checks_by_result());
        HandedBackend {
            pool: self.pool.to_string(),
            name: self.name.to_string(),
            address: self.address.to_string(),
            health: Some(self.health.hand_over(now)),
            counts: HandedBackendCounts { entered, checks, ..self.traffic.hand_over() },
        }
    }

    /// Puts the health of this backend in another process in force. Must be called before the backend has clients and
    /// checks.
    pub fn restore(&self, handed: &HandedHealth, now: Instant) {
        self.health.restore(handed, now);
        self.traffic.changed();
    }

    /// Begins a slow start, as for a new backend beside others that were in use before.
    pub fn start_slowly(&self) {
        self.health.start_slowly();
    }

    /// Adds the counts of this backend in another process.
    pub fn add_counts(&self, handed: &HandedBackendCounts) {
        self.health.add_counts(handed);
        self.traffic.add_counts(handed);
    }
}

/// Returns the counts of all values that are not 0, by the word of the value.
pub(super) fn words<T: Copy, const N: usize>(
    all: [T; N],
    word: impl Fn(T) -> &'static str,
    count: impl Fn(T) -> u64,
) -> CountsByWord {
    let counts = all.into_iter().map(|value| (word(value).to_owned(), count(value)));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Adds a count, if there is one.
pub(super) fn add(counter: &AtomicU64, count: Option<&u64>) {
    counter.fetch_add(count.copied().unwrap_or_default(), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pool::health::{CheckFault, CheckOutcome, HealthRules, Trouble};
    use crate::pool::{BackendState, HealthSpec};
    use crate::telemetry::{CloseKind, Direction};
    use crate::wire::agent::AgentDirective;

    fn backend(now: Instant) -> Arc<Backend> {
        let spec = BackendSpec::new("a", "10.0.0.1:1".parse().unwrap());
        Arc::new(Backend::new(&"p".into(), &spec, now, &Arc::default()))
    }

    fn check(backend: &Backend, outcome: CheckOutcome, now: Instant) {
        let spec = HealthSpec::default();
        backend.observe(outcome.into(), HealthRules { health: Some(&spec), ejection: None }, now);
    }

    /// Returns the backend as another process has it.
    fn moved(old: &Backend, now: Instant) -> Arc<Backend> {
        let json = serde_json::to_vec(&old.hand_over(now)).unwrap();
        let handed: HandedBackend = serde_json::from_slice(&json).unwrap();
        let new = backend(now);
        new.restore(handed.health.as_ref().unwrap(), now);
        new.add_counts(&handed.counts);
        new
    }

    #[test]
    fn health_and_counts_go_over() {
        let start = Instant::now();
        let old = backend(start);
        old.traffic().connected(Duration::ZERO);
        old.traffic().met(Trouble::EarlyReset);
        old.traffic().counts().moved(Direction::FromClient, 7);
        old.traffic().counts().close(CloseKind::Lost);
        old.traffic().counts().checked(Duration::from_millis(3));
        old.allow(AgentDirective::Share(30));
        old.allow(AgentDirective::MaxConnections(5));
        check(&old, CheckOutcome::Failed(CheckFault::Refused), start);
        let now = start + Duration::from_secs(60);
        let new = moved(&old, now);
        let again = moved(&new, now);
        assert_eq!(again.hand_over(now), old.hand_over(now), "nothing is lost on the way");
        assert_eq!((again.state(), again.health().since()), (BackendState::Down, start));
        assert_eq!((again.active(), again.limit_in_force()), (0, Some(5)));
        let found = [again.traffic().connections_total(), again.health().checks_failed()];
        assert_eq!((found, again.health().entered(BackendState::Down)), ([1, 1], 1));
    }

    /// A slow start goes on where it was.
    #[test]
    fn a_slow_start_goes_on() {
        let start = Instant::now();
        let old = backend(start);
        old.start_slowly();
        let share = |backend: &Backend, now| backend.share(Some(Duration::from_secs(10)), || now);
        let now = start + Duration::from_secs(5);
        let new = moved(&old, now);
        assert_eq!(share(&new, now), share(&old, now));
        assert!(share(&new, now) < share(&new, now + Duration::from_secs(2)));
    }

    #[test]
    fn counts_of_any_size_are_accepted() {
        let new = backend(Instant::now());
        let json = r#"{"connections": 18446744073709551615, "troubles": {"?": 3, "connect": 18446744073709551615},
            "last_check_us": 18446744073709551615, "closed": {"fin": 2}}"#;
        let handed: HandedBackendCounts = serde_json::from_str(json).unwrap();
        new.add_counts(&handed);
        new.add_counts(&handed);
        assert_eq!(new.traffic().counts().closed(CloseKind::Fin), 4);
    }
}
