//! What a source found, and how it joins what is written in the configuration.

use std::collections::HashSet;
use std::sync::Arc;

use crate::pool::{BackendSpec, PoolSpec};
use crate::sys::Address;

/// The most backends that one source may name. More is a fault: cutting the list would hide it.
pub(super) const MOST_BACKENDS: usize = 10_000;

/// A backend as its source describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Discovered {
    /// Its identity.
    pub(super) name: Arc<str>,
    /// Where it listens.
    pub(super) address: Address,
    /// Its share; 0 takes no new connections.
    pub(super) weight: u16,
    /// The zone it stands in.
    pub(super) zone: Option<Arc<str>>,
    /// Whether it is only for the time when the others are down.
    pub(super) backup: bool,
}

/// The backends of one source: in the order of their names, so that sets are equal whatever the order in
/// which they were told; names and addresses distinct.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveredSet(Arc<[Discovered]>);

impl DiscoveredSet {
    /// Orders a list. Of what repeats an address the first stays, of what repeats a name the one with the
    /// least address.
    pub(super) fn new(mut backends: Vec<Discovered>) -> Self {
        let mut addresses = HashSet::with_capacity(backends.len());
        backends.retain(|backend| addresses.insert(backend.address.clone()));
        backends.sort();
        backends.dedup_by(|later, first| later.name == first.name);
        Self(backends.into())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `written` with these behind its own backends. One that is written already, by its name or its
    /// address, is passed over: it is one server, and should not get two shares.
    pub fn join(&self, written: &PoolSpec) -> PoolSpec {
        let names: HashSet<&str> = written.backends.iter().map(|backend| &*backend.name).collect();
        let addresses: HashSet<&Address> = written.backends.iter().map(|backend| &backend.address).collect();
        let max_connections = written.discover.as_ref().and_then(|discover| discover.max_connections);
        let others = self
            .0
            .iter()
            .filter(|found| !names.contains(&*found.name) && !addresses.contains(&found.address))
            .map(|found| spec(found, max_connections));
        let mut joined = written.clone();
        joined.backends.extend(others);
        joined
    }
}

fn spec(found: &Discovered, max_connections: Option<u64>) -> BackendSpec {
    let Discovered { name, address, weight, zone, backup } = found.clone();
    BackendSpec { weight, zone, backup, max_connections, ..BackendSpec::new(name, address) }
}

#[cfg(test)]
impl std::fmt::Display for DiscoveredSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, found) in self.0.iter().enumerate() {
            let Discovered { name, address, weight, zone, backup } = found;
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{name} {address} {weight}")?;
            zone.iter().try_for_each(|zone| write!(f, " {zone}"))?;
            f.write_str(if *backup { " backup" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, address: &str, weight: u16) -> Discovered {
        let address = address.parse().unwrap();
        Discovered { name: name.into(), address, weight, zone: None, backup: false }
    }

    fn check(backends: &[(&str, &str, u16)], expected: &str) {
        let list = |backends: &[(&str, &str, u16)]| {
            backends.iter().map(|&(name, address, weight)| found(name, address, weight)).collect()
        };
        assert_eq!(DiscoveredSet::new(list(backends)).to_string(), expected, "{backends:?}");
    }

    #[test]
    fn names_and_addresses_are_distinct_and_in_order() {
        check(&[], "");
        check(&[("b", "10.0.0.2:1", 1), ("a", "10.0.0.1:1", 2)], "a 10.0.0.1:1 2, b 10.0.0.2:1 1");
        check(&[("b", "10.0.0.1:1", 1), ("a", "10.0.0.1:1", 2)], "b 10.0.0.1:1 1");
        check(&[("a", "10.0.0.2:1", 1), ("a", "10.0.0.1:1", 2)], "a 10.0.0.1:1 2");
    }

    #[test]
    fn what_is_written_is_not_joined_again() {
        let written = |name: &str, address: &str| BackendSpec::new(name, address.parse().unwrap());
        let pool = PoolSpec::new("p".into(), vec![written("z", "10.0.0.9:1"), written("a", "10.0.0.1:1")]);
        let set = DiscoveredSet::new(vec![
            found("a", "10.0.0.5:1", 1),
            found("b", "10.0.0.1:1", 1),
            found("c", "10.0.0.3:1", 1),
        ]);
        let joined = set.join(&pool);
        let names: Vec<_> = joined.backends.iter().map(|backend| &*backend.name).collect();
        assert_eq!(names, ["z", "a", "c"]);
        assert_eq!(DiscoveredSet::default().join(&pool), pool);
    }
}
