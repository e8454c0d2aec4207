//! Positions of members, kept small: a table is read at every pick and should stay in the cache.

/// A fixed list of positions, two bytes each while they fit.
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

    /// The position in this slot.
    ///
    /// # Panics
    ///
    /// When `slot` is not below `len()`.
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

/// The members that a pick has asked already. It allocates, so a pick makes one only after a refusal.
pub(super) struct TriedMembers {
    bits: Vec<u64>,
    count: usize,
}

impl TriedMembers {
    pub(super) fn new(members: usize) -> Self {
        Self { bits: vec![0; members.div_ceil(64)], count: 0 }
    }

    /// Notes a member; false when it was noted before.
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
    fn both_widths_give_back_what_they_were_given() {
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
    fn asked_notes_each_member_once() {
        let mut asked = TriedMembers::new(130);
        for member in [0, 63, 64, 129] {
            assert!(asked.insert(member));
            assert!(!asked.insert(member));
        }
        assert_eq!(asked.count(), 4);
    }
}
