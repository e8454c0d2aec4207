//! Ranges of addresses, in a tree that finds the range of an address.

/// Sorted ranges that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AddressRanges<T> {
    /// The levels of the tree. Each level has the first of every [`AddressBits::FANOUT`] numbers of the next level; the
    /// level after the last is `starts`. The first level is one node.
    levels: Vec<Box<[T]>>,
    starts: Box<[T]>,
    ends: Box<[T]>,
}

/// An address as a number.
pub(super) trait AddressBits: Copy + Ord {
    /// The count of numbers in a node of the tree: one or two lines of the CPU cache.
    const FANOUT: usize;

    /// Returns the next address, or `None` after the last address.
    fn next(self) -> Option<Self>;
}

impl AddressBits for u32 {
    const FANOUT: usize = 16;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl AddressBits for u64 {
    const FANOUT: usize = 8;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl AddressBits for u128 {
    const FANOUT: usize = 8;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl<T: AddressBits> AddressRanges<T> {
    /// Merges ranges, which are given in any order by their first and last address.
    pub(super) fn merge(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, previous| {
            let touches = previous.1.next().is_none_or(|behind| next.0 <= behind);
            if touches {
                previous.1 = previous.1.max(next.1);
            }
            touches
        });
        Self::of_sorted(&ranges)
    }

    /// Takes ranges that are sorted and do not overlap.
    pub(super) fn of_sorted(ranges: &[(T, T)]) -> Self {
        let mut levels: Vec<Box<[T]>> = Vec::new();
        let starts: Box<[T]> = ranges.iter().map(|range| range.0).collect();
        let ends = ranges.iter().map(|range| range.1).collect();
        let mut level: Box<[T]> = starts.iter().step_by(T::FANOUT).copied().collect();
        while level.len() > 1 {
            let next = level.iter().step_by(T::FANOUT).copied().collect();
            levels.push(std::mem::replace(&mut level, next));
        }
        levels.reverse();
        Self { levels, starts, ends }
    }

    /// Returns the range that contains an address.
    pub(super) fn around(&self, address: T) -> Option<(T, T)> {
        self.position(address).map(|at| (self.starts[at], self.ends[at]))
    }

    /// Returns the position of the range that contains an address, in the order of the addresses.
    #[inline]
    pub(super) fn position(&self, address: T) -> Option<usize> {
        let mut at = 0;
        for level in self.levels.iter().chain([&self.starts]) {
            let node = &level[at * T::FANOUT..level.len().min((at + 1) * T::FANOUT)];
            // Counting is faster than searching, because the CPU has no branch to predict. The count is 0 only for an
            // address before all ranges.
            let before = node.iter().filter(|start| **start <= address).count();
            at = at * T::FANOUT + before.checked_sub(1)?;
        }
        (address <= self.ends[at]).then_some(at)
    }
}

impl<T> AddressRanges<T> {
    /// Returns true if there is no range.
    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The first address of each range, in ascending order.
    pub(super) fn starts(&self) -> &[T] {
        &self.starts
    }

    /// The last address of each range, in the same order.
    pub(super) fn ends(&self) -> &[T] {
        &self.ends
    }
}

/// Returns the half of an IPv6 address that identifies the network.
pub(super) fn upper(address: u128) -> u64 {
    (address >> 64) as u64
}
