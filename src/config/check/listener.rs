//! Checks listeners: their addresses, and where their connections go.

use std::sync::Arc;

use super::limits::Common;
use super::list_rules::Lists;
use super::peers::PeerWords;
use super::pool::REJECT;
use super::pools::Pools;
use super::references::{NamedHost, PoolReference};
use super::routes::RoutesChecker;
use super::{Binds, kernel_buffers, or, proxy};
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Listener, Protocol, Route};
use crate::config::findings::Findings;
use crate::config::read::{Key, NamedTables, TableEntry};
use crate::config::words::{KeywordEnum, name_fault};
use crate::listener::ListenerSpec;
use crate::relay::RelayOptions;
use crate::snapshot::{
    ActionSpec, HelloSpec, PolicySpec, ProtocolSpec, ProxySpec, RouteSpec, RoutesFileSpec, TargetSpec,
    TunnelOpening,
};
use crate::sys::Address;

/// The default of `backlog`: connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 4096;

/// The pools and lists that listeners refer to by name.
pub(super) struct Referred<'a> {
    pub(super) pools: &'a mut Pools,
    pub(super) lists: &'a mut Lists,
}

/// Returns the listeners, sorted by name.
pub(super) fn listeners(
    written: &Key<NamedTables<Listener>>,
    hash_key: [u8; 16],
    common: Common,
    referred: &mut Referred<'_>,
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
            let checker =
                ListenerChecker { name, place: listener.place, path: &path, words, hash_key, common };
            specs.push(checker.check(referred, binds, found));
        }
    }
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    specs
}

/// A written listener, with the name and position that messages show.
pub(super) struct ListenerChecker<'a> {
    pub(super) name: &'a str,
    pub(super) place: Span,
    path: &'a str,
    pub(super) words: &'a Listener,
    hash_key: [u8; 16],
    common: Common,
}

