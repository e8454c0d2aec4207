//! Listeners: where they bind, and where their connections go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::pool::REJECT;
use super::pools::Pools;
use super::{Binds, or, proxy};
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Listener, Protocol, Route};
use crate::config::findings::Findings;
use crate::config::read::{Item, Key, Named};
use crate::config::words::name_fault;
use crate::listener::ListenerSpec;
use crate::relay::RelayOptions;
use crate::route::pattern::NamePattern;
use crate::snapshot::{HelloSpec, PolicySpec, ProtocolSpec, ProxySpec, RouteSpec, TargetSpec};

/// Connections the kernel may hold before they are accepted.
const BACKLOG: u32 = 4096;

/// The listeners, sorted by name.
pub(super) fn listeners(
    written: &Key<Named<Listener>>,
    pools: &mut Pools,
    binds: &mut Binds,
    found: &mut Findings<'_>,
) -> Vec<ListenerSpec> {
    let named = written.value().map_or(&[][..], |listeners| &listeners.0);
    if named.is_empty() && !matches!(written, Key::Wrong) {
        let fault =
            Diagnostic::new(Code::NoListener, "listener", "there is no listener: nothing would be served");
        found.add(fault.help("add: [listener.main] with bind = \":5432\" and pool = \"main\""));
    }
    let mut specs = Vec::with_capacity(named.len());
    for listener in named {
        let path = format!("listener.{}", listener.name);
        if let Some(fault) = name_fault(&listener.name, &path) {
            found.add(fault.label(listener.place, ""));
        }
        if let Some(words) = &listener.table {
            let name = &listener.name;
            let checker = ListenerChecker { name, place: listener.place, path: &path, words };
            specs.push(checker.check(pools, binds, found));
        }
    }
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    specs
}

/// One written listener with what messages need to name it.
struct ListenerChecker<'a> {
    name: &'a str,
    place: Span,
    path: &'a str,
    words: &'a Listener,
}

