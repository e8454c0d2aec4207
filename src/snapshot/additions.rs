//! Entries that are added to a list at run time, most of them for a limited time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::route::{IpPrefix, PrefixSet};

/// The most entries that a list may have besides the entries of its file. A banning program keeps far fewer, and a set
/// of this size can be built again at each change.
pub const MOST_ADDITIONS: usize = 10_000;

/// The entries that were added to a list. They are kept over reloads and lost when the process ends.
///
/// Readers take one consistent set without a lock. The lock is for writers, which are rare.
#[derive(Debug, Default)]
pub struct Additions {
    entries: Mutex<BTreeMap<IpPrefix, Option<Instant>>>,
    set: ArcSwap<PresentEntries>,
}

/// The effect of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdditionOutcome {
    /// The entry is new.
    New,
    /// The entry existed. It has the new end now.
    Again,
}

/// The list has [`MOST_ADDITIONS`] entries already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the list has {MOST_ADDITIONS} added entries, and more are not allowed; remove some, or write them into the file of the list"
)]
pub struct ListFull;

/// The entries at one moment.
#[derive(Debug, Default)]
struct PresentEntries {
    set: PrefixSet,
    /// The entries, sorted.
    entries: Box<[(IpPrefix, Option<Instant>)]>,
    /// The prefix lengths of the entries, the shortest first.
    lengths: Box<[u8]>,
    /// The earliest end of an entry. After this moment the set may contain ended entries, so the entries that contain
    /// an address are checked.
    next_end: Option<Instant>,
}

impl PresentEntries {
    fn of(entries: &BTreeMap<IpPrefix, Option<Instant>>) -> Self {
        let lengths: BTreeSet<u8> = entries.keys().map(IpPrefix::length).collect();
        Self {
            set: entries.keys().collect(),
            lengths: lengths.into_iter().collect(),
            entries: entries.iter().map(|(prefix, end)| (*prefix, *end)).collect(),
            next_end: entries.values().flatten().min().copied(),
        }
    }

    fn around(&self, address: IpAddr, now: Instant) -> Option<&(IpPrefix, Option<Instant>)> {
        let networks = self.lengths.iter().filter_map(|length| IpPrefix::of_length(address, *length));
        let indices =
            networks.filter_map(|network| self.entries.binary_search_by_key(&network, |entry| entry.0).ok());
        indices.map(|index| &self.entries[index]).find(|(_, end)| is_present(*end, now))
    }
}

fn is_present(end: Option<Instant>, now: Instant) -> bool {
    end.is_none_or(|end| now < end)
}

impl Additions {
    /// Returns true if an address is in an entry that has not ended. `now` is called only if the result
    /// depends on the time.
    pub fn contain(&self, address: IpAddr, now: impl FnOnce() -> Instant) -> bool {
        let present = self.set.load();
        if !present.set.contains(address) {
            return false;
        }
        let Some(next_end) = present.next_end else { return true };
        let now = now();
        now < next_end || present.around(address, now).is_some()
    }

    /// Returns the first entry that contains an address, and its end.
    pub fn around(&self, address: IpAddr, now: Instant) -> Option<(IpPrefix, Option<Instant>)> {
        self.set.load().around(address, now).copied()
    }

    /// Returns the sorted entries with their ends.
    pub fn all(&self, now: Instant) -> Vec<(IpPrefix, Option<Instant>)> {
        self.set.load().entries.iter().filter(|(_, end)| is_present(*end, now)).copied().collect()
    }

    /// The number of entries that have not ended.
    pub fn count(&self, now: Instant) -> usize {
        let present = self.set.load();
        match present.next_end {
            Some(end) if end <= now => {
                present.entries.iter().filter(|(_, end)| is_present(*end, now)).count()
            }
            _ => present.entries.len(),
        }
    }

