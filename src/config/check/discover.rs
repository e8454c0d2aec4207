//! The sources of a pool's further backends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::or;
use super::pool::PoolChecker;
use crate::config::address::{HostName, ResolverAddress};
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Discover, RecordType, Resolve, Ttl};
use crate::config::findings::Findings;
use crate::config::read::{Key, OneOrMany};
use crate::config::words::Number;
use crate::pool::{DiscoverSource, DiscoverSpec, DnsSpec, NamedHost, RecordKind};

/// The default time for which an address stays after an answer of the DNS left it out: some servers answer with a
/// changing part of all addresses. A deployment seldom takes less time than this.
const HOLD: Duration = Duration::from_secs(30);

/// The sources that are followed for a pool while the process runs.
pub(super) struct Sources {
    /// The sources of backends.
    pub(super) discover: Vec<DiscoverSpec>,
    /// The host names of checks and agents.
    pub(super) check_names: Vec<DiscoverSpec>,
}

impl PoolChecker<'_> {
    /// Returns the sources of a pool: the host names among its backends, `discover`, and the `names` of its checks
    /// and agents.
    pub(super) fn sources(
        &self,
        hosts: Vec<(HostName, NamedHost)>,
        names: BTreeSet<Arc<str>>,
        found: &mut Findings<'_>,
    ) -> Sources {
        let mut sources = self.named(hosts, names, found);
        self.listed(&mut sources.discover, found);
        sources
    }

    /// Adds the sources of `discover`.
    fn listed(&self, sources: &mut Vec<DiscoverSpec>, found: &mut Findings<'_>) {
        let Some(entry) = self.words.discover.entry() else { return };
        let list = &entry.value.0;
        if list.items.is_empty() && list.complete {
            let fault = Diagnostic::new(Code::BadSource, self.key("discover"), "`discover` is empty");
            found.add(fault.label(entry.at, "").help("remove the key, or name a source"));
        }
        let max_connections = self.words.max_connections.value().map(|number| number.0);
        for (at, item) in list.items.iter().enumerate() {
            let (place, path) = match list.items.len() {
                1 => (entry.key, self.key("discover")),
                _ => (item.at, self.key(&format!("discover[{at}]"))),
            };
            let checker = Checker { words: &item.value, place, path: &path };
            let Some(source) = checker.source(found) else { continue };
            if sources.iter().any(|other| other.host.is_none() && other.source == source) {
                let fault =
                    checker.fault("", format!("`discover` of pool `{}` has a source twice", self.name));
                found.add(fault.label(place, "again here").help("remove one of the two"));
            }
            let drain = item.value.drain.value().map(|time| time.0);
            // A file has the whole list: an address that it leaves out is removed on purpose.
            let default = if matches!(source, DiscoverSource::Dns(_)) { HOLD } else { Duration::ZERO };
            let hold = or(&item.value.hold, |time| time.0, default);
            sources.push(DiscoverSpec { source, host: None, hold, drain, max_connections });
        }
    }

    /// Adds host names, which are looked up as `resolve` configures.
    fn named(
        &self,
        hosts: Vec<(HostName, NamedHost)>,
        names: BTreeSet<Arc<str>>,
        found: &mut Findings<'_>,
    ) -> Sources {
        let default = Resolve::default();
        let is_idle = hosts.is_empty() && names.is_empty() && !found.has_faults();
        if let Some(entry) = self.words.resolve.entry().filter(|_| is_idle) {
            let message = format!("`resolve` of pool `{}` has no effect", self.name);
            let warning = Diagnostic::new(Code::IdleSetting, self.key("resolve"), message);
            found.add(warning.label(entry.key, "no backend, check or agent has a host name"));
        }
        let Resolve { resolvers, min_ttl, max_ttl, jitter, hold, drain } =
            self.words.resolve.value().unwrap_or(&default);
        let path = self.key("resolve");
        let asking = Asking { path: &path, resolvers, min_ttl, max_ttl, jitter };
        let (resolvers, (min_ttl, max_ttl)) = (asking.resolvers(found), asking.bounds(found));
        let source = |name: Arc<str>, port: Option<u16>| {
            DiscoverSource::Dns(DnsSpec {
                name,
                records: RecordKind::Addresses { port: port.unwrap_or(0) },
                resolvers: resolvers.clone(),
                min_ttl,
                max_ttl,
                jitter: asking.jitter(),
            })
        };
        let of_host = |(HostName { name, port }, host): (HostName, NamedHost)| DiscoverSpec {
            source: source(name.into(), port),
            host: Some(host),
            hold: or(hold, |time| time.0, HOLD),
            drain: drain.value().map(|time| time.0),
            max_connections: None,
        };
        // A check uses the addresses of the last answer: an address that is held would answer for a host that has
        // moved.
        let of_name = |name: Arc<str>| DiscoverSpec {
            source: source(name, None),
            host: None,
            hold: Duration::ZERO,
            drain: None,
            max_connections: None,
        };
        Sources {
            discover: hosts.into_iter().map(of_host).collect(),
            check_names: names.into_iter().map(of_name).collect(),
        }
    }
}

struct Checker<'a> {
    words: &'a Discover,
    place: Span,
    path: &'a str,
}