impl ListenerChecker<'_> {
    fn check(&self, pools: &mut Pools, binds: &mut Binds, found: &mut Findings<'_>) -> ListenerSpec {
        let words = self.words;
        ListenerSpec {
            name: self.name.into(),
            binds: self.binds(binds, found),
            backlog: or(&words.backlog, |number| u32::try_from(number.0).unwrap_or(u32::MAX), BACKLOG),
            policy: PolicySpec {
                proxy: self.proxy(found),
                protocol: self.protocol(pools, found),
                relay: self.relay(),
                max_connections: words.max_connections.value().map(|number| number.0),
            },
        }
    }

    fn binds(&self, binds: &mut Binds, found: &mut Findings<'_>) -> Vec<SocketAddr> {
        let path = self.key("bind");
        let list = match &self.words.bind {
            Key::Good(entry) => &entry.value.0,
            Key::Wrong => return Vec::new(),
            Key::Absent => {
                self.without("bind", self.place, "`bind` is missing", found);
                return Vec::new();
            }
        };
        if list.items.is_empty() && list.complete {
            self.without("bind", self.words.bind.place().unwrap_or(self.place), "it is empty", found);
        }
        for item in &list.items {
            binds.add(&item.value.0, item.at, &path, found);
        }
        list.items.iter().flat_map(|item| item.value.0.iter().copied()).collect()
    }

    /// Resolves every reference whatever the protocol is, so that all of them are told at once.
    fn protocol(&self, pools: &mut Pools, found: &mut Findings<'_>) -> ProtocolSpec {
        let words = self.words;
        let routes = self.routes(pools, found);
        let no_sni = self.target("no_sni", &words.no_sni, pools, found);
        let unmatched = self.target("unmatched", &words.unmatched, pools, found);
        match &words.protocol {
            Key::Good(entry) if entry.value.0 == Protocol::Tls => {
                self.resolve_pool(Hashing::Any, pools, found);
                self.check_tls(found);
                ProtocolSpec::Tls { routes, no_sni, unmatched, hello: self.hello() }
            }
            Key::Wrong => {
                self.resolve_pool(Hashing::Any, pools, found);
                ProtocolSpec::Tcp { pool: "".into() }
            }
            _ => {
                self.refuse_tls_keys(found);
                // With routes but no protocol the protocol is what is missing, and was asked for.
                let is_meant_as_tls = words.protocol.is_absent() && !words.routes.is_absent();
                if words.pool.is_absent() && !is_meant_as_tls {
                    self.without("pool", self.place, "`pool` is missing", found);
                }
                ProtocolSpec::Tcp { pool: self.resolve_pool(Hashing::NoNames, pools, found) }
            }
        }
    }

    fn resolve_pool(&self, hashing: Hashing, pools: &mut Pools, found: &mut Findings<'_>) -> Arc<str> {
        let Some(written) = self.words.pool.entry() else { return "".into() };
        let Some(pool) = pools.refer(written, || self.key("pool"), found) else { return "".into() };
        // A name may come with a PROXY header.
        let is_told = pool.hashes_authority && !self.words.proxy_protocol.is_absent();
        if let (Hashing::NoNames, Some(hash_on), false) = (hashing, pool.hashes_sni, is_told) {
            let message = format!("pool `{}` hashes server names, but a tcp listener reads none", pool.name);
            found.add(
                Diagnostic::new(Code::HashWithoutKey, self.key("pool"), message)
                    .label(written.at, format!("used by the tcp listener `{}`", self.name))
                    .label(hash_on, "hashed here")
                    .help("use hash_on = \"source-ip\", or protocol = \"tls\" on the listener"),
            );
        }
        Arc::clone(&pool.name)
    }

    fn routes(&self, pools: &mut Pools, found: &mut Findings<'_>) -> Vec<RouteSpec> {
        let Some(list) = self.words.routes.value() else { return Vec::new() };
        let mut seen = HashMap::with_capacity(list.items.len());
        let routes = list.items.iter().enumerate().map(|(index, item)| RouteSpec {
            names: self.route_names(index, item, &mut seen, found),
            pool: self.route_pool(index, item, pools, found),
        });
        routes.collect()
    }

    fn route_names<'w>(
        &self,
        index: usize,
        item: &'w Item<Route>,
        seen: &mut HashMap<&'w NamePattern, Span>,
        found: &mut Findings<'_>,
    ) -> Vec<NamePattern> {
        let route = &item.value;
        let list = route.sni.value().map(|names| &names.0);
        if route.sni.is_absent() || list.is_some_and(|list| list.items.is_empty() && list.complete) {
            let fault = Diagnostic::new(
                Code::MissingKey,
                self.route_key(index, "sni"),
                "a route needs a server name",
            );
            let fault = fault.label(item.at, "`sni` is missing");
            found.add(fault.help("such as: sni = \"mail.example.com\"; other names go to `unmatched`"));
        }
        let names = list.map_or(&[][..], |list| &list.items);
        for name in names {
            let pattern = &name.value.0;
            if let Some(first) = seen.insert(pattern, name.at) {
                let message = format!("listener `{}` has two routes for `{pattern}`", self.name);
                let fault = Diagnostic::new(Code::EqualRoutes, self.route_key(index, "sni"), message);
                found.add(fault.label(name.at, "again here").label(first, "first here"));
            }
        }
        names.iter().map(|name| name.value.0.clone()).collect()
    }

    fn route_pool(
        &self,
        index: usize,
        item: &Item<Route>,
        pools: &mut Pools,
        found: &mut Findings<'_>,
    ) -> Arc<str> {
        let route = &item.value;
        if route.pool.is_absent() {
            let path = self.route_key(index, "pool");
            let fault = Diagnostic::new(Code::MissingKey, path, "a route needs a pool");
            found.add(fault.label(item.at, "`pool` is missing"));
        }
        let written = route.pool.entry();
        let pool = written.and_then(|written| pools.refer(written, || self.route_key(index, "pool"), found));
        pool.map_or_else(|| "".into(), |pool| Arc::clone(&pool.name))
    }

    fn target(
        &self,
        key: &str,
        written: &Key<String>,
        pools: &mut Pools,
        found: &mut Findings<'_>,
    ) -> TargetSpec {
        let written = written.entry().filter(|written| written.value != REJECT);
        let pool = written.and_then(|written| pools.refer(written, || self.key(key), found));
        pool.map_or(TargetSpec::Reject, |pool| TargetSpec::Pool(Arc::clone(&pool.name)))
    }

    fn check_tls(&self, found: &mut Findings<'_>) {
        let words = self.words;
        if let Some(pool) = words.pool.entry() {
            let message = format!("`pool` has no place on the tls listener `{}`", self.name);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key("pool"), message).label(pool.key, "");
            let name = &pool.value;
            found.add(fault.help(format!("for names without a route write: unmatched = {name:?}")));
            return;
        }
        let no_routes = match &words.routes {
            Key::Good(routes) => routes.value.items.is_empty() && routes.value.complete,
            Key::Wrong => false,
            Key::Absent => true,
        };
        let rejects = |target: &Key<String>| match target {
            Key::Good(target) => target.value == REJECT,
            Key::Wrong => false,
            Key::Absent => true,
        };
        if no_routes && rejects(&words.no_sni) && rejects(&words.unmatched) {
            let message = format!("listener `{}` would reject every client", self.name);
            let fault = Diagnostic::new(Code::RejectsAll, self.key("routes"), message);
            let place = words.routes.place().unwrap_or(self.place);
            let help =
                "add: routes = [{ sni = \"mail.example.com\", pool = \"mail\" }], or unmatched = \"POOL\"";
            found.add(fault.label(place, "no routes").help(help));
        }
    }

    fn refuse_tls_keys(&self, found: &mut Findings<'_>) {
        let words = self.words;
        let tls_keys = [
            ("routes", words.routes.place()),
            ("no_sni", words.no_sni.place()),
            ("unmatched", words.unmatched.place()),
            ("first_byte_timeout", words.first_byte_timeout.place()),
            ("hello_timeout", words.hello_timeout.place()),
            ("hello_max_size", words.hello_max_size.place()),
        ];
        for (key, place) in tls_keys {
            let Some(place) = place else { continue };
            let message = format!("`{key}` has no place on the tcp listener `{}`", self.name);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key(key), message).label(place, "");
            found.add(if words.protocol.is_absent() {
                fault.help("to read server names write: protocol = \"tls\"")
            } else {
                fault.help("server names are read with: protocol = \"tls\"")
            });
        }
    }

    fn proxy(&self, found: &mut Findings<'_>) -> Option<ProxySpec> {
        let words = self.words.proxy_protocol.entry()?;
        Some(proxy::listener(words, &self.key("proxy_protocol"), found))
    }

    fn hello(&self) -> HelloSpec {
        let words = self.words;
        let default = HelloSpec::default();
        HelloSpec {
            first_byte_timeout: or(&words.first_byte_timeout, |time| time.0, default.first_byte_timeout),
            hello_timeout: or(&words.hello_timeout, |time| time.0, default.hello_timeout),
            max_size: or(
                &words.hello_max_size,
                |number| usize::try_from(number.0).unwrap_or(default.max_size),
                default.max_size,
            ),
        }
    }

    fn relay(&self) -> RelayOptions {
        let words = self.words;
        let default = RelayOptions::default();
        RelayOptions {
            engine: or(&words.engine, |choice| choice.0, default.engine),
            idle_timeout: or(&words.idle_timeout, |time| time.0, default.idle_timeout),
            half_closed_timeout: or(&words.half_closed_timeout, |time| time.0, default.half_closed_timeout),
            reset_linger: or(&words.reset_linger, |time| time.0, default.reset_linger),
            keepalive: or(&words.keepalive, |time| time.0, default.keepalive),
            user_timeout: or(&words.user_timeout, |time| time.0, default.user_timeout),
        }
    }

    fn without(&self, key: &str, place: Span, label: &str, found: &mut Findings<'_>) {
        let (what, example) = match key {
            "bind" => ("address to bind", "bind = \":443\""),
            _ => ("pool", "pool = \"NAME\""),
        };
        let message = format!("listener `{}` has no {what}", self.name);
        let fault = Diagnostic::new(Code::MissingKey, self.key(key), message);
        found.add(fault.label(place, label).help(format!("write: {example}")));
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn route_key(&self, index: usize, key: &str) -> String {
        format!("{}.routes[{index}].{key}", self.path)
    }
}

/// Whether the listener gives a pool server names to hash.
#[derive(Clone, Copy)]
enum Hashing {
    Any,
    NoNames,
}
