//! Lists of addresses, and the access rules of listeners that use them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::additions::Additions;
use crate::reclaim::{self, Deferred};
use crate::route::condition::Ja4Pattern;
use crate::route::{Country, IpPrefix, PrefixSet};
use crate::wire::Ja4;

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

/// Two are equal if they are the same file, even if different contents were read from it.
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
    Written(crate::route::AddressSpan),
    /// The file of the list contains these addresses.
    File(crate::route::AddressSpan),
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

    /// Connections that were refused because their address is in the list.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

/// The access rules of a listener, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessSpec {
    /// Addresses that are refused.
    pub deny: RuleSpec,
    /// JA4 fingerprints that are refused, once the hello is read.
    pub deny_ja4: Vec<Ja4Pattern>,
    /// The only addresses that are admitted; `None` admits all that are not denied.
    pub allow: Option<RuleSpec>,
    /// The form of a refusal.
    pub refused: ClientRefusal,
}

/// A set of addresses: lists, by name, and networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSpec {
    /// The lists.
    pub lists: Vec<Arc<str>>,
    /// The networks.
    pub prefixes: Vec<IpPrefix>,
}

/// The form in which a client is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientRefusal {
    /// By a TLS alert on listeners for TLS, otherwise by a reset.
    #[default]
    Reject,
    /// By a reset.
    Drop,
}

/// The access rules of a listener.
#[derive(Debug)]
pub struct AccessRules {
    deny: Rule,
    deny_ja4: Box<[Ja4Pattern]>,
    allow: Option<Rule>,
    /// The form of a refusal.
    pub refused: ClientRefusal,
}

#[derive(Debug)]
struct Rule {
    lists: Vec<Arc<List>>,
    prefixes: PrefixSet,
}

/// The reason for which an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessDenial {
    /// A `deny` rule has the address.
    Denied,
    /// The listener has an `allow` rule, and the address is not in it.
    NotAllowed,
}

/// The rules that apply to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleScope {
    /// All rules: the address is the client's.
    Client,
    /// Only `deny`: the address belongs to a proxy, and its client is not known yet.
    Proxy,
}

impl Rule {
    fn build(spec: &RuleSpec, list: &impl Fn(&Arc<str>) -> Option<Arc<List>>) -> Result<Self, Arc<str>> {
        let lists = spec.lists.iter().map(|name| list(name).ok_or_else(|| Arc::clone(name)));
        Ok(Self { lists: lists.collect::<Result<_, _>>()?, prefixes: spec.prefixes.iter().collect() })
    }

    fn list(&self, address: IpAddr, now: impl Fn() -> Instant) -> Option<&List> {
        self.lists.iter().map(|list| &**list).find(|list| list.contains(address, &now))
    }
}

impl AccessRules {
    /// Builds the rules with the lists that `list` returns.
    ///
    /// # Errors
    ///
    /// The name of a list that does not exist.
    pub fn build(spec: &AccessSpec, list: impl Fn(&Arc<str>) -> Option<Arc<List>>) -> Result<Self, Arc<str>> {
        let allow = spec.allow.as_ref().map(|rule| Rule::build(rule, &list)).transpose()?;
        let deny_ja4 = spec.deny_ja4.as_slice().into();
        Ok(Self { deny: Rule::build(&spec.deny, &list)?, deny_ja4, allow, refused: spec.refused })
    }

    /// Checks an address. `deny` goes before `allow`. A list that refuses the address counts the refusal.
    ///
    /// # Errors
    ///
    /// The reason for the refusal.
    pub fn check(
        &self,
        address: IpAddr,
        scope: RuleScope,
        now: impl Fn() -> Instant,
    ) -> Result<(), AccessDenial> {
        if let Some(list) = self.deny.list(address, &now) {
            list.kept.refusals.fetch_add(1, Ordering::Relaxed);
            return Err(AccessDenial::Denied);
        }
        if self.deny.prefixes.contains(address) {
            return Err(AccessDenial::Denied);
        }
        let is_allowed = |rule: &Rule| rule.prefixes.contains(address) || rule.list(address, &now).is_some();
        match &self.allow {
            Some(rule) if scope == RuleScope::Client && !is_allowed(rule) => Err(AccessDenial::NotAllowed),
            _ => Ok(()),
        }
    }