impl Checker<'_> {
    fn source(&self, found: &mut Findings<'_>) -> Option<DiscoverSource> {
        let Discover { dns, file, .. } = self.words;
        match (dns, file) {
            (Key::Absent, Key::Absent) => {
                let fault = self.fault("", "`discover` has no source");
                found.add(fault.label(self.place, "neither `dns` nor `file`").help(
                    "such as: { dns = \"app.internal\", port = 443 }, { dns = \"_https._tcp.app.internal\", type = \"srv\" } or { file = \"app.json\" }",
                ));
                None
            }
            (Key::Good(dns), Key::Good(file)) => {
                let fault = self.fault("file", "`discover` takes `dns` or `file`, not both");
                found.add(fault.label(file.key, "one source").label(dns.key, "and another"));
                None
            }
            (Key::Absent, file) => {
                self.refuse_dns_keys(found);
                Some(DiscoverSource::File(file.value()?.0.as_path().into()))
            }
            (dns, _) => {
                let records = self.records(found);
                let Discover { resolvers, min_ttl, max_ttl, jitter, .. } = self.words;
                let asking = Asking { path: self.path, resolvers, min_ttl, max_ttl, jitter };
                let (min_ttl, max_ttl) = asking.bounds(found);
                Some(DiscoverSource::Dns(DnsSpec {
                    name: dns.value()?.0.as_str().into(),
                    records: records?,
                    resolvers: asking.resolvers(found),
                    min_ttl,
                    max_ttl,
                    jitter: asking.jitter(),
                }))
            }
        }
    }

    /// Adds a fault for each key that a file has no use for.
    fn refuse_dns_keys(&self, found: &mut Findings<'_>) {
        let Discover { r#type, port, resolvers, min_ttl, max_ttl, jitter, .. } = self.words;
        let keys = [
            ("type", r#type.place()),
            ("port", port.place()),
            ("resolvers", resolvers.place()),
            ("min_ttl", min_ttl.place()),
            ("max_ttl", max_ttl.place()),
            ("jitter", jitter.place()),
        ];
        for (key, place) in keys {
            let Some(place) = place else { continue };
            let fault = self.fault(key, format!("`{key}` is for `dns`, not for `file`"));
            found.add(fault.label(place, "a source with `file` takes no such key"));
        }
    }

    fn records(&self, found: &mut Findings<'_>) -> Option<RecordKind> {
        let Discover { dns, r#type, port, .. } = self.words;
        match (or(r#type, |choice| choice.0, RecordType::Address), port) {
            (RecordType::Srv, Key::Good(port)) => {
                let fault = self.fault("port", "SRV records have their own ports");
                found.add(fault.label(port.key, "remove it"));
                None
            }
            (RecordType::Srv, _) => Some(RecordKind::Services),
            (RecordType::Address, Key::Good(port)) => {
                Some(RecordKind::Addresses { port: u16::try_from(port.value.0).unwrap_or(u16::MAX) })
            }
            (RecordType::Address, Key::Absent) => {
                let path = format!("{}.port", self.path);
                let fault = Diagnostic::new(Code::MissingKey, path, "addresses from the DNS need a port");
                let is_srv = dns.value().is_some_and(|name| name.0.starts_with('_'));
                let help = if is_srv { "add: type = \"srv\"" } else { "add: port = 443" };
                found.add(fault.label(self.place, "`port` is missing").help(help));
                None
            }
            (RecordType::Address, Key::Wrong) => None,
        }
    }

    fn fault(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        let path = if key.is_empty() { self.path.to_owned() } else { format!("{}.{key}", self.path) };
        Diagnostic::new(Code::BadSource, path, message)
    }
}

/// The settings of DNS queries.
struct Asking<'a> {
    path: &'a str,
    resolvers: &'a Key<OneOrMany<ResolverAddress>>,
    min_ttl: &'a Key<Ttl>,
    max_ttl: &'a Key<Ttl>,
    jitter: &'a Key<Number<0, 100>>,
}

impl Asking<'_> {
    fn jitter(&self) -> u8 {
        or(self.jitter, |number| u8::try_from(number.0).unwrap_or(u8::MAX), 10)
    }

    fn resolvers(&self, found: &mut Findings<'_>) -> Vec<std::net::SocketAddr> {
        let Some(written) = self.resolvers.entry() else { return Vec::new() };
        let list = &written.value.0;
        if list.items.is_empty() && list.complete {
            let path = format!("{}.resolvers", self.path);
            let fault = Diagnostic::new(Code::BadSource, path, "`resolvers` is empty");
            found.add(fault.label(written.at, "").help("remove the key to use the resolvers of the system"));
        }
        list.items.iter().map(|item| item.value.0).collect()
    }

    fn bounds(&self, found: &mut Findings<'_>) -> (Duration, Duration) {
        const LEAST: Duration = Duration::from_secs(5);
        const MOST: Duration = Duration::from_secs(300);

        let Self { min_ttl, max_ttl, .. } = self;
        let (min, max) = match (min_ttl.value(), max_ttl.value()) {
            (Some(min), Some(max)) => (min.0, max.0),
            // A written bound moves the default of the other one, so that the two fit.
            (Some(min), None) => (min.0, MOST.max(min.0)),
            (None, Some(max)) => (LEAST.min(max.0), max.0),
            (None, None) => (LEAST, MOST),
        };
        if let (Some(least), Some(most)) = (min_ttl.entry(), max_ttl.entry())
            && min > max
        {
            let path = format!("{}.min_ttl", self.path);
            let fault = Diagnostic::new(Code::OutOfRange, path, "`min_ttl` is above `max_ttl`");
            found.add(
                fault
                    .label(least.at, "the shortest time between two queries")
                    .label(most.at, "the longest time"),
            );
        }
        (min, max)
    }
}
