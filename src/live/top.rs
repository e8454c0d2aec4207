//! The server names and sources with the most new connections of a worker, in two windows of time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::space_saving::{HeavyItems, SpaceSaving};
use crate::limit::SourceName;
use crate::reclaim;

/// The slots for each of the three kinds, in each window of each worker. So a count is too high by at most a part in 896 of
/// the connections that its worker counted in its window.
///
/// A hash table of the standard library holds 896 items in 2048 places, also after many of them were replaced. With more
/// slots it would have 4096. A name has at most 253 bytes. So a worker takes at most 1.7 MiB, and 0.9 MiB with names of 30
/// bytes. Only the id of a private link may be longer, and it comes from a trusted peer.
pub const TOP_SLOTS: usize = 896;

/// The length of a window. The present window and the one before it are counted, so an answer is about the last 5 to 10
/// minutes.
pub const TOP_WINDOW: Duration = Duration::from_secs(5 * 60);

/// The counts of a worker.
pub struct TopCounts {
    present: TopWindow,
    before: Option<TopWindow>,
}

/// The counts of one window.
struct TopWindow {
    since: Instant,
    names: SpaceSaving<Arc<str>>,
    unknown_names: SpaceSaving<Arc<str>>,
    sources: SpaceSaving<SourceName>,
}

/// The counts of a worker at one time, or of several workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopItems {
    /// The begin of the earlier window.
    pub since: Instant,
    /// Server names with a route.
    pub names: HeavyItems<Arc<str>>,
    /// Server names without a route. They have their own slots, so random names evict no name with a route.
    pub unknown_names: HeavyItems<Arc<str>>,
    /// Sources, as their listeners count them.
    pub sources: HeavyItems<SourceName>,
}

impl TopWindow {
    fn new(since: Instant) -> Self {
        Self {
            since,
            names: SpaceSaving::new(TOP_SLOTS),
            unknown_names: SpaceSaving::new(TOP_SLOTS),
            sources: SpaceSaving::new(TOP_SLOTS),
        }
    }

    fn items(&self) -> TopItems {
        TopItems {
            since: self.since,
            names: self.names.items(),
            unknown_names: self.unknown_names.items(),
            sources: self.sources.items(),
        }
    }
}

impl TopCounts {
    /// Returns counts of 0.
    pub fn new(now: Instant) -> Self {
        Self { present: TopWindow::new(now), before: None }
    }

    /// Begins another window if the present one is over. It must be called several times in a window.
    pub fn rotate(&mut self, now: Instant) {
        if now.saturating_duration_since(self.present.since) < TOP_WINDOW {
            return;
        }
        let over = std::mem::replace(&mut self.present, TopWindow::new(now));
        if let Some(oldest) = self.before.replace(over) {
            // Thousands of names are freed.
            reclaim::free_later(oldest);
        }
    }

    /// Counts a connection with a server name that has a route.
    pub fn count_name(&mut self, name: &str) {
        self.present.names.count(name, || name.into());
    }

    /// Counts a connection with a server name that has no route.
    pub fn count_unknown_name(&mut self, name: &str) {
        self.present.unknown_names.count(name, || name.into());
    }

    /// Counts a connection of a source.
    pub fn count_source(&mut self, source: &SourceName) {
        self.present.sources.count(source, || source.clone());
    }

    /// Returns the counts of each window.
    pub fn items(&self) -> Vec<TopItems> {
        self.before.iter().chain([&self.present]).map(TopWindow::items).collect()
    }
}

impl TopItems {
    /// Returns the counts of several windows and workers together. Without any, nothing was counted until now.
    pub fn merge(parts: Vec<Self>, now: Instant) -> Self {
        let since = parts.iter().map(|part| part.since).min().unwrap_or(now);
        let (mut names, mut unknown_names, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            names.push(part.names);
            unknown_names.push(part.unknown_names);
            sources.push(part.sources);
        }
        Self {
            since,
            names: HeavyItems::merge(names),
            unknown_names: HeavyItems::merge(unknown_names),
            sources: HeavyItems::merge(sources),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn merged(counts: &TopCounts) -> TopItems {
        TopItems::merge(counts.items(), Instant::now())
    }

    fn summary(items: &HeavyItems<Arc<str>>) -> Vec<(&str, u64)> {
        items.items.iter().map(|item| (&*item.key, item.count)).collect()
    }

    #[test]
    fn two_windows_are_counted() {
        let begin = Instant::now();
        let mut counts = TopCounts::new(begin);
        counts.count_name("a.example");
        counts.count_unknown_name("x");
        counts.rotate(begin + TOP_WINDOW - Duration::from_nanos(1));
        counts.count_name("a.example");
        assert_eq!(counts.items().len(), 1);
        counts.rotate(begin + TOP_WINDOW);
        counts.count_name("b.example");
        counts.count_name("a.example");
        let items = merged(&counts);
        assert_eq!(items.since, begin);
        assert_eq!(summary(&items.names), [("a.example", 3), ("b.example", 1)]);
        assert_eq!(summary(&items.unknown_names), [("x", 1)]);
        counts.rotate(begin + TOP_WINDOW * 2);
        let items = merged(&counts);
        assert_eq!(items.since, begin + TOP_WINDOW);
        assert_eq!(summary(&items.names), [("a.example", 1), ("b.example", 1)]);
        assert_eq!((items.names.total, items.unknown_names.total), (2, 0));
    }

    #[test]
    fn kinds_have_their_own_slots() {
        let mut counts = TopCounts::new(Instant::now());
        counts.count_name("a.example");
        for number in 0..TOP_SLOTS * 3 {
            counts.count_unknown_name(&format!("{number}.example"));
            counts.count_source(&SourceName::Network(IpAddr::from((number as u128).to_be_bytes())));
        }
        let items = merged(&counts);
        assert_eq!(summary(&items.names), [("a.example", 1)]);
        assert_eq!((items.names.error_bound, items.unknown_names.error_bound), (0, 3));
        assert_eq!((items.unknown_names.items.len(), items.sources.items.len()), (TOP_SLOTS, TOP_SLOTS));
    }
}
