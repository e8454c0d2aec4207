//! Checks pools that forward.

use std::ops::RangeInclusive;

use super::or;
use super::pool::PoolChecker;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Forward, ForwardTo as To};
use crate::config::findings::Findings;
use crate::config::read::{Key, OneOrMany, TableEntry};
use crate::pool::{ForwardRules, ForwardSpec, ForwardTo, HostPattern, RuleMode};

/// The port of TLS.
const TLS: u16 = 443;

impl PoolChecker<'_> {
    /// Returns the spec of a pool's `forward`, or `None` for a pool without it.
    pub(super) fn forward(&self, found: &mut Findings<'_>) -> Option<ForwardSpec> {
        let entry = self.words.forward.entry()?;
        self.refuse_backends(entry, found);
        let Forward { to, port, allow_private, resolvers, .. } = &entry.value;
        let to = or(to, |choice| choice.0, To::Sni);
        if !matches!(entry.value.to, Key::Wrong) {
            self.refuse_keys_of_others(to, entry, found);
        }
        self.check_allow(to, entry, found);
        self.refuse_empty(entry, found);
        let port = or(port, |number| u16::try_from(number.0).unwrap_or(u16::MAX), TLS);
        Some(ForwardSpec {
            to: match to {
                To::Sni => ForwardTo::Sni { port },
                To::Requested => ForwardTo::Requested,
            },
            rules: self.rules(to, port, &entry.value),
            verify_sni: or(&entry.value.verify_sni, |is_so| *is_so, false),
            allow_private: list(allow_private, |network| network.0),
            resolvers: list(resolvers, |address| address.0),
        })
    }

    /// Returns the rules of a pool that dials `port` if its clients request none.
    fn rules(&self, to: To, port: u16, words: &Forward) -> ForwardRules {
        let Forward { ports, allow, deny, allow_networks, deny_networks, mode, .. } = words;
        let ports: Vec<RangeInclusive<u16>> = match (to, list(ports, |ports| ports.0.clone())) {
            (To::Sni, _) => vec![port..=port],
            (To::Requested, ports) if ports.is_empty() => vec![TLS..=TLS],
            (To::Requested, ports) => ports,
        };
        ForwardRules {
            allow: list(allow, |host| host.0.clone()),
            deny: list(deny, |host| host.0.clone()),
            allow_networks: list(allow_networks, |network| network.0),
            deny_networks: list(deny_networks, |network| network.0),
            ports,
            mode: or(mode, |mode| mode.0, RuleMode::default()),
        }
    }

    /// Adds a fault if nothing is allowed. Without such a list the pool would be an open proxy.
    fn check_allow(&self, to: To, entry: &TableEntry<Forward>, found: &mut Findings<'_>) {
        let Forward { allow, allow_networks, .. } = &entry.value;
        let is_missing = allow.is_absent() && (to == To::Sni || allow_networks.is_absent());
        if let Some(place) = if is_missing { Some(entry.key) } else { empty(allow) } {
            let message = format!("pool `{}` forwards and has no `allow`", self.name);
            let fault = Diagnostic::new(Code::MissingKey, self.forward_key("allow"), message);
            found.add(fault.label(place, "`allow` is needed").help(
                "add: allow = [\"*.example.org\", \"api.test\"]; every client can reach every host with an allowed name",
            ));
        }
        let items = allow.value().map_or(&[][..], |list| &list.0.items);
        let any = items.iter().find(|item| item.value.0 == HostPattern::Any);
        if let Some(any) = any.filter(|_| to == To::Sni) {
            let message = format!("pool `{}` would forward to every server name", self.name);
            let fault = Diagnostic::new(Code::BadServerName, self.forward_key("allow"), message);
            let label = "`*` is for pools with to = \"requested\"";
            found.add(fault.label(any.at, label).help("write: allow = [\"*.example.org\", \"api.test\"]"));
        }
    }

    /// Adds a fault for each list that is written and empty. A program may have written it.
    fn refuse_empty(&self, entry: &TableEntry<Forward>, found: &mut Findings<'_>) {
        let words = &entry.value;
        for (key, place) in [
            ("ports", empty(&words.ports)),
            ("deny", empty(&words.deny)),
            ("allow_networks", empty(&words.allow_networks)),
            ("deny_networks", empty(&words.deny_networks)),
            ("allow_private", empty(&words.allow_private)),
            ("resolvers", empty(&words.resolvers)),
        ] {
            let Some(place) = place else { continue };
            let fault = Diagnostic::new(Code::MissingKey, self.forward_key(key), format!("`{key}` is empty"));
            found.add(fault.label(place, "").help("remove the key to use the default"));
        }
    }

    /// Adds a fault for each key that belongs to the other value of `to`.
    fn refuse_keys_of_others(&self, to: To, entry: &TableEntry<Forward>, found: &mut Findings<'_>) {
        let words = &entry.value;
        let keys = [
            (
                "port",
                words.port.place(),
                To::Sni,
                "a client requests its port; write the allowed ports: ports = [443]",
            ),
            (
                "ports",
                words.ports.place(),
                To::Requested,
                "for a server name, write the one port: port = 443",
            ),
            (
                "allow_networks",
                words.allow_networks.place(),
                To::Requested,
                "a server name is no address: the key is for to = \"requested\"",
            ),
            (
                "verify_sni",
                words.verify_sni.place(),
                To::Requested,
                "a client goes to the host of its server name anyway",
            ),
        ];
        for (key, place, owner, help) in keys {
            let Some(place) = place.filter(|_| to != owner) else { continue };
            let message = format!("`{key}` has no meaning in the `forward` of pool `{}`", self.name);
            let fault = Diagnostic::new(Code::MisplacedKey, self.forward_key(key), message);
            found.add(fault.label(place, "").help(help));
        }
    }

    /// Adds a fault for each key that only applies to pools with backends.
    fn refuse_backends(&self, entry: &TableEntry<Forward>, found: &mut Findings<'_>) {
        let words = self.words;
        let keys = [
            ("backends", words.backends.place()),
            ("discover", words.discover.place()),
            ("resolve", words.resolve.place()),
            ("balance", words.balance.place()),
            ("hash_on", words.hash_on.place()),
            ("source_prefix", words.source_prefix.place()),
            ("max_load", words.max_load.place()),
            ("slow_start", words.slow_start.place()),
            ("zones", words.zones.place()),
            ("near", words.near.place()),
            ("panic_threshold", words.panic_threshold.place()),
            ("health", words.health.place()),
            ("agent", words.agent.place()),
            ("ejection", words.ejection.place()),
            ("on_down", words.on_down.place()),
            ("close_rate", words.close_rate.place()),
        ];
        for (key, place) in keys {
            let Some(place) = place else { continue };
            let message = format!("`{key}` is not allowed in pool `{}`, which forwards", self.name);
            let fault = Diagnostic::new(Code::BackendsOfForward, self.key(key), message);
            let fault =
                fault.label(place, "this key is for backends").label(entry.key, "this key replaces backends");
            found.add(fault.help("use a separate pool for backends"));
        }
    }

    fn forward_key(&self, key: &str) -> String {
        self.key(&format!("forward.{key}"))
    }
}

/// Returns the position of a list that is written and empty.
fn empty<T>(key: &Key<OneOrMany<T>>) -> Option<Span> {
    let entry = key.entry()?;
    let list = &entry.value.0;
    (list.items.is_empty() && list.complete).then_some(entry.at)
}

fn list<T, U>(key: &Key<OneOrMany<T>>, value: impl Fn(&T) -> U) -> Vec<U> {
    key.value().map_or_else(Vec::new, |list| list.0.items.iter().map(|item| value(&item.value)).collect())
}
