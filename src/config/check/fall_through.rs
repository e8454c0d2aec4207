//! Finds routes whose conditions leave a part of a name's connections to a route for a wider name.
//!
//! `{ sni = "admin.example.com", source = "10.0.0.0/8" }` beside a route for `*.example.com` protects nothing:
//! clients from other networks reach the pool of the wider route. So `check` warns of it, unless another route for
//! the narrow name matches the other connections. The same applies to a pool in `unmatched`, but only for
//! conditions on the client (`source`, `proxy_tlv`). For other conditions, `unmatched` is the intended target of
//! the rest.
//!
//! Expressions are not compared exactly. Both are matched against sample names, which are made from the words
//! of all expressions and from the wildcards. So an overlap without a sample name has no warning.

use std::collections::{HashMap, HashSet};

use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::route::{Conditions, NamePattern, NameRegex, RouteKey};
use crate::snapshot::{ActionSpec, RouteSpec, TargetSpec};
use crate::wire::ServerName;

/// Labels of sample names. An expression that matches all of them below a suffix counts as wider than the wildcard.
const LABELS: [&str; 4] = ["x", "www", "node-1", "7"];

/// The number of labels and words that sample names are made of.
const MAX_WORDS: usize = 64;

/// The number of wildcards that are compared with the expressions.
const MAX_WILDCARDS: usize = 100;

/// A name of a route: the positions of the route and of the name in it.
pub(in crate::config) type At = (usize, usize);

/// A route whose conditions leave connections to another route.
#[derive(Debug)]
pub(in crate::config) struct Leak {
    /// The route with the conditions.
    pub(in crate::config) narrow: At,
    /// The route for the connections that do not match these conditions; `None` is the pool of `unmatched`.
    pub(in crate::config) wider: Option<At>,
}

/// Returns, for each route, the first of its names that leaves connections to a wider name, or to a pool in
/// `unmatched`.
pub(in crate::config) fn leaks(routes: &[RouteSpec], unmatched: &TargetSpec) -> Vec<Leak> {
    if routes.iter().all(|route| route.conditions.is_none()) {
        return Vec::new();
    }
    let names = RoutesByName::of(routes);
    let of_names = names.groups.iter().filter(|(_, group)| !names.is_closed(group));
    let of_names = of_names.filter_map(|(pattern, group)| {
        let regexes = names.regexes.iter().filter(|(regex, _)| is_wider(regex, pattern));
        names.first_leak(group, names.wider(pattern, regexes.map(|(_, group)| group)), unmatched)
    });
    let mut leaks: Vec<Leak> = of_names.chain(names.leaks_of_regexes(unmatched)).collect();
    leaks.sort_by_key(|leak| leak.narrow);
    leaks.dedup_by_key(|leak| leak.narrow.0);
    leaks
}

/// Returns the warning of a leak; `place` returns the position of a route in the text that is checked.
pub(in crate::config) fn warning(
    routes: &[RouteSpec],
    leak: &Leak,
    path: String,
    place: impl Fn(Option<At>) -> Option<Span>,
) -> Diagnostic {
    let key = |(route, key): At| &routes[route].keys[key];
    let narrow = key(leak.narrow);
    let conditions = routes[leak.narrow.0].conditions.iter().flat_map(|conditions| conditions.keys());
    let conditions =
        conditions.filter(|key| *key != "tls_min").map(|key| format!("`{key}`")).collect::<Vec<_>>();
    let conditions = conditions.join(" and ");
    let wider = match leak.wider.map(key) {
        None => "the pool of `unmatched`".to_owned(),
        Some(RouteKey::Any) => "the route without a name".to_owned(),
        Some(wider) => format!("`{wider}`"),
    };
    let written = match narrow {
        RouteKey::Regex(regex) => format!("sni_regex = '{}'", regex.as_str()),
        name => format!("sni = \"{name}\""),
    };
    // Wildcards are tried before expressions.
    let is_first = matches!((narrow, leak.wider.map(key)), (RouteKey::Regex(_), Some(RouteKey::Name(_))));
    let (message, of_narrow, of_wider, help) = if is_first {
        (
            format!(
                "{wider} is tried before `{narrow}`: a name that both match skips the check of {conditions}"
            ),
            "the conditions here do not apply to such names",
            "this route takes such names",
            "names in `sni` are tried before expressions: write the names of the expression in `sni`"
                .to_owned(),
        )
    } else {
        (
            format!("connections for `{narrow}` that do not match {conditions} go to {wider}"),
            "these conditions match only a part of the connections",
            "the other connections go here",
            format!(
                "write a target for the other connections: {{ {written}, action = \"reject\" }}, or the same with a `pool`"
            ),
        )
    };
    let mut warning = Diagnostic::new(Code::LeftToWider, path, message);
    for (at, label) in [(Some(leak.narrow), of_narrow), (leak.wider, of_wider)] {
        if let Some(at) = place(at) {
            warning = warning.label(at, label);
        }
    }
    warning.help(help)
}

