//! Pools: their backends, checks and timeouts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::pools::{Known, Pools};
use super::{discover, or};
use crate::balance::Algorithm;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Backend, BackendWords, Health, Pool};
use crate::config::findings::Findings;
use crate::config::read::{Entry, Item, Key, List, Named};
use crate::config::words::name_fault;
use crate::pool::{
    BackendSpec, CheckKind, DialSpec, DiscoverSpec, HashOn, HealthSpec, PoolSpec, SourcePrefix,
};
use crate::sys::Address;

/// The word that stands where a pool may stand and means none.
pub(super) const REJECT: &str = "reject";

/// The pools, and what references need to know of them.
pub(super) fn pools(
    written: &Key<Named<Pool>>,
    hash_key: [u8; 16],
    found: &mut Findings<'_>,
) -> (Vec<PoolSpec>, Pools) {
    let mut specs = Vec::new();
    let mut known = Vec::new();
    for named in written.value().map_or(&[][..], |pools| &pools.0) {
        let name: Arc<str> = named.name.as_str().into();
        let path = format!("pool.{name}");
        check_name(&name, named.place, &path, found);
        let mut hashes_sni = None;
        if let Some(words) = &named.table {
            let pool = PoolChecker { name: &name, place: named.place, path: &path, words };
            let spec = pool.check(hash_key, found);
            if spec.algorithm == Algorithm::Maglev && spec.hash_on == HashOn::Sni {
                hashes_sni = words.hash_on.entry().map(|entry| entry.at);
            }
            specs.push(spec);
        }
        known.push(Known::new(name, named.place, hashes_sni));
    }
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    (specs, Pools::new(known))
}

fn check_name(name: &str, place: Span, path: &str, found: &mut Findings<'_>) {
    if let Some(fault) = name_fault(name, path) {
        found.add(fault.label(place, ""));
    }
    if name == REJECT {
        let fault = Diagnostic::new(Code::BadName, path, "a pool cannot be named `reject`");
        found.add(
            fault.label(place, "").help("`no_sni` and `unmatched` take this word for turning clients away"),
        );
    }
}

/// One written pool with what messages need to name it.
struct PoolChecker<'a> {
    name: &'a Arc<str>,
    place: Span,
    path: &'a str,
    words: &'a Pool,
}

