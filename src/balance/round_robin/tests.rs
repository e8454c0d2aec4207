use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::balance::FULL_SHARE;
use crate::balance::testing::{TestCandidates, accepting};

/// Returns the picks of one whole cycle from its beginning, if all members accept.
fn cycle(weights: &[u32]) -> Vec<usize> {
    RoundRobin::build(weights, 0).cycle.iter().collect()
}

fn counts(members: usize, picks: impl IntoIterator<Item = usize>) -> Vec<u32> {
    let mut counts = vec![0; members];
    for pick in picks {
        counts[pick] += 1;
    }
    counts
}

/// Counts the turns in which a member follows itself, including the step from the end to the beginning.
fn repeats(cycle: &[usize]) -> usize {
    cycle.iter().zip(cycle.iter().cycle().skip(1)).filter(|(member, next)| member == next).count()
}

#[test]
fn turns_are_interleaved() {
    fn check(weights: &[u32], expected: &[usize]) {
        assert_eq!(cycle(weights), expected, "{weights:?}");
    }
    check(&[], &[]);
    check(&[0, 0], &[]);
    check(&[7], &[0]);
    check(&[1, 1, 1], &[0, 1, 2]);
    check(&[5, 0, 5], &[0, 2]);
    check(&[2, 1], &[1, 0, 0]);
    check(&[100, 200], &[0, 1, 1]);
    check(&[5, 1, 1], &[1, 0, 0, 0, 2, 0, 0]);
    check(&[3, 1, 1, 1], &[1, 0, 2, 0, 3, 0]);
    check(&[3, 2, 1], &[2, 0, 1, 0, 1, 0]);
}

#[test]
fn long_cycles_are_scaled_down() {
    fn check(weights: &[u32], expected: &[u32]) {
        assert_eq!(turns_per_cycle(weights), expected, "{weights:?}");
    }
    check(&[u32::MAX, u32::MAX], &[1, 1]);
    check(&[1, u32::MAX, 0], &[1, 65_536, 0]);
    check(&[1, 65_535], &[1, 65_535]);
    check(&[1, 65_536], &[1, 65_535]);
    check(&[300_000, 100_001], &[49_152, 16_384]);
}

#[test]
fn refused_members_are_skipped_and_no_member_inherits_their_turns() {
    fn check(weights: &[u32], refused: &[usize], expected: &[u32]) {
        let balancer = RoundRobin::build(weights, 0);
        let survivors = weights.iter().enumerate().filter(|(member, _)| !refused.contains(member));
        let picks = survivors.map(|(_, &weight)| weight).sum::<u32>() * 10;
        let taken =
            (0..picks).map(|_| balancer.pick(0, &accepting(|member| !refused.contains(&member))).unwrap());
        assert_eq!(counts(weights.len(), taken), expected, "{weights:?} without {refused:?}");
    }
    check(&[1, 1, 1], &[0], &[0, 10, 10]);
    check(&[1, 1, 1, 1], &[1, 2], &[10, 0, 0, 10]);
    check(&[5, 3, 1], &[1], &[50, 0, 10]);
    check(&[100, 2, 1], &[0], &[0, 20, 10]);
    check(&[1, 0, 2], &[], &[10, 0, 20]);
}

#[test]
fn no_member_is_picked_if_all_are_refused() {
    for weights in [&[][..], &[0], &[1], &[3, 0, 2], &[1, 60_000]] {
        let balancer = RoundRobin::build(weights, 5);
        for _ in 0..20 {
            let mut queried = BTreeSet::new();
            let pick = balancer.pick(
                0,
                &accepting(|member| {
                    assert!(queried.insert(member), "{member} was queried twice");
                    false
                }),
            );
            assert_eq!(pick, None);
            assert_eq!(queried.len(), weights.iter().filter(|&&weight| weight > 0).count());
        }
    }
}

#[test]
fn a_refusal_here_does_not_hold_up_the_turns_of_others() {
    let balancer = RoundRobin::build(&[1, 1, 1], 0);
    assert_eq!(balancer.pick(0, &accepting(|_| true)), Some(0));
    assert_eq!(balancer.pick(0, &accepting(|member| member != 1)), Some(2));
    assert_eq!(balancer.pick(0, &accepting(|_| false)), None);
    assert_eq!(balancer.pick(0, &accepting(|_| true)), Some(1));
}

