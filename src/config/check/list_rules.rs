//! Checks lists of addresses, and the rules of listeners that admit or refuse clients by them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::listener::ListenerChecker;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{File, RefusalWord};
use crate::config::findings::{Findings, did_you_mean};
use crate::config::list_keys::{AccessWord, ListWords};
use crate::config::read::{NamedTable, OneOrMany, TableEntry};
use crate::config::words::name_fault;
use crate::route::IpPrefix;
use crate::route::prefix::AddressRange;
use crate::snapshot::access::{AccessSpec, ClientRefusal, ListFileSpec, ListSource, ListSpec, RuleSpec};
use crate::sys::Address;

/// Every list by name, and the rules for all listeners.
pub(super) struct Lists {
    known: BTreeMap<Arc<str>, KnownLists>,
    /// The addresses that every listener refuses.
    everywhere: RuleSpec,
}

struct KnownLists {
    place: Span,
    is_used: bool,
}

impl Lists {
    /// Returns the lists of a file, sorted by name, and the names to which listeners may refer.
    pub(super) fn of(file: &File, found: &mut Findings<'_>) -> (Vec<ListSpec>, Self) {
        let named = file.list.value().map_or(&[][..], |lists| &lists.0);
        let mut specs = Vec::with_capacity(named.len());
        let mut lists = Self { known: BTreeMap::new(), everywhere: RuleSpec::default() };
        for list in named {
            if let Some(fault) = name_fault(&list.name, format!("list.{}", list.name)) {
                found.add(fault.label(list.place, ""));
            }
            let name: Arc<str> = list.name.as_str().into();
            lists.known.insert(Arc::clone(&name), KnownLists { place: list.place, is_used: false });
            let Some(words) = &list.table else { continue };
            let entries = words.entries.value().map_or(&[][..], |entries| &entries.0.items);
            let entries = entries.iter().map(|item| item.value.0).collect();
            specs.push(ListSpec { file: list_file(words, list, found), name, entries });
        }
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(deny) = file.lists.value().and_then(|words| words.deny.entry()) {
            lists.everywhere = lists.rule(deny, "lists.deny", found);
        }
        (specs, lists)
    }

    fn rule(
        &mut self,
        written: &TableEntry<OneOrMany<AccessWord>>,
        path: &str,
        found: &mut Findings<'_>,
    ) -> RuleSpec {
        let mut rule = RuleSpec::default();
        for item in &written.value.0.items {
            match &item.value {
                AccessWord::Network(network) => rule.prefixes.push(*network),
                AccessWord::List(name) => match self.known.get_key_value(name.as_str()) {
                    Some((name, _)) => {
                        let name = Arc::clone(name);
                        self.known.entry(Arc::clone(&name)).and_modify(|known| known.is_used = true);
                        rule.lists.push(name);
                    }
                    None => found.add(self.unknown(name, item.at, path)),
                },
            }
        }
        rule
    }

    fn unknown(&self, name: &str, at: Span, path: &str) -> Diagnostic {
        let names = || self.known.keys().map(AsRef::as_ref);
        let label = match did_you_mean(name, names()) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => "not defined".to_owned(),
        };
        let fault = Diagnostic::new(Code::UnknownList, path, format!("there is no list {name:?}"));
        let fault = fault.label(at, label);
        if self.known.is_empty() {
            return fault.help(format!("add: [list.{name}] with file = \"/PATH/TO/FILE\" or entries = []"));
        }
        fault.help(format!("lists in this file: {}", names().take(10).collect::<Vec<_>>().join(", ")))
    }

    /// Warns of each list that nothing refers to. If there are faults it adds no warning: the reference may be in a
    /// part that could not be read.
    pub(super) fn warn_of_unused(&self, found: &mut Findings<'_>) {
        if found.has_faults() {
            return;
        }
        for (name, list) in self.known.iter().filter(|(_, list)| !list.is_used) {
            let message = format!("list `{name}` is never used");
            let warning = Diagnostic::new(Code::UnusedList, format!("list.{name}"), message);
            found.add(warning.label(list.place, "no `allow` and no `deny` has it"));
        }
    }
}