    /// Returns true if the rules need the fingerprint of a hello.
    pub fn needs_ja4(&self) -> bool {
        !self.deny_ja4.is_empty()
    }

    /// Returns true if a fingerprint is denied.
    pub fn denies_ja4(&self, ja4: &Ja4) -> bool {
        self.deny_ja4.iter().any(|pattern| pattern.fits(ja4))
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

    fn rule(lists: &[&str], texts: &str) -> RuleSpec {
        RuleSpec { lists: lists.iter().map(|name| (*name).into()).collect(), prefixes: prefixes(texts) }
    }

    fn check(access: &AccessRules, address: &str, scope: RuleScope, expected: Result<(), AccessDenial>) {
        assert_eq!(
            access.check(address.parse().unwrap(), scope, Instant::now),
            expected,
            "{address} {scope:?}"
        );
    }

    #[test]
    fn deny_comes_before_allow() {
        use AccessDenial::{Denied, NotAllowed};
        use RuleScope::{Client, Proxy};
        let list = List::build(&spec("10.1.0.0/16", Some("10.2.0.0/16")), None);
        let find = |name: &Arc<str>| (**name == *"bad").then(|| Arc::clone(&list));
        let spec = AccessSpec {
            deny: rule(&["bad"], "10.3.0.0/16"),
            allow: Some(rule(&[], "10.0.0.0/8")),
            ..AccessSpec::default()
        };
        let access = AccessRules::build(&spec, find).unwrap();
        check(&access, "10.0.0.1", Client, Ok(()));
        check(&access, "10.1.0.1", Client, Err(Denied));
        check(&access, "::ffff:10.2.0.1", Client, Err(Denied));
        check(&access, "10.3.0.1", Client, Err(Denied));
        check(&access, "11.0.0.1", Client, Err(NotAllowed));
        check(&access, "11.0.0.1", Proxy, Ok(()));
        check(&access, "10.1.0.1", Proxy, Err(Denied));
        assert_eq!(list.kept.refusals(), 3, "only those by the list");
        let only = AccessSpec { allow: Some(rule(&["bad"], "")), ..AccessSpec::default() };
        let only = AccessRules::build(&only, find).unwrap();
        check(&only, "10.1.0.1", Client, Ok(()));
        check(&only, "10.3.0.1", Client, Err(NotAllowed));
        let unknown = AccessSpec { deny: rule(&["other"], ""), ..AccessSpec::default() };
        assert_eq!(AccessRules::build(&unknown, find).unwrap_err(), "other".into());
    }

    #[test]
    fn additions_and_new_contents_of_the_file_count_at_once() {
        let list = List::build(&spec("", Some("10.2.0.0/16")), None);
        let find = |_: &Arc<str>| Some(Arc::clone(&list));
        let spec = AccessSpec { deny: rule(&["bad"], ""), ..AccessSpec::default() };
        let access = AccessRules::build(&spec, find).unwrap();
        check(&access, "10.5.0.1", RuleScope::Client, Ok(()));
        assert!(list.swap_file(&source("bad", ""), read("10.5.0.0/16"), UNIX_EPOCH));
        assert!(!list.swap_file(&source("bad", ""), read("10.5.0.0/16"), UNIX_EPOCH), "it is the same");
        assert!(!list.swap_file(&source("worse", ""), read("::1"), UNIX_EPOCH));
        assert!(
            !list.swap_file(&source("bad", "DE"), read("::1"), UNIX_EPOCH),
            "other countries are selected"
        );
        check(&access, "10.5.0.1", RuleScope::Client, Err(AccessDenial::Denied));
        check(&access, "10.2.0.1", RuleScope::Client, Ok(()));
        list.kept.additions.add("10.2.0.1".parse().unwrap(), None, Instant::now()).unwrap();
        check(&access, "10.2.0.1", RuleScope::Client, Err(AccessDenial::Denied));
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
