use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::route::IpPrefix;
use crate::wire::{Offer, TlsVersion};

fn table(patterns: &[&str]) -> RouteTable {
    let parsed = patterns.iter().map(|pattern| pattern.parse().unwrap());
    let entries = parsed.zip((0..).map(RouteId));
    RouteTable::build(entries.map(|(pattern, route)| RouteEntry::plain(pattern, route))).unwrap()
}

fn find(table: &RouteTable, name: &str) -> RouteMatch {
    table.find(Some(&name.parse().unwrap()), &ConnectionFacts::default())
}

#[test]
fn the_most_specific_pattern_wins() {
    let patterns = ["a.example.com", "*.example.com", "*.b.example.com", "x.b.example.com", "*.net", "host"];
    let table = table(&patterns);
    let check = |name: &str, expected: Option<&str>| {
        let found = match find(&table, name) {
            RouteMatch::Route(route) => Some(patterns[route.0 as usize]),
            _ => None,
        };
        assert_eq!(found, expected, "{name}");
    };
    check("a.example.com", Some("a.example.com"));
    check("A.EXAMPLE.com.", Some("a.example.com"));
    check("c.example.com", Some("*.example.com"));
    check("d.c.example.com", Some("*.example.com"));
    check("b.a.example.com", Some("*.example.com"));
    check("b.example.com", Some("*.example.com"));
    check("y.b.example.com", Some("*.b.example.com"));
    check("z.y.b.example.com", Some("*.b.example.com"));
    check("x.b.example.com", Some("x.b.example.com"));
    check("w.x.b.example.com", Some("*.b.example.com"));
    check("example.com", None);
    check("com", None);
    check("badexample.com", None);
    check("example.com.org", None);
    check("example.net", Some("*.net"));
    check("a.b.c.d.e.f.g.h.net", Some("*.net"));
    check("net", None);
    check("host", Some("host"));
    check("a.host", None);
    check("hos", None);
}

#[test]
fn an_empty_table_finds_nothing() {
    let empty = table(&[]);
    assert_eq!(find(&empty, "a"), RouteMatch::Nothing);
    assert_eq!(find(&empty, "a.b.example.com"), RouteMatch::Nothing);
    assert_eq!(empty.find(None, &ConnectionFacts::default()), RouteMatch::Nothing);
    assert_eq!(empty.asks(), RequiredFacts::default());
}

#[test]
fn a_name_of_many_labels_matches_a_short_suffix() {
    let name = format!("{}example.com", "a.".repeat(120));
    assert_eq!(find(&table(&["*.example.com"]), &name), RouteMatch::Route(RouteId(0)));
    assert_eq!(find(&table(&["*.example.org"]), &name), RouteMatch::Nothing);
}

#[test]
fn every_tie_is_reported_with_both_routes() {
    let routes = [("a.com", 0), ("*.a.com", 0), ("b.com", 1), ("A.com", 2), ("*.a.com.", 3), ("a.com", 4)];
    let entries =
        routes.iter().map(|&(pattern, route)| RouteEntry::plain(pattern.parse().unwrap(), RouteId(route)));
    let ties = RouteTable::build(entries).unwrap_err();
    let reported: Vec<_> = ties.iter().map(|it| (it.key.to_string(), it.first.0, it.second.0)).collect();
    assert_eq!(
        reported,
        [("a.com".to_owned(), 0, 2), ("*.a.com".to_owned(), 0, 3), ("a.com".to_owned(), 0, 4)]
    );
    assert_eq!(ties[1].to_string(), "two routes for `*.a.com` match equally well");
}