/// Returns the file of a list, with the countries whose networks it gives.
fn list_file(
    words: &ListWords,
    table: &NamedTable<ListWords>,
    found: &mut Findings<'_>,
) -> Option<ListFileSpec> {
    let key = |key: &str| format!("list.{}.{key}", table.name);
    let mut countries = Vec::new();
    if let Some(written) = words.countries.entry() {
        let list = &written.value.0;
        countries.extend(list.items.iter().map(|item| item.value.0));
        countries.sort_unstable();
        countries.dedup();
        if list.items.is_empty() && list.complete {
            let fault = Diagnostic::new(Code::BadCountry, key("countries"), "`countries` is empty");
            found.add(fault.label(written.at, "name countries, or remove the key"));
        }
        if words.file.is_absent() {
            let message = format!("list `{}` has `countries` but no `file`", table.name);
            let fault = Diagnostic::new(Code::MissingKey, key("file"), message);
            let help = "add: file = \"/PATH/TO/GeoLite2-Country.mmdb\"";
            found.add(fault.label(written.key, "the file has the networks of countries").help(help));
        }
    }
    let is_idle = words.file.is_absent() || !words.countries.is_absent();
    if let Some(place) = words.allow_empty.place().filter(|_| is_idle) {
        let message = format!("`allow_empty` of list `{}` has no effect", table.name);
        let why = if words.file.is_absent() { "there is no `file`" } else { "each country needs networks" };
        found.add(Diagnostic::new(Code::IdleSetting, key("allow_empty"), message).label(place, why));
    }
    let file = words.file.entry()?;
    if words.countries.is_absent() && file.value.0.extension().is_some_and(|extension| extension == "mmdb") {
        let message = format!("list `{}` has a database as its `file` but no `countries`", table.name);
        let fault = Diagnostic::new(Code::MissingKey, key("countries"), message);
        let help = "add the countries of the list, such as: countries = [\"DE\", \"AT\"]";
        found.add(fault.label(file.at, "the networks of all countries").help(help));
    }
    let allow_empty = words.allow_empty.value().copied().unwrap_or_default();
    let path = file.value.0.as_path().into();
    let source = ListSource { path, countries: countries.into(), allow_empty };
    Some(ListFileSpec { source, read: None })
}

