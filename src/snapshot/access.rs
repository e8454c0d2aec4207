//! Lists of addresses, and who may come in by them.

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
    /// A file with further ones, which is followed while the process runs.
    pub file: Option<ListFileSpec>,
}

/// The file of a list.
#[derive(Clone, Debug)]
pub struct ListFileSpec {
    /// Which it is.
    pub source: ListSource,
    /// What was read with the configuration; `None` if nothing was.
    pub read: Option<Arc<FileEntries>>,
}

/// Two are equal if they are one file, whatever was read of it at which time.
impl PartialEq for ListFileSpec {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for ListFileSpec {}

/// A file, and what of it is in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListSource {
    /// Where it is.
    pub path: Arc<Path>,
    /// The countries whose networks are taken out of a file that tells them, sorted; none for a file that is the list.
    pub countries: Arc<[Country]>,
    /// Whether a file without entries empties the list. Default: such a file is a fault, because a failed download may
    /// leave one.
    pub allow_empty: bool,
}

/// What stands in a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FileEntries {
    /// All of it.
    pub set: PrefixSet,
    /// How many lines or networks it came from.
    pub count: usize,
}

impl Drop for FileEntries {
    fn drop(&mut self) {
        reclaim::free_later(std::mem::take(&mut self.set));
    }
}

/// A list, alive.
#[derive(Debug)]
pub struct List {
    /// Its name.
    pub name: Arc<str>,
    /// What can change without a reload. Outlives the list: the next one of that name has the same.
    pub kept: Arc<ListState>,
    written: Deferred<PrefixSet>,
    written_count: usize,
    file: Option<(ListSource, ArcSwap<FileEntries>)>,
}

/// What stays of a list over reloads.
#[derive(Debug, Default)]
pub struct ListState {
    /// The entries that were added while the process runs.
    pub additions: Additions,
    refusals: AtomicU64,
    loads: AtomicU64,
    failed_loads: AtomicU64,
    empty_loads: AtomicU64,
    /// Unix time in milliseconds; 0 is never.
    loaded: AtomicU64,
}

/// Why an address is in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// By its `entries`: these addresses are there.
    Written(crate::route::AddressSpan),
    /// By its file.
    File(crate::route::AddressSpan),
    /// By an addition, until its end.
    Added(IpPrefix, Option<Instant>),
}

impl List {
    /// Builds a list; `old` is the one of that name before, whose additions and counts stay, and the entries of
    /// the file if none were read since.
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

    /// Whether an address is in it. The time is asked only where it matters.
    pub fn contains(&self, address: IpAddr, now: impl FnOnce() -> Instant) -> bool {
        self.written.contains(address)
            || self.file.as_ref().is_some_and(|(_, entries)| entries.load().set.contains(address))
            || self.kept.additions.contain(address, now)
    }

    /// Every reason why an address is in it.
    pub fn reasons(&self, address: IpAddr, now: Instant) -> Vec<Listed> {
        let file = self.file.as_ref().and_then(|(_, entries)| entries.load().set.around(address));
        let added = self.kept.additions.around(address, now);
        let written = self.written.around(address).map(Listed::Written);
        let added = added.map(|(prefix, end)| Listed::Added(prefix, end));
        written.into_iter().chain(file.map(Listed::File)).chain(added).collect()
    }

    /// Entries in the configuration itself.
    pub fn written(&self) -> usize {
        self.written_count
    }

    /// Its file, and how many entries that has; `None` without one.
    pub fn file(&self) -> Option<(&ListSource, usize)> {
        self.file.as_ref().map(|(source, entries)| (source, entries.load().count))
    }

    /// Puts what was read of its file in force, at once and for all that ask; false if it has no such file, or
    /// nothing is different.
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
    /// Counts that the file could not be read, or was broken.
    pub fn count_failed_load(&self) {
        self.failed_loads.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a file without entries, which changed nothing.
    pub fn count_empty_load(&self) {
        self.empty_loads.fetch_add(1, Ordering::Relaxed);
    }

    /// Times the file was read well.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    /// Times it was not.
    pub fn failed_loads(&self) -> u64 {
        self.failed_loads.load(Ordering::Relaxed)
    }

    /// Times the file had no entries although it needs some.
    pub fn empty_loads(&self) -> u64 {
        self.empty_loads.load(Ordering::Relaxed)
    }

    /// When it was last read well, in milliseconds of Unix time; 0 is never.
    pub fn loaded(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed)
    }

    /// Connections that were refused because their address is in the list.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

/// Who may come in through a listener, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessSpec {
    /// These are refused.
    pub deny: RuleSpec,
    /// Those whose hello has one of these fingerprints are refused too, once it is read.
    pub deny_ja4: Vec<Ja4Pattern>,
    /// All but these are refused; `None` lets everybody in who is not denied.
    pub allow: Option<RuleSpec>,
    /// How.
    pub refused: ClientRefusal,
}

