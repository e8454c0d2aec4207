//! The pools without which this node is not ready: a pure state machine. It gets the time and the states of the pools. It
//! returns the changes of the readiness that these pools cause.
//!
//! ```text
//! with backend -> waiting -> lacking -> excused
//!      ^             |          |          |
//!      +-------------+----------+----------+   the pool has a backend again
//! ```
//!
//! A pool without a backend is waiting for `ready_needs_after`, and then lacking. While a pool is lacking, the node is not
//! ready. A node does not know if the other nodes have the same dead pool. So the node is not ready for `ready_floor` at
//! most, whatever the number of pools. At the end of this time every pool without a backend is excused, until it has had a
//! backend again. A pool that has had no backend since the start of the process is lacking at once, because the node has no
//! clients yet that it could lose. The caller counts a backend at the start only after a check of the pool has passed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::ReadySpec;
use crate::wire::handover::{HandedNeed, from_millis, millis};

/// The state of a needed pool without an available backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MissingStage {
    /// The node waits for a backend.
    Waiting,
    /// The node is not ready.
    Lacking,
    /// The node is ready nevertheless: `ready_floor` has passed.
    Excused,
}

impl MissingStage {
    const ALL: [Self; 3] = [Self::Waiting, Self::Lacking, Self::Excused];

    /// The word in a hand-over.
    const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Lacking => "lacking",
            Self::Excused => "excused",
        }
    }
}

/// A needed pool without an available backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MissingPool {
    stage: MissingStage,
    /// The time at which the pool was first found without a backend.
    since: Instant,
}

/// The needed pools that have no available backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NeededPools {
    missing: BTreeMap<Arc<str>, MissingPool>,
    /// The time since which the node is not ready for these pools; `None` if it is ready.
    unready: Option<Instant>,
    /// True after the first review of a process, or if an earlier process has handed over.
    has_begun: bool,
}

/// A change of the readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NeedsChange {
    /// The process begins, and these pools have no backend yet: the node is not ready.
    NotYet(Vec<Arc<str>>),
    /// The node is not ready: these pools have no backend.
    Unready(Vec<Arc<str>>),
    /// The node is ready again after this time.
    Ready(Duration),
    /// The node is ready again because `ready_floor` has passed, and these pools still have no backend.
    Excused(Vec<Arc<str>>),
}

