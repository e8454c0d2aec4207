//! Counts the most frequent items of a stream in a fixed memory: Space-Saving (Metwally, Agrawal and El Abbadi, 2005).
//!
//! Each slot counts one item. An item without a slot takes the slot with the smallest count and begins with this count,
//! which is its error. So for N events and S slots:
//!
//! - a count is too high by at most its error, and never too low
//! - no error exceeds the smallest count, which is at most N / S
//! - an item with more than N / S events has a slot
//!
//! An event costs the same for any number of slots. This module has no clock.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// The counts of the most frequent items.
///
/// The slots are ordered by their counts, the highest first. Slots with equal counts are a run. The first slot of a run
/// can rise by one without a change of the order, so an event exchanges two slots and changes the borders of two runs.
#[derive(Debug)]
pub struct SpaceSaving<K> {
    most: usize,
    /// The index in `slots` of each item.
    indices: HashMap<K, u32>,
    slots: Vec<ItemSlot<K>>,
    /// The slots by their counts, the highest first.
    order: Vec<u32>,
    /// The first place of each run in `order`. Slots have the index of their run.
    runs: Vec<u32>,
    /// The runs that are not in use.
    free_runs: Vec<u32>,
    total: u64,
}

#[derive(Debug)]
struct ItemSlot<K> {
    item: HeavyItem<K>,
    /// The place in `order`.
    place: u32,
    run: u32,
}

/// An item with its count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeavyItem<K> {
    /// The item.
    pub key: K,
    /// The most events that it may have.
    pub count: u64,
    /// The most by which the count is too high.
    pub error: u64,
}

/// The counts at one time, of one stream or of several streams together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeavyItems<K> {
    /// The items with a slot, the highest count first.
    pub items: Vec<HeavyItem<K>>,
    /// The events of all items.
    pub total: u64,
    /// The most events that an item may have that is not in `items`. No error exceeds it.
    pub error_bound: u64,
}

impl<K: Clone + Eq + Hash> SpaceSaving<K> {
    /// Returns counts of 0, with this many slots. The memory is taken as items come.
    ///
    /// # Panics
    ///
    /// Without a slot, or with 2^32 slots.
    pub fn new(slots: usize) -> Self {
        assert!(slots > 0 && u32::try_from(slots).is_ok(), "{slots} slots");
        Self {
            most: slots,
            indices: HashMap::new(),
            slots: Vec::new(),
            order: Vec::new(),
            runs: Vec::new(),
            free_runs: Vec::new(),
            total: 0,
        }
    }

    /// Counts an event of an item. `own` makes the key of an item that has no slot.
    pub fn count<Q: Eq + Hash + ?Sized>(&mut self, item: &Q, own: impl FnOnce() -> K)
    where
        K: Borrow<Q>,
    {
        self.total += 1;
        let index = match self.indices.get(item) {
            Some(&index) => index,
            None => self.begin(own()),
        };
        self.raise(index);
    }

    /// Gives an item a slot. Returns the index of the slot.
    fn begin(&mut self, key: K) -> u32 {
        let index = if self.slots.len() < self.most {
            let index = self.slots.len() as u32;
            let run = self.new_run(index);
            let item = HeavyItem { key: key.clone(), count: 0, error: 0 };
            self.slots.push(ItemSlot { item, place: index, run });
            self.order.push(index);
            index
        } else {
            let index = self.order[self.most - 1];
            let item = &mut self.slots[index as usize].item;
            item.error = item.count;
            let evicted = std::mem::replace(&mut item.key, key.clone());
            self.indices.remove(&evicted);
            index
        };
        self.indices.insert(key, index);
        index
    }

    /// Adds one to the count of a slot.
    fn raise(&mut self, index: u32) {
        let ItemSlot { item, place, run } = &self.slots[index as usize];
        let (count, place, run) = (item.count + 1, *place, *run);
        let first = self.runs[run as usize];
        self.exchange(place, first);
        // The slot is the first one of its run, and leaves it.
        match self.slot_at(first + 1).is_some_and(|next| next.run == run) {
            true => self.runs[run as usize] = first + 1,
            false => self.free_runs.push(run),
        }
        let before = first.checked_sub(1).and_then(|before| self.slot_at(before));
        let run = match before.filter(|before| before.item.count == count) {
            Some(before) => before.run,
            None => self.new_run(first),
        };
        let slot = &mut self.slots[index as usize];
        slot.item.count = count;
        slot.run = run;
    }