/// Lists, by name, and networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSpec {
    /// The lists.
    pub lists: Vec<Arc<str>>,
    /// The networks.
    pub prefixes: Vec<IpPrefix>,
}

/// How a client is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientRefusal {
    /// With a TLS alert where TLS is spoken, else by a reset.
    #[default]
    Reject,
    /// By a reset, without a word.
    Drop,
}

/// Who may come in through a listener.
#[derive(Debug)]
pub struct AccessRules {
    deny: Rule,
    deny_ja4: Box<[Ja4Pattern]>,
    allow: Option<Rule>,
    /// How those are refused who may not.
    pub refused: ClientRefusal,
}

#[derive(Debug)]
struct Rule {
    lists: Vec<Arc<List>>,
    prefixes: PrefixSet,
}

/// Why an address may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessDenial {
    /// It is denied.
    Denied,
    /// It is not among those that are allowed.
    NotAllowed,
}

/// Which rules an address is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleScope {
    /// All of them: it is the client's.
    Client,
    /// Whether it is denied: it is that of a proxy, whose client is yet to be told.
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
    /// Builds it of the lists there are.
    ///
    /// # Errors
    ///
    /// The name of a list that there is not.
    pub fn build(spec: &AccessSpec, list: impl Fn(&Arc<str>) -> Option<Arc<List>>) -> Result<Self, Arc<str>> {
        let allow = spec.allow.as_ref().map(|rule| Rule::build(rule, &list)).transpose()?;
        let deny_ja4 = spec.deny_ja4.as_slice().into();
        Ok(Self { deny: Rule::build(&spec.deny, &list)?, deny_ja4, allow, refused: spec.refused })
    }

    /// Whether an address may come in; what is denied is so whether it is allowed or not. A list that refuses it
    /// counts that.
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub fn ask(
        &self,
        address: IpAddr,
        asked: RuleScope,
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
            Some(rule) if asked == RuleScope::Client && !is_allowed(rule) => Err(AccessDenial::NotAllowed),
            _ => Ok(()),
        }
    }

    /// Whether it must know the fingerprint of a hello.
    pub fn asks_ja4(&self) -> bool {
        !self.deny_ja4.is_empty()
    }

    /// Whether a fingerprint is denied.
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

    fn check(access: &AccessRules, address: &str, asked: RuleScope, expected: Result<(), AccessDenial>) {
        assert_eq!(
            access.ask(address.parse().unwrap(), asked, Instant::now),
            expected,
            "{address} {asked:?}"
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
        assert_eq!(list.kept.refusals(), 3, "those of the list alone");
        let only = AccessSpec { allow: Some(rule(&["bad"], "")), ..AccessSpec::default() };
        let only = AccessRules::build(&only, find).unwrap();
        check(&only, "10.1.0.1", Client, Ok(()));
        check(&only, "10.3.0.1", Client, Err(NotAllowed));
        let unknown = AccessSpec { deny: rule(&["other"], ""), ..AccessSpec::default() };
        assert_eq!(AccessRules::build(&unknown, find).unwrap_err(), "other".into());
    }

    #[test]
    fn what_is_added_and_read_later_counts_at_once() {
        let list = List::build(&spec("", Some("10.2.0.0/16")), None);
        let find = |_: &Arc<str>| Some(Arc::clone(&list));
        let spec = AccessSpec { deny: rule(&["bad"], ""), ..AccessSpec::default() };
        let access = AccessRules::build(&spec, find).unwrap();
        check(&access, "10.5.0.1", RuleScope::Client, Ok(()));
        assert!(list.swap_file(&source("bad", ""), read("10.5.0.0/16"), UNIX_EPOCH));
        assert!(!list.swap_file(&source("bad", ""), read("10.5.0.0/16"), UNIX_EPOCH), "it is the same");
        assert!(!list.swap_file(&source("worse", ""), read("::1"), UNIX_EPOCH));
        assert!(!list.swap_file(&source("bad", "DE"), read("::1"), UNIX_EPOCH), "others are asked for");
        check(&access, "10.5.0.1", RuleScope::Client, Err(AccessDenial::Denied));
        check(&access, "10.2.0.1", RuleScope::Client, Ok(()));
        list.kept.additions.add("10.2.0.1".parse().unwrap(), None, Instant::now()).unwrap();
        check(&access, "10.2.0.1", RuleScope::Client, Err(AccessDenial::Denied));
        assert_eq!((list.kept.loads(), list.kept.loaded(), list.written()), (3, 0, 0));
        assert_eq!(list.file().map(|(_, count)| count), Some(1));
    }

    #[test]
    fn a_reload_keeps_what_was_added_and_what_was_read() {
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
        assert_eq!(reasons(&other, "10.2.0.1"), 1, "what was read of it for other countries is not theirs");
        let next = List::build(&spec("", Some("::1")), Some(&next));
        assert_eq!(
            (reasons(&next, "10.2.0.1"), reasons(&next, "::1"), reasons(&next, "10.3.0.1")),
            (0, 1, 1)
        );
    }
}
