//! Compact lists of member positions: a table is read at every pick and should stay in the CPU cache.

/// A fixed list of positions, with two bytes each if all positions fit.
#[derive(Clone)]
pub(super) enum Indices {
    Narrow(Box<[u16]>),
    Wide(Box<[u32]>),
}

impl Indices {
    pub(super) fn new(positions: Vec<u32>) -> Self {
        let narrow: Result<Box<[u16]>, _> =
            positions.iter().map(|&position| u16::try_from(position)).collect();
        narrow.map_or_else(|_| Self::Wide(positions.into()), Self::Narrow)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Narrow(list) => list.len(),
            Self::Wide(list) => list.len(),
        }
    }

    /// Returns the position in this slot.
    ///
    /// # Panics
    ///
    /// Panics if `slot` is not below `len()`.
    pub(super) fn at(&self, slot: usize) -> usize {
        match self {
            Self::Narrow(list) => usize::from(list[slot]),
            Self::Wide(list) => list[slot] as usize,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).map(|slot| self.at(slot))
    }
}

/// The members that a pick has tried. It allocates, so a pick creates one only after a refusal.
pub(super) struct TriedMembers {
    bits: Vec<u64>,
    count: usize,
}

impl TriedMembers {
    pub(super) fn new(members: usize) -> Self {
        Self { bits: vec![0; members.div_ceil(64)], count: 0 }
    }

    /// Adds a member; returns false if it was added before.
    pub(super) fn insert(&mut self, member: usize) -> bool {
        let (word, bit) = (&mut self.bits[member / 64], 1 << (member % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += usize::from(is_new);
        is_new
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_widths_return_the_positions() {
        fn check(positions: &[u32], narrow: bool) {
            let indices = Indices::new(positions.to_vec());
            assert_eq!(matches!(indices, Indices::Narrow(_)), narrow);
            assert_eq!(indices.len(), positions.len());
            assert!(indices.iter().eq(positions.iter().map(|&position| position as usize)));
        }
        check(&[], true);
        check(&[0, 65_535, 7], true);
        check(&[0, 65_536, 7], false);
    }

    #[test]
    fn tried_members_contain_each_member_once() {
        let mut tried = TriedMembers::new(130);
        for member in [0, 63, 64, 129] {
            assert!(tried.insert(member));
            assert!(!tried.insert(member));
        }
        assert_eq!(tried.count(), 4);
    }
}
