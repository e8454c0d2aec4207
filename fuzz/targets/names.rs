//! Names and the patterns of routes. The first line is the name that a client requests. Each other line is the pattern
//! of a route: a name, `*.suffix`, `1*.suffix` for one label only, or an expression between slashes. A lookup must find
//! the same route as a linear search. All lines are also parsed as networks, destinations and fingerprints.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use pointsman::route::condition::{Destination, Ja4Pattern};
use pointsman::route::{
    ConnectionFacts, IpPrefix, NamePattern, NameRegex, RouteEntry, RouteId, RouteKey, RouteMatch, RouteTable,
};
use pointsman::wire::ServerName;

/// The most expressions in one input; to compile one takes long.
const MOST_EXPRESSIONS: usize = 3;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let name = ServerName::from_client(lines.next().unwrap_or_default()).ok();
    if let Some(name) = &name {
        assert_eq!(name.as_str().parse().as_ref(), Ok(name), "a name is its own name");
        assert!(name.as_str().len() <= 253);
    }
    let keys = keys(lines.filter_map(|line| std::str::from_utf8(line).ok()));
    let entries = keys.iter().zip(0..).map(|(key, route)| RouteEntry {
        key: key.clone(),
        conditions: None,
        route: RouteId(route),
    });
    let table = RouteTable::build(entries).expect("no pattern occurs twice");
    let found = table.find(name.as_ref(), &ConnectionFacts::default());
    let expected = name.and_then(|name| search(&keys, &name));
    assert_eq!(found, expected.map_or(RouteMatch::Nothing, |at| RouteMatch::Route(RouteId(at as u32))));
});

/// Returns the patterns among the lines, each once.
fn keys<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<RouteKey> {
    let mut seen = HashSet::new();
    let mut expressions = 0;
    lines
        .filter_map(|line| key(line, &mut expressions))
        .filter(|key| seen.insert(format!("{key:?}")))
        .collect()
}

fn key(line: &str, expressions: &mut usize) -> Option<RouteKey> {
    check_texts(line);
    if let Some(text) = line.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        *expressions += 1;
        return NameRegex::new(text).ok().filter(|_| *expressions <= MOST_EXPRESSIONS).map(RouteKey::Regex);
    }
    if let Some(pattern) = line.strip_prefix('1') {
        let pattern: NamePattern = pattern.parse().ok()?;
        return Some(RouteKey::Name(pattern.of_depth_1()));
    }
    let pattern: NamePattern = line.parse().ok()?;
    assert_eq!(pattern.to_string().parse().as_ref(), Ok(&pattern), "it reads as it shows");
    Some(RouteKey::Name(pattern))
}

fn check_texts(line: &str) {
    if let Ok(network) = line.parse::<IpPrefix>() {
        assert_eq!(network.to_string().parse(), Ok(network));
    }
    _ = line.parse::<Destination>();
    _ = line.parse::<Ja4Pattern>();
}

/// Compares the name with each pattern; returns the most specific one that matches.
fn search(keys: &[RouteKey], name: &ServerName) -> Option<usize> {
    let fitting = keys.iter().enumerate().filter_map(|(at, key)| rank(key, name).map(|rank| (rank, at)));
    // Of several expressions the first one in written order wins.
    fitting.max_by_key(|&(rank, at)| (rank, std::cmp::Reverse(at))).map(|(_, at)| at)
}

fn rank(key: &RouteKey, name: &ServerName) -> Option<(u8, usize)> {
    let front = |suffix: &ServerName| name.as_str().strip_suffix(suffix.as_str())?.strip_suffix('.');
    match key {
        RouteKey::Name(NamePattern::Exact(own)) => (own == name).then_some((4, 0)),
        RouteKey::Name(NamePattern::Child(suffix)) => {
            front(suffix).filter(|front| !front.contains('.')).map(|_| (3, 0))
        }
        RouteKey::Name(NamePattern::Below(suffix)) => front(suffix).map(|_| (2, suffix.as_str().len())),
        RouteKey::Regex(regex) => regex.fits(name).then_some((1, 0)),
        RouteKey::Any => Some((0, 0)),
    }
}
