//! Follows a file that another program writes, and reads it again when it has changed and is whole.

#![allow(clippy::disallowed_methods, reason = "only in calls of file_call")]

use std::future::pending;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::directory_watch::{DirectoryChange, DirectoryWatch, WatchEvents, WatchedNames};
use super::file_call;

/// The time between two looks at a file, if no event causes a look.
const LOOK: Duration = Duration::from_secs(5);

/// The quiet time after a change before the file is read, so that a burst of changes causes one look.
const QUIET: Duration = Duration::from_millis(20);

/// The most waits for a quiet time. After so many waits the file is looked at even if the changes do not end.
const MOST_QUIETS: usize = 10;

/// Follows a file that another program writes, and reads it when it has changed and is whole.
///
/// Its directory is watched. In three cases the file is whole and is read at once: it is closed after writing,
/// another file is renamed over it, or the link changes by which a mounted volume replaces all its files at once. On a
/// network file system, or behind further links, the kernel does not report changes. A look every few seconds finds
/// these changes. Such a file may be half written, so it is read only if two looks in a row find it unchanged.
///
/// All work that may wait for the file system is done in one call of [`file_call`]. A file system that does not
/// answer delays only this file.
#[derive(Debug)]
pub struct FileWatch {
    path: Arc<Path>,
    directory: Option<DirectoryWatch>,
    names: WatchedNames,
    /// The reason for the first look; `None` after it.
    first: Option<LookReason>,
    /// The file that was last read.
    seen: Option<FileStamp>,
    /// The changed file that the last look found, if it may be half written.
    unsettled: Option<FileStamp>,
    period: Duration,
}

/// The result of a look at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookResult<T> {
    /// The file may have changed since the last look; the value was read from it.
    Changed(T),
    /// The file is the same, or is not whole yet.
    Same,
}

/// The reason for a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LookReason {
    /// The file was not looked at before.
    First,
    /// The directory reports a whole file.
    Whole,
    /// The directory reports an entry that was created or removed: a link is whole, a file is not.
    Begun,
    /// The file may have changed since it was last read.
    Unknown,
    /// A period has passed.
    Period,
}

/// The result of one call.
struct ReadResult<T> {
    events: Option<WatchEvents>,
    names: WatchedNames,
    seen: Option<FileStamp>,
    unsettled: Option<FileStamp>,
    read: Option<T>,
}

impl FileWatch {
    /// Creates the watch of a file, which need not exist. The first look reads it.
    pub fn new(path: Arc<Path>) -> Self {
        Self::with_period(path, LookReason::First, LOOK)
    }

    /// Creates the watch of a file that was read a moment ago. It may have changed since, and may be half written now.
    pub fn of_known(path: Arc<Path>) -> Self {
        Self::with_period(path, LookReason::Unknown, LOOK)
    }

    fn with_period(path: Arc<Path>, first: LookReason, period: Duration) -> Self {
        let names = WatchedNames::new(&path, None);
        Self { path, directory: None, names, first: Some(first), seen: None, unsettled: None, period }
    }

    /// Checks whether the file has changed, and reads a changed file. The first look is at once. A further look comes
    /// with each reported change, and every few seconds. `read` may block.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// The value of a read under way is lost, and the next look reads the file again.
    pub async fn look<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> LookResult<T> {
        let reason = match self.first {
            Some(first) => first,
            None => self.wait().await,
        };
        let path = Arc::clone(&self.path);
        let (seen, unsettled) = (self.seen.clone(), self.unsettled.clone());
        let has_watch = self.directory.is_some();
        let call = file_call::call(&self.path, move || {
            // Watched before the look, so that no change falls between the two.
            let events = if has_watch { None } else { WatchEvents::new(directory(&path)).ok() };
            let target = path.read_link().ok();
            let names = WatchedNames::new(&path, target.as_deref());
            let stamp = FileStamp::of(&path);
            match judge(reason, target.is_some(), &stamp, seen.as_ref(), unsettled.as_ref()) {
                LookDecision::Same => {
                    ReadResult { events, names, seen: Some(stamp), unsettled: None, read: None }
                }
                LookDecision::Unsettled => {
                    ReadResult { events, names, seen, unsettled: Some(stamp), read: None }
                }
                LookDecision::Read => {
                    let read = Some(read(&path));
                    ReadResult { events, names, seen: Some(stamp), unsettled: None, read }
                }
            }
        });
        let Ok(found) = call.await else {
            // `read` panicked, which is logged. Later looks try again, not this one.
            self.first = None;
            return LookResult::Same;
        };
        if let Some(events) = found.events {
            self.directory = DirectoryWatch::new(events).ok();
        }
        self.first = None;
        (self.names, self.seen, self.unsettled) = (found.names, found.seen, found.unsettled);
        found.read.map_or(LookResult::Same, LookResult::Changed)
    }

    async fn wait(&mut self) -> LookReason {
        let change = tokio::select! {
            change = changed(self.directory.as_ref(), &self.names) => change,
            () = sleep(self.period) => return LookReason::Period,
        };
        match change {
            Some(DirectoryChange::Begun) => LookReason::Begun,
            Some(DirectoryChange::Whole) => LookReason::Whole,
            Some(DirectoryChange::Unknown) => LookReason::Unknown,
            Some(DirectoryChange::Gone) | None => {
                self.directory = None;
                sleep(QUIET).await;
                LookReason::Unknown
            }
        }
    }
}

/// Waits for a change, and then for the end of a burst of changes. Returns `None` if the watch has failed. Waits for
/// ever if there is no watch.
async fn changed(watch: Option<&DirectoryWatch>, names: &WatchedNames) -> Option<DirectoryChange> {
    let Some(watch) = watch else { return pending().await };
    let mut change = watch.changed(names).await.ok()?;
    for _ in 0..MOST_QUIETS {
        match timeout(QUIET, watch.changed(names)).await {
            Ok(next) => change = change.then(next.ok()?),
            Err(_quiet) => break,
        }
        if change == DirectoryChange::Gone {
            break;
        }
    }
    Some(change)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The decision after a look at the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LookDecision {
    Same,
    /// The file has changed, and may be half written.
    Unsettled,
    Read,
}

/// Decides whether a file is read. `stamp` is the file that this look found, `seen` the file that was last read, and
/// `unsettled` the file that the last look found and did not read.
fn judge(
    reason: LookReason,
    is_link: bool,
    stamp: &FileStamp,
    seen: Option<&FileStamp>,
    unsettled: Option<&FileStamp>,
) -> LookDecision {
    let is_whole = match reason {
        LookReason::First | LookReason::Whole => true,
        LookReason::Begun => is_link || matches!(stamp, FileStamp::Missing(_)),
        // The look before this one was a period ago.
        LookReason::Period => unsettled == Some(stamp),
        LookReason::Unknown => false,
    };
    match seen {
        Some(seen) if seen == stamp => LookDecision::Same,
        _ if is_whole => LookDecision::Read,
        _ => LookDecision::Unsettled,
    }
}

/// The properties by which a changed file differs from an unchanged one, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FileStamp {
    File { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
    Missing(io::ErrorKind),
}

impl FileStamp {
    fn of(path: &Path) -> Self {
        match path.metadata() {
            Ok(file) => Self::File {
                device: file.dev(),
                inode: file.ino(),
                size: file.size(),
                modified: (file.mtime(), file.mtime_nsec()),
                changed: (file.ctime(), file.ctime_nsec()),
            },
            Err(error) => Self::Missing(error.kind()),
        }
    }
}

#[cfg(test)]
mod tests;
