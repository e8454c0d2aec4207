//! The table that finds the best route for a server name and the other facts of a connection.
//!
//! Names are tried first, in this order: an exact name, `*.suffix` with one label only, the longest `*.suffix`,
//! regular expressions in written order, routes without a name. Of the routes under one name whose conditions are
//! met, the most specific one wins. The order of the routes does not matter, except for expressions. Two routes
//! that could match one connection equally well are an error, and the first route does not win.
//!
//! A lookup costs one hash for the whole name and one for each suffix that could be a pattern, independent of the
//! number of routes. It allocates nothing. Routes with conditions under one name are compared one by one.

mod verdicts;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::condition::{ConditionFit, Conditions, ConnectionFacts, RequiredFacts, RouteRank};
use super::{NamePattern, NameRegex};
use crate::wire::ServerName;
pub use verdicts::{NameFit, RouteFinding, RouteVerdict};

/// The position of a route in the caller's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub u32);

/// The server name that a route requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteKey {
    /// A name that matches a pattern.
    Name(NamePattern),
    /// A name that matches an expression.
    Regex(NameRegex),
    /// Any name or none.
    Any,
}

impl fmt::Display for RouteKey {
    /// Writes the form of the log: the pattern, the expression between slashes, or `*`.
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
    /// The other conditions, if there are any.
    pub conditions: Option<Arc<Conditions>>,
    /// The route.
    pub route: RouteId,
}

impl RouteEntry {
    /// Creates the entry of a route without conditions.
    pub fn plain(pattern: NamePattern, route: RouteId) -> Self {
        Self { key: RouteKey::Name(pattern), conditions: None, route }
    }
}

/// The fault of two routes that could match one connection equally well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two routes for `{key}` match equally well")]
pub struct EqualRoutes {
    /// The name of both.
    pub key: RouteKey,
    /// The route that was added first.
    pub first: RouteId,
    /// The other route; equal to `first` if one route repeats a name.
    pub second: RouteId,
}

/// The result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    /// The best route.
    Route(RouteId),
    /// Every route that would match requires a later version of TLS than the client offers.
    TooOld,
    /// No route matches.
    Nothing,
}

/// The content of one name: a route without conditions, or a position in the list of groups.
#[derive(Clone, Copy, Debug)]
struct NameSlot(u32);

/// The bit that marks a group in a [`NameSlot`].
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
    /// Slots of `*.suffix` with one label, by the suffix.
    child: HashMap<Box<str>, NameSlot>,
    /// Slots of `*.suffix` with any number of labels, by the suffix.
    below: HashMap<Box<str>, NameSlot>,
    /// The number of labels in the longest suffix. Longer suffixes of a client's name are not hashed.
    suffix_labels: usize,
    regexes: Vec<(NameRegex, NameSlot)>,
    any: Option<NameSlot>,
    groups: Vec<Vec<RouteAlternative>>,
    required: RequiredFacts,
}

impl RouteTable {
    /// Builds a table. Several entries may have one route.
    ///
    /// # Errors
    ///
    /// Returns each entry that ties with an earlier one, in the given order.
    pub fn build(entries: impl IntoIterator<Item = RouteEntry>) -> Result<Self, Vec<EqualRoutes>> {
        let mut table = Self::default();
        let ties: Vec<_> = entries.into_iter().filter_map(|entry| table.insert(entry)).collect();
        if ties.is_empty() { Ok(table) } else { Err(ties) }
    }

    /// Returns the facts of a connection that a lookup requires.
    pub fn asks(&self) -> RequiredFacts {
        self.required
    }

    /// Finds the route for a connection. `*.x` matches names at any depth below `x`, and never `x` itself.
    pub fn find(&self, name: Option<&ServerName>, facts: &ConnectionFacts<'_>) -> RouteMatch {
        let choose = |_, slot| Some(self.choose(slot, facts)).filter(|found| *found != RouteMatch::Nothing);
        self.walk(name, choose).unwrap_or(RouteMatch::Nothing)
    }

    /// Visits the slots whose names fit, the most specific name first, until a visit returns a value.
    fn walk<R>(
        &self,
        name: Option<&ServerName>,
        mut visit: impl FnMut(NameFit, NameSlot) -> Option<R>,
    ) -> Option<R> {
        let named = name.and_then(|name| self.walk_named(name, &mut visit));
        match (named, self.any) {
            (None, Some(slot)) => visit(NameFit::Any, slot),
            (named, _) => named,
        }
    }

    fn walk_named<R>(
        &self,
        name: &ServerName,
        mut visit: impl FnMut(NameFit, NameSlot) -> Option<R>,
    ) -> Option<R> {
        let text = name.as_str();
        if let Some(found) = self.exact.get(text).and_then(|slot| visit(NameFit::Exact, *slot)) {
            return Some(found);
        }
        if !self.child.is_empty()
            && let Some((_, parent)) = text.split_once('.')
            && let Some(found) = self.child.get(parent).and_then(|slot| visit(NameFit::Child, *slot))
        {
            return Some(found);
        }
        let slot = |suffix| self.below.get(suffix);
        let below = self.suffixes(text).find_map(|suffix| visit(NameFit::Below, *slot(suffix)?));
        if below.is_some() {
            return below;
        }
        let mut fitting = self.regexes.iter().filter(|(regex, _)| regex.fits(name));
        fitting.find_map(|(_, slot)| visit(NameFit::Regex, *slot))
    }

    /// Returns the suffixes of a name that a pattern may have, the longest first.
    fn suffixes<'n>(&self, name: &'n str) -> impl Iterator<Item = &'n str> + use<'n> {
        let too_long = labels(name).saturating_sub(self.suffix_labels + 1);
        let suffixes = name.bytes().zip(1..).filter(|&(byte, _)| byte == b'.').map(|(_, next)| &name[next..]);
        suffixes.skip(too_long)
    }

    fn choose(&self, NameSlot(slot): NameSlot, facts: &ConnectionFacts<'_>) -> RouteMatch {
        if slot & GROUP == 0 {
            return RouteMatch::Route(RouteId(slot));
        }
        self.best((slot & !GROUP) as usize, facts)
    }

    /// Finds the most specific route of a group that matches. It is not inlined, so that lookups of names without
    /// conditions stay short.
    #[inline(never)]
    fn best(&self, group: usize, facts: &ConnectionFacts<'_>) -> RouteMatch {
        let mut best: Option<(Option<RouteRank>, RouteId)> = None;
        let mut is_too_old = false;
        for RouteAlternative { conditions, route, .. } in &self.groups[group] {
            let rank = match conditions.as_ref().map(|conditions| conditions.fit(facts)) {
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

fn labels(name: &str) -> usize {
    name.bytes().filter(|&byte| byte == b'.').count() + 1
}

/// Construction.
impl RouteTable {
    /// Adds an entry, or returns its tie with an earlier entry.
    fn insert(&mut self, entry: RouteEntry) -> Option<EqualRoutes> {
        let RouteEntry { key, conditions, route } = entry;
        let conditions = conditions.filter(|conditions| !conditions.is_empty());
        if let Some(conditions) = &conditions {
            let required = conditions.asks();
            self.required.destination |= required.destination;
            self.required.offer |= required.offer;
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

    /// Creates the slot of a name with one route.
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

    /// Returns the slot of a name, which is created if it does not exist.
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
