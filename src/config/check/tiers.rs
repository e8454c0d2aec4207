//! Checks the tiers of a pool and its queue: zones, backups, limits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::or;
use super::pool::PoolChecker;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Backend, BackendWords, File};
use crate::config::findings::{Findings, did_you_mean};
use crate::config::read::{ArrayItem, ArrayOf, Key};
use crate::config::words::Name;
use crate::pool::{BackendSpec, PoolSpec, QueueSpec, TierSpec};

/// The most zones that a hint lists.
const LISTED: usize = 10;

/// Settings of the node for all pools.
pub(super) struct NodeDefaults {
    zone: Option<Arc<str>>,
    zones: Vec<Arc<str>>,
    /// True if neither `zone` nor `zones` is written.
    is_silent: bool,
}

impl NodeDefaults {
    pub(super) fn of(file: &File, found: &mut Findings<'_>) -> Self {
        let zone = file.zone.value().map(|name| name.0.as_str().into());
        let is_silent = file.zone.is_absent() && file.zones.is_absent();
        Self { zone, zones: listed(&file.zones, "zones", found), is_silent }
    }

    /// Adds a fault for each zone of the node that has no backend of any pool. If there are other faults it adds
    /// none: the zone may be in a part that could not be read.
    pub(super) fn check(file: &File, pools: &[PoolSpec], found: &mut Findings<'_>) {
        // The zones of discovered backends are not known yet.
        if found.has_faults()
            || pools.iter().any(|pool| pool.discover.iter().any(|source| source.host.is_none()))
        {
            return;
        }
        let hosts = pools.iter().flat_map(|pool| &pool.discover).filter_map(|source| source.host.as_ref());
        let written = pools.iter().flat_map(|pool| &pool.backends);
        let known = Zones::of(written.chain(hosts.map(|host| &host.template)));
        if let Some(zone) = file.zone.entry() {
            known.check(&zone.value, zone.at, "zone", found);
        }
        for zone in items(&file.zones) {
            known.check(&zone.value, zone.at, "zones", found);
        }
    }
}

/// The zones that have backends.
struct Zones(BTreeSet<Arc<str>>);

impl Zones {
    fn of<'a>(backends: impl IntoIterator<Item = &'a BackendSpec>) -> Self {
        Self(backends.into_iter().filter_map(|backend| backend.zone.clone()).collect())
    }

    fn check(&self, Name(name): &Name, at: Span, path: &str, found: &mut Findings<'_>) {
        if self.0.contains(name.as_str()) {
            return;
        }
        let names = || self.0.iter().map(|name| &**name);
        let label = match did_you_mean(name, names()) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => "no backend has this zone".to_owned(),
        };
        let message = format!("no backend has zone \"{name}\"");
        let fault = Diagnostic::new(Code::UnknownZone, path, message).label(at, label);
        found.add(if self.0.is_empty() {
            fault.help("write the zone at the backends: { address = \"10.0.0.1:443\", zone = \"a\" }")
        } else {
            let listed = names().take(LISTED).collect::<Vec<_>>().join(", ");
            let more = match self.0.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            fault.help(format!("zones of backends: {listed}{more}"))
        });
    }
}

