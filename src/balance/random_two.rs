//! The less loaded of two members drawn at random: nearly as even as a comparison of all members, in O(1).
//!
//! The choice of two keeps the fullest member close to the average (Mitzenmacher 2001). Each pick compares two
//! other members, so an idle member does not get all new connections at once. The [`Measure`] of the load is
//! connections, or connect time times connections (peak EWMA, as in Finagle).

use super::Candidates;
use super::load::Load;
use super::random_sequence::RandomSequence;

/// The number of draws before all members are queried. If half of the members refuse, all 16 draws fail once in
/// 65,536 picks.
const DRAWS: usize = 16;

/// The measure by which two members are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Open connections for each unit of weight.
    Connections,
    /// Recent connect time times open connections, for each unit of weight.
    Latency,
}

/// The balancer that picks the less loaded of two members.
#[derive(Debug)]
pub struct RandomTwo {
    measure: Measure,
    weights: Box<[u32]>,
    table: AliasTable,
}

impl RandomTwo {
    /// Builds the balancer from the weights by position; a member of weight 0 is never picked.
    ///
    /// # Panics
    ///
    /// Panics if there are 2^32 weights or more.
    pub fn build(weights: &[u32], measure: Measure) -> Self {
        Self { measure, weights: weights.into(), table: AliasTable::fill(weights) }
    }

    /// Returns the less loaded of two accepting members, or `None` if no member with a weight accepts.
    ///
    /// O(1) while many members accept. All members are queried only if 16 draws find none that accepts.
    pub fn pick(&self, randomness: u64, candidates: &impl Candidates) -> Option<usize> {
        if self.table.members() == 0 {
            return None;
        }
        let mut randomness = RandomSequence::new(randomness);
        let mut tried = [0; DRAWS];
        let mut count = 0;
        let mut first = None;
        for _ in 0..DRAWS {
            let member = self.table.draw(&mut randomness);
            if tried[..count].contains(&member) {
                continue;
            }
            tried[count] = member;
            count += 1;
            if candidates.accepts(member) {
                match first {
                    None => first = Some(member),
                    Some(first) => return Some(self.better(first, member, &mut randomness, candidates)),
                }
            }
            if count == self.table.members() {
                return first;
            }
        }
        first.or_else(|| self.any_other(&tried[..count], &mut randomness, candidates))
    }

    /// Returns the less loaded of two members, or the first, which was drawn by weight, if both have the same load.
    /// With equal loads and a smaller share, the first member is returned only with a probability: its share divided by
    /// the share of the second member.
    fn better(
        &self,
        first: usize,
        second: usize,
        randomness: &mut RandomSequence,
        candidates: &impl Candidates,
    ) -> usize {
        let load = |member: usize| match self.measure {
            Measure::Connections => Load::of_connections(member, self.weights[member], candidates),
            Measure::Latency => Load::of_latency(member, self.weights[member], candidates),
        };
        let (one, two) = (load(first), load(second));
        let shares = [first, second].map(|member| u64::from(candidates.share(member)));
        let takes_second =
            two.is_below(one) || !one.is_below(two) && randomness.below(shares[1]) >= shares[0].max(1);
        if takes_second { second } else { first }
    }

    /// Returns the first accepting member from a random position on, except those that were tried before.
    fn any_other(
        &self,
        tried: &[usize],
        randomness: &mut RandomSequence,
        candidates: &impl Candidates,
    ) -> Option<usize> {
        let count = self.weights.len();
        let start = randomness.below(count as u64) as usize;
        let mut others = (start..count).chain(0..start);
        others.find(|member| {
            self.weights[*member] > 0 && !tried.contains(member) && candidates.accepts(*member)
        })
    }
}

/// A table for draws by weight, each in O(1), by the alias method (Walker 1977, Vose 1991).
///
/// Every member with a weight has one slot. A draw of the slot gives the slot's own member with one probability, and
/// another member otherwise. The probabilities are set so that each member is drawn in proportion to its weight.
#[derive(Debug)]
struct AliasTable {
    slots: Box<[AliasSlot]>,
}

