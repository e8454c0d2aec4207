//! Checks pools that forward by name.

use super::or;
use super::pool::PoolChecker;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Forward, ForwardTo};
use crate::config::findings::Findings;
use crate::config::read::{Key, OneOrMany, TableEntry};
use crate::pool::ForwardSpec;

/// The port of TLS.
const TLS: u16 = 443;

impl PoolChecker<'_> {
    /// Returns the spec of a pool's `forward`, or `None` for a pool without it.
    pub(super) fn forward(&self, found: &mut Findings<'_>) -> Option<ForwardSpec> {
        let entry = self.words.forward.entry()?;
        self.refuse_backends(entry, found);
        let Forward { to, port, allow, allow_private, resolvers } = &entry.value;
        let ForwardTo::Sni = or(to, |choice| choice.0, ForwardTo::Sni);
        self.check_allow(entry, found);
        for (key, place) in [("allow_private", empty(allow_private)), ("resolvers", empty(resolvers))] {
            let Some(place) = place else { continue };
            let fault = Diagnostic::new(Code::MissingKey, self.forward_key(key), format!("`{key}` is empty"));
            found.add(fault.label(place, "").help("remove the key to use the default"));
        }
        Some(ForwardSpec {
            port: or(port, |number| u16::try_from(number.0).unwrap_or(u16::MAX), TLS),
            allow: list(allow, |pattern| pattern.0.clone()),
            allow_private: list(allow_private, |network| network.0),
            resolvers: list(resolvers, |address| address.0),
        })
    }

    /// Adds a fault if `allow` is missing or empty. Without it the pool would be an open proxy.
    fn check_allow(&self, entry: &TableEntry<Forward>, found: &mut Findings<'_>) {
        let allow = &entry.value.allow;
        let place = if allow.is_absent() { Some(entry.key) } else { empty(allow) };
        if let Some(place) = place {
            let message = format!("pool `{}` forwards by name and has no `allow`", self.name);
            let fault = Diagnostic::new(Code::MissingKey, self.forward_key("allow"), message);
            found.add(fault.label(place, "`allow` is needed").help(
                "add: allow = [\"*.example.org\", \"api.test\"]; every client can reach every host with an allowed name",
            ));
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
            let message = format!("`{key}` is not allowed in pool `{}`, which forwards by name", self.name);
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
