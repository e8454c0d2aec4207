//! A list of connections: the best rows of many, in an order.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashSet};
use std::time::Instant;

use super::filter::ConnectionFilter;
use super::view::{ConnectionFigures, ConnectionRow, ConnectionView};

/// The order of a list. The largest value comes first; of equal values, the older connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionSort {
    /// The age.
    #[default]
    Age,
    /// The bytes delivered in both directions since the start.
    Bytes,
    /// The bytes a second in both directions.
    Rate,
    /// The time for which no byte has moved.
    Idle,
}

impl ConnectionSort {
    /// Every order.
    pub const ALL: [Self; 4] = [Self::Age, Self::Bytes, Self::Rate, Self::Idle];

    /// The word in the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Bytes => "bytes",
            Self::Rate => "rate",
            Self::Idle => "idle",
        }
    }

    /// Returns the value by which a connection is sorted.
    fn value(self, figures: &ConnectionFigures) -> u64 {
        match self {
            Self::Age => u64::try_from(figures.age.as_nanos()).unwrap_or(u64::MAX),
            Self::Bytes => figures.bytes.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes)),
            Self::Rate => figures.rate,
            Self::Idle => u64::try_from(figures.idle.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// The rank of a connection in a list; the greatest comes first.
type Rank = (u64, Reverse<u64>);

/// A row with its rank.
struct RankedRow {
    rank: Rank,
    row: ConnectionRow,
}

impl PartialEq for RankedRow {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for RankedRow {}

impl PartialOrd for RankedRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RankedRow {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}

/// The request for a list.
#[derive(Clone, Debug)]
pub struct ConnectionQuery {
    /// The connections in question.
    pub filter: ConnectionFilter,
    /// The order.
    pub sort: ConnectionSort,
    /// The most rows.
    pub limit: usize,
    /// The moment of the ages. It is the same for all workers, so that the ages of their connections can be compared.
    pub now: Instant,
}

/// A list of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPage {
    /// The connections that were seen.
    pub open: u64,
    /// The connections that pass the filter.
    pub matched: u64,
    /// The first of these, in order.
    pub rows: Vec<ConnectionRow>,
}

/// A list that is being made. It never holds more rows than its limit.
pub struct PageBuilder {
    query: ConnectionQuery,
    open: u64,
    matched: u64,
    /// The best rows so far; the worst of them is on top.
    best: BinaryHeap<Reverse<RankedRow>>,
}

impl PageBuilder {
    /// The moment of the ages.
    pub(super) fn now(&self) -> Instant {
        self.query.now
    }

    /// Returns an empty list for a request.
    pub fn new(query: ConnectionQuery) -> Self {
        Self { query, open: 0, matched: 0, best: BinaryHeap::new() }
    }

    /// Adds a connection, if it passes the filter. Its row is made only if it is among the best so far.
    pub fn see(&mut self, view: &ConnectionView<'_>) {
        self.open += 1;
        if !self.query.filter.matches(view) {
            return;
        }
        self.matched += 1;
        let rank = (self.query.sort.value(&view.figures), Reverse(view.id));
        if self.has_room(rank) {
            self.keep(RankedRow { rank, row: view.row() });
        }
    }

    /// Returns true if a connection of this rank is among the best so far.
    fn has_room(&self, rank: Rank) -> bool {
        self.best.len() < self.query.limit || self.best.peek().is_some_and(|Reverse(worst)| rank > worst.rank)
    }

    fn keep(&mut self, row: RankedRow) {
        self.best.push(Reverse(row));
        if self.best.len() > self.query.limit {
            self.best.pop();
        }
    }

    /// Returns the list.
    pub fn finish(self) -> ConnectionPage {
        let Self { open, matched, best, .. } = self;
        // Ascending, of reversed ranks: the best row is the first.
        let rows = best.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked.row).collect();
        ConnectionPage { open, matched, rows }
    }
}

