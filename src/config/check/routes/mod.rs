//! Checks routes: their conditions, their targets, and contradictions between them.

use std::collections::HashMap;
use std::sync::Arc;

use super::fall_through::{self, At};
use super::limits::{Common, READ_HEADERS};
use super::listener::{Hashing, refer};
use super::pools::Pools;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{RefusalWord, Route, Share};
use crate::config::findings::Findings;
use crate::config::proxy::TlvKind;
use crate::config::read::{self, ArrayItem, ArrayOf, Key, OneOrMany};
use crate::limit::QuotaSpec;
use crate::route::condition::TlvPattern;
use crate::route::{Conditions, NamePattern, RouteEntry, RouteId, RouteKey, RouteTable, Split};
use crate::snapshot::{ActionSpec, RouteSpec, TargetSpec};

/// The most routes with conditions for one name: they are compared one by one for each connection.
const MOST_ALTERNATIVES: usize = 1000;

/// The most regular expressions of one listener: they are matched one by one for each name that nothing else matches.
const MOST_REGEXES: usize = 100;

/// Checks the routes of one list.
pub(in crate::config) struct RoutesChecker<'a> {
    /// The listener's name.
    pub(in crate::config) listener: &'a str,
    /// The path of the list, such as `listener.tls.routes`.
    pub(in crate::config) path: &'a str,
    /// The names that the listener reads.
    pub(in crate::config) hashing: Hashing,
    /// True if the listener reads PROXY headers.
    pub(in crate::config) reads_headers: bool,
    /// The key of splits.
    pub(in crate::config) hash_key: [u8; 16],
    /// Limits of the process that limits of routes use.
    pub(in crate::config) common: Common,
    /// Routes of the same listener in another file. For a `routes_file`, these are the routes of the configuration.
    pub(in crate::config) others: &'a [RouteSpec],
    /// True if the checked list and `others` are all routes of the listener.
    pub(in crate::config) is_all: bool,
    /// The target of `unmatched`, and its position.
    pub(in crate::config) unmatched: (TargetSpec, Option<Span>),
}

