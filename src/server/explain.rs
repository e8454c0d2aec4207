//! Explains what happens to a connection, with a configuration alone or with the state of the running process.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::build::{self, FoundPools};
use super::build_fault::BuildFault;
use super::inherited::InheritedState;
use super::overrides::{OverrideKey, OverrideTable};
use super::view::{LifeStage, View};
use crate::config::{Config, did_you_mean};
use crate::conn::explain::{ExplainRequest, ExplainedState, Explanation, explain};
use crate::snapshot::{Policy, Snapshot};
use crate::sys::Address;
use crate::telemetry::Metrics;

/// The most listeners that a message names.
const MOST_NAMED: usize = 20;

/// The fault of a listener that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no listener is named `{name}`; {}", self.existing())]
pub struct UnknownListener {
    name: String,
    /// The names that exist, sorted.
    names: Vec<Arc<str>>,
}

impl UnknownListener {
    /// Returns the names that exist, the nearest one apart.
    fn existing(&self) -> String {
        let names: Vec<_> = self.names.iter().take(MOST_NAMED).map(|name| format!("`{name}`")).collect();
        let more = self.names.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let listed = match &*names {
            [] => "there is no listener".to_owned(),
            [only] => format!("the only listener is {only}"),
            _ => format!("the listeners are {}{more}", names.join(", ")),
        };
        match did_you_mean(&self.name, self.names.iter().map(|name| &**name)) {
            Some(nearest) => format!("did you mean `{nearest}`? {listed}"),
            None => listed,
        }
    }
}

/// A configuration that is built and not in force: nothing is bound, and no thread runs.
pub struct ExplainedConfig {
    config: Config,
    snapshot: Snapshot,
}

impl ExplainedConfig {
    /// Builds the snapshot of a configuration as a start does. Backends of discovery sources are not found.
    ///
    /// # Errors
    ///
    /// A fault that the checks of the configuration did not find.
    pub fn build(config: Config) -> Result<Self, BuildFault> {
        let (inherited, metrics) = (InheritedState::default(), Metrics::new());
        let inputs = build::BuildInputs {
            config: &config,
            inherited: &inherited,
            overrides: &OverrideTable::new(),
            metrics: &metrics,
        };
        let snapshot = build::snapshot(&Snapshot::default(), FoundPools::new(), inputs)?;
        Ok(Self { config, snapshot })
    }

    /// Explains what happens to a client of a listener. All backends count as up, and no connection is open.
    ///
    /// # Errors
    ///
    /// The configuration has no such listener.
    pub fn explain(&self, listener: &str, request: &ExplainRequest) -> Result<Explanation, UnknownListener> {
        let policy = find_listener(&self.snapshot, listener)?;
        let own = self.config.listeners.iter().find(|spec| *spec.name == *listener);
        let request = with_destination(request, own.map_or(&[], |spec| &spec.binds));
        Ok(explain(&request, policy, ExplainedState::Configuration))
    }

    /// Returns the name of a route in the log, by its position among the names of all routes of a listener.
    pub fn route_name(&self, listener: &str, index: usize) -> Option<Arc<str>> {
        let policy = find_listener(&self.snapshot, listener).ok()?;
        Some(Arc::clone(&policy.protocol.routes().targets.get(index)?.route))
    }
}

/// Explains what happens to a client of a listener of the running process now.
///
/// # Errors
///
/// The process has no such listener.
pub fn explain_running(
    view: &View,
    listener: &str,
    request: &ExplainRequest,
) -> Result<Explanation, UnknownListener> {
    let snapshot = view.snapshot.load_full();
    let policy = find_listener(&snapshot, listener)?;
    let addresses = view.addresses();
    let request = with_destination(request, addresses.get(listener).map_or(&[], |own| own));
    let mut explanation = explain(&request, policy, ExplainedState::Running(&view.bounds));
    let split = explanation.route.as_ref().filter(|report| !report.split.is_empty());
    let route = split.and_then(|report| report.route.as_deref());
    let set = route.and_then(|route| view.overrides.get(&OverrideKey::of_route(listener, route)));
    if let Some(set) = set {
        explanation.notes.push(format!("the shares of the split are those of an operator ({})", set.by));
    }
    let note = match view.life() {
        LifeStage::Serving => return Ok(explanation),
        LifeStage::Starting => "the process starts: connections wait until it serves",
        LifeStage::Draining => "the process drains: it accepts no new connections, or soon none",
    };
    explanation.notes.push(note.to_owned());
    Ok(explanation)
}