impl PoolChecker<'_> {
    fn check(&self, hash_key: [u8; 16], found: &mut Findings<'_>) -> PoolSpec {
        let words = self.words;
        self.warn_of_idle(found);
        PoolSpec {
            name: Arc::clone(self.name),
            algorithm: or(&words.balance, |choice| choice.0, Algorithm::Maglev),
            hash_on: or(&words.hash_on, |choice| choice.0, HashOn::SourceIp),
            source_prefix: self.source_prefix(),
            hash_key,
            backends: self.backends(found),
            discover: self.discover(found),
            health: self.health(found),
            dial: self.dial(found),
        }
    }

    fn source_prefix(&self) -> SourcePrefix {
        let default = SourcePrefix::default();
        let Some(words) = self.words.source_prefix.value() else { return default };
        let bits = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        SourcePrefix {
            v4: or(&words.v4, |number| bits(number.0), default.v4),
            v6: or(&words.v6, |number| bits(number.0), default.v6),
        }
    }

    fn backends(&self, found: &mut Findings<'_>) -> Vec<BackendSpec> {
        let list = match &self.words.backends {
            Key::Good(entry) => &entry.value,
            Key::Wrong => return Vec::new(),
            Key::Absent => {
                if self.words.discover.is_absent() {
                    self.without_backends(self.place, found);
                }
                return Vec::new();
            }
        };
        if list.items.is_empty() && list.complete && self.words.discover.is_absent() {
            self.without_backends(self.words.backends.place().unwrap_or(self.place), found);
        }
        let mut seen: HashMap<Arc<str>, Span> = HashMap::with_capacity(list.items.len());
        let mut specs = Vec::with_capacity(list.items.len());
        for (index, item) in list.items.iter().enumerate() {
            let Some(spec) = self.backend(index, item, found) else { continue };
            if let Some(first) = seen.insert(Arc::clone(&spec.name), item.at) {
                self.doubled(&spec.name, item.at, first, found);
            }
            specs.push(spec);
        }
        if self.words.discover.is_absent() {
            self.some_weight(list, found);
        }
        specs
    }

    fn without_backends(&self, place: Span, found: &mut Findings<'_>) {
        let message = format!("pool `{}` has no backends", self.name);
        let fault = Diagnostic::new(Code::NoBackends, self.key("backends"), message);
        found.add(fault.label(place, "").help("add: backends = [\"10.0.0.1:443\", \"10.0.0.2:443\"], or discover = { dns = \"app.internal\", port = 443 }"));
    }

    fn backend(
        &self,
        index: usize,
        item: &Item<BackendWords>,
        found: &mut Findings<'_>,
    ) -> Option<BackendSpec> {
        let Backend { name, address, weight } = &item.value.0;
        if address.is_absent() {
            let path = format!("{}.backends[{index}].address", self.path);
            let fault = Diagnostic::new(Code::MissingKey, path, "a backend needs an address");
            found.add(
                fault.label(item.at, "`address` is missing").help("such as: { address = \"10.0.0.1:443\" }"),
            );
        }
        let address: Address = address.value()?.0.clone();
        let name = match name.value() {
            Some(name) => name.0.as_str().into(),
            None => address.to_string().into(),
        };
        let weight = or(weight, |number| u16::try_from(number.0).unwrap_or(u16::MAX), 1);
        Some(BackendSpec { name, address, weight })
    }

    fn doubled(&self, name: &str, at: Span, first: Span, found: &mut Findings<'_>) {
        let message = format!("pool `{}` has two backends `{name}`", self.name);
        found.add(
            Diagnostic::new(Code::DoubledBackend, self.key("backends"), message)
                .label(at, "again here")
                .label(first, "first here")
                .help("a backend is known by its name, else by its address: give names that differ, or a weight"),
        );
    }

    fn some_weight(&self, list: &List<BackendWords>, found: &mut Findings<'_>) {
        let is_zero =
            |item: &Item<BackendWords>| item.value.0.weight.value().is_some_and(|weight| weight.0 == 0);
        if list.complete && !list.items.is_empty() && list.items.iter().all(is_zero) {
            let message = format!("every backend of pool `{}` has weight 0", self.name);
            let fault = Diagnostic::new(Code::NoWeight, self.key("backends"), message);
            let place = self.words.backends.place().unwrap_or(self.place);
            found.add(fault.label(place, "nothing would receive traffic").help("give one a weight above 0"));
        }
    }

    fn discover(&self, found: &mut Findings<'_>) -> Option<DiscoverSpec> {
        let words = self.words.discover.entry()?;
        discover::check(words, &self.key("discover"), found)
    }

    fn health(&self, found: &mut Findings<'_>) -> Option<HealthSpec> {
        /// A check that takes longer than this has failed, however rarely it runs.
        const LONGEST_CHECK: Duration = Duration::from_secs(5);

        let absent = Health::default();
        let words = self.words.health.value().unwrap_or(&absent);
        let interval = or(&words.interval, |time| time.0, Duration::from_secs(2));
        if let Some(timeout) = words.timeout.entry().filter(|timeout| timeout.value.0 > interval) {
            let message = "a health check may not take longer than the time between two";
            let fault = Diagnostic::new(Code::TimeoutOrder, self.key("health.timeout"), message);
            let interval_text = humantime::format_duration(interval);
            found.add(self.with_other(
                fault.label(timeout.at, format!("longer than the interval of {interval_text}")),
                &words.interval,
            ));
        }
        let check: Option<CheckKind> = or(&words.check, |choice| choice.0, Some(CheckKind::Tcp));
        check.map(|check| HealthSpec {
            check,
            interval,
            timeout: or(&words.timeout, |time| time.0, interval.min(LONGEST_CHECK)),
            rise: or(&words.rise, |number| count(number.0), 2),
            fall: or(&words.fall, |number| count(number.0), 3),
        })
    }

    fn dial(&self, found: &mut Findings<'_>) -> DialSpec {
        let words = self.words;
        let default = DialSpec::default();
        let dial = DialSpec {
            attempts: or(&words.attempts, |number| count(number.0), default.attempts),
            connect_timeout: or(&words.connect_timeout, |time| time.0, default.connect_timeout),
            dial_timeout: or(&words.dial_timeout, |time| time.0, default.dial_timeout),
        };
        let place =
            words.connect_timeout.entry().map(|entry| entry.at).or(words.dial_timeout.entry().map(|e| e.at));
        if let Some(place) = place.filter(|_| dial.connect_timeout > dial.dial_timeout) {
            let message =
                format!("the `connect_timeout` of pool `{}` is longer than its `dial_timeout`", self.name);
            let label = format!(
                "one attempt may take {}, all together {}",
                humantime::format_duration(dial.connect_timeout),
                humantime::format_duration(dial.dial_timeout),
            );
            let fault = Diagnostic::new(Code::TimeoutOrder, self.key("connect_timeout"), message);
            let fault = fault.label(place, label);
            found.add(if words.connect_timeout.entry().is_some() {
                self.with_other(fault, &words.dial_timeout)
            } else {
                fault
            });
        }
        dial
    }

    fn warn_of_idle(&self, found: &mut Findings<'_>) {
        let words = self.words;
        let round_robin = words.balance.entry().filter(|entry| entry.value.0 == Algorithm::RoundRobin);
        let hash_on = words.hash_on.entry();
        if let (Some(balance), Some(hash_on)) = (round_robin, hash_on) {
            self.idle("hash_on", hash_on.key, balance, "round-robin hashes nothing", found);
        }
        let Some(prefix) = words.source_prefix.place() else { return };
        if let Some(balance) = round_robin {
            self.idle("source_prefix", prefix, balance, "round-robin hashes nothing", found);
        } else if let Some(hash_on) = hash_on.filter(|entry| entry.value.0 == HashOn::SourceIpPort) {
            self.idle("source_prefix", prefix, hash_on, "the whole address is hashed", found);
        }
    }

    fn idle<T>(&self, key: &str, place: Span, cause: &Entry<T>, why: &str, found: &mut Findings<'_>) {
        let message = format!("`{key}` of pool `{}` has no effect", self.name);
        let warning = Diagnostic::new(Code::IdleSetting, self.key(key), message);
        found.add(warning.label(place, "").label(cause.at, why));
    }

    /// Shows the other of two settings that do not fit, if it is written.
    fn with_other<T>(&self, fault: Diagnostic, other: &Key<T>) -> Diagnostic {
        match other.entry() {
            Some(other) => fault.label(other.at, ""),
            None => fault,
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}

fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
