//! Helpers of all targets: they cut bytes as a network does, and check that the result does not depend on the cuts.

use std::fmt::Debug;

/// Cuts bytes into pieces as a network could: some of one byte, some of hundreds. Equal bytes are always cut equally,
/// so that a finding can be reproduced.
pub fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = hash(bytes) | 1;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        // Xorshift: its bits only need to look random.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let most = 1 << (state >> 60);
        let (piece, later) = rest.split_at(rest.len().min(1 + (state >> 32) as usize % most));
        rest = later;
        Some(piece)
    })
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    let step = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Returns `length` bytes that repeat `bytes`, as an endless peer sends them; nothing if `bytes` is empty.
pub fn endlessly(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes.iter().copied().cycle().take(length).collect()
}

/// Returns the result of a reader that gets all bytes so far in each call and returns `not_yet` while they are
/// incomplete. Asserts that the result is equal for the whole, byte by byte and in [`pieces`], and for repeated calls.
pub fn read<A, R>(bytes: &[u8], not_yet: &A, reader: impl Fn() -> R) -> A
where
    A: PartialEq + Debug,
    R: FnMut(&[u8]) -> A,
{
    let mut whole = reader();
    let answer = whole(bytes);
    assert_eq!(whole(bytes), answer, "asked again");
    check_ends(bytes, &answer, not_yet, reader(), 1..bytes.len());
    let mut end = 0;
    let ends = pieces(bytes).map(|piece| {
        end += piece.len();
        end
    });
    check_ends(bytes, &answer, not_yet, reader(), ends);
    answer
}

fn check_ends<A: PartialEq + Debug>(
    bytes: &[u8],
    expected: &A,
    not_yet: &A,
    mut reader: impl FnMut(&[u8]) -> A,
    ends: impl Iterator<Item = usize>,
) {
    for end in ends {
        let answer = reader(&bytes[..end]);
        if answer != *not_yet {
            assert_eq!(answer, *expected, "with {end} of {} bytes", bytes.len());
            break;
        }
    }
    assert_eq!(reader(bytes), *expected, "with all bytes in the end");
}