/// Returns true if an expression matches a name, or all sample names below the suffix of a wildcard.
fn is_wider(regex: &NameRegex, pattern: &NamePattern) -> bool {
    match pattern {
        NamePattern::Exact(name) => regex.fits(name),
        NamePattern::Child(suffix) | NamePattern::Below(suffix) => {
            is_wider_than_names(regex, suffix.as_str())
        }
    }
}

fn is_wider_than_names(regex: &NameRegex, suffix: &str) -> bool {
    // A name that is too long does not exist.
    LABELS.iter().filter_map(|label| below(label, suffix)).all(|name| regex.fits(&name))
}

fn below(label: &str, suffix: &str) -> Option<ServerName> {
    format!("{label}.{suffix}").parse().ok()
}

/// Returns the parts of an expression that may be labels of a name: `node-7` and `example.com` for
/// `node-[0-9]+\.example\.com`.
fn words(regex: &NameRegex) -> Vec<String> {
    let text = regex.as_str().to_ascii_lowercase();
    let text = text.replace("\\.", ".").replace("[0-9]", "7").replace("\\d", "7").replace("[a-z]", "a");
    let words = text.split(|of: char| !of.is_ascii_alphanumeric() && !".-_".contains(of));
    words.map(|word| word.trim_matches(['.', '-']).to_owned()).filter(|word| !word.is_empty()).collect()
}

/// The routes of a listener, grouped by name.
struct RoutesByName<'r> {
    routes: &'r [RouteSpec],
    groups: HashMap<&'r NamePattern, Vec<At>>,
    /// The expressions in written order, which is the order of routing.
    regexes: Vec<(&'r NameRegex, Vec<At>)>,
    any: Vec<At>,
}

impl<'r> RoutesByName<'r> {
    fn of(routes: &'r [RouteSpec]) -> Self {
        let mut names = Self { routes, groups: HashMap::new(), regexes: Vec::new(), any: Vec::new() };
        for (index, route) in routes.iter().enumerate() {
            for (key, name) in route.keys.iter().enumerate() {
                let at = (index, key);
                match name {
                    RouteKey::Name(pattern) => names.groups.entry(pattern).or_default().push(at),
                    RouteKey::Regex(regex) => {
                        match names.regexes.iter_mut().find(|(other, _)| *other == regex) {
                            Some((_, group)) => group.push(at),
                            None => names.regexes.push((regex, vec![at])),
                        }
                    }
                    RouteKey::Any => names.any.push(at),
                }
            }
        }
        names
    }

    fn conditions(&self, (route, _): At) -> Option<&Conditions> {
        self.routes[route].conditions.as_deref()
    }

