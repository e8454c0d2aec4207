//! How many connections one member of a hash table may have beside the others.
//!
//! Hashing sends a client where its key belongs, however much is there already: a few clients with many
//! connections can fill one member while the others idle. The bound is a share by weight of all connections
//! that are open to the pool, times `max_load`. A member may hold
//!
//! ```text
//! slots = max(1, ceil((T + 1) * max_load * w / W))
//! ```
//!
//! where T counts the connections open to all members that accept now, the one to come is the 1, w is the
//! member's weight times its present share, and W is the sum of these. As the slots of all are more than T + 1,
//! somebody always has room. A key whose owner has none goes on to its next draw, which differs from key to key,
//! so what does not fit spreads over all others instead of falling on one neighbour.
//!
//! T and W take a look at every member, so one pick in N/16 brings them up to date for the others. T is then off
//! by N/16 at the most for connections that came meanwhile: a sixteenth of a connection for each member.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::load::weight_now;
use super::{Candidates, MaxLoad};

/// Members looked at per pick, on average, to know how many connections there are.
const LOOKS_PER_PICK: usize = 16;

/// The bound, and what it is reckoned from. The numbers are shared by all workers and order nothing else.
#[derive(Debug)]
pub(super) struct LoadBound {
    max_load: MaxLoad,
    weights: Box<[u32]>,
    picks: AtomicU64,
    /// T and W as they were when last looked at.
    connections: AtomicU64,
    weight: AtomicU64,
    overflows: AtomicU64,
}

impl LoadBound {
    pub(super) fn new(max_load: MaxLoad, weights: Box<[u32]>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { max_load, weights, picks: zero(), connections: zero(), weight: zero(), overflows: zero() }
    }

    /// Counts a pick. When it is this one's turn, looks at all candidates and answers with what is known of
    /// them then, as they may not be asked again.
    pub(super) fn look<'a, C: Candidates>(&self, candidates: &'a C) -> Option<AcceptanceCache<'a, C>> {
        let every = (self.weights.len() / LOOKS_PER_PICK).max(1) as u64;
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

    /// Whether a member has fewer connections than it may.
    pub(super) fn has_room(&self, member: usize, candidates: &impl Candidates) -> bool {
        let active = candidates.active(member);
        let all = u128::from(self.connections.load(Ordering::Relaxed)) + 1;
        let weight = weight_now(member, self.weights[member], candidates);
        // Multiplied by what the formula divides by; `active < ceil(x)` is `active < x` for whole numbers.
        let slots = all * u128::from(self.max_load.percent()) * u128::from(weight);
        active == 0 || u128::from(active) * 100 * u128::from(self.weight.load(Ordering::Relaxed)) < slots
    }

    /// Counts a connection that went elsewhere because its key's owner had no room.
    pub(super) fn overflowed(&self) {
        self.overflows.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }
}

/// Candidates that were asked already whether they accept.
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

    /// Which members have room.
    fn check(percent: u32, weights: &[u32], crowd: &TestCandidates, expected: &[bool]) {
        let bound = bound(percent, weights);
        assert!(bound.look(crowd.anew()).is_some());
        let room: Vec<_> = (0..weights.len()).map(|member| bound.has_room(member, crowd)).collect();
        assert_eq!(room, expected, "{percent} {weights:?} {crowd:?}");
    }

    #[test]
    fn slots_follow_the_formula() {
        let crowd = |active: &[u64]| TestCandidates::new(active);
        check(125, &[1, 1], &crowd(&[0, 0]), &[true, true]);
        // (1 + 1) * 1.25 / 2 = 1.25, so two slots.
        check(125, &[1, 1], &crowd(&[1, 0]), &[true, true]);
        // (2 + 1) * 1.25 / 2 = 1.875.
        check(125, &[1, 1], &crowd(&[2, 0]), &[false, true]);
        // (99 + 1) * 1.25 / 4 = 31.25.
        check(125, &[1; 4], &crowd(&[31, 32, 36, 0]), &[true, false, false, true]);
        check(150, &[1; 4], &crowd(&[37, 38, 24, 0]), &[true, false, true, true]);
        // Three quarters of 125 for the second.
        check(125, &[1, 3], &crowd(&[5, 94]), &[true, false]);
        check(125, &[1, 3], &crowd(&[6, 93]), &[true, true]);
    }

    #[test]
    fn those_who_do_not_accept_do_not_count() {
        let crowd = TestCandidates::new([50, 49, 1000]).refusing([false, false, true]);
        check(125, &[1, 1, 1], &crowd, &[true, true, false]);
        let crowd = TestCandidates::new([80, 19, 0]).refusing([false, false, true]);
        check(125, &[1, 1, 1], &crowd, &[false, true, true]);
    }

    #[test]
    fn a_partial_share_has_fewer_slots() {
        let crowd = TestCandidates::new([89, 10]).sharing([FULL_SHARE, FULL_SHARE / 8]);
        check(125, &[1, 1], &crowd, &[true, true]);
        let crowd = TestCandidates::new([85, 14]).sharing([FULL_SHARE, FULL_SHARE / 8]);
        check(125, &[1, 1], &crowd, &[true, false]);
    }

    #[test]
    fn a_large_pool_is_looked_at_now_and_then() {
        let (bound, crowd) = (bound(125, &[1; 160]), TestCandidates::new([0; 160]));
        let looks = (0..100).filter(|_| bound.look(crowd.anew()).is_some()).count();
        assert_eq!(looks, 10);
    }

    proptest! {
        #[test]
        fn somebody_always_has_room(
            members in prop::collection::vec((1_u32..9, 0_u64..50, 1..=FULL_SHARE), 1..20),
            percent in 101_u32..400,
        ) {
            let weights: Vec<_> = members.iter().map(|member| member.0).collect();
            let crowd = TestCandidates::new(members.iter().map(|member| member.1).collect::<Vec<_>>())
                .sharing(members.iter().map(|member| member.2).collect::<Vec<_>>());
            let bound = bound(percent, &weights);
            prop_assert!(bound.look(&crowd).is_some());
            prop_assert!((0..weights.len()).any(|member| bound.has_room(member, &crowd)));
        }
    }
}
