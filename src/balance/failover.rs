//! The first in written order that can take it; the others wait.

use super::Candidates;
use super::random_sequence::falls_to;

/// An order of members, the first one preferred.
#[derive(Debug)]
pub struct Failover {
    /// The members with a weight.
    order: Box<[usize]>,
}

impl Failover {
    /// The order is that of the weights; how large one is does not count, but 0 is never picked.
    pub fn build(weights: &[u32]) -> Self {
        let weighted = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        Self { order: weighted.map(|(member, _)| member).collect() }
    }

    /// The first member that is accepted, or `None` when all with a weight are refused.
    ///
    /// One with a partial share takes that part of the connections, by luck, and leaves the rest to the next:
    /// what came back takes over gradually. O(1) while the first is accepted, O(N) at the most.
    pub fn pick(&self, randomness: u64, candidates: &impl Candidates) -> Option<usize> {
        let mut passed_over = Vec::new();
        for &member in &self.order {
            if !falls_to(member, candidates.share(member), randomness) {
                passed_over.push(member);
            } else if candidates.accepts(member) {
                return Some(member);
            }
        }
        passed_over.into_iter().find(|&member| candidates.accepts(member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::FULL_SHARE;
    use crate::balance::testing::TestCandidates;

    /// Which members are refused, and who is picked whatever the luck.
    fn check(weights: &[u32], refused: &[bool], expected: Option<usize>) {
        let crowd = TestCandidates::new(vec![7; weights.len()]).refusing(refused);
        for randomness in 0..20 {
            let picked = Failover::build(weights).pick(randomness, crowd.anew());
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
    fn what_came_back_takes_over_gradually() {
        let balancer = Failover::build(&[1, 1]);
        for (share, expected) in
            [(0, 0), (FULL_SHARE / 10, 1000), (FULL_SHARE / 2, 5000), (FULL_SHARE, 10_000)]
        {
            let crowd = TestCandidates::new([0, 0]).sharing([share, FULL_SHARE]);
            let first =
                (0..10_000).filter(|&randomness| balancer.pick(randomness, crowd.anew()) == Some(0)).count();
            assert!(first.abs_diff(expected) < 200, "{share}: {first}");
        }
    }

    #[test]
    fn a_partial_share_is_better_than_nobody() {
        let balancer = Failover::build(&[1, 1]);
        let crowd = TestCandidates::new([0, 0]).sharing([0, 0]);
        assert_eq!(balancer.pick(7, crowd.anew()), Some(0));
        let crowd = crowd.refusing([true, false]);
        assert_eq!(balancer.pick(7, crowd.anew()), Some(1));
    }
}
