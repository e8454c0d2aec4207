//! Hashes of a fixed seed: each run has the same connections, and all events of a run see the same ones.

/// Mixes a number well (the finalizer of SplitMix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns the hash of a number for a purpose. Hashes of other purposes are independent.
pub(crate) fn hash(purpose: u64, number: u64) -> u64 {
    mix(mix(purpose) ^ number)
}

/// Returns a hash as a part of 1: 0 or more, and less than 1.
pub(crate) fn part(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// Returns the position of a hash among `count` equal parts of the hash space.
pub(crate) fn scaled(hash: u64, count: u64) -> u64 {
    ((u128::from(hash) * u128::from(count)) >> 64) as u64
}