    fn slot_at(&self, place: u32) -> Option<&ItemSlot<K>> {
        self.order.get(place as usize).map(|&index| &self.slots[index as usize])
    }

    /// Exchanges the slots at two places.
    fn exchange(&mut self, one: u32, other: u32) {
        self.order.swap(one as usize, other as usize);
        for place in [one, other] {
            let index = self.order[place as usize];
            self.slots[index as usize].place = place;
        }
    }

    /// Returns a run that begins at this place.
    fn new_run(&mut self, first: u32) -> u32 {
        match self.free_runs.pop() {
            Some(run) => {
                self.runs[run as usize] = first;
                run
            }
            None => {
                self.runs.push(first);
                self.runs.len() as u32 - 1
            }
        }
    }

    /// Returns the counts now.
    pub fn items(&self) -> HeavyItems<K> {
        let items: Vec<_> = self.order.iter().map(|&index| self.slots[index as usize].item.clone()).collect();
        let least = items.last().map_or(0, |item| item.count);
        let error_bound = if items.len() < self.most { 0 } else { least };
        HeavyItems { items, total: self.total, error_bound }
    }
}

impl<K: Clone + Eq + Hash + Ord> HeavyItems<K> {
    /// Returns the counts of several streams together. An item that one of them does not have may have as many events
    /// there as its error bound.
    pub fn merge(parts: impl IntoIterator<Item = Self>) -> Self {
        let (mut total, mut error_bound) = (0, 0);
        let mut counts: HashMap<K, Excess> = HashMap::new();
        for part in parts {
            total += part.total;
            error_bound += part.error_bound;
            for HeavyItem { key, count, error } in part.items {
                let excess = counts.entry(key).or_default();
                // Neither is negative: the error bound is the smallest count, and no error exceeds it.
                excess.count += count.saturating_sub(part.error_bound);
                excess.certainty += part.error_bound.saturating_sub(error);
            }
        }
        let mut items: Vec<_> = counts
            .into_iter()
            .map(|(key, Excess { count, certainty })| HeavyItem {
                key,
                count: count + error_bound,
                error: error_bound.saturating_sub(certainty),
            })
            .collect();
        items
            .sort_unstable_by(|one, other| other.count.cmp(&one.count).then_with(|| one.key.cmp(&other.key)));
        Self { items, total, error_bound }
    }
}

/// The difference of an item to an item that no stream has.
#[derive(Default)]
struct Excess {
    /// The amount by which its count is higher.
    count: u64,
    /// The amount by which its error is lower.
    certainty: u64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn counted(slots: usize, stream: &[u8]) -> SpaceSaving<u8> {
        let mut counts = SpaceSaving::new(slots);
        stream.iter().for_each(|item| counts.count(item, || *item));
        counts
    }

    fn truth(stream: &[u8]) -> BTreeMap<u8, u64> {
        let mut truth = BTreeMap::new();
        stream.iter().for_each(|item| *truth.entry(*item).or_default() += 1);
        truth
    }

    /// Checks the bounds that the documentation of this module states.
    fn check_bounds(items: &HeavyItems<u8>, truth: &BTreeMap<u8, u64>) -> Result<(), TestCaseError> {
        prop_assert_eq!(items.total, truth.values().sum::<u64>());
        let mut left: BTreeMap<_, _> = truth.clone();
        for HeavyItem { key, count, error } in &items.items {
            let true_count = left.remove(key).unwrap_or_default();
            prop_assert!(
                count - error <= true_count && true_count <= *count,
                "{key}: {true_count} {items:?}"
            );
            prop_assert!(*error <= items.error_bound, "{key}: {items:?}");
        }
        prop_assert!(left.values().all(|&count| count <= items.error_bound), "{left:?} {items:?}");
        prop_assert!(items.items.is_sorted_by_key(|item| std::cmp::Reverse(item.count)), "{items:?}");
        Ok(())
    }