    /// Adds an entry until its end, or until the process ends. An existing entry gets the new end.
    ///
    /// # Errors
    ///
    /// The list is full.
    pub fn add(
        &self,
        prefix: IpPrefix,
        end: Option<Instant>,
        now: Instant,
    ) -> Result<AdditionOutcome, ListFull> {
        let mut entries = self.lock();
        entries.retain(|_, end| is_present(*end, now));
        if entries.len() >= MOST_ADDITIONS && !entries.contains_key(&prefix) {
            return Err(ListFull);
        }
        let before = entries.insert(prefix, end);
        self.set.store(PresentEntries::of(&entries).into());
        Ok(if before.is_some() { AdditionOutcome::Again } else { AdditionOutcome::New })
    }

    /// Adds entries of another process, up to [`MOST_ADDITIONS`] entries in all. An existing entry keeps its end.
    /// Builds the set once.
    pub fn restore(&self, restored: impl IntoIterator<Item = (IpPrefix, Option<Instant>)>, now: Instant) {
        let mut entries = self.lock();
        entries.retain(|_, end| is_present(*end, now));
        for (prefix, end) in restored {
            if entries.len() >= MOST_ADDITIONS {
                break;
            }
            if is_present(end, now) {
                entries.entry(prefix).or_insert(end);
            }
        }
        self.set.store(PresentEntries::of(&entries).into());
    }

    /// Removes an entry. Returns true if it existed and had not ended.
    pub fn remove(&self, prefix: IpPrefix, now: Instant) -> bool {
        let mut entries = self.lock();
        let end = entries.remove(&prefix);
        if end.is_some() {
            self.set.store(PresentEntries::of(&entries).into());
        }
        end.is_some_and(|end| is_present(end, now))
    }

    /// Removes ended entries. Only memory and time depend on this, so it is enough to call it every few
    /// seconds.
    pub fn sweep(&self, now: Instant) {
        if self.set.load().next_end.is_none_or(|end| now < end) {
            return;
        }
        let mut entries = self.lock();
        entries.retain(|_, end| is_present(*end, now));
        self.set.store(PresentEntries::of(&entries).into());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpPrefix, Option<Instant>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    /// A clock that returns the moments after a fixed one.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }

        fn check(&self, some: &Additions, address: &str, seconds: u64, expected: bool) {
            let address = address.parse().unwrap();
            let now = self.at(seconds);
            assert_eq!(some.contain(address, || now), expected, "{address} after {seconds} s");
            assert_eq!(some.around(address, now).is_some(), expected, "{address} after {seconds} s");
        }
    }

    #[test]
    fn entries_end_by_themselves() {
        let clock = Clock(Instant::now());
        let some = Additions::default();
        assert_eq!(
            some.add(prefix("10.0.0.0/24"), Some(clock.at(10)), clock.at(0)),
            Ok(AdditionOutcome::New)
        );
        assert_eq!(some.add(prefix("10.0.0.7"), Some(clock.at(20)), clock.at(0)), Ok(AdditionOutcome::New));
        assert_eq!(some.add(prefix("2001:db8::/32"), None, clock.at(0)), Ok(AdditionOutcome::New));
        clock.check(&some, "10.0.0.1", 9, true);
        clock.check(&some, "10.0.0.1", 10, false);
        clock.check(&some, "10.0.0.7", 10, true);
        clock.check(&some, "10.0.0.7", 20, false);
        clock.check(&some, "10.0.1.0", 0, false);
        clock.check(&some, "2001:db8::1", 1_000_000, true);
        let left = [(prefix("10.0.0.7"), Some(clock.at(20))), (prefix("2001:db8::/32"), None)];
        assert_eq!(some.all(clock.at(10)), left);
        assert_eq!((some.count(clock.at(9)), some.count(clock.at(10))), (3, 2));
        some.sweep(clock.at(10));
        assert_eq!(some.count(clock.at(10)), 2);
        clock.check(&some, "10.0.0.7", 19, true);
        clock.check(&some, "10.0.0.7", 20, false);
    }

