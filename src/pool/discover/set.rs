//! The backends that a source found, and the function that adds them to the backends of the configuration.

use std::collections::HashSet;
use std::sync::Arc;

use crate::pool::discover_spec::{DiscoverSpec, NamedHost};
use crate::pool::{BackendSpec, NameOrigin, PoolSpec};
use crate::sys::Address;

/// The most backends that one source may name. More backends are a fault, because a cut list would hide the
/// rest.
pub(super) const MOST_BACKENDS: usize = 10_000;

/// A backend as its source describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Discovered {
    /// Its name, which is its identity.
    pub(super) name: Arc<str>,
    /// The address on which it listens.
    pub(super) address: Address,
    /// Its share. With 0 it takes no new connections.
    pub(super) weight: u16,
    /// Its zone.
    pub(super) zone: Option<Arc<str>>,
    /// True if it is used only while the other backends are down.
    pub(super) backup: bool,
}

/// The backends of one source. Names and addresses are unique. The backends are in the order of their names. So two
/// sets are equal if the answers had the same backends in different orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveredSet(Arc<[Discovered]>);

impl DiscoveredSet {
    /// Sorts a list by name. If several backends have one address, the first stays. If several backends have
    /// one name, the backend with the lowest address stays.
    pub(super) fn new(mut backends: Vec<Discovered>) -> Self {
        let mut addresses = HashSet::with_capacity(backends.len());
        backends.retain(|backend| addresses.insert(backend.address.clone()));
        backends.sort();
        backends.dedup_by(|later, first| later.name == first.name);
        Self(backends.into())
    }

    /// Returns the number of backends.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the backends in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Discovered> {
        self.0.iter()
    }

    /// Returns true if the set has no backend.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns `written` with the backends that its sources found; `found` has a set for each source. The backends
/// of a host name come at the position of the name, the backends of other sources at the end. A backend is left
/// out if another backend has its name or address: both are one server, which must not get two shares. Backends
/// of the configuration have precedence, then backends of host names.
pub fn join(written: &PoolSpec, found: &[DiscoveredSet]) -> PoolSpec {
    let mut names: HashSet<Arc<str>> =
        written.backends.iter().map(|backend| Arc::clone(&backend.name)).collect();
    let mut addresses: HashSet<Address> =
        written.backends.iter().map(|backend| backend.address.clone()).collect();
    let mut is_new = |backend: &BackendSpec| {
        !names.contains(&backend.name)
            && addresses.insert(backend.address.clone())
            && names.insert(Arc::clone(&backend.name))
    };
    let (mut hosts, mut others) = (Vec::new(), Vec::new());
    for (spec, set) in written.discover.iter().zip(found) {
        if let Some(host) = &spec.host {
            let of_host = set.0.iter().map(|found| of_host(host, found)).filter(&mut is_new);
            hosts.extend(of_host.map(|backend| (host.place, backend)));
        }
    }
    for (spec, set) in written.discover.iter().zip(found).filter(|(spec, _)| spec.host.is_none()) {
        others.extend(set.0.iter().map(|found| of_source(spec, found)).filter(&mut is_new));
    }
    let mut hosts = hosts.into_iter().peekable();
    let mut joined = written.clone();
    for (place, backend) in std::mem::take(&mut joined.backends).into_iter().enumerate() {
        while let Some((_, host)) = hosts.next_if(|(before, _)| *before <= place) {
            joined.backends.push(host);
        }
        joined.backends.push(backend);
    }
    joined.backends.extend(hosts.map(|(_, host)| host));
    joined.backends.extend(others);
    joined
}

fn of_host(host: &NamedHost, found: &Discovered) -> BackendSpec {
    let template = &host.template;
    let name = match found.address.tcp() {
        Some(address) => format!("{}/{}", template.name, address.ip()).into(),
        None => Arc::clone(&found.name),
    };
    BackendSpec { name, address: found.address.clone(), origin: NameOrigin::Host, ..template.clone() }
}