impl ListenerChecker<'_> {
    fn check(
        &self,
        referred: &mut Referred<'_>,
        binds: &mut Binds,
        found: &mut Findings<'_>,
    ) -> ListenerSpec {
        let Referred { pools, lists } = referred;
        let words = self.words;
        let protocol = self.protocol(pools, found);
        let opening = self.opening(&protocol, pools, found);
        if let ProtocolSpec::Tls { .. } = protocol {
            self.check_tls(found);
            self.warn_of_hello_routes(found);
        }
        let routes_file = words
            .routes_file
            .value()
            .map(|path| RoutesFileSpec { path: path.0.as_path().into(), written: protocol.routes().len() });
        let binds = self.binds(binds, found);
        let access = self.access(&binds, lists, found);
        let has_only_unix = !binds.is_empty() && binds.iter().all(|address| address.tcp().is_none());
        ListenerSpec {
            name: self.name.into(),
            binds,
            ports_of_any_family: self.ports_of_any_family(),
            free_bind: or(&words.free_bind, |free| *free, false),
            mode: words.mode.value().map(|mode| mode.0),
            backlog: or(&words.backlog, |number| u32::try_from(number.0).unwrap_or(u32::MAX), BACKLOG),
            buffers: kernel_buffers(&words.max_unsent, &words.max_unread),
            policy: PolicySpec {
                access,
                proxy: self.proxy(found),
                protocol,
                opening,
                relay: self.relay(has_only_unix, found),
                max_connections: words.max_connections.value().map(|number| number.0),
                admission: self.common.listener(words, self.path, found),
                routes_file,
            },
        }
    }

    fn binds(&self, binds: &mut Binds, found: &mut Findings<'_>) -> Vec<Address> {
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
            binds.add(&item.value.addresses, item.at, &path, found);
        }
        let addresses: Vec<_> =
            list.items.iter().flat_map(|item| item.value.addresses.iter().cloned()).collect();
        let is_complete = list.complete && list.items.iter().all(|item| !item.value.addresses.is_empty());
        self.warn_of_free_bind(&addresses, is_complete, found);
        if let Some(mode) = self.words.mode.place()
            && is_complete
            && addresses.iter().all(|address| address.tcp().is_some())
        {
            let message = format!("`mode` of listener `{}` has no effect", self.name);
            let warning = Diagnostic::new(Code::IdleSetting, self.key("mode"), message);
            found.add(warning.label(mode, "it applies to Unix sockets only"));
        }
        addresses
    }

    fn ports_of_any_family(&self) -> Vec<u16> {
        let items = self.words.bind.value().map_or(&[][..], |list| &list.0.items);
        items.iter().flat_map(|item| item.value.ports_of_any_family.iter().copied()).collect()
    }

    fn warn_of_free_bind(&self, addresses: &[Address], is_complete: bool, found: &mut Findings<'_>) {
        let is_own = |address: &Address| address.tcp().is_none_or(|tcp| tcp.ip().is_unspecified());
        let Some(place) = self.words.free_bind.place() else { return };
        if is_complete && self.words.free_bind.value() == Some(&true) && addresses.iter().all(is_own) {
            let message = format!("`free_bind` of listener `{}` has no effect", self.name);
            let warning = Diagnostic::new(Code::IdleSetting, self.key("free_bind"), message);
            found.add(warning.label(place, "it applies to specific IP addresses only"));
        }
    }

    /// Returns the protocol. Every reference is resolved for any protocol, so that all faults are reported at once.
    fn protocol(&self, pools: &mut Pools, found: &mut Findings<'_>) -> ProtocolSpec {
        let words = self.words;
        // If there are routes and neither `pool` nor `protocol`, the missing key is `protocol`.
        let is_meant_as_tls =
            words.protocol.is_absent() && words.pool.is_absent() && !words.routes.is_absent();
        let is_tcp = words.protocol.value().is_none_or(|choice| choice.0 == Protocol::Tcp)
            && !matches!(words.protocol, Key::Wrong);
        let tunnel = self.tunnel();
        let hashing = match tunnel {
            Some(_) => Hashing::Requests,
            None if matches!(words.protocol, Key::Wrong) => Hashing::Unknown,
            None => self.hashing(is_tcp && !is_meant_as_tls),
        };
        let routes = Arc::new(self.routes(hashing, pools, found));
        let unmatched = self.target("unmatched", &words.unmatched, pools, found);
        let no_sni = match &words.no_sni {
            Key::Absent => self.only_pool(&routes, &unmatched, pools),
            _ => self.target("no_sni", &words.no_sni, pools, found),
        };
        if let Some(opening) = tunnel {
            self.refuse_hello_keys(found);
            if words.pool.is_absent() {
                self.without("pool", self.place, "`pool` is missing", found);
            }
            let pool = self.resolve_pool(hashing, pools, found);
            return ProtocolSpec::Tunnel { opening, pool, routes, hello: self.hello() };
        }
        match &words.protocol {
            Key::Good(entry) if entry.value.0 != Protocol::Tcp => {
                self.resolve_pool(Hashing::Any, pools, found);
                ProtocolSpec::Tls { routes, no_sni, unmatched, hello: self.hello() }
            }
            Key::Wrong => {
                self.resolve_pool(Hashing::Unknown, pools, found);
                ProtocolSpec::Tcp { pool: "".into(), routes }
            }
            _ => {
                self.refuse_tls_keys(is_meant_as_tls, found);
                if words.pool.is_absent() && !is_meant_as_tls {
                    self.without("pool", self.place, "`pool` is missing", found);
                }
                ProtocolSpec::Tcp { pool: self.resolve_pool(self.hashing(true), pools, found), routes }
            }
        }
    }

    /// Returns the protocol in which the clients request tunnels; `None` for a listener of another protocol.
    fn tunnel(&self) -> Option<TunnelOpening> {
        match self.words.protocol.value()?.0 {
            Protocol::Socks5 => {
                Some(TunnelOpening::Socks { reads_version_4: or(&self.words.legacy, |is_so| *is_so, false) })
            }
            Protocol::Connect => Some(TunnelOpening::Connect),
            _ => None,
        }
    }

    /// Returns the default of `no_sni`. Clients of PostgreSQL that connect by an address send no name. If every name
    /// leads to the same pool, these clients go there by default; else they are refused.
    fn only_pool(&self, routes: &[RouteSpec], unmatched: &TargetSpec, pools: &Pools) -> TargetSpec {
        let is_postgres = self.words.protocol.value().is_some_and(|choice| choice.0 == Protocol::Postgres);
        // A file may lead to further pools, now or later.
        if !is_postgres || !self.words.routes_file.is_absent() {
            return TargetSpec::Reject;
        }
        let mut leads = routes.iter().map(|route| match &route.action {
            ActionSpec::Pool(pool) if route.conditions.is_none() && route.limits.is_none() => Some(pool),
            _ => None,
        });
        let others = match unmatched {
            TargetSpec::Pool(pool) => Some(pool),
            TargetSpec::Reject => None,
        };
        let Some(only) = leads.next().unwrap_or(others) else { return TargetSpec::Reject };
        let is_only = leads.all(|pool| pool == Some(only)) && others.is_none_or(|pool| pool == only);
        match is_only && !pools.forwards(only) {
            true => TargetSpec::Pool(Arc::clone(only)),
            false => TargetSpec::Reject,
        }
    }

    fn hashing(&self, is_tcp: bool) -> Hashing {
        match (is_tcp, self.words.proxy_protocol.is_absent()) {
            (false, _) => Hashing::Any,
            (true, true) => Hashing::NoNames,
            (true, false) => Hashing::Authorities,
        }
    }

    fn resolve_pool(&self, hashing: Hashing, pools: &mut Pools, found: &mut Findings<'_>) -> Arc<str> {
        let Some(written) = self.words.pool.entry() else { return "".into() };
        refer(written, hashing, self.name, &self.key("pool"), pools, found)
    }

    fn routes(&self, hashing: Hashing, pools: &mut Pools, found: &mut Findings<'_>) -> Vec<RouteSpec> {
        let Some(list) = self.words.routes.value() else { return Vec::new() };
        let path = self.key("routes");
        let (listener, hash_key) = (self.name, self.hash_key);
        let (common, is_all) = (self.common, self.words.routes_file.is_absent());
        let reads_headers = !self.words.proxy_protocol.is_absent();
        let others = &[];
        let unmatched = self.words.unmatched.entry().filter(|written| written.value != REJECT);
        let target = match unmatched {
            Some(pool) => TargetSpec::Pool(pool.value.as_str().into()),
            None => TargetSpec::Reject,
        };
        let unmatched = (target, self.words.unmatched.place());
        let checker = RoutesChecker {
            listener,
            path: &path,
            hashing,
            reads_headers,
            hash_key,
            common,
            others,
            is_all,
            unmatched,
        };
        checker.check(list, pools, found)
    }

    pub(super) fn target(
        &self,
        key: &str,
        written: &Key<String>,
        pools: &mut Pools,
        found: &mut Findings<'_>,
    ) -> TargetSpec {
        let written = written.entry().filter(|written| written.value != REJECT);
        let Some(written) = written else { return TargetSpec::Reject };
        let Some(pool) = pools.refer(written, || self.key(key), found) else { return TargetSpec::Reject };
        let (names, used) = match key {
            "unmatched" => (NamedHost::ServerName, "for clients whose name has no route"),
            "detect.socks5" | "detect.connect" => (NamedHost::Requested, "for clients that request tunnels"),
            _ => (NamedHost::Nothing, "for clients without a name"),
        };
        PoolReference { written, used: used.to_owned(), path: &self.key(key), names }.check(pool, found);
        TargetSpec::Pool(Arc::clone(&pool.name))
    }

    fn check_tls(&self, found: &mut Findings<'_>) {
        let words = self.words;
        if let Some(pool) = words.pool.entry() {
            let protocol = words.protocol.value().map_or(Protocol::Tls, |choice| choice.0).word();
            let message = format!("`pool` is not allowed on the {protocol} listener `{}`", self.name);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key("pool"), message).label(pool.key, "");
            let name = &pool.value;
            found.add(fault.help(format!("for names without a route, write: unmatched = {name:?}")));
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
        let is_closed = rejects(&words.no_sni) && rejects(&words.unmatched) && !self.serves_without_tls();
        if no_routes && words.routes_file.is_absent() && is_closed {
            let message = format!("listener `{}` would reject every client", self.name);
            let fault = Diagnostic::new(Code::RejectsAll, self.key("routes"), message);
            let place = words.routes.place().unwrap_or(self.place);
            let help =
                "add: routes = [{ sni = \"mail.example.com\", pool = \"mail\" }], or unmatched = \"POOL\"";
            found.add(fault.label(place, "no routes").help(help));
        }
    }

    /// Warns of routes that refuse addresses. A route only sees clients that send a hello, so a client that it
    /// refuses may still connect with another protocol.
    fn warn_of_hello_routes(&self, found: &mut Findings<'_>) {
        let words = self.words;
        if !self.serves_without_tls() {
            return;
        }
        let ways =
            [words.plaintext.place(), words.databases.place(), words.users.place(), words.detect.place()];
        let way = ways.into_iter().flatten().next();
        let routes = words.routes.value().map_or(&[][..], |routes| &routes.items);
        for (index, item) in routes.iter().enumerate().filter(|(_, item)| refuses_addresses(&item.value)) {
            let path = format!("{}[{index}].action", self.key("routes"));
            let message = format!(
                "a route of listener `{}` refuses only TLS clients, and the listener also serves others",
                self.name
            );
            let warning = Diagnostic::new(Code::RefusesHellosOnly, path, message);
            let warning = warning.label(item.at, "checked only after a hello is read");
            let warning = way
                .into_iter()
                .fold(warning, |warning, way| warning.label(way, "clients without a hello are served here"));
            found.add(if item.value.source.is_absent() {
                warning.help("a separate listener for that address can refuse every protocol")
            } else {
                warning.help("`deny` of the listener refuses at the accept, in every protocol: deny = [\"192.0.2.0/24\"]")
            });
        }
    }

    /// Adds a fault for each key about hellos, on a listener whose clients request tunnels.
    fn refuse_hello_keys(&self, found: &mut Findings<'_>) {
        let words = self.words;
        let word = words.protocol.value().map_or(Protocol::Tcp, |choice| choice.0).word();
        let to_pool = "clients that no route matches go to `pool`, whether they request a name or an address";
        for (key, place, help) in [
            ("deny_ja4", words.deny_ja4.place(), "the hello in a tunnel is not read"),
            ("hello_max_size", words.hello_max_size.place(), "a request has at most 16 KiB"),
            ("no_sni", words.no_sni.place(), to_pool),
            ("unmatched", words.unmatched.place(), to_pool),
        ] {
            let Some(place) = place else { continue };
            let message = format!("`{key}` is not allowed on the {word} listener `{}`", self.name);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key(key), message);
            found.add(fault.label(place, "").help(help));
        }
    }

    fn refuse_tls_keys(&self, is_meant_as_tls: bool, found: &mut Findings<'_>) {
        let words = self.words;
        let tls_keys = [
            ("routes", words.routes.place().filter(|_| is_meant_as_tls)),
            ("deny_ja4", words.deny_ja4.place()),
            ("no_sni", words.no_sni.place()),
            ("unmatched", words.unmatched.place()),
            ("first_byte_timeout", words.first_byte_timeout.place()),
            ("hello_timeout", words.hello_timeout.place()),
            ("hello_max_size", words.hello_max_size.place()),
        ];
        for (key, place) in tls_keys {
            let Some(place) = place else { continue };
            let message = format!("`{key}` is not allowed on the tcp listener `{}`", self.name);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key(key), message).label(place, "");
            found.add(fault.help("to read server names, write: protocol = \"tls\""));
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

    fn relay(&self, has_only_unix: bool, found: &mut Findings<'_>) -> RelayOptions {
        let words = self.words;
        let default = RelayOptions::default();
        let relay = RelayOptions {
            engine: or(&words.engine, |choice| choice.0, default.engine),
            idle_timeout: or(&words.idle_timeout, |time| time.0, default.idle_timeout),
            half_closed_timeout: or(&words.half_closed_timeout, |time| time.0, default.half_closed_timeout),
            reset_linger: or(&words.reset_linger, |time| time.0, default.reset_linger),
            client: default.client,
        };
        let peers = PeerWords {
            owner: format!("listener `{}`", self.name),
            path: self.path,
            has_only_unix,
            keepalive: &words.keepalive,
            keepalive_interval: &words.keepalive_interval,
            keepalive_count: &words.keepalive_count,
            user_timeout: &words.user_timeout,
            stall_timeout: &words.stall_timeout,
        };
        let client = peers.check(Some((relay.idle_timeout, words.idle_timeout.place())), found);
        RelayOptions { client, ..relay }
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

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}

/// Returns the name of the pool that a key refers to, or an empty name after a fault. The pool must not hash names if
/// the listener reads none.
pub(super) fn refer(
    written: &TableEntry<String>,
    hashing: Hashing,
    listener: &str,
    path: &str,
    pools: &mut Pools,
    found: &mut Findings<'_>,
) -> Arc<str> {
    let Some(pool) = pools.refer(written, || path.to_owned(), found) else { return "".into() };
    let has_authority = pool.hashes_authority && matches!(hashing, Hashing::Authorities);
    let is_tcp = matches!(hashing, Hashing::Authorities | Hashing::NoNames);
    if let (true, false, Some(hash_on)) = (is_tcp, has_authority, pool.hashes_sni) {
        let message = format!("pool `{}` hashes server names, but a tcp listener reads none", pool.name);
        let fault = Diagnostic::new(Code::HashWithoutKey, path, message)
            .label(written.at, format!("used by the tcp listener `{listener}`"));
        // A pool that a file of routes refers to has no position in that file.
        let fault = if hash_on == Span::default() { fault } else { fault.label(hash_on, "hashed here") };
        found.add(fault.help("use hash_on = \"source-ip\", or protocol = \"tls\" on the listener"));
    }
    let (names, used) = match hashing {
        Hashing::Any => (NamedHost::ServerName, format!("used by the listener `{listener}`")),
        Hashing::Unknown => return Arc::clone(&pool.name),
        Hashing::Requests => (NamedHost::Requested, format!("used by the listener `{listener}`")),
        Hashing::Authorities | Hashing::NoNames => {
            (NamedHost::Nothing, format!("used by the tcp listener `{listener}`, which reads no name"))
        }
    };
    PoolReference { written, used, path, names }.check(pool, found);
    Arc::clone(&pool.name)
}

/// Returns true if a route refuses connections by their source or destination, and has no condition that needs a
/// hello.
fn refuses_addresses(route: &Route) -> bool {
    let Route { sni, sni_regex, alpn, ja4, ech, tls_min, source, destination, action, .. } = route;
    let needs_hello = !(sni.is_absent()
        && sni_regex.is_absent()
        && alpn.is_absent()
        && ja4.is_absent()
        && ech.is_absent()
        && tls_min.is_absent());
    let needs_address = !(source.is_absent() && destination.is_absent());
    action.value().is_some() && needs_address && !needs_hello
}

/// The names of a listener's clients that a pool can hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Hashing {
    /// Server names of hellos.
    Any,
    /// The protocol of the listener is not known, because its word is wrong.
    Unknown,
    /// Hosts of requests for tunnels. Such clients go to pools that forward, which hash nothing.
    Requests,
    /// Host names of PROXY headers only.
    Authorities,
    /// None.
    NoNames,
}
