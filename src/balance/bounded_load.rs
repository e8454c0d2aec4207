//! The bound on the connections of one member of a hash table.
//!
//! Hashing alone ignores load: a few clients with many connections can fill one member while the others are idle.
//! The bound of a member is its share by weight of all connections that are open to the pool, times `max_load`:
//!
//! ```text
//! slots = max(1, ceil((T + 1) * max_load * w / W))
//! ```
//!
//! T is the number of connections open to all members that accept now. The 1 is the new connection. w is the
//! member's weight times its present share, and W is the sum of all w. The slots of all members together are more
//! than T + 1, so at least one member always has room. A key whose owner has no room goes to its next draw. The next
//! draw differs from key to key, so the overflow spreads over all other members instead of one neighbour.
//!
//! T and W depend on every member, so only one pick in N/16 updates them. The picks between two updates make T wrong
//! by at most N/16: a sixteenth of a connection for each member.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::load::weight_now;
use super::{Candidates, MaxLoad};

/// The number of members that a pick queries, on average, to keep the count of connections up to date.
const QUERIES_PER_PICK: usize = 16;

/// The bound, and the numbers from which it is computed. All workers share the numbers, which order nothing else.
#[derive(Debug)]
pub(super) struct LoadBound {
    max_load: MaxLoad,
    weights: Box<[u32]>,
    picks: AtomicU64,
    /// T and W as of the last update.
    connections: AtomicU64,
    weight: AtomicU64,
    overflows: AtomicU64,
}

impl LoadBound {
    pub(super) fn new(max_load: MaxLoad, weights: Box<[u32]>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { max_load, weights, picks: zero(), connections: zero(), weight: zero(), overflows: zero() }
    }

    /// Counts a pick. If an update is due, queries all candidates and returns their answers, because a pick must not
    /// query them again.
    pub(super) fn refresh<'a, C: Candidates>(&self, candidates: &'a C) -> Option<AcceptanceCache<'a, C>> {
        let every = (self.weights.len() / QUERIES_PER_PICK).max(1) as u64;
        if !self.picks.fetch_add(1, Ordering::Relaxed).is_multiple_of(every) {
            return None;
        }
        let weighted = self.weights.iter().enumerate();
        let accepted: Vec<bool> =
            weighted.clone().map(|(member, &weight)| weight > 0 && candidates.accepts(member)).collect();
        let (mut connections, mut weight) = (0_u64, 0_u64);
        for (member, &own) in weighted.filter(|(member, _)| accepted[*member]) {
            connections = connections.saturating_add(candidates.active(member));
            weight = weight.saturating_add(weight_now(member, own, candidates));
        }
        self.connections.store(connections, Ordering::Relaxed);
        self.weight.store(weight, Ordering::Relaxed);
        Some(AcceptanceCache { candidates, accepted })
    }

    /// Returns true if a member has fewer connections than its bound.
    pub(super) fn has_room(&self, member: usize, candidates: &impl Candidates) -> bool {
        let active = candidates.active(member);
        let all = u128::from(self.connections.load(Ordering::Relaxed)) + 1;
        let weight = weight_now(member, self.weights[member], candidates);
        // Both sides are multiplied by the divisors. For integers, `active < ceil(x)` equals `active < x`.
        let slots = all * u128::from(self.max_load.percent()) * u128::from(weight);
        active == 0 || u128::from(active) * 100 * u128::from(self.weight.load(Ordering::Relaxed)) < slots
    }

    /// Counts a connection that went to another member because its key's owner had no room.
    pub(super) fn count_overflow(&self) {
        self.overflows.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds connections that another process counted.
    pub(super) fn add_overflows(&self, count: u64) {
        self.overflows.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }
}

/// Candidates with stored answers of [`Candidates::accepts`].
pub(super) struct AcceptanceCache<'a, C> {
    candidates: &'a C,
    accepted: Vec<bool>,
}

