//! From a server name and what else is known of a connection to the route that fits it best.
//!
//! Names come first: an exact one, then `*.suffix` of one label only, then the longest `*.suffix`, then regular
//! expressions in written order, then routes without a name. Under one name the conditions decide: of those that
//! fit, the most specific. The order of the routes does not matter but for expressions: two routes that could
//! fit one connection equally well are an error, never "the first wins".
//!
//! A look-up costs one hash for the whole name and one for each suffix that could be a pattern, whatever the
//! number of routes, and allocates nothing; those with conditions under one name are compared one by one.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::condition::{ConditionFit, Conditions, ConnectionFacts, RequiredFacts, RouteRank};
use super::{NamePattern, NameRegex};
use crate::wire::ServerName;

/// Which route: a position in the caller's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub u32);

/// What a route says of the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteKey {
    /// It fits a pattern.
    Name(NamePattern),
    /// It fits an expression.
    Regex(NameRegex),
    /// Nothing: there need not be one.
    Any,
}

impl fmt::Display for RouteKey {
    /// As in the log: the pattern, the expression between slashes, or `*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(pattern) => pattern.fmt(f),
            Self::Regex(regex) => write!(f, "/{}/", regex.as_str()),
            Self::Any => f.write_str("*"),
        }
    }
}

/// One name of a route with the route's conditions.
#[derive(Clone, Debug)]
pub struct RouteEntry {
    /// The name.
    pub key: RouteKey,
    /// What else must fit; `None` for nothing.
    pub conditions: Option<Arc<Conditions>>,
    /// The route.
    pub route: RouteId,
}

impl RouteEntry {
    /// A route by a name alone.
    pub fn plain(pattern: NamePattern, route: RouteId) -> Self {
        Self { key: RouteKey::Name(pattern), conditions: None, route }
    }
}

/// Two routes that could fit one connection equally well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two routes for `{key}` fit equally well")]
pub struct EqualRoutes {
    /// The name of both.
    pub key: RouteKey,
    /// The one that came first.
    pub first: RouteId,
    /// The other one; the same if its own names repeat.
    pub second: RouteId,
}

/// What a look-up finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    /// A route.
    Route(RouteId),
    /// Routes for the name, but each that fits asks for a later version of TLS than the client offers.
    TooOld,
    /// Nothing fits.
    Nothing,
}

/// What stands under one name: a route without conditions, or a position in the list of groups.
#[derive(Clone, Copy, Debug)]
struct NameSlot(u32);

/// In a [`NameSlot`], set for a group.
const GROUP: u32 = 1 << 31;

/// One of the routes under one name.
#[derive(Clone, Debug)]
struct RouteAlternative {
    conditions: Option<Arc<Conditions>>,
    route: RouteId,
}

/// The routes of one listener.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, NameSlot>,
    /// By the suffix after `*.` that stands for one label.
    child: HashMap<Box<str>, NameSlot>,
    /// By the suffix after `*.`.
    below: HashMap<Box<str>, NameSlot>,
    /// Labels in the longest suffix: what a client sends beyond that is not hashed.
    suffix_labels: usize,
    regexes: Vec<(NameRegex, NameSlot)>,
    any: Option<NameSlot>,
    groups: Vec<Vec<RouteAlternative>>,
    asks: RequiredFacts,
}

impl RouteTable {
    /// Builds a table; several entries may lead to one route.
    ///
    /// # Errors
    ///
    /// Each entry that ties with an earlier one, in the order given.
    pub fn build(entries: impl IntoIterator<Item = RouteEntry>) -> Result<Self, Vec<EqualRoutes>> {
        let mut table = Self::default();
        let ties: Vec<_> = entries.into_iter().filter_map(|entry| table.insert(entry)).collect();
        if ties.is_empty() { Ok(table) } else { Err(ties) }
    }

    /// What must be known of a connection to look it up.
    pub fn asks(&self) -> RequiredFacts {
        self.asks
    }

    /// The route for a connection. `*.x` fits at any depth, and never `x` itself.
    pub fn find(&self, name: Option<&ServerName>, what: &ConnectionFacts<'_>) -> RouteMatch {
        let named = name.map_or(RouteMatch::Nothing, |name| self.find_named(name, what));
        match (named, self.any) {
            (RouteMatch::Nothing, Some(slot)) => self.choose(slot, what),
            _ => named,
        }
    }

    fn find_named(&self, name: &ServerName, what: &ConnectionFacts<'_>) -> RouteMatch {
        let text = name.as_str();
        let exact = self.ask(&self.exact, text, what);
        if exact != RouteMatch::Nothing {
            return exact;
        }
        if !self.child.is_empty()
            && let Some((_, parent)) = text.split_once('.')
        {
            let child = self.ask(&self.child, parent, what);
            if child != RouteMatch::Nothing {
                return child;
            }
        }
        let below = self.longest_suffix(text, what);
        if below != RouteMatch::Nothing {
            return below;
        }
        let fitting = self.regexes.iter().filter(|(regex, _)| regex.fits(name));
        first(fitting.map(|(_, slot)| self.choose(*slot, what)))
    }

    fn longest_suffix(&self, name: &str, what: &ConnectionFacts<'_>) -> RouteMatch {
        let too_long = labels(name).saturating_sub(self.suffix_labels + 1);
        let suffixes = name.bytes().zip(1..).filter(|&(byte, _)| byte == b'.').map(|(_, next)| &name[next..]);
        first(suffixes.skip(too_long).map(|suffix| self.ask(&self.below, suffix, what)))
    }