    /// Checks that the slots are in order, and that each run is known by its first place.
    fn check_order(counts: &SpaceSaving<u8>) -> Result<(), TestCaseError> {
        let all: Vec<_> = (0..counts.order.len()).map(|at| counts.slot_at(at as u32).unwrap()).collect();
        for (place, slot) in all.iter().enumerate() {
            prop_assert_eq!(slot.place as usize, place);
            let first = all.iter().position(|other| other.item.count == slot.item.count).unwrap();
            prop_assert_eq!(counts.runs[slot.run as usize] as usize, first);
            let index = counts.indices[&slot.item.key];
            prop_assert_eq!(index, counts.order[place]);
        }
        prop_assert_eq!(counts.indices.len(), all.len());
        prop_assert!(counts.runs.len() <= counts.most + 1, "{} runs", counts.runs.len());
        Ok(())
    }

    #[test]
    fn counts_are_exact_while_there_are_slots() {
        let counts = counted(3, b"abacab").items();
        let item = |key, count| HeavyItem { key, count, error: 0 };
        assert_eq!(counts.items, [item(b'a', 3), item(b'b', 2), item(b'c', 1)]);
        assert_eq!((counts.total, counts.error_bound), (6, 1));
        assert_eq!(counted(4, b"abacab").items().error_bound, 0);
        assert_eq!(counted(2, b"").items(), HeavyItems { items: vec![], total: 0, error_bound: 0 });
    }

    #[test]
    fn a_new_item_takes_the_slot_with_the_smallest_count() {
        let counts = counted(2, b"aaabcd").items();
        let expected =
            [HeavyItem { key: b'a', count: 3, error: 0 }, HeavyItem { key: b'd', count: 3, error: 2 }];
        assert_eq!(counts.items, expected);
        assert_eq!(counts.error_bound, 3);
    }

    #[test]
    fn a_flood_of_random_items_does_not_evict_a_frequent_one() {
        let mut counts = SpaceSaving::new(10);
        for number in 0..100_000_u32 {
            let item = if number % 5 == 0 { 0 } else { number };
            counts.count(&item, || item);
        }
        let items = counts.items();
        let frequent = items.items.iter().find(|item| item.key == 0).unwrap();
        assert!(frequent.count >= 20_000 && frequent.count - frequent.error <= 20_000, "{items:?}");
        assert!(items.error_bound <= 10_000, "{items:?}");
        assert_eq!(items.items.len(), 10);
    }

    #[test]
    fn an_item_of_one_part_may_be_in_the_others() {
        let parts = [counted(2, b"aab").items(), counted(2, b"cccdd").items()];
        let merged = HeavyItems::merge(parts);
        let item = |key, count, error| HeavyItem { key, count, error };
        // The bounds are 1 and 2.
        let expected = [item(b'a', 4, 2), item(b'c', 4, 1), item(b'b', 3, 2), item(b'd', 3, 1)];
        assert_eq!(merged, HeavyItems { items: expected.into(), total: 8, error_bound: 3 });
        assert_eq!(HeavyItems::<u8>::merge([]), HeavyItems { items: vec![], total: 0, error_bound: 0 });
    }

    /// Streams in which few items are frequent, as names are.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![3 => 0_u8..4, 2 => 0_u8..20, 1 => any::<u8>()], 0..600)
    }

    proptest! {
        #[test]
        fn counts_are_within_their_bounds(stream in streams(), slots in 1_usize..40) {
            let counts = counted(slots, &stream);
            check_order(&counts)?;
            let (items, truth) = (counts.items(), truth(&stream));
            check_bounds(&items, &truth)?;
            let share = stream.len() as u64 / slots as u64;
            prop_assert!(items.error_bound <= share, "{items:?}");
            for (item, count) in truth {
                let has_slot = items.items.iter().any(|found| found.key == item);
                prop_assert!(has_slot || count <= share, "{item}: {count} {items:?}");
            }
        }

        #[test]
        fn merged_counts_are_within_their_bounds(
            parts in proptest::collection::vec((streams(), 1_usize..40), 0..6),
        ) {
            let merged = HeavyItems::merge(parts.iter().map(|(stream, slots)| counted(*slots, stream).items()));
            let all: Vec<u8> = parts.iter().flat_map(|(stream, _)| stream).copied().collect();
            check_bounds(&merged, &truth(&all))?;
        }

        #[test]
        fn parts_of_parts_merge_too(parts in proptest::collection::vec(streams(), 4)) {
            let part = |at: usize| counted(7, &parts[at]).items();
            let merged = HeavyItems::merge([HeavyItems::merge([part(0), part(1)]), HeavyItems::merge([part(2), part(3)])]);
            check_bounds(&merged, &truth(&parts.concat()))?;
        }
    }
}
