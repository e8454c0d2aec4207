//! Checks pools: their backends, checks and timeouts.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::backends::{WrittenBackends, is_host};
use super::discover::Sources;
use super::health::HealthChecker;
use super::limits::Common;
use super::peers::PeerWords;
use super::pools::{ForwardWords, Known, Pools};
use super::tiers::NodeDefaults;
use super::{kernel_buffers, or};
use crate::balance::{Algorithm, MaxLoad};
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{ForwardTo, OnDownWord, Pool};
use crate::config::findings::Findings;
use crate::config::read::{Key, NamedTables, OneOrMany, TableEntry};
use crate::config::words::{Keyword, name_fault};
use crate::live::PeerTimeouts;
use crate::pool::CheckTarget;
use crate::pool::{
    AgentSpec, BackendSpec, DialSpec, EjectionSpec, Forward, ForwardSpec, HashOn, HashParts, HealthSpec,
    OnDown, PoolSpec, SourcePrefix,
};

/// The word for no pool, which keys take instead of the name of a pool.
pub(super) const REJECT: &str = "reject";

/// Returns the pools, and the names to which listeners and routes may refer.
pub(super) fn pools(
    written: &Key<NamedTables<Pool>>,
    hash_key: [u8; 16],
    node: &NodeDefaults,
    common: &Common,
    found: &mut Findings<'_>,
) -> (Vec<PoolSpec>, Pools) {
    let mut specs = Vec::new();
    let mut known = Vec::new();
    for named in written.value().map_or(&[][..], |pools| &pools.0) {
        let name: Arc<str> = named.name.as_str().into();
        let path = format!("pool.{name}");
        check_name(&name, named.place, &path, found);
        let mut hashes_sni = None;
        let mut hashes_authority = false;
        if let Some(words) = &named.table {
            let pool = PoolChecker { name: &name, place: named.place, path: &path, words };
            let limits = common.quota(&words.limits, &path, found);
            let spec = PoolSpec { limits, ..pool.check(hash_key, node, found) };
            hashes_authority = spec.hash_on.contains(HashOn::ProxyAuthority);
            if spec.algorithm == Algorithm::Maglev && (spec.hash_on.contains(HashOn::Sni) || hashes_authority)
            {
                hashes_sni = words.hash_on.entry().map(|entry| entry.at);
            }
            specs.push(spec);
        }
        let forwards = named.table.as_ref().and_then(|words| words.forward.entry()).map(|entry| {
            let to = match &entry.value.to {
                Key::Good(to) => Some(to.value.0),
                Key::Absent => Some(ForwardTo::Sni),
                Key::Wrong => None,
            };
            ForwardWords { at: entry.key, to }
        });
        let known_pool = Known::new(name, named.place, hashes_sni).forwarding(forwards);
        known.push(known_pool.hashing_authority(hashes_authority));
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
            fault.label(place, "").help("in `no_sni` and `unmatched`, the word `reject` refuses clients"),
        );
    }
}

/// A written pool, with the name and position that messages show.
pub(super) struct PoolChecker<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) place: Span,
    pub(super) path: &'a str,
    pub(super) words: &'a Pool,
}

