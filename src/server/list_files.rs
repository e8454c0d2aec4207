//! Files with the entries of lists, followed while the process runs: a change swaps the entries of one list and
//! nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::events::{EventKind, Severity};
use super::run::Control;
use super::standing::{StandingKind, first_line};
use crate::config::{Code, Config, Faults, ListReader};
use crate::snapshot::access::FileEntries;
use crate::sys::watch::{FileWatch, LookResult};

/// Reports that may wait; then the tasks wait. Each may hold a set of megabytes.
const REPORTS: usize = 4;

/// What a task read.
pub(super) struct ListReport {
    pub(super) reader: ListReader,
    read: Result<Arc<FileEntries>, Faults>,
}

/// The files of all lists. Their tasks end with it; they only send, control alone applies.
pub(super) struct ListFiles {
    followed: BTreeMap<Arc<str>, ListFollower>,
    reports: mpsc::Receiver<ListReport>,
    report_to: mpsc::Sender<ListReport>,
}

struct ListFollower {
    reader: ListReader,
    task: AbortHandle,
    /// Whether the last reload found it as it was.
    is_kept: bool,
}

impl Drop for ListFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ListFiles {
    /// None yet.
    pub(super) fn new() -> Self {
        let (report_to, reports) = mpsc::channel(REPORTS);
        Self { followed: BTreeMap::new(), reports, report_to }
    }

    /// Follows the files of a configuration, and no others.
    pub(super) fn follow(&mut self, config: &Config) {
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

    /// Whether the list has the same file as before the last reload, which did not put the file in force again.
    pub(super) fn is_kept(&self, list: &str) -> bool {
        self.followed.get(list).is_some_and(|following| following.is_kept)
    }

    /// The next report.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> ListReport {
        // It never ends, as one sender is here.
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

/// Lets go of what was read with a configuration, once its lists have it: a later change would leave it behind.
pub(super) fn forget_read(config: &mut Config) {
    config.lists.iter_mut().filter_map(|list| list.file.as_mut()).for_each(|file| file.read = None);
}

/// Drops the entries that a reload read from files that are followed already. Such a file may be half written at the
/// moment of the reload, and half a list is valid. The task that follows the file reads it when it is whole.
pub(super) fn leave_followed(new: &mut Config, running: &Config) {
    for list in &mut new.lists {
        let Some(file) = &mut list.file else { continue };
        let old = running.lists.iter().find(|old| old.name == list.name);
        if old.and_then(|old| old.file.as_ref()).is_some_and(|old| old.source == file.source) {
            file.read = None;
        }
    }
}

/// Reads the file whenever it changes, for ever. It may have changed since the configuration was read.
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

impl Control {
    /// Takes in what was read: other entries come into force at once, for new connections; of a broken file
    /// nothing does. A report may be of a list that is gone, or has another file now: then it is passed over.
    pub(super) fn list_read(&mut self, ListReport { reader, read }: ListReport) {
        let snapshot = self.server.view.snapshot.load();
        let name = reader.list();
        let Some(list) = snapshot.lists.get(name) else { return };
        if list.file().is_none_or(|(source, _)| source != reader.source()) {
            return;
        }
        let standing = &self.server.view.standing;
        let read = match read {
            Ok(read) => read,
            Err(faults) if faults.diagnostics().iter().any(|fault| fault.code == Code::EmptyList) => {
                list.kept.count_empty_load();
                let kept = list.file().map_or(0, |(_, entries)| entries);
                tracing::warn!(
                    list = %name,
                    file = %reader.source().path.display(),
                    kept,
                    hint = "if the list is to be empty, set allow_empty = true for it and reload",
                    "the file of the list has no entries; the list keeps the entries that it has"
                );
                let text =
                    format!("the file of list {name} has no entries; the list keeps its {kept} entries");
                standing.set(StandingKind::List, name, text.clone());
                self.server.view.events.note(EventKind::List, Severity::Warning, text);
                return;
            }
            Err(faults) => {
                list.kept.count_failed_load();
                let faults = faults.render(false);
                tracing::error!(list = %name, "the file of the list is broken; its entries stay as they are:\n{faults}");
                let first = first_line(&faults);
                let text = format!("the file is broken; the entries of the list stay as they are: {first}");
                standing.set(StandingKind::List, name, text);
                let text = format!("the file of list {name} is broken; its entries stay as they are");
                self.server.view.events.note(EventKind::List, Severity::Error, text);
                return;
            }
        };
        standing.clear(StandingKind::List, name);
        let entries = read.count;
        if list.swap_file(reader.source(), read, SystemTime::now()) {
            tracing::info!(list = %name, entries, "the list was read again");
            let text = format!("list {name} was read again: {entries} entries");
            self.server.view.events.note(EventKind::List, Severity::Info, text);
        }
    }

    /// Forgets what was added to lists for a time that is over.
    pub(super) fn sweep_lists(&self) {
        let snapshot = self.server.view.snapshot.load();
        let now = Instant::now();
        snapshot.lists.values().for_each(|list| list.kept.additions.sweep(now));
    }
}
