//! The reasons for which a lookup found its route and no other route, for an operator.

use super::{GROUP, NameSlot, RouteAlternative, RouteId, RouteMatch, RouteTable};
use crate::route::condition::{Conditions, ConnectionFacts};
use crate::wire::ServerName;

/// The way in which the name of a route fits a server name. A lookup tries them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFit {
    /// The route has this name.
    Exact,
    /// The route has `*.suffix` with one label only.
    Child,
    /// The route has `*.suffix`.
    Below,
    /// The route has an expression that fits.
    Regex,
    /// The route has no name.
    Any,
}

/// The result of a lookup for one route whose name fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteVerdict {
    /// The lookup found this route.
    Chosen,
    /// The connection does not meet the conditions with these keys.
    Unmet(Vec<&'static str>),
    /// The conditions are met, and those of the found route are more specific.
    WiderConditions,
    /// A route with a more specific name was found, or refused the version of TLS.
    WiderName,
}

/// A route whose name fits, and its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFinding {
    /// The route.
    pub route: RouteId,
    /// The way in which its name fits.
    pub name: NameFit,
    /// The verdict.
    pub verdict: RouteVerdict,
}

impl RouteTable {
    /// Returns the verdict of each route whose name fits, in the order in which a lookup tries the names. All other
    /// routes have another name.
    pub fn verdicts(&self, name: Option<&ServerName>, facts: &ConnectionFacts<'_>) -> Vec<RouteFinding> {
        let mut findings = Vec::new();
        let mut is_decided = false;
        let visit = |name, slot| -> Option<()> {
            let chosen = self.choose(slot, facts);
            for RouteAlternative { conditions, route } in self.alternatives(slot) {
                let unmet = conditions.as_deref().map_or_else(Vec::new, |conditions| conditions.unmet(facts));
                let verdict = match chosen {
                    _ if is_decided => RouteVerdict::WiderName,
                    RouteMatch::Route(best) if best == route => RouteVerdict::Chosen,
                    _ if unmet.is_empty() => RouteVerdict::WiderConditions,
                    _ => RouteVerdict::Unmet(unmet),
                };
                findings.push(RouteFinding { route, name, verdict });
            }
            is_decided |= chosen != RouteMatch::Nothing;
            None
        };
        _ = self.walk(name, visit);
        findings
    }

    /// Returns true if a route has a condition on the hello besides server name and ALPN.
    pub fn needs_whole_hello(&self) -> bool {
        let conditions = self.groups.iter().flatten().filter_map(|route| route.conditions.as_deref());
        let mut keys = conditions.flat_map(Conditions::keys);
        keys.any(|key| matches!(key, "ja4" | "ech" | "tls_min"))
    }

    /// Returns the routes of a slot.
    fn alternatives(&self, NameSlot(slot): NameSlot) -> Vec<RouteAlternative> {
        if slot & GROUP == 0 {
            return vec![RouteAlternative { conditions: None, route: RouteId(slot) }];
        }
        self.groups[(slot & !GROUP) as usize].clone()
    }
}

impl Conditions {
    /// Returns the keys of the conditions that a connection does not meet.
    pub fn unmet(&self, facts: &ConnectionFacts<'_>) -> Vec<&'static str> {
        let own = self.clone();
        let none = Self::default;
        let single = [
            ("proxy_tlv", Self { proxy_tlv: own.proxy_tlv, ..none() }),
            ("source", Self { source: own.source, ..none() }),
            ("destination", Self { destination: own.destination, ..none() }),
            ("alpn", Self { alpn: own.alpn, ..none() }),
            ("ja4", Self { ja4: own.ja4, ..none() }),
            ("ech", Self { ech: own.ech, ..none() }),
            ("tls_min", Self { tls_min: own.tls_min, ..none() }),
        ];
        single.into_iter().filter(|(_, condition)| !condition.is_met(facts)).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::route::{NameRegex, RouteEntry, RouteKey};

    fn entry(key: &str, source: Option<&str>, route: u32) -> RouteEntry {
        let key = match key {
            "" => RouteKey::Any,
            key => key.strip_prefix('/').map_or_else(
                || RouteKey::Name(key.parse().unwrap()),
                |regex| RouteKey::Regex(NameRegex::new(regex).unwrap()),
            ),
        };
        let source = source.map(|source| std::iter::once(source.parse().unwrap()).collect());
        let conditions = source.map(|source| Arc::new(Conditions { source, ..Conditions::default() }));
        RouteEntry { key, conditions, route: RouteId(route) }
    }

    fn table() -> RouteTable {
        RouteTable::build([
            entry("db.example.com", Some("10.0.0.0/8"), 0),
            entry("*.example.com", None, 1),
            entry("*.example.com", Some("192.0.2.0/24"), 2),
            entry("*.example.com", Some("192.0.0.0/8"), 3),
            entry("*.com", None, 4),
            entry("/db.*", None, 5),
            entry("", Some("0.0.0.0/0"), 6),
            entry("other.example.com", None, 7),
        ])
        .unwrap()
    }

    fn check(name: &str, source: &str, expected: &[(u32, NameFit, RouteVerdict)]) {
        let facts = ConnectionFacts::new(Some(source.parse().unwrap()), None, None);
        let name = (!name.is_empty()).then(|| name.parse().unwrap());
        let found = table().verdicts(name.as_ref(), &facts);
        let expected: Vec<_> = expected
            .iter()
            .map(|(route, name, verdict)| RouteFinding {
                route: RouteId(*route),
                name: *name,
                verdict: verdict.clone(),
            })
            .collect();
        assert_eq!(found, expected, "{name:?} {source}");
        let chosen = found.iter().find(|found| found.verdict == RouteVerdict::Chosen);
        let expected = chosen.map_or(RouteMatch::Nothing, |found| RouteMatch::Route(found.route));
        assert_eq!(table().find(name.as_ref(), &facts), expected, "{name:?} {source}");
    }

    #[test]
    fn each_route_with_a_fitting_name_has_a_verdict() {
        use NameFit::{Any, Below, Exact, Regex};
        use RouteVerdict::{Chosen, Unmet, WiderConditions, WiderName};
        let no_source = || Unmet(vec!["source"]);
        check(
            "db.example.com",
            "192.0.2.7",
            &[
                (0, Exact, no_source()),
                (1, Below, WiderConditions),
                (2, Below, Chosen),
                (3, Below, WiderConditions),
                (4, Below, WiderName),
                (5, Regex, WiderName),
                (6, Any, WiderName),
            ],
        );
        check(
            "db.example.com",
            "203.0.113.7",
            &[
                (0, Exact, no_source()),
                (1, Below, Chosen),
                (2, Below, no_source()),
                (3, Below, no_source()),
                (4, Below, WiderName),
                (5, Regex, WiderName),
                (6, Any, WiderName),
            ],
        );
        check("a.org", "203.0.113.7", &[(6, Any, Chosen)]);
        check("", "2001:db8::1", &[(6, Any, no_source())]);
    }

    #[test]
    fn each_unmet_condition_is_named() {
        let conditions = Conditions {
            source: std::iter::once("10.0.0.0/8".parse().unwrap()).collect(),
            destination: vec![":443".parse().unwrap()],
            alpn: vec![b"h2"[..].into()],
            ech: Some(true),
            ..Conditions::default()
        };
        let facts = ConnectionFacts::new(
            Some("10.0.0.1".parse().unwrap()),
            Some("127.0.0.1:444".parse().unwrap()),
            None,
        );
        assert_eq!(conditions.unmet(&facts), ["destination", "alpn", "ech"]);
        assert!(Conditions::default().unmet(&facts).is_empty());
    }
}
