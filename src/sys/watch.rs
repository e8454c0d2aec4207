//! A file that another program writes, followed: when it is read again.

#![allow(clippy::disallowed_methods, reason = "only in calls of file_call")]

use std::future::pending;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::directory_watch::{DirectoryChange, DirectoryWatch, Events, Names};
use super::file_call;

/// The time between two looks without a reason.
const LOOK: Duration = Duration::from_secs(5);

/// How long nothing more must happen before a change is looked at, so that of a burst only the end is.
const QUIET: Duration = Duration::from_millis(20);

/// How often that is waited for: where changes never end the file is looked at all the same.
const MOST_QUIETS: usize = 10;

/// Follows a file that another program writes, and reads it when it is another one and whole.
///
/// Its directory is watched. When the file is closed after writing, when another one is renamed over it, and when the
/// link beside it changes by which a mounted volume replaces all its files at a time, it is whole and read at once.
/// What no watch reports, on a network file system or behind further links, is found by a look every few seconds. Such a
/// file may be half written, so it is read only if two looks find it the same.
///
/// Everything that may wait for the file system is done in one call of [`file_call`]. A file system that does not
/// answer delays this file and nothing else.
#[derive(Debug)]
pub struct FileWatch {
    path: Arc<Path>,
    directory: Option<DirectoryWatch>,
    names: Names,
    /// Why the first look is taken; `None` after it.
    first: Option<Reason>,
    /// The file that was last read.
    seen: Option<Stamp>,
    /// Another file that the last look found, and that is not yet trusted to be whole.
    unsettled: Option<Stamp>,
    period: Duration,
}

/// What a look at a file found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look<T> {
    /// It may be another file than at the last look, and this was read of it.
    Changed(T),
    /// It is the same, or not whole yet.
    Same,
}

/// Why a look is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// It is the first, and nothing is known of the file.
    First,
    /// The directory reports a whole file.
    Whole,
    /// The directory reports an entry that was created or removed: a link is whole, a file is not.
    Begun,
    /// What happened to the file since it was last read is not known.
    Unknown,
    /// A period has passed.
    Period,
}

/// What one call found.
struct Found<T> {
    events: Option<Events>,
    names: Names,
    seen: Option<Stamp>,
    unsettled: Option<Stamp>,
    read: Option<T>,
}

impl FileWatch {
    /// Of this file, which need not be there. The first look reads it.
    pub fn new(path: Arc<Path>) -> Self {
        Self::with_period(path, Reason::First, LOOK)
    }

    /// Of a file that was read a moment ago. It may have changed since, and may be half written now.
    pub fn of_known(path: Arc<Path>) -> Self {
        Self::with_period(path, Reason::Unknown, LOOK)
    }

    fn with_period(path: Arc<Path>, first: Reason, period: Duration) -> Self {
        let names = Names::new(&path, None);
        Self { path, directory: None, names, first: Some(first), seen: None, unsettled: None, period }
    }

    /// Looks at the file and reads it if it has changed: the first time at once, then whenever there may be a change, and
    /// every few seconds. `read` may block.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// What was read is lost, and the next look reads it again.
    pub async fn look<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Look<T> {
        let reason = match self.first {
            Some(first) => first,
            None => self.wait().await,
        };
        let path = Arc::clone(&self.path);
        let (seen, unsettled) = (self.seen.clone(), self.unsettled.clone());
        let has_watch = self.directory.is_some();
        let call = file_call::call(&self.path, move || {
            // Before the look, so that no change falls between the two.
            let events = if has_watch { None } else { Events::new(directory(&path)).ok() };
            let target = path.read_link().ok();
            let names = Names::new(&path, target.as_deref());
            let stamp = Stamp::of(&path);
            match judge(reason, target.is_some(), &stamp, seen.as_ref(), unsettled.as_ref()) {
                Verdict::Same => Found { events, names, seen: Some(stamp), unsettled: None, read: None },
                Verdict::Unsettled => Found { events, names, seen, unsettled: Some(stamp), read: None },
                Verdict::Read => {
                    let read = Some(read(&path));
                    Found { events, names, seen: Some(stamp), unsettled: None, read }
                }
            }
        });
        let Ok(found) = call.await else {
            // A reader that panics has said so. It is tried again by later looks, not at once.
            self.first = None;
            return Look::Same;
        };
        if let Some(events) = found.events {
            self.directory = DirectoryWatch::new(events).ok();
        }
        self.first = None;
        (self.names, self.seen, self.unsettled) = (found.names, found.seen, found.unsettled);
        found.read.map_or(Look::Same, Look::Changed)
    }

    async fn wait(&mut self) -> Reason {
        let change = tokio::select! {
            change = changed(self.directory.as_ref(), &self.names) => change,
            () = sleep(self.period) => return Reason::Period,
        };
        match change {
            Some(DirectoryChange::Begun) => Reason::Begun,
            Some(DirectoryChange::Whole) => Reason::Whole,
            Some(DirectoryChange::Unknown) => Reason::Unknown,
            Some(DirectoryChange::Gone) | None => {
                self.directory = None;
                sleep(QUIET).await;
                Reason::Unknown
            }
        }
    }
}

/// Waits for a change, and for the end of a burst of them. `None` if the watch has failed; without one it
/// waits for ever.
async fn changed(watch: Option<&DirectoryWatch>, names: &Names) -> Option<DirectoryChange> {
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

/// What a look decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// Another file, perhaps half written.
    Unsettled,
    Read,
}

/// Decides whether a file is read: `stamp` is what a look found, `seen` the file that was last read, `unsettled` the one
/// that the last look found and did not read.
fn judge(
    reason: Reason,
    is_link: bool,
    stamp: &Stamp,
    seen: Option<&Stamp>,
    unsettled: Option<&Stamp>,
) -> Verdict {
    let is_whole = match reason {
        Reason::First | Reason::Whole => true,
        Reason::Begun => is_link || matches!(stamp, Stamp::Missing(_)),
        // The look before this one was a period ago.
        Reason::Period => unsettled == Some(stamp),
        Reason::Unknown => false,
    };
    match seen {
        Some(seen) if seen == stamp => Verdict::Same,
        _ if is_whole => Verdict::Read,
        _ => Verdict::Unsettled,
    }
}

/// By what a changed file is told from an unchanged one, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    File { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
    Missing(io::ErrorKind),
}

impl Stamp {
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
