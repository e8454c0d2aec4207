//! The load of a member relative to its weight, for comparisons.

use super::{Candidates, FULL_SHARE};

/// The load of a member: an amount for each unit of weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    amount: u64,
    weight: u64,
}

impl Load {
    /// Returns the load by open connections. Idle members are equally loaded, independently of their weights.
    /// Otherwise a nearly idle pool would give all connections to the heaviest member.
    pub(super) fn of_connections(member: usize, weight: u32, candidates: &impl Candidates) -> Self {
        let weight = weight_now(member, weight, candidates);
        let amount = if weight == 0 { u64::MAX } else { candidates.active(member) };
        Self { amount, weight }
    }

    /// Returns the load by connect time times open connections.
    ///
    /// A member without a measurement has the lowest load while it has no connection, and the highest load while it
    /// has one. So it gets one connection at once and the next only after the first was measured.
    pub(super) fn of_latency(member: usize, weight: u32, candidates: &impl Candidates) -> Self {
        let active = candidates.active(member);
        let nanos = u64::try_from(candidates.latency(member).as_nanos()).unwrap_or(u64::MAX);
        let amount = match (nanos, active) {
            (0, 0) => 0,
            (0, _) => u64::MAX,
            _ => nanos.saturating_mul(active.saturating_add(1)),
        };
        Self { amount, weight: weight_now(member, weight, candidates) }
    }

    /// Returns true if this load is less than another. Any amount on weight 0 is an infinite load.
    pub(super) fn is_below(self, other: Self) -> bool {
        self.times(other.weight) < other.times(self.weight)
    }

    /// Returns the present weight. Equally loaded members are chosen by this weight.
    pub(super) fn weight(self) -> u64 {
        self.weight
    }

    fn times(self, weight: u64) -> u128 {
        u128::from(self.amount) * u128::from(weight)
    }
}

/// Returns a member's weight times its share.
pub(super) fn weight_now(member: usize, weight: u32, candidates: &impl Candidates) -> u64 {
    u64::from(weight) * u64::from(candidates.share(member).min(FULL_SHARE))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::balance::testing::TestCandidates;

    /// Checks which of two members, given as (connections, weight, share), has less load.
    fn check(one: (u64, u32, u32), two: (u64, u32, u32), expected: (bool, bool)) {
        let candidates = TestCandidates::new([one.0, two.0]).sharing([one.2, two.2]);
        let [one_load, two_load] = [(0, one.1), (1, two.1)]
            .map(|(member, weight)| Load::of_connections(member, weight, &candidates));
        let found = (one_load.is_below(two_load), two_load.is_below(one_load));
        assert_eq!(found, expected, "{one:?} {two:?}");
    }

    #[test]
    fn connections_count_by_weight_and_share() {
        const ALL: u32 = FULL_SHARE;
        check((3, 1, ALL), (3, 1, ALL), (false, false));
        check((2, 1, ALL), (3, 1, ALL), (true, false));
        check((0, 1, ALL), (0, 2, ALL), (false, false));
        check((0, 1, ALL), (1, 9, ALL), (true, false));
        check((10, 5, ALL), (2, 1, ALL), (false, false));
        check((10, 5, ALL), (3, 1, ALL), (true, false));
        check((1, 1, ALL / 2), (2, 1, ALL), (false, false));
        check((1, 1, 102), (9, 1, ALL), (false, true));
        check((0, 1, 0), (u64::MAX, 1, 1), (false, true));
        check((0, 1, 0), (7, 1, 0), (false, false));
        check((u64::MAX, u32::MAX, ALL), (0, 1, 1), (false, true));
    }

    /// Checks which of two members of weight 1, given as (microseconds, connections), has less load.
    fn check_latency(one: (u64, u64), two: (u64, u64), expected: (bool, bool)) {
        let candidates = TestCandidates::new([one.1, two.1]).after([one.0, two.0].map(Duration::from_micros));
        let [one_load, two_load] = [0, 1].map(|member| Load::of_latency(member, 1, &candidates));
        let found = (one_load.is_below(two_load), two_load.is_below(one_load));
        assert_eq!(found, expected, "{one:?} {two:?}");
    }

    #[test]
    fn latency_counts_times_connections() {
        check_latency((100, 0), (200, 0), (true, false));
        check_latency((100, 3), (200, 0), (false, true));
        check_latency((100, 1), (200, 0), (false, false));
        check_latency((0, 0), (1, 0), (true, false));
        check_latency((0, 1), (1_000_000, 5), (false, true));
        check_latency((0, 1), (0, 1), (false, false));
        check_latency((0, 1), (0, 0), (false, true));
    }
}