impl NeededPools {
    /// Takes the present state of the pools. Must be called when a pool may have changed, and at [`NeededPools::next()`].
    pub(super) fn review(
        &mut self,
        spec: &ReadySpec,
        has_backend: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Option<NeedsChange> {
        let missing: Vec<_> = spec.needs.iter().filter(|pool| !has_backend(pool)).collect();
        self.missing.retain(|pool, _| missing.contains(&pool));
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let stage = if is_first { MissingStage::Lacking } else { MissingStage::Waiting };
        for pool in missing {
            let pool = self.missing.entry(Arc::clone(pool)).or_insert(MissingPool { stage, since: now });
            if pool.stage == MissingStage::Waiting && pool.since + spec.after <= now {
                pool.stage = MissingStage::Lacking;
            }
        }
        let lacking = self.of_stage(MissingStage::Lacking);
        match self.unready {
            None if lacking.is_empty() => None,
            None => {
                self.unready = Some(now);
                Some(if is_first { NeedsChange::NotYet(lacking) } else { NeedsChange::Unready(lacking) })
            }
            Some(since) if lacking.is_empty() => {
                self.unready = None;
                Some(NeedsChange::Ready(now.saturating_duration_since(since)))
            }
            Some(since) if since + spec.floor <= now => {
                self.unready = None;
                // A pool that began to lack a moment ago is excused too: it would make the node unready again at once.
                self.missing.values_mut().for_each(|pool| pool.stage = MissingStage::Excused);
                Some(NeedsChange::Excused(self.of_stage(MissingStage::Excused)))
            }
            Some(_) => None,
        }
    }

    /// Returns the time at which a pool starts to lack a backend or is excused, if no pool changes before.
    pub(super) fn next(&self, spec: &ReadySpec) -> Option<Instant> {
        let waiting = self.missing.values().filter(|pool| pool.stage == MissingStage::Waiting);
        let lacking = waiting.map(|pool| pool.since + spec.after);
        lacking.chain(self.unready.map(|since| since + spec.floor)).min()
    }

    /// Returns the pools for which the node is not ready, and the time since which it is not. `None` if it is ready.
    pub(super) fn unready(&self) -> Option<(Vec<Arc<str>>, Instant)> {
        Some((self.of_stage(MissingStage::Lacking), self.unready?))
    }

    /// Returns the pools without a backend for which the node is ready nevertheless, and the times since which they
    /// have none.
    pub(super) fn excused(&self) -> Vec<(Arc<str>, Instant)> {
        let excused = self.missing.iter().filter(|(_, pool)| pool.stage == MissingStage::Excused);
        excused.map(|(name, pool)| (Arc::clone(name), pool.since)).collect()
    }

    fn of_stage(&self, stage: MissingStage) -> Vec<Arc<str>> {
        let of_stage = self.missing.iter().filter(|(_, pool)| pool.stage == stage);
        of_stage.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Returns the state for a successor.
    pub(super) fn hand_over(&self, now: Instant) -> Vec<HandedNeed> {
        let age = |since: Instant| millis(now.saturating_duration_since(since));
        let handed = self.missing.iter().map(|(name, pool)| HandedNeed {
            pool: name.to_string(),
            stage: pool.stage.word().to_owned(),
            missing_ms: age(pool.since),
            unready_ms: self.unready.map_or(0, age),
        });
        handed.collect()
    }

    /// Continues the state of the process before this one.
    pub(super) fn restore(handed: Vec<HandedNeed>, now: Instant) -> Self {
        let before = |ms| now.checked_sub(from_millis(ms)).unwrap_or(now);
        let mut restored = Self { has_begun: true, ..Self::default() };
        for HandedNeed { pool, stage, missing_ms, unready_ms } in handed {
            let Some(stage) = MissingStage::ALL.into_iter().find(|one| one.word() == stage) else { continue };
            if stage == MissingStage::Lacking {
                restored.unready = Some(before(unready_ms));
            }
            restored.missing.insert(pool.into(), MissingPool { stage, since: before(missing_ms) });
        }
        restored
    }
}

/// The state of the needed pools. Control changes it, and admin reads it.
#[derive(Debug, Default)]
pub(super) struct SharedNeeds(Mutex<NeededPools>);

impl SharedNeeds {
    /// Returns the state for a successor.
    pub(super) fn hand_over(&self, now: Instant) -> Vec<HandedNeed> {
        self.lock().hand_over(now)
    }

    /// Continues the state of the process before this one.
    pub(super) fn restore(&self, handed: Vec<HandedNeed>, now: Instant) {
        *self.lock() = NeededPools::restore(handed, now);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, NeededPools> {
        // A review is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const AFTER: u64 = 10;
    const FLOOR: u64 = 300;

    fn spec(needs: &str) -> ReadySpec {
        let needs = needs.split_whitespace().map(Arc::from).collect();
        ReadySpec { needs, after: Duration::from_secs(AFTER), floor: Duration::from_secs(FLOOR) }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A machine, and the time at which it began.
    struct Tested {
        pools: NeededPools,
        spec: ReadySpec,
        zero: Instant,
    }

    impl Tested {
        /// A process that has begun with a backend in each pool.
        fn new(needs: &str) -> Self {
            let mut tested = Self::begin(needs);
            tested.check(0, "", "");
            tested
        }

        fn begin(needs: &str) -> Self {
            Self { pools: NeededPools::default(), spec: spec(needs), zero: Instant::now() }
        }

        /// Reviews the pools at a second, when these are without a backend.
        fn review(&mut self, second: u64, missing: &str) -> Option<NeedsChange> {
            let has_backend = |pool: &str| !missing.split_whitespace().any(|name| name == pool);
            self.pools.review(&self.spec, has_backend, self.zero + seconds(second))
        }

        #[track_caller]
        fn check(&mut self, second: u64, missing: &str, expected: &str) {
            let found = match self.review(second, missing) {
                None => String::new(),
                Some(NeedsChange::NotYet(pools)) => format!("not yet: {}", pools.join(" ")),
                Some(NeedsChange::Unready(pools)) => format!("not ready: {}", pools.join(" ")),
                Some(NeedsChange::Ready(after)) => format!("ready after {}", after.as_secs()),
                Some(NeedsChange::Excused(pools)) => format!("excused: {}", pools.join(" ")),
            };
            assert_eq!(found, expected, "at {second}: {:?}", self.pools);
        }

        /// Checks the second of the next change.
        #[track_caller]
        fn check_next(&self, expected: Option<u64>) {
            let next = self.pools.next(&self.spec).map(|next| next.duration_since(self.zero).as_secs());
            assert_eq!(next, expected, "{:?}", self.pools);
        }
    }

    #[test]
    fn a_pool_that_comes_back_in_time_changes_nothing() {
        let mut tested = Tested::new("a b");
        tested.check_next(None);
        tested.check(100, "a", "");
        tested.check_next(Some(110));
        tested.check(109, "a", "");
        tested.check(109, "", "");
        tested.check_next(None);
        // The time begins again.
        tested.check(115, "a", "");
        tested.check_next(Some(125));
        tested.check(124, "other a", "");
    }

    #[test]
    fn a_dead_pool_makes_the_node_unready_until_it_is_back() {
        let mut tested = Tested::new("a b");
        tested.check(100, "a", "");
        tested.check(110, "a", "not ready: a");
        assert_eq!(tested.pools.unready(), Some((vec!["a".into()], tested.zero + seconds(110))));
        tested.check_next(Some(410));
        tested.check(200, "a", "");
        tested.check(250, "", "ready after 140");
        assert_eq!((tested.pools.unready(), tested.pools.excused()), (None, Vec::new()));
        tested.check_next(None);
    }

    #[test]
    fn the_floor_ends_the_unreadiness_until_the_pool_is_back() {
        let mut tested = Tested::new("a");
        tested.check(100, "a", "");
        tested.check(110, "a", "not ready: a");
        tested.check(409, "a", "");
        tested.check(410, "a", "excused: a");
        assert_eq!(tested.pools.excused(), [("a".into(), tested.zero + seconds(100))]);
        tested.check_next(None);
        tested.check(10_000, "a", "");
        // It is back, so it counts again.
        tested.check(10_001, "", "");
        assert!(tested.pools.excused().is_empty());
        tested.check(10_002, "a", "");
        tested.check(10_012, "a", "not ready: a");
        tested.check_next(Some(10_312));
    }

    /// The bound is that of the node: pools that die one after the other do not add their times.
    #[test]
    fn several_pools_share_the_floor() {
        let mut tested = Tested::new("a b c");
        tested.check(100, "a", "");
        tested.check(110, "a", "not ready: a");
        tested.check(300, "a b", "");
        tested.check_next(Some(310));
        tested.check(310, "a b", "");
        assert_eq!(tested.pools.unready().unwrap().0, ["a".into(), "b".into()]);
        // The first one is back, and the node stays unready for the second one, with the time of the first one.
        tested.check(320, "b", "");
        tested.check(405, "b c", "");
        tested.check_next(Some(410));
        tested.check(410, "b c", "excused: b c");
        tested.check(420, "b c", "");
        tested.check(430, "c", "");
        tested.check(431, "b c", "");
        tested.check(441, "b c", "not ready: b");
    }

    #[test]
    fn a_pool_that_has_never_had_a_backend_counts_at_once() {
        let mut tested = Tested::begin("a b");
        tested.check(5, "a", "not yet: a");
        tested.check_next(Some(305));
        tested.check(6, "", "ready after 1");
        tested.check(7, "a", "");
        tested.check_next(Some(17));
        let mut tested = Tested::begin("a");
        tested.check(5, "a", "not yet: a");
        tested.check(305, "a", "excused: a");
    }

    #[test]
    fn a_reload_keeps_the_times_of_the_pools_that_stay() {
        let mut tested = Tested::new("a");
        tested.check(100, "a b", "");
        tested.spec.needs = spec("a b").needs;
        tested.check(105, "a b", "");
        tested.check(110, "a b", "not ready: a");
        tested.spec.needs = spec("b").needs;
        tested.check(112, "a b", "ready after 2");
        tested.check_next(Some(115));
        tested.spec.after = seconds(20);
        tested.check(115, "a b", "");
        tested.check(125, "a b", "not ready: b");
        tested.spec.floor = seconds(30);
        tested.check_next(Some(155));
        tested.spec.needs.clear();
        tested.check(126, "a b", "ready after 1");
        tested.check_next(None);
    }

    #[test]
    fn a_successor_goes_on() {
        let mut tested = Tested::new("a b c");
        tested.check(100, "a", "");
        tested.check(110, "a", "not ready: a");
        tested.check(410, "a", "excused: a");
        tested.check(420, "a b", "");
        tested.check(430, "a b c", "not ready: b");
        let now = tested.zero + seconds(435);
        let mut handed = tested.pools.hand_over(now);
        assert_eq!(NeededPools::restore(handed.clone(), now), tested.pools);
        handed.push(HandedNeed {
            pool: "d".into(),
            stage: "of a later version".into(),
            ..HandedNeed::default()
        });
        tested.pools = NeededPools::restore(handed, now);
        tested.check(440, "a b c", "");
        tested.check(730, "a b c", "excused: a b c");
        // A program without these states has handed over: the process is not new.
        let mut tested = Tested::begin("a");
        tested.pools = NeededPools::restore(Vec::new(), tested.zero);
        tested.check(1, "a", "");
        tested.check_next(Some(11));
    }

    proptest! {
        /// Pools come and go at any time, and the machine is called at each of these times and at its own.
        #[test]
        fn the_bounds_hold(steps in proptest::collection::vec((0_u64..120, 0_u8..8), 1..200)) {
            let mut tested = Tested::new("a b c");
            let (mut second, mut missing) = (0, BTreeSet::new());
            let (mut unready_since, mut missing_since): (Option<u64>, BTreeMap<&str, u64>) = Default::default();
            let mut excused: BTreeSet<&str> = BTreeSet::new();
            for (pause, pools) in steps {
                let end = second + pause;
                // The own times of the machine come first.
                let mut times: Vec<u64> = Vec::new();
                loop {
                    let own = tested.pools.next(&tested.spec).map(|next| next.duration_since(tested.zero).as_secs());
                    let at = own.filter(|own| *own <= end).unwrap_or(end);
                    prop_assert!(at >= second, "the next change is never over: {at} {second}");
                    prop_assert!(times.len() < 10, "the machine does not call itself without end: {times:?}");
                    times.push(at);
                    second = at;
                    let is_end = own.is_none_or(|own| own > end);
                    if is_end {
                        let wanted = ["a", "b", "c"].into_iter().enumerate();
                        missing = wanted.filter(|(bit, _)| pools >> bit & 1 == 1).map(|(_, name)| name).collect();
                    }
                    missing_since.retain(|pool, _| missing.contains(pool));
                    excused.retain(|pool| missing.contains(pool));
                    missing.iter().for_each(|pool| _ = missing_since.entry(pool).or_insert(second));
                    let names = missing.iter().copied().collect::<Vec<_>>().join(" ");
                    let change = tested.review(second, &names);
                    // The model: which pools have been missing long enough and are not excused.
                    let lacks = missing_since
                        .iter()
                        .any(|(pool, since)| !excused.contains(pool) && since + AFTER <= second);
                    let is_over = unready_since.is_some_and(|since| since + FLOOR <= second);
                    if lacks && is_over {
                        prop_assert!(matches!(change, Some(NeedsChange::Excused(_))));
                        excused.extend(&missing);
                        unready_since = None;
                    } else if lacks {
                        unready_since = unready_since.or(Some(second));
                    } else {
                        unready_since = None;
                    }
                    let is_unready = tested.pools.unready().is_some();
                    prop_assert_eq!(is_unready, unready_since.is_some());
                    if let Some(since) = unready_since {
                        prop_assert!(second - since < FLOOR, "it is not ready for too long");
                    }
                    if is_end {
                        break;
                    }
                }
            }
        }
    }
}
