//! From a server name to the route that fits it best.
//!
//! An exact name comes first, then the longest `*.suffix`. The order of the routes does not matter: two routes
//! with one pattern are an error, never "the first wins". A look-up costs one hash for the whole name and one
//! for each suffix that could be a pattern, whatever the number of routes, and allocates nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::NamePattern;
use crate::wire::ServerName;

/// Which route: a position in the caller's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub u32);

/// A pattern that was given twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is given twice")]
pub struct DuplicateRoute {
    /// The pattern of both.
    pub pattern: NamePattern,
    /// The route that had it first.
    pub first: RouteId,
    /// The route that has it again; the same one if its own list of names repeats.
    pub second: RouteId,
}

/// The routes of one listener.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, RouteId>,
    /// By the suffix after `*.`.
    below: HashMap<Box<str>, RouteId>,
    /// Labels in the longest suffix: what a client sends beyond that is not hashed.
    suffix_labels: usize,
}

impl RouteTable {
    /// Builds a table; several patterns may lead to one route.
    ///
    /// # Errors
    ///
    /// Every pattern that was there already, in the order given.
    pub fn build(routes: impl Iterator<Item = (NamePattern, RouteId)>) -> Result<Self, Vec<DuplicateRoute>> {
        let mut table = Self::default();
        let duplicates: Vec<DuplicateRoute> =
            routes.filter_map(|(pattern, route)| table.insert(pattern, route).err()).collect();
        if duplicates.is_empty() { Ok(table) } else { Err(duplicates) }
    }

    fn insert(&mut self, pattern: NamePattern, route: RouteId) -> Result<(), DuplicateRoute> {
        let (map, name) = match &pattern {
            NamePattern::Exact(name) => (&mut self.exact, name),
            NamePattern::Below(suffix) => (&mut self.below, suffix),
        };
        match map.entry(name.as_str().into()) {
            Entry::Occupied(held) => Err(DuplicateRoute { first: *held.get(), second: route, pattern }),
            Entry::Vacant(free) => {
                free.insert(route);
                if let NamePattern::Below(suffix) = &pattern {
                    self.suffix_labels = self.suffix_labels.max(labels(suffix.as_str()));
                }
                Ok(())
            }
        }
    }

    /// The route for a name, or `None` when no pattern fits. `*.x` fits at any depth, and never `x` itself.
    pub fn find(&self, name: &ServerName) -> Option<RouteId> {
        let name = name.as_str();
        self.exact.get(name).copied().or_else(|| self.longest_suffix(name))
    }

    fn longest_suffix(&self, name: &str) -> Option<RouteId> {
        let too_long = labels(name).saturating_sub(self.suffix_labels + 1);
        let suffixes = name.bytes().zip(1..).filter(|&(byte, _)| byte == b'.').map(|(_, next)| &name[next..]);
        suffixes.skip(too_long).find_map(|suffix| self.below.get(suffix).copied())
    }
}

fn labels(name: &str) -> usize {
    name.bytes().filter(|&byte| byte == b'.').count() + 1
}

#[cfg(test)]
mod tests;