    /// Returns the first leak of a group, in the order in which routing checks the wider groups.
    fn first_leak<'n>(
        &self,
        group: &[At],
        wider: impl Iterator<Item = &'n Vec<At>>,
        unmatched: &TargetSpec,
    ) -> Option<Leak> {
        for wider in wider {
            if let Some(leak) = self.leak(group, wider) {
                return Some(leak);
            }
            if self.is_closed(wider) {
                return None;
            }
        }
        // A route that refuses some clients leaves the others on purpose.
        let serving = group.iter().filter(|at| self.serves(at));
        let mut keys = serving.filter_map(|at| self.conditions(*at)).flat_map(Conditions::keys);
        let is_of_client = keys.any(|key| matches!(key, "source" | "proxy_tlv"));
        let serves = matches!(unmatched, TargetSpec::Pool(_));
        let narrow = *group.first()?;
        (serves && is_of_client).then_some(Leak { narrow, wider: None })
    }

    /// Returns true if a route leads to a pool.
    fn serves(&self, (route, _): &At) -> bool {
        !matches!(self.routes[*route].action, ActionSpec::Reject | ActionSpec::Drop)
    }

    /// Returns true if a group leaves no connections to wider names.
    fn is_closed(&self, group: &[At]) -> bool {
        let of_ech = |wanted: bool| Conditions { ech: Some(wanted), ..Conditions::default() };
        let has = |wanted: &Conditions| group.iter().any(|at| self.conditions(*at) == Some(wanted));
        group.iter().any(|at| self.conditions(*at).is_none_or(Conditions::is_final))
            || (has(&of_ech(true)) && has(&of_ech(false)))
    }

    /// Returns the leaks of the expressions.
    fn leaks_of_regexes(&self, unmatched: &TargetSpec) -> Vec<Leak> {
        let open = self.regexes.iter().enumerate().filter(|(_, (_, group))| !self.is_closed(group));
        let open = open.collect::<Vec<_>>();
        let samples = if open.is_empty() { Vec::new() } else { self.samples() };
        let leak_of = |(at, (regex, group)): (usize, &(&NameRegex, Vec<At>))| {
            let mut fitting = samples.iter().filter(|name| regex.fits(name)).peekable();
            if fitting.peek().is_none() {
                let later =
                    self.regexes[at + 1..].iter().filter(|(other, _)| is_wider_than_names(other, "x"));
                let later = later.filter(|(other, _)| is_wider_than_names(other, "x.example.com"));
                return self.first_leak(group, later.map(|(_, group)| group).chain([&self.any]), unmatched);
            }
            fitting.find_map(|name| self.first_leak(group, self.around(at, name)?, unmatched))
        };
        open.into_iter().filter_map(leak_of).collect()
    }

    /// Returns the groups that take the connections of an expression for one name, in the order of routing; `None` if
    /// a route for a narrower name takes all of them. A wildcard is narrower if the expression matches all names
    /// below it. An earlier expression counts as narrower.
    fn around(&self, at: usize, name: &ServerName) -> Option<impl Iterator<Item = &Vec<At>>> {
        let (regex, _) = self.regexes[at];
        let exact = NamePattern::Exact(name.clone());
        let patterns = wider_patterns(&exact).filter(|pattern| self.groups.contains_key(pattern));
        let (narrower, wider): (Vec<_>, Vec<_>) = patterns.partition(|pattern| is_wider(regex, pattern));
        let narrower = narrower.iter().chain([&exact]).filter_map(|pattern| self.groups.get(pattern));
        let earlier = self.regexes[..at].iter().filter(|(other, _)| other.fits(name)).map(|(_, group)| group);
        if narrower.chain(earlier).any(|group| self.is_closed(group)) {
            return None;
        }
        let wider = wider.into_iter().filter_map(|pattern| self.groups.get(&pattern));
        let later =
            self.regexes[at + 1..].iter().filter(|(other, _)| other.fits(name)).map(|(_, group)| group);
        Some(wider.chain(later).chain([&self.any]))
    }

    /// Returns names that may match expressions.
    fn samples(&self) -> Vec<ServerName> {
        let mut seen = HashSet::new();
        let own = self.regexes.iter().flat_map(|(regex, _)| words(regex));
        let words = LABELS.map(str::to_owned).into_iter().chain(own).filter(|word| seen.insert(word.clone()));
        let words = words.take(MAX_WORDS).collect::<Vec<_>>();
        let keys = self.routes.iter().flat_map(|route| &route.keys);
        let suffixes = keys.filter_map(|key| match key {
            RouteKey::Name(NamePattern::Child(suffix) | NamePattern::Below(suffix)) => Some(suffix.as_str()),
            _ => None,
        });
        let suffixes =
            words.iter().map(String::as_str).chain(suffixes.take(MAX_WILDCARDS)).collect::<Vec<_>>();
        let of_one = words.iter().filter_map(|word| word.parse().ok());
        let of_two = words.iter().flat_map(|word| suffixes.iter().filter_map(|suffix| below(word, suffix)));
        of_one.chain(of_two).collect()
    }

    /// Returns the groups that routing checks after the group of a name, in their order.
    fn wider<'n>(
        &'n self,
        pattern: &'n NamePattern,
        regexes: impl Iterator<Item = &'n Vec<At>>,
    ) -> impl Iterator<Item = &'n Vec<At>> {
        wider_patterns(pattern)
            .filter_map(|pattern| self.groups.get(&pattern))
            .chain(regexes)
            .chain([&self.any])
    }

    /// Returns the leak from one group to a wider group, or `None`.
    fn leak(&self, group: &[At], wider: &[At]) -> Option<Leak> {
        let is_known = |at: &At| {
            let own = self.conditions(*at).cloned().unwrap_or_default();
            group.iter().any(|narrow| self.conditions(*narrow).is_none_or(|narrow| own.is_within(narrow)))
        };
        let wider = wider.iter().find(|at| self.serves(at) && !is_known(at))?;
        Some(Leak { narrow: *group.first()?, wider: Some(*wider) })
    }
}

/// Returns the wildcards that routing tries after a name or a wildcard, in their order.
fn wider_patterns(pattern: &NamePattern) -> impl Iterator<Item = NamePattern> {
    let (text, has_child) = match pattern {
        NamePattern::Exact(name) => (name.as_str(), true),
        NamePattern::Child(suffix) | NamePattern::Below(suffix) => (suffix.as_str(), false),
    };
    let below = |suffix: &str| Some(NamePattern::Below(suffix.parse().ok()?));
    let child = text.split_once('.').filter(|_| has_child);
    let child = child.and_then(|(_, suffix)| Some(NamePattern::Child(suffix.parse().ok()?)));
    // `*.x` of one label is followed by `*.x` of any depth.
    let same = matches!(pattern, NamePattern::Child(_)).then(|| below(text)).flatten();
    let suffixes = text.bytes().zip(1..).filter(|&(byte, _)| byte == b'.').map(|(_, next)| &text[next..]);
    child.into_iter().chain(same).chain(suffixes.filter_map(below))
}
