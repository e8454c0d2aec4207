//! The order of the zones of a pool for each client, by distance.
//!
//! A database has the place of each network of clients, and the configuration has the places of zones: the sites. Both are
//! reduced to a table with an order of zones for each network (`place_table`) when the database is read. A
//! connection looks its client up in this table. The look-up takes no lock and allocates no memory.
//!
//! The order depends only on the database, the sites and the client's address. So all nodes with the same database and the
//! same sites agree on each client.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};

mod distance;
mod place_table;
mod sites;

pub use distance::Coordinates;
pub use place_table::{MOST_ORDERS, MOST_PLACE_RANGES, PlaceTable, PlaceTableFault, ZoneOrders};
pub use sites::{ClientPlace, MOST_SITES, Sites};

pub(super) use place_table::OrderId;
pub(super) use sites::ZoneRank;

/// The results of reads in the metrics.
const LOADED: &str = "ok";
const FAILED: &str = "failed";

/// The order of zones by distance, as configured.
#[derive(Clone, Debug)]
pub struct NearSpec {
    /// The database and the sites.
    pub source: NearSource,
    /// The table that was read with the configuration; `None` if none was read.
    pub read: Option<Arc<PlaceTable>>,
}

/// Two specs are equal if they have the same database and sites, even if different contents were read.
impl PartialEq for NearSpec {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for NearSpec {}

/// A database and the sites whose order it decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearSource {
    /// The path of the database.
    pub path: Arc<Path>,
    /// The zones with their places.
    pub sites: Arc<Sites>,
}

/// The places of clients for a pool in use. Shared with the pools of earlier and later snapshots that have the same
/// database and sites, so that a new table is in force for all of them at once.
#[derive(Debug)]
pub struct Places {
    source: NearSource,
    table: ArcSwap<PlaceTable>,
    /// Unix time in milliseconds; 0 is never.
    loaded: AtomicU64,
    /// Shared with the places of the pool's earlier and later sources.
    counts: Arc<LoadCounts>,
}

/// The reads of the databases of a pool.
#[derive(Debug, Default)]
struct LoadCounts {
    good: AtomicU64,
    failed: AtomicU64,
}

impl Places {
    /// Creates the places of a spec, and takes the table out of the spec. If the spec has no table, returns
    /// the `previous` places if they have the same source.
    pub(super) fn build(spec: &mut NearSpec, previous: Option<&Arc<Self>>) -> Arc<Self> {
        let same = previous.filter(|places| places.source == spec.source);
        match (spec.read.take(), same) {
            (None, Some(same)) => Arc::clone(same),
            (read, _) => {
                let (source, table) = (spec.source.clone(), ArcSwap::default());
                let counts = previous.map(|places| Arc::clone(&places.counts)).unwrap_or_default();
                let places = Self { source, table, loaded: AtomicU64::new(0), counts };
                read.into_iter().for_each(|table| _ = places.swap(table, SystemTime::now()));
                Arc::new(places)
            }
        }
    }

    /// The database and the sites.
    pub fn source(&self) -> &NearSource {
        &self.source
    }

    /// The table in force.
    pub fn table(&self) -> Guard<Arc<PlaceTable>> {
        self.table.load()
    }

    /// Puts a table that was read from the database in force for new connections. Returns false if it is the same.
    pub fn swap(&self, table: Arc<PlaceTable>, now: SystemTime) -> bool {
        self.add_loads(LOADED, 1);
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.loaded.store(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let is_new = !self.table.load().is_same(&table);
        if is_new {
            self.table.store(table);
        }
        is_new
    }

    /// Counts a read that found the database broken or gone.
    pub fn count_failed_load(&self) {
        self.add_loads(FAILED, 1);
    }

    /// The reads of the pool's databases, by result: `ok` and `failed`.
    pub fn loads(&self) -> [(&'static str, u64); 2] {
        let LoadCounts { good, failed } = &*self.counts;
        [(LOADED, good.load(Ordering::Relaxed)), (FAILED, failed.load(Ordering::Relaxed))]
    }

    /// Adds reads that another process counted, by result. Other results are ignored.
    pub fn add_loads(&self, result: &str, count: u64) {
        let counter = match result {
            LOADED => &self.counts.good,
            FAILED => &self.counts.failed,
            _ => return,
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// The time of the last good read of the database; `None` if no read was good yet.
    pub fn loaded(&self) -> Option<SystemTime> {
        let loaded = self.loaded.load(Ordering::Relaxed);
        (loaded > 0).then(|| UNIX_EPOCH + Duration::from_millis(loaded))
    }
}

#[cfg(test)]
mod tests;