#[derive(Clone, Copy, Debug)]
struct AliasSlot {
    member: u32,
    other: u32,
    /// The probability of `member`, as a fraction of 2^64; `other` has the rest.
    keeps: u64,
}

impl AliasTable {
    fn fill(weights: &[u32]) -> Self {
        let weighted: Vec<(u32, u32)> =
            (0..).zip(weights).map(|(at, &weight)| (at, weight)).filter(|(_, weight)| *weight > 0).collect();
        assert!(u32::try_from(weights.len()).is_ok(), "fewer than 2^32 weights");
        let sum: u128 = weighted.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let mut slots: Vec<AliasSlot> = weighted
            .iter()
            .map(|&(member, _)| AliasSlot { member, other: member, keeps: u64::MAX })
            .collect();
        // The unit is chosen so that a slot holds the sum of all weights, and a member has its own weight times the
        // number of slots. A member with less than one slot gives the rest of its slot to a member with more.
        let mut left: Vec<u128> =
            weighted.iter().map(|(_, weight)| u128::from(*weight) * weighted.len() as u128).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..left.len()).partition(|&slot| left[slot] < sum);
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            slots[less].keeps = u64::try_from((left[less] << 64) / sum).unwrap_or(u64::MAX);
            slots[less].other = weighted[more].0;
            left[more] -= sum - left[less];
            if left[more] < sum {
                large.pop();
                small.push(more);
            }
        }
        Self { slots: slots.into() }
    }

    fn members(&self) -> usize {
        self.slots.len()
    }

    /// Draws a member by weight.
    ///
    /// # Panics
    ///
    /// Panics if no member has a weight.
    fn draw(&self, randomness: &mut RandomSequence) -> usize {
        let (slot, chance) = randomness.index_and_fraction(self.slots.len());
        let AliasSlot { member, other, keeps } = self.slots[slot];
        (if chance < keeps { member } else { other }) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::balance::testing::TestCandidates;

    fn by_connections(weights: &[u32]) -> RandomTwo {
        RandomTwo::build(weights, Measure::Connections)
    }

    /// Returns the members that are picked for many random numbers.
    fn picked(balancer: &RandomTwo, candidates: &TestCandidates) -> Vec<usize> {
        let mut picked: Vec<_> =
            (0..500).filter_map(|randomness| balancer.pick(randomness, candidates.anew())).collect();
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    #[test]
    fn the_fullest_is_never_picked() {
        fn check(weights: &[u32], active: &[u64], expected: &[usize]) {
            let candidates = TestCandidates::new(active);
            assert_eq!(picked(&by_connections(weights), &candidates), expected, "{weights:?} {active:?}");
        }
        check(&[], &[], &[]);
        check(&[0, 0], &[0, 0], &[]);
        check(&[1], &[9], &[0]);
        check(&[1, 1], &[1, 2], &[0]);
        check(&[1, 1, 1], &[1, 2, 3], &[0, 1]);
        check(&[1, 1, 1], &[2, 2, 2], &[0, 1, 2]);
        check(&[1, 0, 1], &[5, 0, 5], &[0, 2]);
    }

    #[test]
    fn the_quicker_of_two_is_picked() {
        let balancer = RandomTwo::build(&[1, 1], Measure::Latency);
        let check = |micros: [u64; 2], active: [u64; 2], expected: &[usize]| {
            let candidates = TestCandidates::new(active).after(micros.map(Duration::from_micros));
            assert_eq!(picked(&balancer, &candidates), expected, "{micros:?} {active:?}");
        };
        check([100, 200], [5, 5], &[0]);
        check([100, 200], [9, 1], &[1]);
        check([0, 200], [0, 0], &[0]);
        check([0, 200], [1, 50], &[1]);
        check([100, 100], [3, 3], &[0, 1]);
    }

    #[test]
    fn idle_ones_share_by_weight() {
        let check = |weights: [u32; 3], share: [u32; 3], expected: [u32; 3]| {
            let (balancer, candidates) =
                (by_connections(&weights), TestCandidates::new([0; 3]).sharing(share));
            let mut counts = [0_u32; 3];
            (0..8000)
                .for_each(|randomness| counts[balancer.pick(randomness, candidates.anew()).unwrap()] += 1);
            let is_near = |at: usize| counts[at].abs_diff(expected[at]) < 200;
            assert!((0..3).all(is_near), "{weights:?} {share:?}: {counts:?}");
        };
        check([2, 1, 1], [1024; 3], [4000, 2000, 2000]);
        check([1, 1, 1], [1024, 1024, 102], [3867, 3867, 266]);
        check([1, 1, 1], [1024, 1024, 0], [4000, 4000, 0]);
    }

    #[test]
    fn refused_ones_do_not_spoil_the_choice() {
        let balancer = by_connections(&[1; 6]);
        let candidates =
            TestCandidates::new([0, 5, 0, 6, 0, 0]).refusing([true, false, true, false, true, true]);
        // Two members accept, and nearly every pick finds both.
        let fuller =
            (0..1000).filter(|&randomness| balancer.pick(randomness, candidates.anew()) == Some(3)).count();
        assert!(fuller < 120, "{fuller}");
    }

    #[test]
    fn the_last_one_left_is_found() {
        let balancer = by_connections(&[1; 1000]);
        let mut candidates = TestCandidates::new(vec![0; 1000]).refusing(vec![true; 1000]);
        assert_eq!(balancer.pick(1, candidates.anew()), None);
        for last in [0, 500, 999] {
            candidates.refused[last] = false;
            assert_eq!(balancer.pick(last as u64, candidates.anew()), Some(last));
            candidates.refused[last] = true;
        }
    }

    #[test]
    fn draws_follow_the_weights_exactly() {
        fn check(weights: &[u32]) {
            let table = AliasTable::fill(weights);
            let mut chances = vec![0_f64; weights.len()];
            for AliasSlot { member, other, keeps } in table.slots.iter().copied() {
                let kept = keeps as f64 / 2_f64.powi(64);
                chances[member as usize] += kept / table.members() as f64;
                chances[other as usize] += (1.0 - kept) / table.members() as f64;
            }
            let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (&weight, chance) in weights.iter().zip(&chances) {
                assert!((chance - f64::from(weight) / sum).abs() < 1e-9, "{weights:?}: {chances:?}");
            }
        }
        check(&[1]);
        check(&[1, 1, 1]);
        check(&[0, 3, 0, 1]);
        check(&[1, 65_535]);
        check(&[5, 1, 1, 9, 2, 2]);
        check(&[u32::MAX, 1, u32::MAX]);
        check(&(0..1000).map(|n| n % 13).collect::<Vec<_>>());
    }

    #[test]
    fn many_connections_spread_by_weight() {
        let weights: Vec<u32> = (0..50).map(|n| n % 5 + 1).collect();
        let balancer = by_connections(&weights);
        let mut candidates = TestCandidates::new(vec![0; 50]);
        let sum: u32 = weights.iter().sum();
        for randomness in 0..u64::from(sum) * 40 {
            let picked = balancer.pick(randomness, candidates.anew()).unwrap();
            candidates.active[picked] += 1;
        }
        for (&weight, &active) in weights.iter().zip(&candidates.active) {
            let exact = u64::from(weight) * 40;
            assert!(active.abs_diff(exact) * 10 < exact, "{active} for {exact}");
        }
    }

    proptest! {
        #[test]
        fn a_pick_is_accepted_if_any_member_is(
            members in prop::collection::vec((0_u32..4, any::<bool>()), 0..40),
            randomness: u64,
        ) {
            let weights: Vec<_> = members.iter().map(|member| member.0).collect();
            let refused: Vec<_> = members.iter().map(|member| member.1).collect();
            let usable = |at: usize| weights[at] > 0 && !refused[at];
            let candidates = TestCandidates::new(vec![0; weights.len()]).refusing(refused.clone());
            let pick = by_connections(&weights).pick(randomness, &candidates);
            prop_assert_eq!(pick.is_some(), (0..weights.len()).any(usable));
            prop_assert!(pick.is_none_or(usable));
        }
    }
}