impl ConnectionPage {
    /// Makes one list of the lists of several workers. A connection that moved from one worker to another meanwhile may be
    /// in two of them, and gets one row.
    pub fn merge(pages: impl IntoIterator<Item = Self>, sort: ConnectionSort, limit: usize) -> Self {
        let mut whole = Self::default();
        for page in pages {
            whole.open += page.open;
            whole.matched += page.matched;
            whole.rows.extend(page.rows);
        }
        whole.rows.sort_by_key(|row| Reverse((sort.value(&row.figures), Reverse(row.id))));
        let mut seen = HashSet::new();
        whole.rows.retain(|row| seen.insert(row.id));
        whole.rows.truncate(limit);
        whole
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::live::card::ConnectionCard;
    use crate::live::stage::OpenStage;

    fn figures(value: u64) -> ConnectionFigures {
        ConnectionFigures {
            age: Duration::from_millis(value),
            idle: Duration::from_millis(value / 2),
            bytes: [value, 3 * value],
            rate: 7 * value,
        }
    }

    fn row(id: u64, value: u64) -> ConnectionRow {
        let (listener, card) = ("l".into(), ConnectionCard::default());
        ConnectionRow {
            id,
            client: None,
            listener,
            stage: OpenStage::Relaying,
            card,
            figures: figures(value),
        }
    }

    /// Returns the list of connections with these values; the id is the index.
    fn page(values: &[u64], sort: ConnectionSort, limit: usize) -> ConnectionPage {
        let filter = ConnectionFilter { older: Some(Duration::from_millis(10)), ..Default::default() };
        let mut builder = PageBuilder::new(ConnectionQuery { filter, sort, limit, now: Instant::now() });
        let (listener, card): (Arc<str>, _) = ("l".into(), ConnectionCard::default());
        for (id, value) in (0..).zip(values) {
            let (stage, figures) = (OpenStage::Relaying, figures(*value));
            builder.see(&ConnectionView {
                id,
                client: None,
                listener: &listener,
                stage,
                backend: None,
                card: &card,
                figures,
            });
            assert!(builder.best.len() <= limit);
        }
        builder.finish()
    }

    fn ids(page: &ConnectionPage) -> Vec<u64> {
        page.rows.iter().map(|row| row.id).collect()
    }

    #[test]
    fn the_largest_come_first_and_of_equal_ones_the_older() {
        let values = [20, 5, 40, 40, 30, 10, 40];
        for sort in ConnectionSort::ALL {
            let first = page(&values, sort, 4);
            assert_eq!((first.open, first.matched, ids(&first)), (7, 6, vec![2, 3, 6, 4]), "{sort:?}");
            assert_eq!(ids(&page(&values, sort, 1000)), [2, 3, 6, 4, 0, 5], "{sort:?}");
            assert_eq!(ids(&page(&values, sort, 1)), [2], "{sort:?}");
        }
        assert_eq!(page(&[], ConnectionSort::Age, 5), ConnectionPage::default());
    }

    #[test]
    fn lists_are_merged_and_a_connection_in_two_has_one_row() {
        let list = |rows: &[(u64, u64)]| ConnectionPage {
            open: 10,
            matched: 5,
            rows: rows.iter().map(|(id, value)| row(*id, *value)).collect(),
        };
        let pages = [list(&[(1, 50), (2, 30)]), list(&[(9, 60), (2, 30), (3, 20)])];
        let whole = ConnectionPage::merge(pages, ConnectionSort::Bytes, 3);
        assert_eq!((whole.open, whole.matched, ids(&whole)), (20, 10, vec![9, 1, 2]));
    }

    proptest! {
        #[test]
        fn a_list_is_the_head_of_the_sorted_whole(
            values in prop::collection::vec(0_u64..50, 0..200),
            limit in 1_usize..50,
        ) {
            let mut all: Vec<_> = (0..).zip(&values).filter(|(_, value)| **value >= 10).collect();
            all.sort_by_key(|(id, value)| (Reverse(**value), *id));
            let expected: Vec<u64> = all.iter().map(|(id, _)| *id).take(limit).collect();
            let found = page(&values, ConnectionSort::Rate, limit);
            prop_assert_eq!(ids(&found), expected);
            prop_assert_eq!(found.matched, all.len() as u64);
        }
    }
}
