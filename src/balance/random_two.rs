//! Two members drawn by luck, the less loaded of them: nearly as even as looking at all, in O(1).
//!
//! One look at two keeps the fullest close to the average (Mitzenmacher 2001), and because each pick sees
//! two others, nobody stampedes onto one idle member. What *loaded* means is the builder's choice:
//! connections, or connect time times connections (peak EWMA, as in Finagle).

use super::Candidates;
use super::load::Load;
use super::random_sequence::RandomSequence;

/// Draws before all are asked. With half of the members refused, 16 fail to find one in 65,536 times.
const DRAWS: usize = 16;

/// What the two are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Open connections for each unit of weight.
    Connections,
    /// Connect time of late, times connections, for each unit of weight.
    Latency,
}

/// Picks the better of two.
#[derive(Debug)]
pub struct RandomTwo {
    measure: Measure,
    weights: Box<[u32]>,
    table: AliasTable,
}

impl RandomTwo {
    /// The weights by position; 0 is never picked.
    ///
    /// # Panics
    ///
    /// With 2^32 weights or more.
    pub fn build(weights: &[u32], measure: Measure) -> Self {
        Self { measure, weights: weights.into(), table: AliasTable::fill(weights) }
    }

    /// The less loaded of two accepted members, or `None` when all with a weight are refused.
    ///
    /// O(1) while many accept; only where 16 draws find nobody are all members asked.
    pub fn pick(&self, randomness: u64, candidates: &impl Candidates) -> Option<usize> {
        if self.table.members() == 0 {
            return None;
        }
        let mut randomness = RandomSequence::new(randomness);
        let mut asked = [0; DRAWS];
        let mut count = 0;
        let mut first = None;
        for _ in 0..DRAWS {
            let member = self.table.draw(&mut randomness);
            if asked[..count].contains(&member) {
                continue;
            }
            asked[count] = member;
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
        first.or_else(|| self.any_other(&asked[..count], &mut randomness, candidates))
    }

    /// The less loaded. Of equals it is the first, which was drawn by weight; if it has the smaller share, as
    /// often as that is of the other's.
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
        let goes_on =
            two.is_below(one) || !one.is_below(two) && randomness.below(shares[1]) >= shares[0].max(1);
        if goes_on { second } else { first }
    }

    /// The first accepted one from anywhere on, without those asked before.
    fn any_other(
        &self,
        asked: &[usize],
        randomness: &mut RandomSequence,
        candidates: &impl Candidates,
    ) -> Option<usize> {
        let count = self.weights.len();
        let start = randomness.below(count as u64) as usize;
        let mut others = (start..count).chain(0..start);
        others.find(|member| {
            self.weights[*member] > 0 && !asked.contains(member) && candidates.accepts(*member)
        })
    }
}

/// Members to be drawn by weight, each draw in O(1), by the alias method (Walker 1977, Vose 1991).
///
/// Every member with a weight has one place. A place is kept by its member with one chance and given to
/// another with the rest; chances are such that each member comes as often as its weight says.
#[derive(Debug)]
struct AliasTable {
    pool_slots: Box<[AliasSlot]>,
}

#[derive(Clone, Copy, Debug)]
struct AliasSlot {
    member: u32,
    other: u32,
    /// The chance of `member`, as a part of 2^64; of `other` is the rest.
    keeps: u64,
}

