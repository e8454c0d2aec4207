//! Lists of addresses: their entries, from the configuration, from a file, and added at run time.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::additions::Additions;
use crate::reclaim::{self, Deferred};
use crate::route::{AddressSpan, Country, IpPrefix, PrefixSet};

/// The most entries of the file of a list: several times as many as any known list has, and at most some 160 MiB of
/// IPv6.
pub const MOST_FILE_ENTRIES: usize = 5_000_000;

/// A list, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListSpec {
    /// Its name.
    pub name: Arc<str>,
    /// The entries in the configuration itself.
    pub entries: Vec<IpPrefix>,
    /// A file with further entries, which is followed while the process runs.
    pub file: Option<ListFileSpec>,
}

/// The file of a list.
#[derive(Clone, Debug)]
pub struct ListFileSpec {
    /// The path and the selection.
    pub source: ListSource,
    /// The entries that were read with the configuration; `None` if none were read.
    pub read: Option<Arc<FileEntries>>,
}

/// Two specs are equal if they have the same file, even if different contents were read from it.
impl PartialEq for ListFileSpec {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for ListFileSpec {}

/// A file, and the part of the file that belongs to a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListSource {
    /// The path of the file.
    pub path: Arc<Path>,
    /// The countries whose networks are taken out of a country database, sorted; empty for a file that is the
    /// list itself.
    pub countries: Arc<[Country]>,
    /// True if a file without entries empties the list. Default false: such a file is a fault, because a
    /// failed download may leave one.
    pub allow_empty: bool,
}

/// The entries of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FileEntries {
    /// The networks of all entries.
    pub set: PrefixSet,
    /// The number of lines or networks that they came from.
    pub count: usize,
}

impl Drop for FileEntries {
    fn drop(&mut self) {
        reclaim::free_later(std::mem::take(&mut self.set));
    }
}

/// A list in use.
#[derive(Debug)]
pub struct List {
    /// Its name.
    pub name: Arc<str>,
    /// The part that can change without a reload. The next list with the same name takes it over.
    pub kept: Arc<ListState>,
    written: Deferred<PrefixSet>,
    written_count: usize,
    file: Option<(ListSource, ArcSwap<FileEntries>)>,
}

/// The part of a list that reloads keep.
#[derive(Debug, Default)]
pub struct ListState {
    /// The entries that were added at run time.
    pub additions: Additions,
    refusals: AtomicU64,
    loads: AtomicU64,
    failed_loads: AtomicU64,
    empty_loads: AtomicU64,
    /// Unix time in milliseconds; 0 is never.
    loaded: AtomicU64,
}

/// The reason for which an address is in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// The `entries` of the list contain these addresses.
    Written(AddressSpan),
    /// The file of the list contains these addresses.
    File(AddressSpan),
    /// An entry added at run time contains the address. The entry has this end, if it has an end.
    Added(IpPrefix, Option<Instant>),
}

impl List {
    /// Builds a list. `old` is the earlier list with the same name. Its additions and counts stay, and also
    /// the entries of its file if the file was not read again.
    pub fn build(spec: &ListSpec, old: Option<&Self>) -> Arc<Self> {
        let file = spec.file.as_ref().map(|file| {
            let before = old.and_then(|old| old.file.as_ref()).filter(|(source, _)| *source == file.source);
            let entries = file.read.clone().or_else(|| before.map(|(_, entries)| entries.load_full()));
            (file.source.clone(), ArcSwap::new(entries.unwrap_or_default()))
        });
        let list = Self {
            name: Arc::clone(&spec.name),
            kept: old.map(|old| Arc::clone(&old.kept)).unwrap_or_default(),
            written: Deferred::new(spec.entries.iter().collect()),
            written_count: spec.entries.len(),
            file,
        };
        if spec.file.as_ref().is_some_and(|file| file.read.is_some()) {
            list.count_load(SystemTime::now());
        }
        Arc::new(list)
    }

    /// Returns true if an address is in the list. `now` is called only if the result depends on the time.
    pub fn contains(&self, address: IpAddr, now: impl FnOnce() -> Instant) -> bool {
        self.written.contains(address)
            || self.file.as_ref().is_some_and(|(_, entries)| entries.load().set.contains(address))
            || self.kept.additions.contain(address, now)
    }

    /// Returns every reason for which an address is in the list.
    pub fn reasons(&self, address: IpAddr, now: Instant) -> Vec<Listed> {
        let file = self.file.as_ref().and_then(|(_, entries)| entries.load().set.around(address));
        let added = self.kept.additions.around(address, now);
        let written = self.written.around(address).map(Listed::Written);
        let added = added.map(|(prefix, end)| Listed::Added(prefix, end));
        written.into_iter().chain(file.map(Listed::File)).chain(added).collect()
    }

    /// The number of entries in the configuration itself.
    pub fn written(&self) -> usize {
        self.written_count
    }

    /// Returns its file and the number of entries there; `None` if it has no file.
    pub fn file(&self) -> Option<(&ListSource, usize)> {
        self.file.as_ref().map(|(source, entries)| (source, entries.load().count))
    }

