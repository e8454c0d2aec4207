//! Follows the databases with the places of clients while the process runs. A changed database replaces the
//! orders of zones of its pools. Only new connections use the new orders.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::events::{EventKind, Severity};
use super::in_force::{ChangedPart, InForce};
use super::standing::{StandingFaults, StandingKind, first_line};
use super::view::View;
use crate::config::{Config, Faults, NearReader};
use crate::pool::near::{PlaceTable, Places};
use crate::sys::watch::{FileWatch, LookResult};

/// The reports that may wait. If there are more, the tasks wait. Each report may hold a table of megabytes.
const REPORTS: usize = 4;

/// The result of one read of a database.
pub(super) struct NearReport {
    reader: NearReader,
    read: Result<Arc<PlaceTable>, Faults>,
}

/// The followed databases of all pools. Pools with the same database and sites have one follower. The tasks only send
/// reports; control alone applies the tables.
pub(super) struct NearFiles {
    followed: Vec<NearFollower>,
    /// The last report about each database that is not applied yet. A newer report replaces it, so that a file that changes
    /// often does not fill the memory.
    noted: VecDeque<NearReport>,
    reports: mpsc::Receiver<NearReport>,
    report_to: mpsc::Sender<NearReport>,
}

struct NearFollower {
    reader: NearReader,
    task: AbortHandle,
    /// True if the last reload found the database and the sites unchanged.
    is_kept: bool,
}

impl Drop for NearFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NearFiles {
    /// Starts without databases.
    pub(super) fn new() -> Self {
        let (report_to, reports) = mpsc::channel(REPORTS);
        Self { followed: Vec::new(), noted: VecDeque::new(), reports, report_to }
    }

    /// Follows the databases of the configuration that came into force, and no others. Clears the standing faults of
    /// databases that were read again.
    pub(super) fn in_force(&mut self, change: &InForce, config: &Config, standing: &StandingFaults) {
        match change.part {
            ChangedPart::Bound | ChangedPart::Configuration => {
                self.follow(config);
                standing.retain(StandingKind::Near, |pool| {
                    let own = config.pools.iter().find(|own| own.name == *pool);
                    let source = own.and_then(|own| Some(&own.tiers.near.as_ref()?.source));
                    source.is_some_and(|source| {
                        self.followed.iter().any(|known| known.is_kept && known.reader.source() == source)
                    })
                });
            }
            ChangedPart::Pool(..) | ChangedPart::Routes => {}
        }
    }

    fn follow(&mut self, config: &Config) {
        let mut old = std::mem::take(&mut self.followed);
        for reader in NearReader::all(config) {
            let follower = match old.iter().position(|known| known.reader == reader) {
                Some(at) => {
                    let mut same = old.swap_remove(at);
                    same.is_kept = true;
                    same
                }
                None => {
                    let task = tokio::spawn(follow(reader.clone(), self.report_to.clone())).abort_handle();
                    NearFollower { reader, task, is_kept: false }
                }
            };
            self.followed.push(follower);
        }
    }

    /// Keeps a report until it can be applied.
    pub(super) fn note(&mut self, report: NearReport) {
        self.noted.retain(|noted| noted.reader != report.reader);
        self.noted.push_back(report);
    }

    /// Returns true if a report is not applied yet.
    pub(super) fn has_noted(&self) -> bool {
        !self.noted.is_empty()
    }

    /// Takes a report that is not applied yet.
    pub(super) fn take_noted(&mut self) -> Option<NearReport> {
        self.noted.pop_front()
    }

    /// Waits for the next report.
    ///
    /// # Cancel safety
    ///
    /// No report is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> NearReport {
        // `self` has a sender, so the channel never ends.
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

/// Drops the tables that were read with a configuration, once its pools have them. A later change would make them stale.
pub(super) fn forget_read(config: &mut Config) {
    config.pools.iter_mut().filter_map(|pool| pool.tiers.near.as_mut()).for_each(|near| near.read = None);
}

/// Drops the tables that a reload read from databases that are followed already, as for lists.
pub(super) fn leave_followed(new: &mut Config, running: &Config) {
    for pool in &mut new.pools {
        let Some(near) = &mut pool.tiers.near else { continue };
        let old = running.pools.iter().find(|old| old.name == pool.name);
        if old.and_then(|old| old.tiers.near.as_ref()).is_some_and(|old| old.source == near.source) {
            near.read = None;
        }
    }
}

/// Reads the database whenever it changes, without end. It may have changed since the configuration was read.
async fn follow(reader: NearReader, report_to: mpsc::Sender<NearReport>) {
    let mut watch = FileWatch::of_known(Arc::clone(&reader.source().path));
    loop {
        let reading = reader.clone();
        let LookResult::Changed(read) = watch.look(move |_| reading.read().map(Arc::new)).await else {
            continue;
        };
        if report_to.send(NearReport { reader: reader.clone(), read }).await.is_err() {
            return;
        }
    }
}

impl NearReport {
    /// Applies a report: the new table comes into force at once, for new connections of all pools with this database and
    /// these sites. A broken database changes nothing.
    pub(super) fn apply(self, view: &View) {
        let Self { reader, read } = self;
        let source = reader.source();
        let snapshot = view.snapshot.load();
        let places = snapshot.pools.iter().filter_map(|(name, served)| Some((name, served.pool.places()?)));
        let own: Vec<(&Arc<str>, &Arc<Places>)> =
            places.filter(|(_, places)| places.source() == source).collect();
        let Some((first, _)) = own.first() else { return };
        let database = source.path.display();
        let table = match read {
            Ok(table) => table,
            Err(faults) => {
                own.iter().for_each(|(_, places)| places.count_failed_load());
                let faults = faults.render(false);
                tracing::error!(
                    pool = %first, %database,
                    "the database of `near` is broken; each client keeps its order of zones:\n{faults}"
                );
                let text = format!(
                    "the database {database} is broken; each client keeps its order of zones: {}",
                    first_line(&faults)
                );
                // A reload may remove any of these pools.
                own.iter().for_each(|(name, _)| view.standing.set(StandingKind::Near, name, text.clone()));
                let text =
                    format!("the database {database} of pool {first} is broken; its last version stays");
                view.events.note(EventKind::Pool, Severity::Error, text);
                return;
            }
        };
        own.iter().for_each(|(name, _)| view.standing.clear(StandingKind::Near, name));
        let now = SystemTime::now();
        let swapped = own.iter().filter(|(_, places)| places.swap(Arc::clone(&table), now)).count();
        if swapped > 0 {
            let (ranges, orders) = (table.ranges(), table.orders());
            tracing::info!(pool = %first, %database, ranges, orders, "the database of `near` was read again");
            let text =
                format!("the database {database} of pool {first} was read again: {orders} orders of zones");
            view.events.note(EventKind::Pool, Severity::Info, text);
        }
    }
}