impl AliasTable {
    fn fill(weights: &[u32]) -> Self {
        let weighted: Vec<(u32, u32)> =
            (0..).zip(weights).map(|(at, &weight)| (at, weight)).filter(|(_, weight)| *weight > 0).collect();
        assert!(u32::try_from(weights.len()).is_ok(), "fewer than 2^32 weights");
        let sum: u128 = weighted.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let mut pool_slots: Vec<AliasSlot> = weighted
            .iter()
            .map(|&(member, _)| AliasSlot { member, other: member, keeps: u64::MAX })
            .collect();
        // In units in which a place holds the sum of all weights and a member has as many times its own weight
        // as there are places. Who has less than a place gives the rest of it to one who has more.
        let mut left: Vec<u128> =
            weighted.iter().map(|(_, weight)| u128::from(*weight) * weighted.len() as u128).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..left.len()).partition(|&place| left[place] < sum);
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            pool_slots[less].keeps = u64::try_from((left[less] << 64) / sum).unwrap_or(u64::MAX);
            pool_slots[less].other = weighted[more].0;
            left[more] -= sum - left[less];
            if left[more] < sum {
                large.pop();
                small.push(more);
            }
        }
        Self { pool_slots: pool_slots.into() }
    }

    fn members(&self) -> usize {
        self.pool_slots.len()
    }

    /// # Panics
    ///
    /// When nobody has a weight.
    fn draw(&self, randomness: &mut RandomSequence) -> usize {
        let (place, chance) = randomness.place(self.pool_slots.len());
        let AliasSlot { member, other, keeps } = self.pool_slots[place];
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

    /// Every member that is picked with one luck or another.
    fn picked(balancer: &RandomTwo, crowd: &TestCandidates) -> Vec<usize> {
        let mut picked: Vec<_> =
            (0..500).filter_map(|randomness| balancer.pick(randomness, crowd.anew())).collect();
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    #[test]
    fn the_fullest_is_never_picked() {
        fn check(weights: &[u32], active: &[u64], expected: &[usize]) {
            let crowd = TestCandidates::new(active);
            assert_eq!(picked(&by_connections(weights), &crowd), expected, "{weights:?} {active:?}");
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
            let crowd = TestCandidates::new(active).after(micros.map(Duration::from_micros));
            assert_eq!(picked(&balancer, &crowd), expected, "{micros:?} {active:?}");
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
            let (balancer, crowd) = (by_connections(&weights), TestCandidates::new([0; 3]).sharing(share));
            let mut counts = [0_u32; 3];
            (0..8000).for_each(|randomness| counts[balancer.pick(randomness, crowd.anew()).unwrap()] += 1);
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
        let crowd = TestCandidates::new([0, 5, 0, 6, 0, 0]).refusing([true, false, true, false, true, true]);
        // Two accept, and both are found nearly always.
        let fuller =
            (0..1000).filter(|&randomness| balancer.pick(randomness, crowd.anew()) == Some(3)).count();
        assert!(fuller < 120, "{fuller}");
    }

    #[test]
    fn the_last_one_left_is_found() {
        let balancer = by_connections(&[1; 1000]);
        let mut crowd = TestCandidates::new(vec![0; 1000]).refusing(vec![true; 1000]);
        assert_eq!(balancer.pick(1, crowd.anew()), None);
        for last in [0, 500, 999] {
            crowd.refused[last] = false;
            assert_eq!(balancer.pick(last as u64, crowd.anew()), Some(last));
            crowd.refused[last] = true;
        }
    }

    #[test]
    fn draws_follow_the_weights_exactly() {
        fn check(weights: &[u32]) {
            let table = AliasTable::fill(weights);
            let mut chances = vec![0_f64; weights.len()];
            for AliasSlot { member, other, keeps } in table.pool_slots.iter().copied() {
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
        let mut crowd = TestCandidates::new(vec![0; 50]);
        let sum: u32 = weights.iter().sum();
        for randomness in 0..u64::from(sum) * 40 {
            let picked = balancer.pick(randomness, crowd.anew()).unwrap();
            crowd.active[picked] += 1;
        }
        for (&weight, &active) in weights.iter().zip(&crowd.active) {
            let exact = u64::from(weight) * 40;
            assert!(active.abs_diff(exact) * 10 < exact, "{active} for {exact}");
        }
    }

    proptest! {
        #[test]
        fn a_pick_is_accepted_if_anyone_is(
            members in prop::collection::vec((0_u32..4, any::<bool>()), 0..40),
            randomness: u64,
        ) {
            let weights: Vec<_> = members.iter().map(|member| member.0).collect();
            let refused: Vec<_> = members.iter().map(|member| member.1).collect();
            let usable = |at: usize| weights[at] > 0 && !refused[at];
            let crowd = TestCandidates::new(vec![0; weights.len()]).refusing(refused.clone());
            let pick = by_connections(&weights).pick(randomness, &crowd);
            prop_assert_eq!(pick.is_some(), (0..weights.len()).any(usable));
            prop_assert!(pick.is_none_or(usable));
        }
    }
}
