//! The first member in written order that accepts; the others are reserves.

use super::Candidates;
use super::random_sequence::takes_pick;

/// The balancer that prefers the first member in written order.
#[derive(Debug)]
pub struct Failover {
    /// The members with a weight.
    order: Box<[usize]>,
}

impl Failover {
    /// Builds the balancer from the weights in written order. The size of a weight does not count, but a member of
    /// weight 0 is never picked.
    pub fn build(weights: &[u32]) -> Self {
        let weighted = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        Self { order: weighted.map(|(member, _)| member).collect() }
    }

    /// Returns the first member that accepts, or `None` if no member with a weight accepts.
    ///
    /// A member with a partial share takes this part of the connections, chosen at random. The next member gets the
    /// rest. So a member that recovered takes over gradually. O(1) while the first member accepts, else at most
    /// O(N).
    pub fn pick(&self, randomness: u64, candidates: &impl Candidates) -> Option<usize> {
        let mut skipped = Vec::new();
        for &member in &self.order {
            if !takes_pick(member, candidates.share(member), randomness) {
                skipped.push(member);
            } else if candidates.accepts(member) {
                return Some(member);
            }
        }
        skipped.into_iter().find(|&member| candidates.accepts(member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::FULL_SHARE;
    use crate::balance::testing::TestCandidates;

    /// Checks the picked member for given refusals; the random number must not matter.
    fn check(weights: &[u32], refused: &[bool], expected: Option<usize>) {
        let candidates = TestCandidates::new(vec![7; weights.len()]).refusing(refused);
        for randomness in 0..20 {
            let picked = Failover::build(weights).pick(randomness, candidates.anew());
            assert_eq!(picked, expected, "{weights:?} {refused:?}");
        }
    }

    #[test]
    fn the_first_that_can_takes_it() {
        check(&[], &[], None);
        check(&[1, 1, 1], &[false, false, false], Some(0));
        check(&[1, 9, 1], &[true, false, false], Some(1));
        check(&[1, 0, 1], &[true, false, false], Some(2));
        check(&[0, 1], &[false, false], Some(1));
        check(&[1, 1], &[true, true], None);
    }

    #[test]
    fn a_member_that_recovered_takes_over_gradually() {
        let balancer = Failover::build(&[1, 1]);
        for (share, expected) in
            [(0, 0), (FULL_SHARE / 10, 1000), (FULL_SHARE / 2, 5000), (FULL_SHARE, 10_000)]
        {
            let candidates = TestCandidates::new([0, 0]).sharing([share, FULL_SHARE]);
            let first = (0..10_000)
                .filter(|&randomness| balancer.pick(randomness, candidates.anew()) == Some(0))
                .count();
            assert!(first.abs_diff(expected) < 200, "{share}: {first}");
        }
    }

    #[test]
    fn a_partial_share_is_better_than_no_member() {
        let balancer = Failover::build(&[1, 1]);
        let candidates = TestCandidates::new([0, 0]).sharing([0, 0]);
        assert_eq!(balancer.pick(7, candidates.anew()), Some(0));
        let candidates = candidates.refusing([true, false]);
        assert_eq!(balancer.pick(7, candidates.anew()), Some(1));
    }
}
