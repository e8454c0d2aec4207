//! The slow start: the part of its share that a backend takes after it came up.

use std::time::Duration;

use crate::balance::FULL_SHARE;

/// The first part: enough to fill the caches of the backend, and small enough that a bad backend shows at little
/// cost.
const FIRST: u32 = FULL_SHARE / 10;

/// The share of a backend that has been up for the time `up`. It grows evenly over `window`.
pub(super) fn share(up: Duration, window: Duration) -> u32 {
    if up >= window {
        return FULL_SHARE;
    }
    let grown = u128::from(FULL_SHARE - FIRST) * up.as_nanos() / window.as_nanos();
    FIRST + u32::try_from(grown).unwrap_or(FULL_SHARE - FIRST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_grows_evenly_from_a_tenth() {
        let check = |up: u64, window: u64, expected: u32| {
            assert_eq!(
                share(Duration::from_millis(up), Duration::from_millis(window)),
                expected,
                "{up} of {window}"
            );
        };
        check(0, 30_000, 102);
        check(3_000, 30_000, 194);
        check(15_000, 30_000, 563);
        check(29_999, 30_000, 1023);
        check(30_000, 30_000, 1024);
        check(u64::MAX, 30_000, 1024);
        check(0, 0, 1024);
        check(1, u64::MAX, 102);
    }

    proptest! {
        #[test]
        fn it_never_shrinks(up: u32, later: u32, window: u32) {
            let [up, later, window] = [up, later, window].map(|millis| Duration::from_millis(millis.into()));
            let (now, then) = (share(up, window), share(up + later, window));
            prop_assert!((FIRST..=then).contains(&now) && then <= FULL_SHARE);
        }
    }
}