impl RoutesChecker<'_> {
    /// Returns the routes of a list, in written order.
    pub(in crate::config) fn check(
        &self,
        list: &ArrayOf<Route>,
        pools: &mut Pools,
        found: &mut Findings<'_>,
    ) -> Vec<RouteSpec> {
        let mut spans = Vec::with_capacity(list.items.len());
        let mut routes = Vec::with_capacity(list.items.len());
        for (index, item) in list.items.iter().enumerate() {
            let keys = self.keys(index, item, found);
            spans.push(keys.iter().map(|(_, at)| *at).collect::<Vec<_>>());
            let conditions =
                Conditions { proxy_tlv: self.tlvs(index, &item.value, found), ..conditions(&item.value) };
            routes.push(RouteSpec {
                keys: keys.into_iter().map(|(key, _)| key).collect(),
                conditions: (!conditions.is_empty()).then(|| Arc::new(conditions)),
                name: item.value.name.value().map(|name| name.0.as_str().into()),
                action: self.action(index, item, pools, found),
                limits: self.limits(index, &item.value, found),
            });
        }
        // Ties are not reported for routes that lost a condition to a fault, because that condition may be the
        // difference.
        let is_whole = |index: &usize| is_whole(&list.items[*index].value);
        let whole: Vec<usize> = (0..routes.len()).filter(is_whole).collect();
        self.find_ties(&routes, &spans, &whole, found);
        if self.is_all && whole.len() == routes.len() && list.complete {
            self.warn_of_leaks(&routes, &spans, found);
        }
        routes
    }

    /// Returns the names and expressions of a route, each with its position.
    fn keys(&self, index: usize, item: &ArrayItem<Route>, found: &mut Findings<'_>) -> Vec<(RouteKey, Span)> {
        let route = &item.value;
        let names = listed(&route.sni);
        let regexes = listed(&route.sni_regex);
        self.check_hello_keys(index, route, found);
        self.check_header_key(index, route, found);
        self.check_depth(index, route, found);
        self.check_empty(index, route, found);
        self.check_either(index, route, found);
        let is_anything = has_no_condition(route) || names.is_some_and(is_empty);
        if is_anything {
            let (path, help) = match self.hashing {
                Hashing::Any | Hashing::Unknown => (
                    self.key(index, "sni"),
                    "such as: sni = \"mail.example.com\"; other names go to `unmatched`",
                ),
                Hashing::Requests => {
                    (self.key(index, "sni"), "such as: sni = \"db.example.com\"; other hosts go to `pool`")
                }
                Hashing::NoNames | Hashing::Authorities => (
                    self.key(index, "source"),
                    "such as: source = \"10.0.0.0/8\"; other connections go to `pool`",
                ),
            };
            let what = match self.hashing {
                Hashing::Any | Hashing::Unknown | Hashing::Requests => "sni",
                Hashing::NoNames | Hashing::Authorities => "source",
            };
            let fault =
                Diagnostic::new(Code::MissingKey, path, "a route needs a server name or another condition");
            found.add(fault.label(item.at, format!("`{what}` is missing")).help(help));
        }
        let of_depth = |pattern: &NamePattern| match route.depth {
            Key::Good(_) => pattern.clone().of_depth_1(),
            _ => pattern.clone(),
        };
        let names = names.map_or(&[][..], |list| &list.items);
        let names = names.iter().map(|name| (RouteKey::Name(of_depth(&name.value.0)), name.at));
        let regexes = regexes.map_or(&[][..], |list| &list.items);
        let regexes = regexes.iter().map(|regex| (RouteKey::Regex(regex.value.0.clone()), regex.at));
        let mut keys: Vec<_> = names.chain(regexes).collect();
        if keys.is_empty() && route.sni.is_absent() && route.sni_regex.is_absent() && !is_anything {
            keys.push((RouteKey::Any, item.at));
        }
        keys
    }

    /// Adds a fault for each empty list. A program may have written the list, and an empty one must not match
    /// everything.
    fn check_empty(&self, index: usize, route: &Route, found: &mut Findings<'_>) {
        let keys = [
            ("sni_regex", listed(&route.sni_regex).is_some_and(is_empty), route.sni_regex.place()),
            ("source", listed(&route.source).is_some_and(is_empty), route.source.place()),
            ("destination", listed(&route.destination).is_some_and(is_empty), route.destination.place()),
            ("alpn", listed(&route.alpn).is_some_and(is_empty), route.alpn.place()),
            ("ja4", listed(&route.ja4).is_some_and(is_empty), route.ja4.place()),
        ];
        for (key, _, place) in keys.into_iter().filter(|(_, is_empty, _)| *is_empty) {
            let path = self.key(index, key);
            let fault =
                Diagnostic::new(Code::BadCondition, path, format!("`{key}` is empty, so nothing matches"));
            let fault = fault.label(place.unwrap_or_default(), "");
            found.add(fault.help("without the key, everything matches"));
        }
    }

    fn tlvs(&self, index: usize, route: &Route, found: &mut Findings<'_>) -> Vec<TlvPattern> {
        let named = route.proxy_tlv.value().map_or(&[][..], |tlvs| &tlvs.0);
        let mut patterns: Vec<TlvPattern> = Vec::with_capacity(named.len());
        for tlv in named {
            let path = self.key(index, &format!("proxy_tlv.{}", tlv.name));
            let kind = TlvKind::of_number(&tlv.name);
            let Some(kind) = kind.filter(|kind| patterns.iter().all(|other| other.kind != *kind)) else {
                let is_doubled = kind.is_some();
                let message = format!("{:?} is not a kind of TLV", tlv.name);
                let label = if is_doubled { "it is there already" } else { "" };
                let fault = Diagnostic::new(Code::BadCondition, path, message).label(tlv.place, label);
                let help = "write its number: \"0xEA\" is AWS, \"0xEE\" Azure, \"0xE0\" Google Cloud";
                found.add(fault.help(help));
                continue;
            };
            let Some(OneOrMany(list)) = &tlv.table else { continue };
            if is_empty(list) {
                let message = format!("`proxy_tlv.{}` is empty, so nothing matches", tlv.name);
                found.add(Diagnostic::new(Code::BadCondition, path, message).label(tlv.place, ""));
            }
            let values = list.items.iter().map(|item| item.value.0.to_vec().into()).collect();
            patterns.push(TlvPattern { kind, values });
        }
        patterns
    }

    /// Adds a fault for a route with names and expressions. All conditions of a route must match, and these two would
    /// be alternatives.
    fn check_either(&self, index: usize, route: &Route, found: &mut Findings<'_>) {
        let (Some(names), Some(regexes)) = (route.sni.place(), route.sni_regex.place()) else { return };
        let message = "a route may have `sni` or `sni_regex`, not both";
        let fault = Diagnostic::new(Code::NameAndRegex, self.key(index, "sni_regex"), message);
        let fault = fault.label(regexes, "an expression").label(names, "and names");
        found.add(fault.help(
            "write one route for the names and another for the expression: all conditions of a route must match",
        ));
    }

    fn check_depth(&self, index: usize, route: &Route, found: &mut Findings<'_>) {
        let (Some(depth), Some(names)) = (route.depth.entry(), listed(&route.sni)) else {
            if let (Some(depth), true) = (route.depth.entry(), route.sni.is_absent()) {
                let fault = Diagnostic::new(
                    Code::MisplacedKey,
                    self.key(index, "depth"),
                    "`depth` is not allowed in a route without `sni`",
                );
                found.add(fault.label(depth.key, ""));
            }
            return;
        };
        let is_exact = |name: &&ArrayItem<_>| {
            matches!(name.value, crate::config::words::SniPattern(NamePattern::Exact(_)))
        };
        if let Some(exact) = names.items.iter().find(is_exact) {
            let message = "`depth` applies to names with a star, and this name has none";
            let fault = Diagnostic::new(Code::MisplacedKey, self.key(index, "depth"), message);
            found.add(fault.label(exact.at, "no star here").label(depth.key, ""));
        }
    }

    /// Adds a fault for each condition that needs a hello, if the listener reads none. A host that clients request has a
    /// name too.
    fn check_hello_keys(&self, index: usize, route: &Route, found: &mut Findings<'_>) {
        let (reads_names, listener) = match self.hashing {
            Hashing::Any | Hashing::Unknown => return,
            Hashing::Requests => (true, "listener"),
            Hashing::NoNames | Hashing::Authorities => (false, "tcp listener"),
        };
        let keys = [
            ("sni", route.sni.place().filter(|_| !reads_names)),
            ("sni_regex", route.sni_regex.place().filter(|_| !reads_names)),
            ("alpn", route.alpn.place()),
            ("ja4", route.ja4.place()),
            ("ech", route.ech.place()),
            ("tls_min", route.tls_min.place()),
        ];
        for (key, place) in keys {
            let Some(place) = place else { continue };
            let message = format!(
                "`{key}` is not allowed on the {listener} `{}`, which reads no hellos",
                self.listener
            );
            let fault = Diagnostic::new(Code::MisplacedKey, self.key(index, key), message).label(place, "");
            found.add(fault.help("to read hellos, write: protocol = \"tls\""));
        }
    }

    /// Adds a fault for `proxy_tlv` on a listener without `proxy_protocol`: it reads no header, and no connection
    /// would match.
    fn check_header_key(&self, index: usize, route: &Route, found: &mut Findings<'_>) {
        let Some(place) = route.proxy_tlv.place().filter(|_| !self.reads_headers) else { return };
        let message = format!(
            "`proxy_tlv` is not allowed on listener `{}`, which reads no PROXY headers",
            self.listener
        );
        let fault = Diagnostic::new(Code::MisplacedKey, self.key(index, "proxy_tlv"), message);
        found.add(fault.label(place, "no connection would match").help(READ_HEADERS));
    }

    fn action(
        &self,
        index: usize,
        item: &ArrayItem<Route>,
        pools: &mut Pools,
        found: &mut Findings<'_>,
    ) -> ActionSpec {
        let route = &item.value;
        let spans = [route.pool.place(), route.split.place(), route.action.place()];
        let written: Vec<Span> = spans.into_iter().flatten().collect();
        let is_any_wrong = [&route.pool].iter().any(|key| matches!(key, Key::Wrong))
            || matches!(route.split, Key::Wrong)
            || matches!(route.action, Key::Wrong);
        if written.is_empty() && !is_any_wrong {
            let fault = Diagnostic::new(Code::MissingKey, self.key(index, "pool"), "a route needs a pool");
            found.add(
                fault
                    .label(item.at, "`pool` is missing")
                    .help("or write `split` with several pools, or: action = \"reject\""),
            );
        }
        if let [first, second, ..] = *written {
            let message = "a route must have exactly one of `pool`, `split` and `action`";
            let fault = Diagnostic::new(Code::RouteTarget, self.key(index, "pool"), message);
            found.add(fault.label(second, "a second one").label(first, "one here"));
        }
        if let Some(split) = route.split.entry() {
            return self.split(index, split, pools, found);
        }
        match route.action.value() {
            Some(choice) if choice.0 == RefusalWord::Reject => ActionSpec::Reject,
            Some(_) => ActionSpec::Drop,
            None => ActionSpec::Pool(self.pool(&route.pool, &self.key(index, "pool"), pools, found)),
        }
    }

    fn limits(&self, index: usize, route: &Route, found: &mut Findings<'_>) -> Option<QuotaSpec> {
        if let (Some(limits), false) = (route.limits.place(), route.action.is_absent()) {
            let message = "`limits` has no effect in a route that refuses its connections";
            let warning = Diagnostic::new(Code::IdleSetting, self.key(index, "limits"), message);
            found.add(warning.label(limits, ""));
        }
        self.common.quota(&route.limits, &format!("{}[{index}]", self.path), found)
    }

    fn split(
        &self,
        index: usize,
        read::TableEntry { key, value: split, .. }: &read::TableEntry<ArrayOf<Share>>,
        pools: &mut Pools,
        found: &mut Findings<'_>,
    ) -> ActionSpec {
        let path = self.key(index, "split");
        let weights =
            |share: &ArrayItem<Share>| share.value.weight.value().map_or(1, |weight| weight.0 as u32);
        if split.complete && split.items.iter().all(|share| weights(share) == 0) {
            let fault = Diagnostic::new(Code::NoWeight, &path, "no pool of this split would get connections");
            found.add(match split.items.first() {
                Some(share) => fault.label(share.at, "every weight is 0"),
                None => fault.label(*key, "it is empty"),
            });
        }
        let mut names = Vec::with_capacity(split.items.len());
        for (at, share) in split.items.iter().enumerate() {
            let path = format!("{path}[{at}].pool");
            if share.value.pool.is_absent() {
                let fault = Diagnostic::new(Code::MissingKey, &path, "a share needs a pool");
                found.add(fault.label(share.at, "`pool` is missing"));
            }
            names.push(self.pool(&share.value.pool, &path, pools, found));
        }
        ActionSpec::Split(Split::new(self.hash_key, split.items.iter().map(weights)), names)
    }

    fn pool(
        &self,
        written: &Key<String>,
        path: &str,
        pools: &mut Pools,
        found: &mut Findings<'_>,
    ) -> Arc<str> {
        let Some(written) = written.entry() else { return "".into() };
        refer(written, self.hashing, self.listener, path, pools, found)
    }

    /// Adds a fault for each route that could match a connection equally well as an earlier route.
    fn find_ties(
        &self,
        routes: &[RouteSpec],
        spans: &[Vec<Span>],
        whole: &[usize],
        found: &mut Findings<'_>,
    ) {
        let elsewhere: usize = self.others.iter().map(|route| route.keys.len()).sum();
        let whole_spans: Vec<(usize, Span)> =
            whole.iter().flat_map(|&index| spans[index].iter().map(move |span| (index, *span))).collect();
        let place = |RouteId(id): RouteId| whole_spans.get((id as usize).checked_sub(elsewhere)?);
        let all = || self.others.iter().chain(whole.iter().map(|&index| &routes[index]));
        if let Some((key, _)) = overfull_name(all()) {
            let message =
                format!("listener `{}` has too many routes with conditions for `{key}`", self.listener);
            let fault = Diagnostic::new(Code::ManyAlternatives, self.path, message);
            let first = whole_spans.first().map_or(Span::default(), |(_, span)| *span);
            found.add(fault.label(first, format!("at most {MOST_ALTERNATIVES} for one name")));
            return;
        }
        let regexes =
            all().flat_map(|route| &route.keys).filter(|key| matches!(key, RouteKey::Regex(_))).count();
        if regexes > MOST_REGEXES {
            let message = format!("listener `{}` has {regexes} regular expressions", self.listener);
            let fault = Diagnostic::new(Code::ManyAlternatives, self.path, message);
            let first = whole_spans.first().map_or(Span::default(), |(_, span)| *span);
            found.add(fault.label(first, format!("at most {MOST_REGEXES}")));
            return;
        }
        let Err(ties) = RouteTable::build(entries(all())) else { return };
        for tie in ties {
            let Some(&(index, second)) = place(tie.second) else { continue };
            let message = match tie.key {
                RouteKey::Any => {
                    format!("listener `{}` has two routes that match equally well", self.listener)
                }
                ref key => format!("listener `{}` has two routes for `{key}`", self.listener),
            };
            let fault = Diagnostic::new(Code::EqualRoutes, self.key(index, "sni"), message);
            let fault = fault.label(second, "again here");
            let fault = match place(tie.first) {
                Some(&(_, first)) => fault.label(first, "first here"),
                None => {
                    let at = self.other(tie.first);
                    let listener = self.listener;
                    fault.help(format!(
                        "the first route is in the configuration: listener.{listener}.routes[{at}]"
                    ))
                }
            };
            let has_conditions = routes[index].conditions.is_some();
            found.add(if has_conditions {
                fault.help(
                    "both routes have the same conditions or share a value, so a connection could match both",
                )
            } else {
                fault
            });
        }
    }

    fn warn_of_leaks(&self, routes: &[RouteSpec], spans: &[Vec<Span>], found: &mut Findings<'_>) {
        let (unmatched, key) = &self.unmatched;
        for leak in fall_through::leaks(routes, unmatched) {
            let (route, key_of_route) = leak.narrow;
            let is_regex = matches!(routes[route].keys[key_of_route], RouteKey::Regex(_));
            let path = self.key(route, if is_regex { "sni_regex" } else { "sni" });
            let place = |at: Option<At>| match at {
                Some((route, key)) => spans.get(route)?.get(key).copied(),
                None => *key,
            };
            found.add(fall_through::warning(routes, &leak, path, place));
        }
    }

    /// Returns the position in `others` of the route that has the name with this number.
    fn other(&self, RouteId(id): RouteId) -> usize {
        let ends = self.others.iter().scan(0, |end, route| {
            *end += route.keys.len();
            Some(*end)
        });
        ends.take_while(|&end| end <= id as usize).count()
    }

    fn key(&self, index: usize, key: &str) -> String {
        format!("{}[{index}].{key}", self.path)
    }
}