/// Returns the policy of a listener.
///
/// # Errors
///
/// The snapshot has no such listener.
pub fn find_listener<'a>(snapshot: &'a Snapshot, listener: &str) -> Result<&'a Policy, UnknownListener> {
    let policy = snapshot.policies.values().find(|policy| *policy.listener == *listener);
    policy.map(|policy| &**policy).ok_or_else(|| {
        let names: BTreeSet<_> = snapshot.policies.values().map(|policy| &policy.listener).collect();
        UnknownListener { name: listener.to_owned(), names: names.into_iter().cloned().collect() }
    })
}

/// Adds the address that clients connect to, if the listener has only one and the request has none.
fn with_destination(request: &ExplainRequest, addresses: &[Address]) -> ExplainRequest {
    let is_whole = |address: &SocketAddr| !address.ip().is_unspecified() && address.port() != 0;
    let only = match addresses {
        [only] => only.tcp().filter(is_whole),
        _ => None,
    };
    ExplainRequest { destination: request.destination.or(only), ..request.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::conn::explain::{ExplainedHello, ExplainedSource};
    use crate::wire::made_hello;

    const TLS: &str = "[listener.tls]\nbind = '192.0.2.1:443'\nprotocol = 'tls'\n";

    /// Pools that each route of the tests may lead to.
    const POOLS: &str = "[pool.a]\nbackends = ['10.0.0.1:1', '10.0.0.2:1']\n";

    fn built(text: &str) -> ExplainedConfig {
        let (config, _) = config::parse("c.toml", text).unwrap_or_else(|faults| panic!("{faults}"));
        ExplainedConfig::build(config).unwrap()
    }

    fn request(source: &str, sni: &str, alpn: &[&str]) -> ExplainRequest {
        let ExplainedSource(source) = source.parse().unwrap();
        let alpn = alpn.iter().map(|&protocol| protocol.to_owned()).collect();
        let server_name = (!sni.is_empty()).then(|| sni.parse().unwrap());
        let hello = ExplainedHello::Made { server_name, alpn };
        ExplainRequest { source, destination: None, hello, requested: None }
    }

    fn captured(bytes: &[u8]) -> ExplainRequest {
        ExplainRequest { hello: ExplainedHello::Captured(bytes.to_vec()), ..request("203.0.113.7", "", &[]) }
    }

    /// Returns the report for a client of the listener `tls` with these keys.
    fn of_tls(keys: &str, request: &ExplainRequest) -> Explanation {
        built(&format!("{TLS}{keys}\n{POOLS}")).explain("tls", request).unwrap()
    }

    /// Returns the word of the refusal; empty for a client that is served.
    fn outcome(explanation: &Explanation) -> &str {
        let refused = explanation.refused.as_ref().map(|refused| refused.close);
        assert_eq!(explanation.served, refused.is_none(), "{explanation:?}");
        refused.unwrap_or_default()
    }

    fn check(keys: &str, request: &ExplainRequest, expected: &str) {
        let explanation = of_tls(keys, request);
        assert_eq!(outcome(&explanation), expected, "{keys}: {explanation:#?}");
    }

    #[test]
    fn requests_for_tunnels_are_explained() {
        let listener = "[listener.out]\nbind = '127.0.0.1:1080'\nprotocol = 'socks5'\npool = 'out'\n\
                        routes = [{ sni = '*.shut.test', action = 'reject' }]\n";
        let rules = "allow = '*.test', ports = [443, 8443], allow_networks = '198.51.100.0/24'";
        let explained = |keys: &str, target: Option<&str>| {
            let config =
                built(&format!("{listener}[pool.out]\nforward = {{ to = 'requested', {rules}{keys} }}\n"));
            let requested = target.map(|target| target.parse().unwrap());
            let request = ExplainRequest { requested, ..request("203.0.113.7", "", &[]) };
            config.explain("out", &request).unwrap()
        };
        let check = |target: &str, expected: &str| {
            let explanation = explained("", Some(target));
            assert_eq!(outcome(&explanation), expected, "{target}");
            assert_eq!(explanation.server_name.as_deref(), target.rsplit_once(':').map(|(host, _)| host));
            let host = explanation.pick.and_then(|pick| pick.host);
            assert_eq!(host.as_deref(), expected.is_empty().then_some(target));
        };
        check("api.test:443", "");
        check("api.test:8443", "");
        check("198.51.100.7:443", "");
        check("api.test:22", "port_not_allowed");
        check("api.example:443", "name_not_allowed");
        check("203.0.113.9:443", "address_not_allowed");
        check("a.shut.test:443", "route_rejected");
        assert_eq!(outcome(&explained("", None)), "opening_truncated");
        let reports = explained(", mode = 'report'", Some("api.example:22"));
        assert_eq!(outcome(&reports), "");
    }

    #[test]
    fn lists_and_networks_are_checked_and_not_counted() {
        let lists = "unmatched = 'a'\ndeny = ['bad', '198.51.100.0/24']\nallow = ['good', '192.0.2.0/24']\n\
                     [list.bad]\nentries = ['192.0.2.66']\n[list.good]\nentries = ['203.0.113.0/24']";
        let config = built(&format!("{TLS}{lists}\n{POOLS}"));
        let decided = |source: &str| {
            let explanation = config.explain("tls", &request(source, "db.example.com", &[])).unwrap();
            let admission = &explanation.admission;
            assert_eq!(admission.admitted, admission.denied_by.is_none());
            assert_eq!(explanation.route.is_some(), admission.admitted, "a refusal ends the report");
            (outcome(&explanation).to_owned(), admission.denied_by, admission.list.clone())
        };
        assert_eq!(decided("203.0.113.7"), (String::new(), None, None));
        assert_eq!(decided("192.0.2.1"), (String::new(), None, None));
        assert_eq!(decided("192.0.2.66"), ("denied".to_owned(), Some("list"), Some("bad".to_owned())));
        assert_eq!(decided("198.51.100.1"), ("denied".to_owned(), Some("networks"), None));
        assert_eq!(decided("10.0.0.1"), ("not_allowed".to_owned(), Some("not_allowed"), None));
        assert_eq!(decided("unix"), (String::new(), None, None));
        assert_eq!(config.snapshot.lists["bad"].kept.refusals(), 0);
    }

    #[test]
    fn fingerprints_are_denied() {
        let client = request("203.0.113.7", "db.example.com", &["h2"]);
        check("unmatched = 'a'\ndeny_ja4 = 't13d*'", &client, "denied");
        check("unmatched = 'a'\ndeny_ja4 = 't12d*'", &client, "");
        let note = of_tls("unmatched = 'a'\ndeny_ja4 = 't12d*'", &client).notes.pop().unwrap();
        assert!(note.contains("the hello is made up"), "{note}");
    }

    #[test]
    fn a_captured_hello_is_read_as_the_listener_reads_it() {
        let hello = made_hello(Some(&"db.example.com".parse().unwrap()), &[b"h2"]);
        let keys = "unmatched = 'a'";
        let explanation = of_tls(keys, &captured(&hello));
        assert_eq!(explanation.server_name.as_deref(), Some("db.example.com"));
        assert_eq!(explanation.alpn, ["h2"]);
        check(keys, &captured(&hello), "");
        check(keys, &captured(&hello[..hello.len() - 1]), "hello_truncated");
        check(keys, &captured(b"GET / HTTP/1.1"), "not_tls");
        check(keys, &captured(&[&hello[..5], &[2; 200]].concat()), "hello_malformed");
        let bad_name = String::from_utf8_lossy(&hello).find("db.").unwrap();
        let mut bad = hello.clone();
        bad[bad_name] = b' ';
        check(keys, &captured(&bad), "bad_name");
        let long = made_hello(None, &[&[b'x'; 255][..]; 100]);
        let record = |fragment: &[u8]| {
            let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
            [&[22, 3, 1], length.as_slice(), fragment].concat()
        };
        let long: Vec<u8> = long[5..].chunks(16_000).flat_map(record).collect();
        check(keys, &captured(&long), "hello_too_large");
        check("unmatched = 'a'\nno_sni = 'a'\nhello_max_size = 65536", &captured(&long), "");
    }

    #[test]
    fn each_kind_of_target_is_found() {
        let routes = "routes = [{ sni = 'shut.example', action = 'reject' }, { sni = 'gone.example', action = 'drop' }, \
                      { sni = 'new.example', tls_min = '1.3', pool = 'a' }]";
        let named = |sni: &str| request("203.0.113.7", sni, &[]);
        check(routes, &named("shut.example"), "route_rejected");
        check(routes, &named("gone.example"), "route_dropped");
        check(routes, &named("new.example"), "");
        check(routes, &named("other.example"), "unmatched_sni");
        check(routes, &named(""), "no_sni");
        let by = |keys: &str, sni: &str| of_tls(keys, &named(sni)).route.unwrap().by;
        let all = "routes = [{ sni = 'a.example', pool = 'a' }, { sni = '*.b.example', depth = 1, pool = 'a' }, \
                   { sni = '*.example', pool = 'a' }, { sni_regex = 'x[0-9]+', pool = 'a' }, \
                   { source = '10.0.0.0/8', pool = 'a' }]\nunmatched = 'a'\nno_sni = 'a'";
        let names = ["a.example", "x.b.example", "x.y.b.example", "x7", "y", ""];
        assert_eq!(
            names.map(|sni| by(all, sni)),
            ["exact", "child", "below", "regex", "unmatched", "no_sni"]
        );
        let near = of_tls(all, &request("10.0.0.1", "y", &[])).route.unwrap();
        assert_eq!((near.by, near.route.as_deref(), near.index), ("any", Some("*+source"), Some(4)));
    }

    #[test]
    fn an_old_client_is_refused_by_its_version() {
        let mut hello = made_hello(Some(&"new.example".parse().unwrap()), &[]);
        let versions = hello.windows(5).position(|window| window == [4, 3, 4, 3, 3]).unwrap();
        hello[versions + 2] = 3;
        let keys = "routes = [{ sni = 'new.example', tls_min = '1.3', pool = 'a' }]\nunmatched = 'a'";
        check(keys, &captured(&hello), "tls_too_old");
        let route = of_tls(keys, &captured(&hello)).route.unwrap();
        assert_eq!((route.route, route.others[0].unmet.as_slice()), (None, &["tls_min"][..]));
    }

    #[test]
    fn the_other_routes_have_reasons() {
        let routes = (0..30).map(|number| format!("{{ sni = 'n{number}.example', pool = 'a' }}"));
        let near = "{ sni = 'n7.example', source = '10.0.0.0/8', destination = '192.0.2.1', pool = 'a' }";
        let keys = format!("routes = [{}, {near}]\nunmatched = 'a'", routes.collect::<Vec<_>>().join(", "));
        let route = of_tls(&keys, &request("203.0.113.7", "n7.example", &[])).route.unwrap();
        assert_eq!(route.index, Some(7));
        let first = &route.others[0];
        assert_eq!((first.index, first.reason, &*first.unmet), (30, "conditions", &["source"][..]));
        let rest: Vec<_> = route.others[1..].iter().map(|other| (other.index, other.reason)).collect();
        assert_eq!(rest, [0, 1, 2, 3, 4].map(|index| (index, "name")));
        assert_eq!(route.more, 31 - 1 - 6);
        let near = of_tls(&keys, &request("10.0.0.7", "n7.example", &[])).route.unwrap();
        assert_eq!((near.index, near.others[0].reason), (Some(30), "wider_conditions"));
    }

    #[test]
    fn the_destination_is_the_only_address_of_the_listener() {
        let keys = "routes = [{ destination = ':443', pool = 'a' }]";
        let client = request("203.0.113.7", "db.example", &[]);
        check(keys, &client, "");
        let elsewhere =
            ExplainRequest { destination: Some("192.0.2.1:444".parse().unwrap()), ..client.clone() };
        check(keys, &elsewhere, "unmatched_sni");
        let several = TLS.replace("'192.0.2.1:443'", "':443'");
        let explanation = built(&format!("{several}{keys}\n{POOLS}")).explain("tls", &client).unwrap();
        assert_eq!(outcome(&explanation), "unmatched_sni");
        assert!(explanation.notes.iter().any(|note| note.contains("--destination")), "{explanation:#?}");
    }

    #[test]
    fn pools_without_a_backend_refuse_unless_their_backends_are_discovered() {
        let client = request("203.0.113.7", "db.example", &[]);
        let pool = |backends: &str| format!("unmatched = 'b'\n[pool.b]\nbackends = [{backends}]");
        check(&pool("{ address = '10.0.0.1:1', state = 'drain' }"), &client, "no_backend");
        let explanation = of_tls(&pool("'db.example.com:5432'"), &client);
        assert_eq!(outcome(&explanation), "");
        assert!(explanation.pick.unwrap().backend.is_none());
        let notes = explanation.notes.join("\n");
        assert!(notes.contains("host names and discovery sources of pool b are not resolved"), "{notes}");
        let both = of_tls(&pool("'db.example.com:5432', '10.0.0.1:1'"), &client);
        assert_eq!(both.pick.unwrap().backend.unwrap().name, "10.0.0.1:1");
    }

    #[test]
    fn a_forwarding_pool_has_the_host_that_the_client_names() {
        let keys = "unmatched = 'f'\n[pool.f]\nforward = { port = 443, allow = '*.example.com' }";
        let explanation = of_tls(keys, &request("203.0.113.7", "a.example.com", &[]));
        assert_eq!(outcome(&explanation), "");
        assert_eq!(explanation.pick.unwrap().host.as_deref(), Some("a.example.com:443"));
        check(keys, &request("203.0.113.7", "a.example.org", &[]), "name_not_allowed");
    }

    #[test]
    fn a_port_that_is_hashed_and_not_known_has_a_note() {
        let keys = "unmatched = 'b'\n[pool.b]\nhash_on = 'source-ip-port'\nbackends = ['10.0.0.1:1']";
        let notes = |source: &str| of_tls(keys, &request(source, "", &[])).notes.len();
        assert_eq!(notes("203.0.113.7"), notes("203.0.113.7:1"), "without a name nothing is served");
        let notes = |source: &str| of_tls(keys, &request(source, "db.example", &[])).notes;
        assert!(notes("203.0.113.7").pop().unwrap().contains("ADDRESS:PORT"));
        assert!(!notes("203.0.113.7:1").join(" ").contains("ADDRESS:PORT"));
    }

    #[test]
    fn an_unknown_listener_names_those_that_exist() {
        let config = |names: &[&str]| {
            let listener = |(port, name): (usize, &&str)| {
                format!("[listener.{name}]\nbind = '192.0.2.1:{}'\npool = 'a'\n", port + 1)
            };
            built(&(names.iter().enumerate().map(listener).collect::<String>() + POOLS))
        };
        let check = |names: &[&str], wanted: &str, expected: &str| {
            let fault = config(names).explain(wanted, &request("unix", "", &[])).unwrap_err();
            assert_eq!(fault.to_string(), expected);
        };
        check(
            &["tls", "web"],
            "tsl",
            "no listener is named `tsl`; did you mean `tls`? the listeners are `tls`, `web`",
        );
        check(&["main"], "xyz", "no listener is named `xyz`; the only listener is `main`");
        let many: Vec<_> = (10..40).map(|number| format!("n{number}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let fault = config(&many).explain("zzz", &request("unix", "", &[])).unwrap_err().to_string();
        assert!(fault.ends_with("`n28`, `n29` and 10 more"), "{fault}");
    }
}
