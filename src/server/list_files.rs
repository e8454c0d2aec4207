//! Follows the files with the entries of lists while the process runs. A change replaces the entries of one list and
//! nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::events::{EventKind, Severity};
use super::in_force::{ChangedPart, InForce};
use super::standing::{StandingFaults, StandingKind, first_line};
use super::view::View;
use crate::config::{Code, Config, Faults, ListReader};
use crate::snapshot::Snapshot;
use crate::snapshot::list::FileEntries;
use crate::sys::watch::{FileWatch, LookResult};

/// The reports that may wait. If there are more, the tasks wait. Each report may hold a set of megabytes.
const REPORTS: usize = 4;

/// The result of one read of a list file.
pub(super) struct ListReport {
    reader: ListReader,
    read: Result<Arc<FileEntries>, Faults>,
}

/// The followed files of all lists. Their tasks end when it is dropped. The tasks only send reports; control alone
/// applies the entries.
pub(super) struct ListFiles {
    followed: BTreeMap<Arc<str>, ListFollower>,
    /// The last report about each list that is not applied yet. A newer report replaces it, so that a file that changes
    /// often does not fill the memory.
    noted: BTreeMap<Arc<str>, ListReport>,
    reports: mpsc::Receiver<ListReport>,
    report_to: mpsc::Sender<ListReport>,
}

struct ListFollower {
    reader: ListReader,
    task: AbortHandle,
    /// True if the last reload found the file unchanged.
    is_kept: bool,
}

impl Drop for ListFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ListFiles {
    /// Starts without files.
    pub(super) fn new() -> Self {
        let (report_to, reports) = mpsc::channel(REPORTS);
        Self { followed: BTreeMap::new(), noted: BTreeMap::new(), reports, report_to }
    }

    /// Follows the files of the configuration that came into force, and no others. Clears the standing faults of files
    /// that were read again.
    pub(super) fn in_force(&mut self, change: &InForce, config: &Config, standing: &StandingFaults) {
        match change.part {
            ChangedPart::Bound | ChangedPart::Configuration => {
                self.follow(config);
                standing.retain(StandingKind::List, |list| self.is_kept(list));
            }
            ChangedPart::Pool(..) | ChangedPart::Routes => {}
        }
    }

    fn follow(&mut self, config: &Config) {
        let mut old = std::mem::take(&mut self.followed);
        for reader in ListReader::all(config) {
            let list = Arc::clone(reader.list());
            let same = old.remove(&list).filter(|following| following.reader == reader);
            let same = same.map(|mut following| {
                following.is_kept = true;
                following
            });
            let following = same.unwrap_or_else(|| {
                let task = tokio::spawn(follow(reader.clone(), self.report_to.clone())).abort_handle();
                ListFollower { reader, task, is_kept: false }
            });
            self.followed.insert(list, following);
        }
    }

    /// Returns true if the last reload kept the file of the list, and did not put its entries in force again.
    fn is_kept(&self, list: &str) -> bool {
        self.followed.get(list).is_some_and(|following| following.is_kept)
    }

    /// Keeps a report until it can be applied.
    pub(super) fn note(&mut self, report: ListReport) {
        self.noted.insert(Arc::clone(report.reader.list()), report);
    }

    /// Returns true if a report is not applied yet.
    pub(super) fn has_noted(&self) -> bool {
        !self.noted.is_empty()
    }

    /// Takes a report that is not applied yet.
    pub(super) fn take_noted(&mut self) -> Option<ListReport> {
        self.noted.pop_first().map(|(_, report)| report)
    }

    /// Waits for the next report.
    ///
    /// # Cancel safety
    ///
    /// No report is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> ListReport {
        // `self` has a sender, so the channel never ends.
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

/// Drops the entries that were read with a configuration, once its lists have them. A later change would make them
/// stale.
pub(super) fn forget_read(config: &mut Config) {
    config.lists.iter_mut().filter_map(|list| list.file.as_mut()).for_each(|file| file.read = None);
}

/// Drops the entries that a reload read from files that are followed already. Such a file may be half written at that
/// moment, and half a list is valid. The task that follows the file reads it when it is whole.
pub(super) fn leave_followed(new: &mut Config, running: &Config) {
    for list in &mut new.lists {
        let Some(file) = &mut list.file else { continue };
        let old = running.lists.iter().find(|old| old.name == list.name);
        if old.and_then(|old| old.file.as_ref()).is_some_and(|old| old.source == file.source) {
            file.read = None;
        }
    }
}

/// Reads the file whenever it changes, without end. It may have changed since the configuration was read.
async fn follow(reader: ListReader, report_to: mpsc::Sender<ListReport>) {
    let mut watch = FileWatch::of_known(Arc::clone(&reader.source().path));
    loop {
        let reading = reader.clone();
        let LookResult::Changed(read) = watch.look(move |_| reading.read().map(Arc::new)).await else {
            continue;
        };
        if report_to.send(ListReport { reader: reader.clone(), read }).await.is_err() {
            return;
        }
    }
}

impl ListReport {
    /// Applies a report: new entries come into force at once, for new connections. The entries of a broken file are not
    /// used. A report of a list that is gone or has another file now is ignored.
    pub(super) fn apply(self, view: &View) {
        let Self { reader, read } = self;
        let snapshot = view.snapshot.load();
        let name = reader.list();
        let Some(list) = snapshot.lists.get(name) else { return };
        if list.file().is_none_or(|(source, _)| source != reader.source()) {
            return;
        }
        let standing = &view.standing;
        let read = match read {
            Ok(read) => read,
            Err(faults) if faults.diagnostics().iter().any(|fault| fault.code == Code::EmptyList) => {
                list.kept.count_empty_load();
                let kept = list.file().map_or(0, |(_, entries)| entries);
                tracing::warn!(
                    list = %name,
                    file = %reader.source().path.display(),
                    kept,
                    hint = "to empty the list, set allow_empty = true for the list and reload",
                    "the file of the list has no entries; the list keeps its entries"
                );
                let text =
                    format!("the file of list {name} has no entries; the list keeps its {kept} entries");
                standing.set(StandingKind::List, name, text.clone());
                view.events.note(EventKind::List, Severity::Warning, text);
                return;
            }
            Err(faults) => {
                list.kept.count_failed_load();
                let faults = faults.render(false);
                tracing::error!(list = %name, "the file of the list is broken; the list keeps its entries:\n{faults}");
                let first = first_line(&faults);
                let text = format!("the file is broken; the list keeps its entries: {first}");
                standing.set(StandingKind::List, name, text);
                let text = format!("the file of list {name} is broken; the list keeps its entries");
                view.events.note(EventKind::List, Severity::Error, text);
                return;
            }
        };
        standing.clear(StandingKind::List, name);
        let entries = read.count;
        if list.swap_file(reader.source(), read, SystemTime::now()) {
            tracing::info!(list = %name, entries, "the list was read again");
            let text = format!("list {name} was read again: {entries} entries");
            view.events.note(EventKind::List, Severity::Info, text);
        }
    }
}

/// Removes expired additions from the lists.
pub(super) fn sweep(snapshot: &Snapshot) {
    let now = Instant::now();
    snapshot.lists.values().for_each(|list| list.kept.additions.sweep(now));
}