    /// Puts the entries that were read from its file in force at once, for all policies. Returns false if the
    /// list has no such file, or if nothing differs.
    pub fn swap_file(&self, source: &ListSource, read: Arc<FileEntries>, now: SystemTime) -> bool {
        let Some((_, entries)) = self.file.as_ref().filter(|(own, _)| own == source) else { return false };
        self.count_load(now);
        if *entries.load_full() == *read {
            return false;
        }
        entries.store(read);
        true
    }

    fn count_load(&self, now: SystemTime) {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.kept.loaded.store(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.kept.loads.fetch_add(1, Ordering::Relaxed);
    }
}

impl ListState {
    /// Counts a file that could not be read, or had a fault.
    pub fn count_failed_load(&self) {
        self.failed_loads.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a file without entries, which changed nothing.
    pub fn count_empty_load(&self) {
        self.empty_loads.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds reads that another process counted, by result: `ok`, `failed`, `empty`. Other results are ignored.
    pub fn add_loads(&self, result: &str, count: u64) {
        let counter = match result {
            "ok" => &self.loads,
            "failed" => &self.failed_loads,
            "empty" => &self.empty_loads,
            _ => return,
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds refusals that another process counted.
    pub fn add_refusals(&self, count: u64) {
        self.refusals.fetch_add(count, Ordering::Relaxed);
    }

    /// The number of successful reads of the file.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    /// The number of failed reads of the file.
    pub fn failed_loads(&self) -> u64 {
        self.failed_loads.load(Ordering::Relaxed)
    }

    /// The number of reads that found no entries although the list needs some.
    pub fn empty_loads(&self) -> u64 {
        self.empty_loads.load(Ordering::Relaxed)
    }

    /// The time of the last successful read, in milliseconds of Unix time; 0 if there was none.
    pub fn loaded(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed)
    }

    /// Counts a connection that was refused because its address is in the list.
    pub(super) fn count_refusal(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that were refused because their address is in the list.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &str) -> Vec<IpPrefix> {
        texts.split_whitespace().map(|text| text.parse().unwrap()).collect()
    }

    fn read(texts: &str) -> Arc<FileEntries> {
        let prefixes = prefixes(texts);
        Arc::new(FileEntries { set: prefixes.iter().collect(), count: prefixes.len() })
    }

    fn source(path: &str, countries: &str) -> ListSource {
        let countries = countries.split_whitespace().map(|text| text.parse().unwrap()).collect();
        ListSource { path: Path::new(path).into(), countries, allow_empty: false }
    }

    fn spec(entries: &str, file: Option<&str>) -> ListSpec {
        let file = file.map(|texts| ListFileSpec { source: source("bad", ""), read: Some(read(texts)) });
        ListSpec { name: "bad".into(), entries: prefixes(entries), file }
    }

    fn check(list: &List, address: &str, expected: bool) {
        assert_eq!(list.contains(address.parse().unwrap(), Instant::now), expected, "{address}");
    }

    #[test]
    fn additions_and_new_contents_of_the_file_count_at_once() {
        let list = List::build(&spec("", Some("10.2.0.0/16")), None);
        check(&list, "10.5.0.1", false);
        assert!(list.swap_file(&source("bad", ""), read("10.5.0.0/16"), UNIX_EPOCH));
        assert!(!list.swap_file(&source("bad", ""), read("10.5.0.0/16"), UNIX_EPOCH), "it is the same");
        assert!(!list.swap_file(&source("worse", ""), read("::1"), UNIX_EPOCH));
        assert!(
            !list.swap_file(&source("bad", "DE"), read("::1"), UNIX_EPOCH),
            "other countries are selected"
        );
        check(&list, "10.5.0.1", true);
        check(&list, "10.2.0.1", false);
        list.kept.additions.add("10.2.0.1".parse().unwrap(), None, Instant::now()).unwrap();
        check(&list, "10.2.0.1", true);
        assert_eq!((list.kept.loads(), list.kept.loaded(), list.written()), (3, 0, 0));
        assert_eq!(list.file().map(|(_, count)| count), Some(1));
    }

    #[test]
    fn a_reload_keeps_additions_and_contents_of_the_file() {
        let list = List::build(&spec("10.1.0.0/16", Some("10.2.0.0/16")), None);
        let now = Instant::now();
        list.kept.additions.add("10.3.0.0/16".parse().unwrap(), None, now).unwrap();
        let reasons = |list: &List, address: &str| list.reasons(address.parse().unwrap(), now).len();
        let mut unread = spec("10.2.0.0/16", Some(""));
        unread.file.as_mut().unwrap().read = None;
        let next = List::build(&unread, Some(&list));
        assert_eq!(reasons(&next, "10.1.0.1"), 0);
        assert_eq!(reasons(&next, "10.2.0.1"), 2, "written, and read before");
        assert_eq!(reasons(&next, "10.3.0.1"), 1);
        unread.file.as_mut().unwrap().source = source("bad", "DE");
        let other = List::build(&unread, Some(&list));
        assert_eq!(reasons(&other, "10.2.0.1"), 1, "the entries of other countries are not used");
        let next = List::build(&spec("", Some("::1")), Some(&next));
        assert_eq!(
            (reasons(&next, "10.2.0.1"), reasons(&next, "::1"), reasons(&next, "10.3.0.1")),
            (0, 1, 1)
        );
    }
}