/// Returns all names of routes, numbered in their order.
pub(in crate::config) fn entries<'r>(
    routes: impl Iterator<Item = &'r RouteSpec>,
) -> impl Iterator<Item = RouteEntry> {
    let keys = routes.flat_map(|route| route.keys.iter().map(move |key| (key, &route.conditions)));
    keys.zip(0..).map(|((key, conditions), id)| RouteEntry {
        key: key.clone(),
        conditions: conditions.clone(),
        route: RouteId(id),
    })
}

/// Returns a name that has more than [`MOST_ALTERNATIVES`] routes with conditions, and their number.
fn overfull_name<'r>(routes: impl Iterator<Item = &'r RouteSpec>) -> Option<(String, usize)> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for route in routes.filter(|route| route.conditions.is_some()) {
        for key in &route.keys {
            *counts.entry(key.to_string()).or_default() += 1;
        }
    }
    counts.into_iter().find(|(_, count)| *count > MOST_ALTERNATIVES)
}

fn has_no_condition(route: &Route) -> bool {
    route.sni.is_absent()
        && route.sni_regex.is_absent()
        && route.proxy_tlv.is_absent()
        && route.source.is_absent()
        && route.destination.is_absent()
        && route.alpn.is_absent()
        && route.ja4.is_absent()
        && route.ech.is_absent()
        && route.tls_min.is_absent()
}