impl ListenerChecker<'_> {
    /// Returns the rules that admit or refuse clients; `None` if all are admitted.
    pub(super) fn access(
        &self,
        binds: &[Address],
        lists: &mut Lists,
        found: &mut Findings<'_>,
    ) -> Option<AccessSpec> {
        let words = self.words;
        let mut deny = lists.everywhere.clone();
        if let Some(written) = words.deny.entry() {
            let own = lists.rule(written, &self.key("deny"), found);
            deny.lists.extend(own.lists);
            deny.prefixes.extend(own.prefixes);
        }
        let allow = words.allow.entry().map(|written| {
            let list = &written.value.0;
            if list.items.is_empty() && list.complete {
                let message = format!("listener `{}` would refuse every client", self.name);
                let fault = Diagnostic::new(Code::RejectsAll, self.key("allow"), message);
                let help = "name lists or networks, or remove `allow` to admit all clients";
                found.add(fault.label(written.at, "no client is allowed").help(help));
            }
            lists.rule(written, &self.key("allow"), found)
        });
        let refused = match words.refused.value() {
            Some(choice) if choice.0 == RefusalWord::Drop => ClientRefusal::Drop,
            _ => ClientRefusal::Reject,
        };
        let fingerprints = words.deny_ja4.value().map_or(&[][..], |list| &list.0.items);
        let deny_ja4: Vec<_> = fingerprints.iter().map(|item| item.value.0.clone()).collect();
        let spec = AccessSpec { deny, deny_ja4, allow, refused };
        self.warn_of_idle_access(&spec, binds, found);
        self.check_denied_families(&spec, binds, found);
        let is_open = spec.allow.is_none() && spec.deny == RuleSpec::default() && spec.deny_ja4.is_empty();
        (!is_open).then_some(spec)
    }

    /// Adds a fault or a warning if the denied networks contain every address of a family, which is hardly intended.
    /// Clients in a PROXY header may have other families than the sockets, so listeners that read headers are left
    /// out.
    fn check_denied_families(&self, spec: &AccessSpec, binds: &[Address], found: &mut Findings<'_>) {
        let mut families = binds.iter().filter_map(Address::tcp).peekable();
        if families.peek().is_none() || !self.words.proxy_protocol.is_absent() {
            return;
        }
        let [denies_v6, denies_v4] =
            [false, true].map(|is_ipv4| are_whole_family(&spec.deny.prefixes, is_ipv4));
        let is_denied = |tcp: SocketAddr| if tcp.is_ipv4() { denies_v4 } else { denies_v6 };
        let denied: Vec<_> = families.map(|tcp| (tcp.is_ipv4(), is_denied(tcp))).collect();
        let has_unix = denied.len() < binds.len();
        let place = self.words.deny.entry().map_or(self.place, |deny| deny.at);
        let diagnostic = if denied.iter().all(|(_, is_denied)| *is_denied) && !has_unix {
            let message = format!("listener `{}` would refuse every client", self.name);
            Diagnostic::new(Code::RejectsAll, self.key("deny"), message)
                .label(place, "every address is denied")
        } else if let Some((is_ipv4, _)) = denied.iter().find(|(_, is_denied)| *is_denied) {
            let family = if *is_ipv4 { "IPv4" } else { "IPv6" };
            let message = format!("listener `{}` refuses every client of {family}", self.name);
            Diagnostic::new(Code::DeniesFamily, self.key("deny"), message)
                .label(place, "every address is denied")
        } else {
            return;
        };
        found.add(
            diagnostic.help(
                "`allow` alone refuses all other clients; in `deny`, write only the networks to refuse",
            ),
        );
    }

    fn warn_of_idle_access(&self, spec: &AccessSpec, binds: &[Address], found: &mut Findings<'_>) {
        let words = self.words;
        let has_no_rule = words.allow.is_absent() && words.deny.is_absent() && words.deny_ja4.is_absent();
        let mut warn = |key: &str, place: Span, why: &str| {
            let message = format!("`{key}` of listener `{}` has no effect", self.name);
            let warning = Diagnostic::new(Code::IdleSetting, self.key(key), message);
            found.add(warning.label(place, why));
        };
        if let Some(place) = words.refused.place()
            && has_no_rule
            && spec.deny == RuleSpec::default()
        {
            warn("refused", place, "there is neither `allow` nor `deny` nor `deny_ja4`");
        }
        let is_unix = !binds.is_empty() && binds.iter().all(|address| address.tcp().is_none());
        if is_unix && words.proxy_protocol.is_absent() {
            for (key, place) in [("allow", words.allow.place()), ("deny", words.deny.place())] {
                let Some(place) = place else { continue };
                warn(
                    key,
                    place,
                    "clients of a Unix socket have no address; `mode` decides which users may connect",
                );
            }
        }
    }
}

/// Returns true if the networks together contain every address of a family.
fn are_whole_family(networks: &[IpPrefix], is_ipv4: bool) -> bool {
    let range = |network: &IpPrefix| match network.range() {
        AddressRange::V4(first, last) if is_ipv4 => Some((u128::from(first), u128::from(last))),
        AddressRange::V6(first, last) if !is_ipv4 => Some((first, last)),
        AddressRange::V4(..) | AddressRange::V6(..) => None,
    };
    let mut ranges: Vec<_> = networks.iter().filter_map(range).collect();
    ranges.sort_unstable();
    let most = if is_ipv4 { u32::MAX.into() } else { u128::MAX };
    // The first address that may be missing.
    let mut next = 0;
    for (first, last) in ranges {
        if first > next {
            return false;
        }
        if last == most {
            return true;
        }
        next = next.max(last + 1);
    }
    false
}