#[test]
fn a_partial_share_is_that_part_of_the_turns() {
    for (share, expected) in [(0, 0), (102, 1000), (512, 5000), (FULL_SHARE, 10_000)] {
        let balancer = RoundRobin::build(&[1, 1, 1], 0);
        let candidates = TestCandidates::new([0; 3]).sharing([FULL_SHARE, share, FULL_SHARE]);
        let taken =
            counts(3, (0..30_000).map(|randomness| balancer.pick(randomness, candidates.anew()).unwrap()));
        // The other members use the turns that it skips. So its picks, divided by those of another member, are its
        // share.
        let others = f64::from(taken[0] + taken[2]) / 2.0;
        let part = f64::from(taken[1]) / others * 10_000.0;
        assert!((part - f64::from(expected)).abs() < 250.0, "{share}: {taken:?}");
    }
}

#[test]
fn skipped_members_are_queried_if_no_other_accepts() {
    let balancer = RoundRobin::build(&[1, 2, 1], 0);
    let candidates = TestCandidates::new([0; 3]).sharing([0; 3]);
    let taken = counts(3, (0..400).map(|randomness| balancer.pick(randomness, candidates.anew()).unwrap()));
    assert_eq!(taken, [100, 200, 100]);
    let last = candidates.clone().refusing([true, true, false]);
    assert_eq!(balancer.pick(0, last.anew()), Some(2));
    let none = candidates.refusing([true; 3]);
    assert_eq!(balancer.pick(0, none.anew()), None);
}

#[test]
fn the_start_is_the_first_turn() {
    for start in [0, 1, 2, 3, 4, u64::MAX] {
        let balancer = RoundRobin::build(&[1, 1, 1], start);
        assert_eq!(balancer.pick(0, &accepting(|_| true)), Some((start % 3) as usize));
    }
}

#[test]
fn threads_share_one_cycle_exactly() {
    let weights = [5, 3, 1, 0, 7];
    let balancer = RoundRobin::build(&weights, 3);
    let by_thread: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let picks = || (0..1600).map(|_| balancer.pick(0, &accepting(|_| true)).unwrap()).collect();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(picks)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let expected = weights.map(|weight| weight * 400);
    assert_eq!(counts(weights.len(), by_thread.into_iter().flatten()), expected);
}

#[test]
fn a_large_pool_has_a_bounded_cycle() {
    let weights: Vec<u32> = (0..10_000).map(|n| n % 7 * 1000 + n).collect();
    let balancer = RoundRobin::build(&weights, 0);
    assert!(balancer.cycle.len() <= 65_536 + 10_000, "{}", balancer.cycle.len());
    let counts = counts(weights.len(), balancer.cycle.iter());
    assert!(weights.iter().zip(counts).all(|(&weight, count)| (weight > 0) == (count > 0)));
}

proptest! {
    #[test]
    fn a_cycle_gives_each_its_weight(weights in prop::collection::vec(0_u32..40, 0..30), start: u64) {
        let balancer = RoundRobin::build(&weights, start);
        let common = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let taken: Vec<usize> = (0..balancer.cycle.len()).map(|_| balancer.pick(0, &accepting(|_| true)).unwrap()).collect();
        let expected: Vec<u32> = weights.iter().map(|weight| weight / common).collect();
        prop_assert_eq!(counts(weights.len(), taken), expected);
    }

    #[test]
    fn a_member_follows_itself_only_where_it_must(weights in prop::collection::vec(0_u32..60, 2..12)) {
        let cycle = cycle(&weights);
        let turns = counts(weights.len(), cycle.iter().copied());
        let most = turns.iter().copied().max().unwrap() as usize;
        prop_assert_eq!(repeats(&cycle), most.saturating_sub(cycle.len() - most), "{:?}", cycle);
    }

    /// After any number of turns a member has had its share of them, plus or minus two.
    #[test]
    fn turns_come_evenly(weights in prop::collection::vec(1_u32..100, 2..20)) {
        let cycle = cycle(&weights);
        let turns = counts(weights.len(), cycle.iter().copied());
        let mut had = vec![0_u32; weights.len()];
        for (so_far, &member) in (1_u32..).zip(&cycle) {
            had[member] += 1;
            for (had, turns) in had.iter().zip(&turns) {
                let share = f64::from(so_far) * f64::from(*turns) / cycle.len() as f64;
                prop_assert!((f64::from(*had) - share).abs() < 2.5, "{} for {} in {:?}", had, share, cycle);
            }
        }
    }

    #[test]
    fn scaled_shares_stay_close(weights in prop::collection::vec(1_u32.., 2..20)) {
        let turns = turns_per_cycle(&weights);
        let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        for (&weight, &turns) in weights.iter().zip(&turns) {
            let exact = f64::from(weight) * 65_536.0 / sum as f64;
            prop_assert!(turns >= 1 && (f64::from(turns) - exact).abs() <= 1.0);
        }
    }
}