    #[test]
    fn entries_are_added_again_and_removed() {
        let clock = Clock(Instant::now());
        let some = Additions::default();
        let one = prefix("10.0.0.7");
        some.add(one, Some(clock.at(10)), clock.at(0)).unwrap();
        assert_eq!(some.add(one, Some(clock.at(30)), clock.at(5)), Ok(AdditionOutcome::Again));
        clock.check(&some, "10.0.0.7", 29, true);
        assert!(some.remove(one, clock.at(6)) && some.count(clock.at(6)) == 0);
        clock.check(&some, "10.0.0.7", 6, false);
        assert!(!some.remove(one, clock.at(6)));
        some.add(one, Some(clock.at(10)), clock.at(0)).unwrap();
        assert!(!some.remove(one, clock.at(10)), "it had ended");
    }

    #[test]
    fn entries_are_bounded_and_ended_ones_make_room() {
        let clock = Clock(Instant::now());
        let some = Additions::default();
        {
            // To add them one by one would build the set each time.
            let mut entries = some.lock();
            let all = (0..MOST_ADDITIONS as u32).map(|n| Ipv4Addr::from_bits(n).to_string());
            entries.extend(all.map(|text| (prefix(&text), Some(clock.at(10)))));
        }
        assert_eq!(some.add(prefix("::1"), None, clock.at(9)), Err(ListFull));
        assert_eq!(some.add(prefix("0.0.0.0"), None, clock.at(9)), Ok(AdditionOutcome::Again));
        assert_eq!(some.add(prefix("::1"), None, clock.at(10)), Ok(AdditionOutcome::New));
        assert_eq!(some.count(clock.at(10)), 2);
    }

    #[test]
    fn restored_entries_are_bounded_and_end_by_themselves() {
        let clock = Clock(Instant::now());
        let some = Additions::default();
        some.add(prefix("10.0.0.1"), Some(clock.at(5)), clock.at(0)).unwrap();
        let entries = [("10.0.0.1", Some(90)), ("10.0.0.2", Some(10)), ("10.0.0.3", Some(0)), ("::1", None)];
        let restored = entries.map(|(text, end)| (prefix(text), end.map(|end| clock.at(end))));
        some.restore(restored, clock.at(1));
        assert_eq!(some.all(clock.at(1)).len(), 3, "one has ended");
        clock.check(&some, "10.0.0.1", 6, false);
        clock.check(&some, "10.0.0.2", 9, true);
        clock.check(&some, "10.0.0.2", 10, false);
        clock.check(&some, "::1", 10_000, true);
        let many =
            (0..2 * MOST_ADDITIONS as u32).map(|n| (prefix(&Ipv4Addr::from_bits(n).to_string()), None));
        some.restore(many, clock.at(1));
        assert_eq!(some.count(clock.at(1)), MOST_ADDITIONS);
    }

    proptest! {
        /// The search returns the first entry that contains an address and has not ended, as a search of all
        /// entries does.
        #[test]
        fn the_first_entry_around_an_address_is_found(
            entries in prop::collection::btree_map((0_u8..4, 24_u8..=32, any::<bool>()), prop::option::of(1_u64..20), 0..30),
            address in (0_u8..4, any::<bool>()),
            seconds in 0_u64..25,
        ) {
            let clock = Clock(Instant::now());
            let text = |last: u8, is_v6: bool| match is_v6 {
                true => format!("2001:db8::{last}"),
                false => format!("10.0.0.{last}"),
            };
            let some = Additions::default();
            for ((last, length, is_v6), end) in &entries {
                let address = text(*last, *is_v6).parse().unwrap();
                let length = if *is_v6 { length * 4 } else { 96 + length };
                let network = IpPrefix::of_length(address, length).unwrap();
                some.add(network, end.map(|end| clock.at(end)), clock.at(0)).unwrap();
            }
            let (address, now) = (text(address.0, address.1).parse().unwrap(), clock.at(seconds));
            let expected = some.all(now).into_iter().find(|(network, _)| network.contains(address));
            prop_assert_eq!(some.around(address, now), expected);
            prop_assert_eq!(some.contain(address, || now), expected.is_some());
            prop_assert_eq!(some.count(now), some.all(now).len());
        }
    }
}