impl PoolChecker<'_> {
    fn check(&self, hash_key: [u8; 16], node: &NodeDefaults, found: &mut Findings<'_>) -> PoolSpec {
        let words = self.words;
        if let Some(forward) = self.forward(found) {
            return self.forwarding(forward, hash_key, found);
        }
        self.warn_of_idle(found);
        let WrittenBackends { backends, hosts } = self.backends(found);
        // The settings of a host name apply to each of its addresses.
        let all: Vec<BackendSpec> =
            backends.iter().chain(hosts.iter().map(|(_, host)| &host.template)).cloned().collect();
        let tiers = self.tiers(node, &all, found);
        let dial = self.dial(&all, found);
        let asks = self.asks();
        let announced = self.checks_announce(found);
        let health = asks.health(&all, found);
        let agent = asks.agent(&all, found);
        let names = names_of_targets(health.as_ref(), agent.as_ref(), &all);
        let Sources { discover, check_names } = self.sources(hosts, names, found);
        let spec = PoolSpec {
            name: Arc::clone(self.name),
            algorithm: or(&words.balance, |choice| choice.0, Algorithm::Maglev),
            hash_on: self.hash_on(found),
            source_prefix: self.source_prefix(),
            hash_key,
            max_load: words.max_load.value().map(|factor| MaxLoad::of_percent(factor.0)),
            slow_start: or(&words.slow_start, |time| time.0, None),
            discover,
            check_names,
            forward: None,
            health: health.map(|health| HealthSpec { proxy_protocol: announced, ..health }),
            agent,
            ejection: self.ejection(found),
            on_down: self.on_down(found),
            backends,
            dial,
            proxy_protocol: self.proxy_protocol(found),
            tiers,
            queue: self.queue(found),
            pause_length: self.pause_length(),
            limits: None,
            gets_cancels: false,
        };
        self.warn_of_unseen(&spec, found);
        spec
    }

    /// Returns the connections that may wait in a pause.
    fn pause_length(&self) -> usize {
        or(
            &self.words.pause_length,
            |number| usize::try_from(number.0).unwrap_or(usize::MAX),
            PoolSpec::PAUSE_LENGTH,
        )
    }

    /// Warns of settings that have no effect, because only checks and agents take a backend down.
    fn warn_of_unseen(&self, spec: &PoolSpec, found: &mut Findings<'_>) {
        if spec.health.is_some() || spec.agent.is_some() || found.has_faults() {
            return;
        }
        let on_down = self.words.on_down.place().filter(|_| spec.on_down != OnDown::Keep);
        let panic = self.words.panic_threshold.place().filter(|_| spec.ejection.is_none());
        for (key, place) in [("on_down", on_down), ("panic_threshold", panic)] {
            let Some(place) = place else { continue };
            let message = format!("`{key}` of pool `{}` has no effect", self.name);
            let warning = Diagnostic::new(Code::IdleSetting, self.key(key), message);
            found.add(warning.label(place, "without checks and agents, no backend goes down"));
        }
    }

    /// Returns the spec of a pool that forwards: it has one backend that represents every host, without
    /// checks.
    fn forwarding(&self, forward: ForwardSpec, hash_key: [u8; 16], found: &mut Findings<'_>) -> PoolSpec {
        let limit = self.words.max_connections.value().map(|number| number.0);
        let backend = Forward::stand_in(forward.to, limit);
        PoolSpec {
            hash_key,
            // The one backend needs no hash table.
            algorithm: Algorithm::RoundRobin,
            health: None,
            dial: self.dial(&[], found),
            queue: self.queue(found),
            pause_length: self.pause_length(),
            forward: Some(forward),
            ..PoolSpec::new(Arc::clone(self.name), vec![backend])
        }
    }

    pub(super) fn asks(&self) -> HealthChecker<'_> {
        HealthChecker { pool: self.name, path: self.path, place: self.place, words: self.words }
    }

    fn hash_on(&self, found: &mut Findings<'_>) -> HashParts {
        let default = HashParts::from(HashOn::SourceIp);
        let Some(entry) = self.words.hash_on.entry() else { return default };
        let list = &entry.value.0;
        if list.items.is_empty() && list.complete {
            let message = format!("`hash_on` of pool `{}` is empty", self.name);
            let fault = Diagnostic::new(Code::MissingKey, self.key("hash_on"), message);
            found.add(
                fault.label(entry.at, "nothing to hash").help("such as: hash_on = [\"sni\", \"source-ip\"]"),
            );
        }
        let mut parts: Option<HashParts> = None;
        for item in &list.items {
            let part = item.value.0;
            let with = parts.map_or(HashParts::from(part), |parts| parts.and(part));
            if parts == Some(with) {
                let message = format!("a part of the `hash_on` of pool `{}` has no effect", self.name);
                let warning = Diagnostic::new(Code::IdleSetting, self.key("hash_on"), message);
                found.add(warning.label(item.at, "the values before it already contain it"));
            }
            parts = Some(with);
        }
        parts.unwrap_or(default)
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

    fn ejection(&self, found: &mut Findings<'_>) -> Option<EjectionSpec> {
        let entry = self.words.ejection.entry()?;
        let words = &entry.value;
        let default = EjectionSpec::default();
        let base_time = or(&words.base_time, |time| time.0, default.base_time);
        let max_time = or(&words.max_time, |time| time.0, default.max_time.max(base_time));
        if let Some(max) = words.max_time.entry().filter(|_| max_time < base_time) {
            let message = "`max_time` of the ejection is shorter than `base_time`";
            let fault = Diagnostic::new(Code::TimeoutOrder, self.key("ejection.max_time"), message);
            let label = format!("shorter than the base time of {}", humantime::format_duration(base_time));
            found.add(self.with_other(fault.label(max.at, label), &words.base_time));
        }
        let list = self.words.backends.value();
        let is_alone = list.is_some_and(|list| match &list.items[..] {
            [only] => list.complete && !is_host(&only.value),
            _ => false,
        });
        if is_alone && self.words.discover.is_absent() {
            let message = format!("`ejection` of pool `{}` has no effect", self.name);
            let warning = Diagnostic::new(Code::IdleSetting, self.key("ejection"), message);
            found.add(warning.label(entry.key, "the only backend of a pool is never ejected"));
        }
        Some(EjectionSpec {
            consecutive_failures: or(
                &words.consecutive_failures,
                |number| count(number.0),
                default.consecutive_failures,
            ),
            base_time,
            max_time,
            max_ejected: or(
                &words.max_ejected,
                |number| u8::try_from(number.0).unwrap_or(u8::MAX),
                default.max_ejected,
            ),
        })
    }

    fn on_down(&self, found: &mut Findings<'_>) -> OnDown {
        /// Connections a second. This rate overloads hardly any server.
        const RATE: u32 = 100;

        let words = self.words;
        match or(&words.on_down, |choice| choice.0, OnDownWord::Keep) {
            OnDownWord::Close => {
                OnDown::Close { rate: or(&words.close_rate, |number| count(number.0), RATE) }
            }
            OnDownWord::Keep => {
                if let Some(place) = words.close_rate.place() {
                    let message = format!("`close_rate` of pool `{}` has no effect", self.name);
                    let warning = Diagnostic::new(Code::IdleSetting, self.key("close_rate"), message);
                    let warning = warning.label(place, "");
                    found.add(warning.help("it applies only with `on_down = \"close\"`"));
                }
                OnDown::Keep
            }
        }
    }

    fn dial(&self, backends: &[BackendSpec], found: &mut Findings<'_>) -> DialSpec {
        let words = self.words;
        let default = DialSpec::default();
        let dial = DialSpec {
            attempts: or(&words.attempts, |number| count(number.0), default.attempts),
            connect_timeout: or(&words.connect_timeout, |time| time.0, default.connect_timeout),
            dial_timeout: or(&words.dial_timeout, |time| time.0, default.dial_timeout),
            source: or(&words.source, |source| source.0, default.source),
            buffers: kernel_buffers(&words.max_unsent, &words.max_unread),
            peer_timeouts: Arc::new(self.peer_timeouts(backends, found)),
        };
        let place =
            words.connect_timeout.entry().map(|entry| entry.at).or(words.dial_timeout.entry().map(|e| e.at));
        if let Some(place) = place.filter(|_| dial.connect_timeout > dial.dial_timeout) {
            let message =
                format!("the `connect_timeout` of pool `{}` is longer than its `dial_timeout`", self.name);
            let label = format!(
                "one attempt may take {}, all attempts together {}",
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

    fn peer_timeouts(&self, backends: &[BackendSpec], found: &mut Findings<'_>) -> PeerTimeouts {
        let words = self.words;
        let peers = PeerWords {
            owner: format!("pool `{}`", self.name),
            path: self.path,
            has_only_unix: !backends.is_empty()
                && words.discover.is_absent()
                && backends.iter().all(|backend| backend.address.tcp().is_none()),
            keepalive: &words.keepalive,
            keepalive_interval: &words.keepalive_interval,
            keepalive_count: &words.keepalive_count,
            user_timeout: &words.user_timeout,
            stall_timeout: &words.stall_timeout,
        };
        // The idle timeout is unknown: listeners with different idle timeouts may use the pool.
        peers.check(None, found)
    }

    fn warn_of_idle(&self, found: &mut Findings<'_>) {
        let words = self.words;
        let prefix = words.source_prefix.place();
        if let Some(balance) = words.balance.entry().filter(|entry| entry.value.0 != Algorithm::Maglev) {
            let word = balance.value.0.word();
            let hashes_nothing = format!("{word} hashes nothing");
            let is_unbounded = format!("{word} has no bound: the key is for maglev");
            for (key, place, why) in [
                ("hash_on", words.hash_on.place(), &hashes_nothing),
                ("source_prefix", prefix, &hashes_nothing),
                ("max_load", words.max_load.place(), &is_unbounded),
            ] {
                if let Some(place) = place {
                    self.idle(key, place, balance.at, why, found);
                }
            }
            if balance.value.0 == Algorithm::Failover {
                self.warn_of_weights(balance.at, found);
            }
            return;
        }
        let whole_address = |entry: &&TableEntry<OneOrMany<Keyword<HashOn>>>| {
            entry.value.0.items.iter().any(|item| item.value.0 == HashOn::SourceIpPort)
        };
        if let (Some(prefix), Some(hash_on)) = (prefix, words.hash_on.entry().filter(whole_address)) {
            self.idle("source_prefix", prefix, hash_on.at, "the whole address is hashed", found);
        }
    }

    /// Warns of weights above 1: failover only uses whether a weight is 0.
    fn warn_of_weights(&self, balance: Span, found: &mut Findings<'_>) {
        let items = self.words.backends.value().map_or(&[][..], |list| &list.items);
        let heavier = items.iter().filter_map(|item| item.value.0.weight.entry());
        if let Some(weight) = heavier.into_iter().find(|weight| weight.value.0 > 1) {
            self.idle("weight", weight.key, balance, "failover picks by the written order only", found);
        }
    }

    fn idle(&self, key: &str, place: Span, cause: Span, why: &str, found: &mut Findings<'_>) {
        let message = format!("`{key}` of pool `{}` has no effect", self.name);
        let warning = Diagnostic::new(Code::IdleSetting, self.key(key), message);
        found.add(warning.label(place, "").label(cause, why));
    }

    /// Adds the position of the other of two contradicting settings to a fault, if that setting is written.
    pub(super) fn with_other<T>(&self, fault: Diagnostic, other: &Key<T>) -> Diagnostic {
        match other.entry() {
            Some(other) => fault.label(other.at, ""),
            None => fault,
        }
    }

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}

/// The host names to which checks and queries to agents connect, each name once.
fn names_of_targets(
    health: Option<&HealthSpec>,
    agent: Option<&AgentSpec>,
    backends: &[BackendSpec],
) -> BTreeSet<Arc<str>> {
    let of_checks = health.into_iter().flat_map(|health| {
        let own = backends.iter().map(|backend| &backend.targets.health);
        own.chain([&health.target])
    });
    let of_agents = agent.into_iter().flat_map(|agent| {
        let own = backends.iter().map(|backend| &backend.targets.agent);
        own.chain([&agent.target])
    });
    of_checks.chain(of_agents).filter_map(CheckTarget::name).cloned().collect()
}

fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