/// Parses a route: `name`, and conditions as `source=`, `to=`, `alpn=`, `ja4=`, `ech=` and `tls=`. Commas separate the
/// values of a list.
fn entry(text: &str, route: u32) -> RouteEntry {
    let mut words = text.split(' ');
    let key = match words.next().unwrap() {
        "*" => RouteKey::Any,
        name if name.starts_with('/') => RouteKey::Regex(NameRegex::new(name.trim_matches('/')).unwrap()),
        name => RouteKey::Name(match name.strip_prefix('1') {
            Some(pattern) => pattern.parse::<NamePattern>().unwrap().of_depth_1(),
            None => name.parse().unwrap(),
        }),
    };
    let mut conditions = Conditions::default();
    for word in words {
        let (condition, values) = word.split_once('=').unwrap();
        let mut values = values.split(',');
        match condition {
            "source" => conditions.source = values.map(|text| text.parse::<IpPrefix>().unwrap()).collect(),
            "to" => conditions.destination = values.map(|text| text.parse().unwrap()).collect(),
            "alpn" => conditions.alpn = values.map(|text| text.as_bytes().into()).collect(),
            "ja4" => conditions.ja4 = values.map(|text| text.parse().unwrap()).collect(),
            "ech" => conditions.ech = Some(values.next() == Some("true")),
            "tls" => {
                conditions.tls_min =
                    Some(if values.next() == Some("1.3") { TlsVersion::V1_3 } else { TlsVersion::V1_2 })
            }
            other => panic!("{other}"),
        }
    }
    RouteEntry { key, conditions: Some(conditions.into()), route: RouteId(route) }
}

fn build(routes: &[&str]) -> Result<RouteTable, Vec<EqualRoutes>> {
    RouteTable::build(routes.iter().zip(0..).map(|(text, route)| entry(text, route)))
}

/// Looks up a connection in the same form: `name source=IP to=IP:PORT alpn=... tls=...`.
fn find_in(table: &RouteTable, connection: &str) -> RouteMatch {
    let mut words = connection.split(' ');
    let name = words.next().filter(|name| *name != "-").map(|name| name.parse().unwrap());
    let (mut source, mut destination, mut message) = (None, None, Hello::default());
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "source" => source = Some(value.parse().unwrap()),
            "to" => destination = Some(value.parse().unwrap()),
            "alpn" => message.alpn = value.split(',').map(str::to_owned).collect(),
            "ech" => message.ech = true,
            "tls" => message.tls13 = value == "1.3",
            other => panic!("{other}"),
        }
    }
    let message = message.bytes();
    table.find(name.as_ref(), &ConnectionFacts::new(source, destination, Offer::of(&message)))
}

#[derive(Clone, Debug, Default)]
struct Hello {
    alpn: Vec<String>,
    ech: bool,
    tls13: bool,
}

impl Hello {
    fn bytes(&self) -> Vec<u8> {
        fn vector(content: &[u8]) -> Vec<u8> {
            [&(content.len() as u16).to_be_bytes(), content].concat()
        }
        let mut extensions = Vec::new();
        let names: Vec<u8> =
            self.alpn.iter().flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat()).collect();
        let mut add = |kind: u16, content: &[u8]| {
            extensions.extend([&kind.to_be_bytes()[..], &vector(content)].concat())
        };
        if !names.is_empty() {
            add(16, &vector(&names));
        }
        if self.ech {
            add(0xfe0d, &[]);
        }
        if self.tls13 {
            add(43, &[2, 3, 4]);
        }
        let body = [&[3, 3][..], &[0; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &vector(&extensions)].concat();
        [&[1, 0][..], &vector(&body)].concat()
    }
}

#[test]
fn conditions_decide_under_one_name() {
    let routes = [
        "a.com",
        "a.com source=10.0.0.0/8",
        "a.com source=10.1.0.0/16,192.0.2.1",
        "a.com source=10.0.0.0/8 alpn=h2",
        "a.com alpn=acme-tls/1",
        "a.com alpn=h2",
        "a.com to=:444",
        "a.com to=127.0.0.1",
        "a.com to=127.0.0.1:445",
        "a.com ech=true",
        "a.com ja4=t13*",
        "*.com alpn=h2",
        "*.com",
        "1*.b.com",
        "*.b.com source=10.0.0.0/8",
        "/[0-9]+\\.org/",
        "/[0-9]+\\.org/ alpn=h2",
        "/1\\.org/",
        "* source=10.0.0.0/8",
    ];
    let table = build(&routes).unwrap();
    let check = |connection: &str, expected: usize| {
        let found = match find_in(&table, connection) {
            RouteMatch::Route(RouteId(route)) => routes[route as usize],
            found => panic!("{connection}: {found:?}"),
        };
        assert_eq!(found, routes[expected], "{connection}");
    };
    check("a.com", 0);
    check("a.com source=11.0.0.1", 0);
    check("a.com source=10.2.0.1", 1);
    check("a.com source=10.1.0.1", 2);
    check("a.com source=::ffff:192.0.2.1 alpn=h2", 2);
    check("a.com source=10.2.0.1 alpn=h2", 3);
    check("a.com alpn=acme-tls/1,h2", 4);
    check("a.com alpn=http/1.1,h2,acme-tls/1", 5);
    check("a.com alpn=http/1.1", 0);
    check("a.com to=127.0.0.2:444", 6);
    check("a.com to=127.0.0.1:443", 7);
    check("a.com to=127.0.0.1:444 alpn=h2", 7);
    check("a.com to=127.0.0.1:445", 8);
    check("a.com ech=true", 9);
    check("a.com tls=1.3", 10);
    check("a.com ech=true tls=1.3", 10);
    check("b.com alpn=h2", 11);
    check("b.com", 12);
    check("x.b.com source=10.0.0.1", 13);
    check("y.x.b.com source=10.0.0.1", 14);
    check("y.x.b.com", 12);
    check("1.org", 15);
    check("1.org alpn=h2", 16);
    check("x.org source=10.0.0.1", 18);
    check("- source=10.0.0.1", 18);
    assert_eq!(find_in(&table, "x.org source=11.0.0.1"), RouteMatch::Nothing);
    assert_eq!(find_in(&table, "- source=11.0.0.1"), RouteMatch::Nothing);
    assert_eq!(table.asks(), RequiredFacts { destination: true, offer: true });
}