fn of_source(spec: &DiscoverSpec, found: &Discovered) -> BackendSpec {
    let Discovered { name, address, weight, zone, backup } = found.clone();
    let (max_connections, origin) = (spec.max_connections, NameOrigin::Discovery);
    BackendSpec { weight, zone, backup, max_connections, origin, ..BackendSpec::new(name, address) }
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
    use std::time::Duration;

    use super::*;
    use crate::pool::DiscoverSource;

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

    fn written(name: &str, address: &str) -> BackendSpec {
        BackendSpec::new(name, address.parse().unwrap())
    }

    fn source(host: Option<NamedHost>) -> DiscoverSpec {
        let source = DiscoverSource::File(std::path::Path::new("/run/a").into());
        DiscoverSpec { source, host, hold: Duration::ZERO, drain: None, max_connections: Some(7) }
    }

    fn host(name: &str, place: usize) -> DiscoverSpec {
        let template = BackendSpec { weight: 3, backup: true, ..written(name, "0.0.0.0:1") };
        source(Some(NamedHost { place, template }))
    }

    #[test]
    fn hosts_stand_where_they_are_written() {
        let discover = vec![host("db1:1", 0), host("db2:1", 1), source(None)];
        let backends = vec![written("a", "10.0.0.1:1"), written("b", "10.0.0.2:1")];
        let pool = PoolSpec { discover, ..PoolSpec::new("p".into(), backends) };
        let set = |addresses: &[&str]| {
            DiscoveredSet::new(addresses.iter().map(|address| found(address, address, 1)).collect())
        };
        let check = |sets: [&[&str]; 3], expected: &str| {
            let joined = join(&pool, &sets.map(set));
            let names: Vec<_> = joined.backends.iter().map(|backend| &*backend.name).collect();
            assert_eq!(names.join(" "), expected, "{sets:?}");
        };
        check([&[], &[], &[]], "a b");
        check(
            [&["10.0.0.5:1"], &["10.0.0.6:1"], &["10.0.0.7:1"]],
            "db1:1/10.0.0.5 a db2:1/10.0.0.6 b 10.0.0.7:1",
        );
        check([&["10.0.0.5:1", "[::5]:1"], &[], &[]], "db1:1/10.0.0.5 db1:1/::5 a b");
        // One server has one share. The backend of the configuration has precedence, then the backend of the
        // first host name.
        check([&["10.0.0.1:1"], &["10.0.0.6:1"], &["10.0.0.6:1"]], "a db2:1/10.0.0.6 b");
        check([&["10.0.0.6:1"], &["10.0.0.6:1"], &[]], "db1:1/10.0.0.6 a b");
        let joined = join(&pool, &[set(&["10.0.0.5:1"]), set(&[]), set(&["10.0.0.7:1"])]);
        let of = |at: usize| {
            let one: &BackendSpec = &joined.backends[at];
            (one.weight, one.backup, one.max_connections, one.origin)
        };
        assert_eq!(of(0), (3, true, None, NameOrigin::Host));
        assert_eq!(of(1), (1, false, None, NameOrigin::Configuration));
        assert_eq!(of(3), (1, false, Some(7), NameOrigin::Discovery));
    }

    #[test]
    fn what_is_written_is_not_joined_again() {
        let backends = vec![written("z", "10.0.0.9:1"), written("a", "10.0.0.1:1")];
        let pool = PoolSpec { discover: vec![source(None)], ..PoolSpec::new("p".into(), backends) };
        let set = DiscoveredSet::new(vec![
            found("a", "10.0.0.5:1", 1),
            found("b", "10.0.0.1:1", 1),
            found("c", "10.0.0.3:1", 1),
        ]);
        let joined = join(&pool, &[set]);
        let names: Vec<_> = joined.backends.iter().map(|backend| &*backend.name).collect();
        assert_eq!(names, ["z", "a", "c"]);
        assert_eq!(join(&pool, &[DiscoveredSet::default()]), pool);
    }
}
