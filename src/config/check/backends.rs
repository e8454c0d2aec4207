//! The backends of a pool as they are written: by their addresses, or by the names of hosts.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::or;
use super::pool::PoolChecker;
use crate::config::address::{BackendAddress, HostName};
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Backend, BackendWords};
use crate::config::findings::Findings;
use crate::config::read::{ArrayItem, ArrayOf, Key};
use crate::pool::{BackendSpec, DialSource, NameOrigin, NamedHost, OperatorState};
use crate::sys::Address;

/// The backends of a pool as they are written.
#[derive(Default)]
pub(super) struct WrittenBackends {
    /// Backends with an address.
    pub(super) backends: Vec<BackendSpec>,
    /// Host names.
    pub(super) hosts: Vec<(HostName, NamedHost)>,
}

/// Returns true if a backend is written as a host name.
pub(super) fn is_host(words: &BackendWords) -> bool {
    matches!(words.0.address.value(), Some(BackendAddress::Host(_)))
}

/// Returns a placeholder for the addresses of a host: a TCP address with this port, or without a port.
fn any_address(port: Option<u16>) -> Address {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.unwrap_or(0))).into()
}

impl PoolChecker<'_> {
    /// Returns the backends, with defaults applied, and the host names among them.
    pub(super) fn backends(&self, found: &mut Findings<'_>) -> WrittenBackends {
        let mut written = WrittenBackends::default();
        let list = match &self.words.backends {
            Key::Good(entry) => &entry.value,
            Key::Wrong => return written,
            Key::Absent => {
                if self.words.discover.is_absent() && self.words.forward.is_absent() {
                    self.without_backends(self.place, found);
                }
                return written;
            }
        };
        if list.items.is_empty() && list.complete && self.words.discover.is_absent() {
            self.without_backends(self.words.backends.place().unwrap_or(self.place), found);
        }
        let mut seen: HashMap<Arc<str>, Span> = HashMap::with_capacity(list.items.len());
        for (index, item) in list.items.iter().enumerate() {
            let Some((spec, host)) = self.backend(index, item, found) else { continue };
            if let Some(first) = seen.insert(Arc::clone(&spec.name), item.at) {
                self.doubled(&spec.name, item.at, first, found);
            }
            match host {
                None => written.backends.push(spec),
                Some(name) => {
                    let host = NamedHost { place: written.backends.len(), template: spec };
                    written.hosts.push((name, host));
                }
            }
        }
        if self.words.discover.is_absent() {
            self.some_weight(list, found);
            self.some_ready(&written, list, found);
        }
        written
    }

    fn without_backends(&self, place: Span, found: &mut Findings<'_>) {
        let message = format!("pool `{}` has no backends", self.name);
        let fault = Diagnostic::new(Code::NoBackends, self.key("backends"), message);
        found.add(fault.label(place, "").help("add: backends = [\"10.0.0.1:443\", \"10.0.0.2:443\"], or discover = { dns = \"app.internal\", port = 443 }"));
    }

    fn backend(
        &self,
        index: usize,
        item: &ArrayItem<BackendWords>,
        found: &mut Findings<'_>,
    ) -> Option<(BackendSpec, Option<HostName>)> {
        let words = &item.value.0;
        let Backend { name, address, weight, state, health, agent, zone, backup, .. } = words;
        if address.is_absent() {
            let path = format!("{}.backends[{index}].address", self.path);
            let fault = Diagnostic::new(Code::MissingKey, path, "a backend needs an address");
            found.add(
                fault.label(item.at, "`address` is missing").help("such as: { address = \"10.0.0.1:443\" }"),
            );
        }
        let at = address.entry().map_or(item.at, |address| address.at);
        let (written, address, host): (_, Address, _) = match address.value()? {
            BackendAddress::Address(address) => (address.known_part(), address.clone(), None),
            BackendAddress::Host(host) => (host.to_string(), any_address(host.port), Some(host.clone())),
        };
        self.check_source(index, &address, at, found);
        let name = name.value().map_or(written, |name| name.0.clone()).into();
        let weight = or(weight, |number| u16::try_from(number.0).unwrap_or(u16::MAX), 1);
        let path = format!("{}.backends[{index}]", self.path);
        let spec = BackendSpec {
            name,
            address,
            weight,
            zone: zone.value().map(|zone| zone.0.as_str().into()),
            backup: or(backup, |yes| *yes, false),
            max_connections: self.limit(words),
            operator_state: or(state, |choice| choice.0, OperatorState::Ready),
            targets: self.asks().targets(&path, health, agent, found),
            origin: NameOrigin::Configuration,
        };
        Some((spec, host))
    }

    /// Adds a fault if the pool uses the addresses of clients and the backend is a Unix socket. Such a backend would
    /// see the identity of this process instead, and may trust this process more than the client.
    fn check_source(&self, index: usize, address: &Address, at: Span, found: &mut Findings<'_>) {
        let Some(source) = self.words.source.entry().filter(|source| source.value.0 == DialSource::Client)
        else {
            return;
        };
        if address.tcp().is_some() {
            return;
        }
        let path = format!("{}.backends[{index}].address", self.path);
        let message = "connections from a client's address cannot go to a Unix socket";
        let fault = Diagnostic::new(Code::SocketWithSource, path, message);
        let fault = fault
            .label(at, "the server would see this process as the client")
            .label(source.key, "required here");
        found.add(fault.help(
            "give the backend its own pool without `source`; proxy_protocol = \"v2\" sends the client's address",
        ));
    }

    fn doubled(&self, name: &str, at: Span, first: Span, found: &mut Findings<'_>) {
        let message = format!("pool `{}` has two backends `{name}`", self.name);
        found.add(
            Diagnostic::new(Code::DoubledBackend, self.key("backends"), message)
                .label(at, "again here")
                .label(first, "first here")
                .help("a backend without a name is named by its address: give different names, or one backend with a weight"),
        );
    }

    fn some_weight(&self, list: &ArrayOf<BackendWords>, found: &mut Findings<'_>) {
        let is_zero =
            |item: &ArrayItem<BackendWords>| item.value.0.weight.value().is_some_and(|weight| weight.0 == 0);
        if list.complete && !list.items.is_empty() && list.items.iter().all(is_zero) {
            let message = format!("every backend of pool `{}` has weight 0", self.name);
            let fault = Diagnostic::new(Code::NoWeight, self.key("backends"), message);
            let place = self.words.backends.place().unwrap_or(self.place);
            found.add(
                fault
                    .label(place, "no backend would get connections")
                    .help("give at least one of them a weight above 0"),
            );
        }
    }

    /// A drain of all backends of a pool may be intended, for an hour, so it is a warning.
    fn some_ready(&self, written: &WrittenBackends, list: &ArrayOf<BackendWords>, found: &mut Findings<'_>) {
        let specs = || written.backends.iter().chain(written.hosts.iter().map(|(_, host)| &host.template));
        let rests = |spec: &BackendSpec| spec.operator_state != OperatorState::Ready || spec.weight == 0;
        let is_asked_to = |spec: &BackendSpec| spec.operator_state != OperatorState::Ready;
        if list.complete && specs().any(is_asked_to) && specs().all(rests) {
            let message = format!("no backend of pool `{}` is ready", self.name);
            let warning = Diagnostic::new(Code::NothingReady, self.key("backends"), message);
            let place = self.words.backends.place().unwrap_or(self.place);
            let label = "the `state` of all backends is drain or maintenance: clients are refused";
            found.add(warning.label(place, label));
        }
    }
}