    fn ask(&self, map: &HashMap<Box<str>, NameSlot>, name: &str, what: &ConnectionFacts<'_>) -> RouteMatch {
        map.get(name).map_or(RouteMatch::Nothing, |slot| self.choose(*slot, what))
    }

    fn choose(&self, NameSlot(slot): NameSlot, what: &ConnectionFacts<'_>) -> RouteMatch {
        if slot & GROUP == 0 {
            return RouteMatch::Route(RouteId(slot));
        }
        self.best((slot & !GROUP) as usize, what)
    }

    /// The most specific route of a group that fits. Apart, so that names without conditions do not pay for it.
    #[inline(never)]
    fn best(&self, group: usize, what: &ConnectionFacts<'_>) -> RouteMatch {
        let mut best: Option<(Option<RouteRank>, RouteId)> = None;
        let mut is_too_old = false;
        for RouteAlternative { conditions, route, .. } in &self.groups[group] {
            let rank = match conditions.as_ref().map(|conditions| conditions.fit(what)) {
                None => None,
                Some(ConditionFit::Fits(rank)) => Some(rank),
                Some(fit) => {
                    is_too_old |= fit == ConditionFit::TooOld;
                    continue;
                }
            };
            if best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, *route));
            }
        }
        match best {
            Some((_, route)) => RouteMatch::Route(route),
            None if is_too_old => RouteMatch::TooOld,
            None => RouteMatch::Nothing,
        }
    }
}

/// The first that is something.
fn first(mut found: impl Iterator<Item = RouteMatch>) -> RouteMatch {
    found.find(|found| *found != RouteMatch::Nothing).unwrap_or(RouteMatch::Nothing)
}

fn labels(name: &str) -> usize {
    name.bytes().filter(|&byte| byte == b'.').count() + 1
}

/// Building.
impl RouteTable {
    /// Adds an entry, or answers with what it ties with.
    fn insert(&mut self, entry: RouteEntry) -> Option<EqualRoutes> {
        let RouteEntry { key, conditions, route } = entry;
        let conditions = conditions.filter(|conditions| !conditions.is_empty());
        if let Some(conditions) = &conditions {
            let asks = conditions.asks();
            self.asks.destination |= asks.destination;
            self.asks.offer |= asks.offer;
        }
        let alternative = RouteAlternative { conditions, route };
        let slots = self.groups.len();
        let held = self.slot(&key);
        let Some(held) = held else {
            let slot = self.alone(alternative);
            *self.slot_mut(&key) = slot;
            return None;
        };
        let group = match held {
            NameSlot(group) if group & GROUP != 0 => (group & !GROUP) as usize,
            NameSlot(route) => {
                self.groups.push(vec![RouteAlternative { conditions: None, route: RouteId(route) }]);
                *self.slot_mut(&key) = NameSlot(slots as u32 | GROUP);
                slots
            }
        };
        let others = &mut self.groups[group];
        let tie =
            others.iter().find(|other| ties(other.conditions.as_deref(), alternative.conditions.as_deref()));
        if let Some(tie) = tie {
            return Some(EqualRoutes { first: tie.route, second: route, key });
        }
        others.push(alternative);
        None
    }

    /// A slot for what is alone under its name.
    fn alone(&mut self, alternative: RouteAlternative) -> NameSlot {
        if alternative.conditions.is_none() && alternative.route.0 & GROUP == 0 {
            return NameSlot(alternative.route.0);
        }
        self.groups.push(vec![alternative]);
        NameSlot((self.groups.len() - 1) as u32 | GROUP)
    }

    fn slot(&self, key: &RouteKey) -> Option<NameSlot> {
        match key {
            RouteKey::Name(NamePattern::Exact(name)) => self.exact.get(name.as_str()).copied(),
            RouteKey::Name(NamePattern::Child(suffix)) => self.child.get(suffix.as_str()).copied(),
            RouteKey::Name(NamePattern::Below(suffix)) => self.below.get(suffix.as_str()).copied(),
            RouteKey::Regex(regex) => {
                self.regexes.iter().find(|(other, _)| other == regex).map(|(_, slot)| *slot)
            }
            RouteKey::Any => self.any,
        }
    }

    /// The slot of a name, made if it is not there.
    fn slot_mut(&mut self, key: &RouteKey) -> &mut NameSlot {
        const NEW: NameSlot = NameSlot(0);
        match key {
            RouteKey::Name(NamePattern::Exact(name)) => self.exact.entry(name.as_str().into()).or_insert(NEW),
            RouteKey::Name(NamePattern::Child(suffix)) => {
                self.child.entry(suffix.as_str().into()).or_insert(NEW)
            }
            RouteKey::Name(NamePattern::Below(suffix)) => {
                self.suffix_labels = self.suffix_labels.max(labels(suffix.as_str()));
                self.below.entry(suffix.as_str().into()).or_insert(NEW)
            }
            RouteKey::Regex(regex) => {
                let at = self.regexes.iter().position(|(other, _)| other == regex).unwrap_or_else(|| {
                    self.regexes.push((regex.clone(), NEW));
                    self.regexes.len() - 1
                });
                &mut self.regexes[at].1
            }
            RouteKey::Any => self.any.get_or_insert(NEW),
        }
    }
}

fn ties(one: Option<&Conditions>, two: Option<&Conditions>) -> bool {
    match (one, two) {
        (Some(one), Some(two)) => one.ties(two),
        (one, two) => one.is_none() && two.is_none(),
    }
}

#[cfg(test)]
mod tests;