#[test]
fn too_old_clients_stop_at_their_name() {
    let table =
        build(&["a.com tls=1.3", "*.com", "b.com tls=1.3", "b.com", "c.com tls=1.3 source=10.0.0.0/8"])
            .unwrap();
    assert_eq!(find_in(&table, "a.com tls=1.3"), RouteMatch::Route(RouteId(0)));
    assert_eq!(find_in(&table, "a.com"), RouteMatch::TooOld);
    assert_eq!(find_in(&table, "b.com tls=1.3"), RouteMatch::Route(RouteId(2)));
    assert_eq!(find_in(&table, "b.com"), RouteMatch::Route(RouteId(3)));
    assert_eq!(find_in(&table, "c.com source=10.0.0.1"), RouteMatch::TooOld);
    assert_eq!(find_in(&table, "c.com source=11.0.0.1"), RouteMatch::Route(RouteId(1)));
    // Without a hello none of these conditions is met.
    assert_eq!(find(&table, "a.com"), RouteMatch::TooOld);
}

#[test]
fn ties_are_found() {
    let check = |one: &str, two: &str, expected: bool| {
        for pair in [[one, two], [two, one]] {
            assert_eq!(build(&pair).is_err(), expected, "{pair:?}");
        }
    };
    check("a.com", "a.com", true);
    check("a.com", "a.com alpn=h2", false);
    check("a.com alpn=h2", "a.com alpn=http/1.1", false);
    check("a.com alpn=h2,x", "a.com alpn=x,y", true);
    check("a.com alpn=h2 ech=true", "a.com alpn=h2 ech=false", false);
    check("a.com source=10.0.0.0/8", "a.com source=10.0.0.0/9", false);
    check("a.com source=10.0.0.0/8,::1", "a.com source=11.0.0.0/8,::1", true);
    check("a.com source=10.0.0.0/8", "b.com source=10.0.0.0/8", false);
    check("a.com source=10.0.0.0/8 to=:1", "a.com source=10.0.0.0/8 to=:2", false);
    check("a.com source=10.0.0.0/8 to=:1", "a.com source=10.0.0.0/8", false);
    check("a.com tls=1.2", "a.com tls=1.3", false);
    check("a.com tls=1.2", "a.com tls=1.2", true);
    check("a.com ja4=t13*", "a.com ja4=t13d*", false);
    check("a.com ja4=t13*,t12*", "a.com ja4=t12*", true);
    check("*.a.com", "1*.a.com", false);
    check("*.a.com", "*.a.com", true);
    check("/a/", "/a/", true);
    check("/a/", "/a|b/", false);
    check("* to=:1", "* to=:1,:2", true);
}

