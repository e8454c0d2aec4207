//! The member with the fewest connections for its weight.
//!
//! A pick looks at every member: O(N), well for some hundred; [`RandomTwo`](super::RandomTwo) comes close to
//! it at any number. Among equals luck decides by their weights, so workers and nodes that see the same do not
//! all choose the same, and a pool where all are idle spreads its connections as the weights say. A member that comes to a busy pool without connections gets every new one until it has as many as the
//! others; a partial share (slow start) is what holds that back.

use super::Candidates;
use super::load::Load;
use super::random_sequence::RandomSequence;

/// Picks the least loaded of all.
#[derive(Debug)]
pub struct LeastConnections {
    weights: Box<[u32]>,
}

impl LeastConnections {
    /// The weights by position; 0 is never picked.
    pub fn build(weights: &[u32]) -> Self {
        Self { weights: weights.into() }
    }

    /// The accepted member with the fewest connections for its weight, or `None` when all with a weight are
    /// refused. O(N).
    pub fn pick(&self, randomness: u64, candidates: &impl Candidates) -> Option<usize> {
        let mut randomness = RandomSequence::new(randomness);
        let mut least: Option<(usize, Load)> = None;
        let mut equals = 0;
        for (member, &weight) in self.weights.iter().enumerate() {
            if weight == 0 || !candidates.accepts(member) {
                continue;
            }
            let load = Load::of_connections(member, weight, candidates);
            match least {
                Some((_, best)) if best.is_below(load) => continue,
                Some((_, best)) if !load.is_below(best) => {
                    // Each that comes takes the place with the chance that its weight has among all so far.
                    equals += load.weight();
                    if randomness.below(equals) >= load.weight() {
                        continue;
                    }
                }
                _ => equals = load.weight(),
            }
            least = Some((member, load));
        }
        least.map(|(member, _)| member)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::FULL_SHARE;
    use crate::balance::testing::TestCandidates;

    /// Every member that is picked with one luck or another.
    fn check(weights: &[u32], active: &[u64], expected: &[usize]) {
        let (balancer, crowd) = (LeastConnections::build(weights), TestCandidates::new(active));
        let mut picked: Vec<_> =
            (0..200).filter_map(|randomness| balancer.pick(randomness, crowd.anew())).collect();
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked, expected, "{weights:?} {active:?}");
    }

    #[test]
    fn the_least_loaded_is_picked() {
        check(&[], &[], &[]);
        check(&[0], &[0], &[]);
        check(&[1], &[9], &[0]);
        check(&[1, 1, 1], &[3, 2, 4], &[1]);
        check(&[1, 1, 1], &[2, 2, 4], &[0, 1]);
        check(&[1, 1, 1], &[0, 0, 0], &[0, 1, 2]);
        check(&[1, 0, 1], &[5, 0, 7], &[0]);
        check(&[1, 10], &[0, 0], &[0, 1]);
        check(&[1, 10], &[0, 9], &[0]);
        check(&[1, 10], &[1, 9], &[1]);
        check(&[1, 10], &[1, 10], &[0, 1]);
    }

    #[test]
    fn equals_are_equally_likely() {
        let (balancer, crowd) = (LeastConnections::build(&[1; 5]), TestCandidates::new([1, 0, 0, 3, 0]));
        let mut counts = [0_u32; 5];
        (0..3000).for_each(|randomness| counts[balancer.pick(randomness, crowd.anew()).unwrap()] += 1);
        assert!([1, 2, 4].iter().all(|&member| (900..1100).contains(&counts[member])), "{counts:?}");
    }

    /// How often each is picked while all have as many connections for their weight.
    fn check_equals(weights: &[u32], share: &[u32], expected: &[u32]) {
        let (balancer, crowd) =
            (LeastConnections::build(weights), TestCandidates::new(vec![0; weights.len()]));
        let crowd = crowd.sharing(share);
        let mut counts = vec![0_u32; weights.len()];
        (0..8000).for_each(|randomness| counts[balancer.pick(randomness, crowd.anew()).unwrap()] += 1);
        let is_near = |(&count, &expected): (&u32, &u32)| count.abs_diff(expected) < 200;
        assert!(counts.iter().zip(expected).all(is_near), "{weights:?} {share:?}: {counts:?}");
    }

    #[test]
    fn idle_ones_share_by_weight() {
        const ALL: u32 = FULL_SHARE;
        check_equals(&[2, 1, 1], &[ALL; 3], &[4000, 2000, 2000]);
        check_equals(&[100, 99], &[ALL; 2], &[4020, 3980]);
        check_equals(&[1, 1], &[ALL, ALL / 4], &[6400, 1600]);
        check_equals(&[1, 1], &[ALL, 0], &[8000, 0]);
    }

    #[test]
    fn a_slow_starter_gets_its_part_and_no_more() {
        let balancer = LeastConnections::build(&[1, 1]);
        let mut crowd = TestCandidates::new([1000, 0]).sharing([FULL_SHARE, FULL_SHARE / 8]);
        for randomness in 0..200 {
            let picked = balancer.pick(randomness, crowd.anew()).unwrap();
            crowd.active[picked] += 1;
        }
        assert!((126..=134).contains(&crowd.active[1]), "{:?}", crowd.active);
    }

    proptest! {
        #[test]
        fn nobody_accepted_is_less_loaded(
            members in prop::collection::vec((0_u32..5, 0_u64..9, any::<bool>()), 0..20),
            randomness: u64,
        ) {
            let weights: Vec<_> = members.iter().map(|member| member.0).collect();
            let crowd = TestCandidates::new(members.iter().map(|member| member.1).collect::<Vec<_>>())
                .refusing(members.iter().map(|member| member.2).collect::<Vec<_>>());
            let usable = |at: &usize| weights[*at] > 0 && !crowd.refused[*at];
            match LeastConnections::build(&weights).pick(randomness, &crowd) {
                None => prop_assert!(!(0..weights.len()).any(|at| usable(&at))),
                Some(picked) => {
                    prop_assert!(usable(&picked));
                    let load = |at: usize| Load::of_connections(at, weights[at], &crowd);
                    let others = (0..weights.len()).filter(usable);
                    prop_assert!(others.into_iter().all(|at| !load(at).is_below(load(picked))));
                }
            }
        }

        /// Connections that only come end up as the weights say.
        #[test]
        fn connections_follow_the_weights(weights in prop::collection::vec(1_u32..20, 1..12), seed: u32) {
            let balancer = LeastConnections::build(&weights);
            let mut crowd = TestCandidates::new(vec![0; weights.len()]);
            let sum: u32 = weights.iter().sum();
            for randomness in 0..u64::from(sum) * 3 {
                let picked = balancer.pick(randomness + u64::from(seed), crowd.anew()).unwrap();
                crowd.active[picked] += 1;
            }
            for (&weight, &active) in weights.iter().zip(&crowd.active) {
                prop_assert!(active.abs_diff(u64::from(weight) * 3) <= 1, "{:?} {:?}", weights, crowd.active);
            }
        }
    }
}
