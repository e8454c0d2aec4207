//! Finds routes whose conditions leave a part of a name's connections to a route for a wider name.
//!
//! `{ sni = "admin.example.com", source = "10.0.0.0/8" }` beside a route for `*.example.com` protects nothing:
//! clients from other networks reach the pool of the wider route. So `check` warns of it, unless another route for
//! the narrow name matches the other connections. The same applies to a pool in `unmatched`, but only beside
//! conditions on the client (`source`, `proxy_tlv`): beside other conditions `unmatched` is the intended target of
//! the rest.

use std::collections::HashMap;

use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::route::{Conditions, NamePattern, RouteKey};
use crate::snapshot::{ActionSpec, RouteSpec, TargetSpec};

/// A name of a route: the positions of the route and of the name in it.
pub(in crate::config) type At = (usize, usize);

/// A route whose conditions leave connections to another route.
#[derive(Debug)]
pub(in crate::config) struct Leak {
    /// The route with the conditions.
    pub(in crate::config) narrow: At,
    /// The route for the connections that do not match them; `None` is the pool of `unmatched`.
    pub(in crate::config) wider: Option<At>,
}

/// Returns, for each route, the first of its names that leaves connections to a wider name, or to a pool in
/// `unmatched`.
pub(in crate::config) fn leaks(routes: &[RouteSpec], unmatched: &TargetSpec) -> Vec<Leak> {
    if routes.iter().all(|route| route.conditions.is_none()) {
        return Vec::new();
    }
    let names = RoutesByName::of(routes);
    let mut leaks: Vec<Leak> = Vec::new();
    for (pattern, group) in &names.groups {
        if names.is_closed(group) {
            continue;
        }
        leaks.extend(names.first_leak(pattern, group, unmatched));
    }
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
    let name = |(route, key): At| routes[route].keys[key].to_string();
    let (narrow, wider) = (name(leak.narrow), leak.wider.map(name));
    let conditions = routes[leak.narrow.0].conditions.iter().flat_map(|conditions| conditions.keys());
    let conditions =
        conditions.filter(|key| *key != "tls_min").map(|key| format!("`{key}`")).collect::<Vec<_>>();
    let wider = match wider.as_deref() {
        None => "the pool of `unmatched`".to_owned(),
        Some("*") => "the route without a name".to_owned(),
        Some(wider) => format!("`{wider}`"),
    };
    let conditions = conditions.join(" and ");
    let message = format!("connections for `{narrow}` that do not fit {conditions} go to {wider}");
    let warning = Diagnostic::new(Code::LeftToWider, path, message);
    let warning = match place(Some(leak.narrow)) {
        Some(at) => warning.label(at, "its conditions take a part of the connections"),
        None => warning,
    };
    let warning = match place(leak.wider) {
        Some(at) => warning.label(at, "the others go here"),
        None => warning,
    };
    warning.help(format!(
        "write where the others go: {{ sni = \"{narrow}\", action = \"reject\" }}, or the same with a `pool`"
    ))
}

/// The routes of a listener, grouped by name.
struct RoutesByName<'r> {
    routes: &'r [RouteSpec],
    groups: HashMap<&'r NamePattern, Vec<At>>,
    regexes: Vec<At>,
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
                    RouteKey::Regex(_) => names.regexes.push(at),
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
    fn first_leak(&self, pattern: &NamePattern, group: &[At], unmatched: &TargetSpec) -> Option<Leak> {
        for wider in self.wider(pattern) {
            if let Some(leak) = self.leak(group, &wider) {
                return Some(leak);
            }
            if self.is_closed(&wider) {
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

    /// Returns the groups that routing checks after the group of a name, in their order.
    fn wider<'n>(&'n self, pattern: &'n NamePattern) -> impl Iterator<Item = Vec<At>> + 'n {
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
        let patterns = child.into_iter().chain(same).chain(suffixes.filter_map(below));
        let regexes = self.regexes.iter().filter(move |(route, key)| {
            matches!((&self.routes[*route].keys[*key], pattern),
                (RouteKey::Regex(regex), NamePattern::Exact(name)) if regex.fits(name))
        });
        patterns
            .filter_map(|pattern| self.groups.get(&pattern).cloned())
            .chain(regexes.map(|at| vec![*at]))
            .chain([self.any.clone()])
    }

    /// Returns the leak from one group to a wider one, if there is one.
    fn leak(&self, group: &[At], wider: &[At]) -> Option<Leak> {
        let is_known = |at: &At| {
            let own = self.conditions(*at).cloned().unwrap_or_default();
            group.iter().any(|narrow| self.conditions(*narrow).is_none_or(|narrow| own.is_within(narrow)))
        };
        let wider = wider.iter().find(|at| self.serves(at) && !is_known(at))?;
        Some(Leak { narrow: *group.first()?, wider: Some(*wider) })
    }
}
