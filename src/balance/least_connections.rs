//! The member with the fewest connections for its weight.
//!
//! A pick queries every member. This O(N) is acceptable for some hundred members; [`RandomTwo`](super::RandomTwo)
//! balances nearly as well at any number. Among equally loaded members the choice is random by weight. So workers and
//! nodes with the same view do not all choose the same member, and an idle pool spreads its connections by weight.
//! A member without connections that joins a busy pool gets every new connection until it has as many as the
//! others; slow start (a partial share) prevents this.

use super::Candidates;
use super::load::Load;
use super::random_sequence::RandomSequence;

/// The balancer that picks the least loaded of all members.
#[derive(Debug)]
pub struct LeastConnections {
    weights: Box<[u32]>,
}

impl LeastConnections {
    /// Builds the balancer from the weights by position; a member of weight 0 is never picked.
    pub fn build(weights: &[u32]) -> Self {
        Self { weights: weights.into() }
    }

    /// Returns the accepting member with the fewest connections for its weight, or `None` if no member with a
    /// weight accepts. O(N).
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
                    // Each member replaces the choice with the probability of its weight among all equals so far.
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

    /// Checks the set of members that are picked for many random numbers.
    fn check(weights: &[u32], active: &[u64], expected: &[usize]) {
        let (balancer, candidates) = (LeastConnections::build(weights), TestCandidates::new(active));
        let mut picked: Vec<_> =
            (0..200).filter_map(|randomness| balancer.pick(randomness, candidates.anew())).collect();
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
        let (balancer, candidates) = (LeastConnections::build(&[1; 5]), TestCandidates::new([1, 0, 0, 3, 0]));
        let mut counts = [0_u32; 5];
        (0..3000).for_each(|randomness| counts[balancer.pick(randomness, candidates.anew()).unwrap()] += 1);
        assert!([1, 2, 4].iter().all(|&member| (900..1100).contains(&counts[member])), "{counts:?}");
    }

    /// Checks the count of picks of each member while all have no connections.
    fn check_equals(weights: &[u32], share: &[u32], expected: &[u32]) {
        let (balancer, candidates) =
            (LeastConnections::build(weights), TestCandidates::new(vec![0; weights.len()]));
        let candidates = candidates.sharing(share);
        let mut counts = vec![0_u32; weights.len()];
        (0..8000).for_each(|randomness| counts[balancer.pick(randomness, candidates.anew()).unwrap()] += 1);
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
        let mut candidates = TestCandidates::new([1000, 0]).sharing([FULL_SHARE, FULL_SHARE / 8]);
        for randomness in 0..200 {
            let picked = balancer.pick(randomness, candidates.anew()).unwrap();
            candidates.active[picked] += 1;
        }
        assert!((126..=134).contains(&candidates.active[1]), "{:?}", candidates.active);
    }

    proptest! {
        #[test]
        fn no_accepting_member_is_less_loaded(
            members in prop::collection::vec((0_u32..5, 0_u64..9, any::<bool>()), 0..20),
            randomness: u64,
        ) {
            let weights: Vec<_> = members.iter().map(|member| member.0).collect();
            let candidates = TestCandidates::new(members.iter().map(|member| member.1).collect::<Vec<_>>())
                .refusing(members.iter().map(|member| member.2).collect::<Vec<_>>());
            let usable = |at: &usize| weights[*at] > 0 && !candidates.refused[*at];
            match LeastConnections::build(&weights).pick(randomness, &candidates) {
                None => prop_assert!(!(0..weights.len()).any(|at| usable(&at))),
                Some(picked) => {
                    prop_assert!(usable(&picked));
                    let load = |at: usize| Load::of_connections(at, weights[at], &candidates);
                    let others = (0..weights.len()).filter(usable);
                    prop_assert!(others.into_iter().all(|at| !load(at).is_below(load(picked))));
                }
            }
        }

        /// If connections only open, their final numbers are in proportion to the weights.
        #[test]
        fn connections_follow_the_weights(weights in prop::collection::vec(1_u32..20, 1..12), seed: u32) {
            let balancer = LeastConnections::build(&weights);
            let mut candidates = TestCandidates::new(vec![0; weights.len()]);
            let sum: u32 = weights.iter().sum();
            for randomness in 0..u64::from(sum) * 3 {
                let picked = balancer.pick(randomness + u64::from(seed), candidates.anew()).unwrap();
                candidates.active[picked] += 1;
            }
            for (&weight, &active) in weights.iter().zip(&candidates.active) {
                prop_assert!(active.abs_diff(u64::from(weight) * 3) <= 1, "{:?} {:?}", weights, candidates.active);
            }
        }
    }
}
