//! The ids of listeners and of backends, each a type of its own.
//!
//! An id is unique in this process and never used again. A listener and a backend keep theirs over reloads, so the
//! connections of one are found by it. Ids are in no output: operators see names.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// Returns an id that nothing has yet.
            pub fn next() -> Self {
                static NEXT: AtomicU64 = AtomicU64::new(1);
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                Self(NonZeroU64::new(number).expect("a process makes fewer than 2^64 ids"))
            }

            /// Returns the id at this index in the order in which they are made. The id at index 0 is the lowest.
            pub const fn nth(index: u32) -> Self {
                Self(NonZeroU64::MIN.saturating_add(index as u64))
            }
        }
    };
}

id! {
    /// Identifies a listener. A listener keeps it over reloads, and while it drains.
    ListenerId
}

id! {
    /// Identifies a backend: a server at one address. Its name, weight and pool settings may change.
    BackendId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_new() {
        let (first, second) = (BackendId::next(), BackendId::next());
        assert!(BackendId::nth(0) <= first && first < second);
        assert!(ListenerId::nth(0) < ListenerId::nth(1));
    }

    /// An open connection holds one, which may be missing.
    #[test]
    fn an_optional_id_is_as_small_as_an_id() {
        assert_eq!((size_of::<Option<BackendId>>(), size_of::<ListenerId>()), (8, 8));
    }
}