/// Returns true if each written condition could be read.
fn is_whole(route: &Route) -> bool {
    fn is_read<T>(key: &Key<OneOrMany<T>>) -> bool {
        key.is_absent() || listed(key).is_some_and(|list| list.complete)
    }
    let is_tlv_read = match &route.proxy_tlv {
        Key::Absent => true,
        Key::Wrong => false,
        Key::Good(entry) => entry.value.0.iter().all(|tlv| {
            TlvKind::of_number(&tlv.name).is_some() && tlv.table.as_ref().is_some_and(|list| list.0.complete)
        }),
    };
    is_tlv_read
        && is_read(&route.source)
        && is_read(&route.destination)
        && is_read(&route.alpn)
        && is_read(&route.ja4)
        && !matches!(route.depth, Key::Wrong)
        && !matches!(route.ech, Key::Wrong)
        && !matches!(route.tls_min, Key::Wrong)
}

fn is_empty<T>(list: &ArrayOf<T>) -> bool {
    list.items.is_empty() && list.complete
}

fn listed<T>(key: &Key<OneOrMany<T>>) -> Option<&ArrayOf<T>> {
    key.value().map(|many| &many.0)
}

fn conditions(route: &Route) -> Conditions {
    fn all<T, U>(key: &Key<OneOrMany<T>>, value: impl Fn(&T) -> U) -> Vec<U> {
        listed(key).map_or(Vec::new(), |list| list.items.iter().map(|item| value(&item.value)).collect())
    }
    Conditions {
        proxy_tlv: Vec::new(),
        source: all(&route.source, |network| network.0).into_iter().collect(),
        destination: all(&route.destination, |reached| reached.0),
        alpn: all(&route.alpn, |name| name.0.as_bytes().into()),
        ja4: all(&route.ja4, |fingerprint| fingerprint.0.clone()),
        ech: route.ech.value().copied(),
        tls_min: route.tls_min.value().map(|version| version.0),
    }
}

#[cfg(test)]
mod tests;