impl<C: Candidates> Candidates for AcceptanceCache<'_, C> {
    fn accepts(&self, index: usize) -> bool {
        self.accepted[index]
    }

    fn active(&self, index: usize) -> u64 {
        self.candidates.active(index)
    }

    fn share(&self, index: usize) -> u32 {
        self.candidates.share(index)
    }

    fn latency(&self, index: usize) -> Duration {
        self.candidates.latency(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::FULL_SHARE;
    use crate::balance::testing::TestCandidates;

    fn bound(percent: u32, weights: &[u32]) -> LoadBound {
        LoadBound::new(MaxLoad::of_percent(percent), weights.into())
    }

    /// Checks which members have room.
    fn check(percent: u32, weights: &[u32], candidates: &TestCandidates, expected: &[bool]) {
        let bound = bound(percent, weights);
        assert!(bound.refresh(candidates.anew()).is_some());
        let room: Vec<_> = (0..weights.len()).map(|member| bound.has_room(member, candidates)).collect();
        assert_eq!(room, expected, "{percent} {weights:?} {candidates:?}");
    }

    #[test]
    fn slots_follow_the_formula() {
        let candidates = |active: &[u64]| TestCandidates::new(active);
        check(125, &[1, 1], &candidates(&[0, 0]), &[true, true]);
        // (1 + 1) * 1.25 / 2 = 1.25, so two slots.
        check(125, &[1, 1], &candidates(&[1, 0]), &[true, true]);
        // (2 + 1) * 1.25 / 2 = 1.875.
        check(125, &[1, 1], &candidates(&[2, 0]), &[false, true]);
        // (99 + 1) * 1.25 / 4 = 31.25.
        check(125, &[1; 4], &candidates(&[31, 32, 36, 0]), &[true, false, false, true]);
        check(150, &[1; 4], &candidates(&[37, 38, 24, 0]), &[true, false, true, true]);
        // The second member gets three quarters of 125.
        check(125, &[1, 3], &candidates(&[5, 94]), &[true, false]);
        check(125, &[1, 3], &candidates(&[6, 93]), &[true, true]);
    }

    #[test]
    fn members_that_do_not_accept_do_not_count() {
        let candidates = TestCandidates::new([50, 49, 1000]).refusing([false, false, true]);
        check(125, &[1, 1, 1], &candidates, &[true, true, false]);
        let candidates = TestCandidates::new([80, 19, 0]).refusing([false, false, true]);
        check(125, &[1, 1, 1], &candidates, &[false, true, true]);
    }

    #[test]
    fn a_partial_share_has_fewer_slots() {
        let candidates = TestCandidates::new([89, 10]).sharing([FULL_SHARE, FULL_SHARE / 8]);
        check(125, &[1, 1], &candidates, &[true, true]);
        let candidates = TestCandidates::new([85, 14]).sharing([FULL_SHARE, FULL_SHARE / 8]);
        check(125, &[1, 1], &candidates, &[true, false]);
    }

    #[test]
    fn a_large_pool_is_queried_in_few_picks() {
        let (bound, candidates) = (bound(125, &[1; 160]), TestCandidates::new([0; 160]));
        let refreshes = (0..100).filter(|_| bound.refresh(candidates.anew()).is_some()).count();
        assert_eq!(refreshes, 10);
    }

    proptest! {
        #[test]
        fn one_member_always_has_room(
            members in prop::collection::vec((1_u32..9, 0_u64..50, 1..=FULL_SHARE), 1..20),
            percent in 101_u32..400,
        ) {
            let weights: Vec<_> = members.iter().map(|member| member.0).collect();
            let candidates = TestCandidates::new(members.iter().map(|member| member.1).collect::<Vec<_>>())
                .sharing(members.iter().map(|member| member.2).collect::<Vec<_>>());
            let bound = bound(percent, &weights);
            prop_assert!(bound.refresh(&candidates).is_some());
            prop_assert!((0..weights.len()).any(|member| bound.has_room(member, &candidates)));
        }
    }
}
