//! A sequence of pseudorandom numbers from the one number that a pick is given.

use super::FULL_SHARE;

/// The increment of the state. It is odd, so the state takes every value before it repeats one.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A pseudorandom sequence (SplitMix64 by Steele, Lea and Flood), equal for equal seeds. Not for secrets.
pub(super) struct RandomSequence(u64);

impl RandomSequence {
    /// Creates the sequence of a seed. Neighbouring seeds give unrelated sequences.
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// Returns a number below `count`, and an independent fraction of 2^64.
    pub(super) fn index_and_fraction(&mut self, count: usize) -> (usize, u64) {
        let product = u128::from(self.next()) * count as u128;
        ((product >> 64) as usize, product as u64)
    }

    /// Returns a number below `count`, all equally likely; 0 if `count` is 0.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(count)) >> 64) as u64
    }
}

/// Returns true if a member with this share takes this pick.
pub(super) fn takes_pick(member: usize, share: u32, randomness: u64) -> bool {
    share >= FULL_SHARE || is_below(mix(randomness ^ mix(member as u64)), share)
}

/// Returns true if the upper bits of a hash are below a share.
pub(super) fn is_below(hash: u64, share: u32) -> bool {
    (hash >> (u64::BITS - FULL_SHARE.ilog2())) < u64::from(share)
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_below_a_bound_are_equally_likely() {
        for count in [1, 2, 7, 1000] {
            let mut seen = vec![0_u32; count];
            for seed in 0..count as u64 * 1000 {
                seen[RandomSequence::new(seed).below(count as u64) as usize] += 1;
            }
            assert!(seen.iter().all(|&times| (800..1200).contains(&times)), "{count}: {seen:?}");
        }
    }

    #[test]
    fn a_sequence_goes_on_evenly() {
        let mut randomness = RandomSequence::new(7);
        let mut seen = [0_u32; 10];
        (0..10_000).for_each(|_| seen[randomness.below(10) as usize] += 1);
        assert!(seen.iter().all(|&times| (850..1150).contains(&times)), "{seen:?}");
    }

    #[test]
    fn a_share_is_that_part_of_the_picks() {
        fn check(share: u32) {
            let falls = (0..10_240).filter(|&randomness| takes_pick(3, share, randomness)).count() as i64;
            assert!((falls - i64::from(share) * 10).abs() < 200, "{share}: {falls}");
        }
        for share in [0, 1, 102, 512, 1023] {
            check(share);
        }
        assert!(
            (0..1000)
                .all(|randomness| takes_pick(3, FULL_SHARE, randomness) && !takes_pick(3, 0, randomness))
        );
    }

    #[test]
    fn members_take_independent_parts_of_the_picks() {
        let both = (0..10_000)
            .filter(|&randomness| takes_pick(0, 512, randomness) && takes_pick(1, 512, randomness))
            .count();
        assert!((2300..2700).contains(&both), "{both}");
    }
}
