//! The rates of sources, for another process that goes on with them.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use super::{Moment, SourceEntry, SourceKey, SourceTable};
use crate::ids::ListenerId;

/// The state of a source whose rate has not recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRate {
    /// The listener.
    pub listener: ListenerId,
    /// The source.
    pub source: SourceKey,
    /// The time in nanoseconds until its rate has recovered.
    pub recovers_in: u64,
    /// The time in nanoseconds until it is admitted again; 0 if it has a token.
    pub over_for: u64,
}

impl SourceTable {
    /// Returns the sources whose rate has not recovered, `most` at most. If there are more, the sources that are
    /// admitted again last are returned. It reads every slot, so workers must not call it.
    pub fn rates(&self, most: usize, now: Moment) -> Vec<SourceRate> {
        let mut rates = Vec::new();
        for set in self.sets.get().map_or(&[][..], |sets| sets) {
            rates.extend(set.lock().0.iter().filter_map(|entry| entry.rate(now)));
        }
        if rates.len() > most {
            rates.sort_by_key(|rate| Reverse((rate.over_for, rate.recovers_in)));
            rates.truncate(most);
        }
        rates
    }

    /// Restores the rate of a source of another process. A source that has a slot keeps its rate if it recovers later.
    /// If all slots are taken, the rate is restored only if it is to be evicted later than another source without open
    /// connections.
    pub fn restore(&self, rate: &SourceRate, now: Moment) {
        let entry = SourceEntry::restored(rate, now);
        let mut set = self.sets()[self.index(rate.listener, rate.source)].lock();
        if let Some(way) = set.find(rate.listener, rate.source) {
            set.0[way].restore(&entry);
            return;
        }
        let Some(way) = set.slot_for_new(now) else { return };
        let before = &mut set.0[way];
        if before.is_free() {
            self.known.fetch_add(1, Ordering::Relaxed);
        } else if before.eviction_rank(now) >= entry.eviction_rank(now) {
            return;
        }
        *before = entry;
    }
}