impl PoolChecker<'_> {
    /// Returns the order of the backends; `backends` are those that could be read.
    pub(super) fn tiers(
        &self,
        node: &NodeDefaults,
        backends: &[BackendSpec],
        found: &mut Findings<'_>,
    ) -> TierSpec {
        let words = self.words;
        let zones = match &words.zones {
            Key::Absent => node.zones.clone(),
            zones => listed(zones, &self.key("zones"), found),
        };
        let tiers = TierSpec {
            zone: node.zone.clone(),
            zones,
            near: self.near(found),
            panic_threshold: words.panic_threshold.value().and_then(|part| u8::try_from(part.0).ok()),
        };
        if let Some(list) = words.backends.value().filter(|list| list.complete) {
            if words.discover.is_absent() {
                let known = Zones::of(backends);
                for zone in items(&words.zones) {
                    known.check(&zone.value, zone.at, &self.key("zones"), found);
                }
                self.check_sites(&known, found);
                self.warn_of_backups_alone(list, found);
            }
            if node.is_silent && words.zones.is_absent() && words.near.is_absent() {
                self.warn_of_idle_zones(list, found);
            }
        }
        tiers
    }

    /// Adds a fault for each site that is the zone of no backend.
    fn check_sites(&self, known: &Zones, found: &mut Findings<'_>) {
        let sites = self.words.near.value().and_then(|near| near.sites.value());
        for site in sites.into_iter().flat_map(|sites| &sites.0) {
            known.check(&Name(site.name.clone()), site.place, &self.key("near.sites"), found);
        }
    }

    fn warn_of_idle_zones(&self, list: &ArrayOf<BackendWords>, found: &mut Findings<'_>) {
        if let Some(zone) = words(list).find_map(|backend| backend.zone.entry()) {
            let message = format!("the zones of pool `{}` have no effect", self.name);
            let warning = Diagnostic::new(Code::IdleSetting, self.key("backends"), message);
            found.add(
                warning
                    .label(zone.key, "a zone")
                    .help("write the zone of this node as `zone`, or the zones that it prefers as `zones`"),
            );
        }
    }

    fn warn_of_backups_alone(&self, list: &ArrayOf<BackendWords>, found: &mut Findings<'_>) {
        let are_backups = words(list).all(|backend| backend.backup.value() == Some(&true));
        if let Some(place) = self.words.backends.place().filter(|_| are_backups && !list.items.is_empty()) {
            let message = format!("every backend of pool `{}` is a backup", self.name);
            let warning = Diagnostic::new(Code::IdleSetting, self.key("backends"), message);
            found.add(warning.label(place, "no backend is without `backup`"));
        }
    }

    /// Returns the most connections of a backend: its own limit, else the pool's.
    pub(super) fn limit(&self, backend: &Backend) -> Option<u64> {
        let own = backend.max_connections.value();
        own.or(self.words.max_connections.value()).map(|number| number.0)
    }

    pub(super) fn queue(&self, found: &mut Findings<'_>) -> Option<QueueSpec> {
        let queue = self.words.queue.entry()?;
        if queue.value.length.is_absent() {
            let fault = Diagnostic::new(Code::MissingKey, self.key("queue.length"), "a queue needs a length");
            found.add(
                fault
                    .label(queue.at, "`length` is missing")
                    .help("such as: queue = { length = 100, timeout = \"5s\" }"),
            );
        }
        self.check_that_some_wait(queue.key, found);
        let length = queue.value.length.value()?.0;
        Some(QueueSpec {
            length: usize::try_from(length).unwrap_or(usize::MAX),
            timeout: or(&queue.value.timeout, |time| time.0, QueueSpec::TIMEOUT),
        })
    }

    fn check_that_some_wait(&self, queue: Span, found: &mut Findings<'_>) {
        let is_free = |backend: &Backend| backend.max_connections.is_absent();
        let are_free = match &self.words.backends {
            Key::Absent => true,
            list => list.value().is_some_and(|list| list.complete && words(list).all(is_free)),
        };
        // An agent may limit its backend at any time.
        if self.words.max_connections.is_absent() && self.words.agent.is_absent() && are_free {
            let message = format!("no connection ever waits in the queue of pool `{}`", self.name);
            let fault = Diagnostic::new(Code::QueueWithoutLimit, self.key("queue"), message);
            found.add(
                fault
                    .label(queue, "no backend has a limit")
                    .help("write the limit of each backend: max_connections = 100"),
            );
        }
    }
}

/// Returns the zones in a list, and adds a fault for each zone that is listed twice.
fn listed(written: &Key<ArrayOf<Name>>, path: &str, found: &mut Findings<'_>) -> Vec<Arc<str>> {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    let mut zones = Vec::new();
    for ArrayItem { at, value: Name(name) } in items(written) {
        if let Some(first) = seen.insert(name, *at) {
            let message = format!("zone \"{name}\" is listed twice");
            let fault = Diagnostic::new(Code::DoubledZone, path, message);
            found.add(fault.label(*at, "again here").label(first, "first here"));
        }
        zones.push(name.as_str().into());
    }
    zones
}

fn items(list: &Key<ArrayOf<Name>>) -> &[ArrayItem<Name>] {
    list.value().map_or(&[], |list| &list.items)
}

fn words(list: &ArrayOf<BackendWords>) -> impl Iterator<Item = &Backend> {
    list.items.iter().map(|item| &item.value.0)
}