/// Finds the route literally by the rules: compares every route and keeps the best. Names are as in the tests below.
fn naive(entries: &[RouteEntry], name: Option<&ServerName>, facts: &ConnectionFacts<'_>) -> RouteMatch {
    let level = |entry: &RouteEntry| match (&entry.key, name) {
        (RouteKey::Any, _) => Some((0, 0)),
        (RouteKey::Name(NamePattern::Exact(exact)), Some(name)) => (exact == name).then_some((3, 0)),
        (RouteKey::Name(NamePattern::Child(suffix)), Some(name)) => {
            (name.as_str().split_once('.')?.1 == suffix.as_str()).then_some((2, 0))
        }
        (RouteKey::Name(NamePattern::Below(suffix)), Some(name)) => {
            name.as_str().ends_with(&format!(".{suffix}")).then_some((1, suffix.as_str().len()))
        }
        _ => None,
    };
    let offer = facts.offer.unwrap();
    let offered: Vec<&[u8]> = offer.alpn().collect();
    let none = Conditions::default();
    let mut best = None;
    let mut too_old = None;
    for entry in entries {
        let Some(level) = level(entry) else { continue };
        let conditions = entry.conditions.as_deref().unwrap_or(&none);
        let source = facts.source.and_then(|source| conditions.source.longest(source));
        let alpn = offered.iter().position(|name| conditions.alpn.iter().any(|wanted| **wanted == **name));
        let misses = (!conditions.source.is_empty() && source.is_none())
            || (!conditions.alpn.is_empty() && alpn.is_none())
            || conditions.ech.is_some_and(|ech| ech != offer.ech());
        if misses {
            continue;
        }
        if conditions.tls_min.is_some_and(|least| offer.versions().all(|version| version < least)) {
            too_old = too_old.max(Some(level));
            continue;
        }
        let required = (
            source,
            alpn.map(std::cmp::Reverse),
            conditions.ech.is_some(),
            conditions.tls_min.map(|least| least.0),
        );
        best = best.max(Some((level, required, entry.route)));
    }
    match best {
        Some((level, _, route)) if too_old <= Some(level) => RouteMatch::Route(route),
        _ if too_old.is_some() => RouteMatch::TooOld,
        _ => RouteMatch::Nothing,
    }
}

proptest! {
    /// Uses two letters, few labels and few values of each condition, so that names often match patterns.
    #[test]
    fn agrees_with_a_linear_search(
        routes in prop::collection::vec(
            (
                prop_oneof![3 => r"(1?\*\.)?[ab](\.[ab]){0,2}", 1 => Just("*".to_owned())],
                prop::option::of(prop::sample::subsequence(vec!["10.0.0.0/8", "10.0.0.0/9", "0.0.0.0/0", "::/0"], 1..3)),
                prop::option::of(prop::sample::subsequence(vec!["x", "y", "z"], 1..3)),
                prop::option::of(any::<bool>()),
                prop::option::of(prop::sample::select(vec!["1.2", "1.3"])),
            ),
            0..25,
        ),
        connections in prop::collection::vec(
            (
                prop::option::of(r"[ab](\.[ab]){0,3}"),
                prop::sample::select(vec!["10.1.0.0", "10.200.0.0", "11.0.0.0", "::1"]),
                prop::sample::subsequence(vec!["z", "y", "x"], 0..4),
                any::<[bool; 2]>(),
            ),
            1..30,
        ),
    ) {
        let mut entries: Vec<RouteEntry> = Vec::new();
        for ((name, source, alpn, ech, tls), route) in routes.into_iter().zip(0..) {
            let mut text = name;
            source.into_iter().for_each(|list| text += &format!(" source={}", list.join(",")));
            alpn.into_iter().for_each(|list| text += &format!(" alpn={}", list.join(",")));
            ech.into_iter().for_each(|ech| text += &format!(" ech={ech}"));
            tls.into_iter().for_each(|tls| text += &format!(" tls={tls}"));
            let new = entry(&text, route);
            // Entries that tie are omitted: another test covers ties.
            if RouteTable::build(entries.iter().cloned().chain([new.clone()])).is_ok() {
                entries.push(new);
            }
        }
        let table = RouteTable::build(entries.iter().cloned()).unwrap();
        for (name, source, alpn, [ech, tls13]) in connections {
            let name: Option<ServerName> = name.map(|name| name.parse().unwrap());
            let source: IpAddr = source.parse().unwrap();
            let hello = Hello { alpn: alpn.into_iter().map(str::to_owned).collect(), ech, tls13 }.bytes();
            let facts = ConnectionFacts::new(Some(source), None::<SocketAddr>, Offer::of(&hello));
            prop_assert_eq!(table.find(name.as_ref(), &facts), naive(&entries, name.as_ref(), &facts));
        }
    }
}
