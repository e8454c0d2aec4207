//! Waits for changes of a file by a watch on its directory: inotify.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The most reads of events in one call, each of up to 4 KiB. So changes of the file are reported even if the
/// changes in its directory never end.
const MOST_READS: usize = 64;

/// The link by which Kubernetes replaces all files of a mounted volume at once.
const DATA_LINK: &str = "..data";

/// Watches the entries of one directory by which a file is reached.
///
/// A file is watched by its directory. A rename replaces it with another file, and a watch on the file itself would
/// stay with the old file.
#[derive(Debug)]
pub struct DirectoryWatch {
    events: AsyncFd<WatchEvents>,
}

/// A change in a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryChange {
    /// An entry of the file was created, removed or renamed away. A program may be about to write it.
    Begun,
    /// The file is whole: it was closed after writing, or an entry was renamed to its name.
    Whole,
    /// The kernel has lost events.
    Unknown,
    /// The directory is no longer there, or no longer at its path. The watch reports nothing more.
    Gone,
}

impl DirectoryChange {
    /// Combines this change with a later one. A file that was whole and is begun again is not whole.
    pub(super) fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Gone, _) | (_, Self::Gone) => Self::Gone,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Begun | Self::Whole, later) => later,
        }
    }
}

/// A watch that is not yet registered with a runtime.
#[derive(Debug)]
pub struct WatchEvents(Inotify);

impl WatchEvents {
    /// Starts to watch. No later change is missed. It blocks while the file system does not answer.
    ///
    /// # Errors
    ///
    /// Errors of inotify: there is no such directory, or the user is at the system's limit of watches.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let events = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        events.add_watch(directory, what)?;
        Ok(Self(events))
    }

    /// Reads the waiting events.
    fn take(&self, names: &WatchedNames) -> io::Result<DirectoryChange> {
        let mut found = None;
        for _ in 0..MOST_READS {
            match self.0.read_events() {
                Ok(events) => {
                    let changes = events.iter().filter_map(|event| change(event, names));
                    found = found.into_iter().chain(changes).reduce(DirectoryChange::then);
                    if found == Some(DirectoryChange::Gone) {
                        break;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        found.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

/// Returns the change that an event means for a file, or `None` if it concerns another file.
fn change(event: &InotifyEvent, names: &WatchedNames) -> Option<DirectoryChange> {
    let gone = AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_UNMOUNT
        | AddWatchFlags::IN_IGNORED;
    let begun = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    match &event.name {
        _ if event.mask.intersects(gone) => Some(DirectoryChange::Gone),
        None => Some(DirectoryChange::Unknown),
        Some(name) if !names.contain(name) => None,
        Some(_) if event.mask.intersects(begun) => Some(DirectoryChange::Begun),
        Some(_) => Some(DirectoryChange::Whole),
    }
}

impl AsRawFd for WatchEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The entries of a directory by which a file in it is reached.
#[derive(Debug)]
pub struct WatchedNames {
    own: OsString,
    /// If the file is a link, the first name of its target.
    target: Option<OsString>,
}

impl WatchedNames {
    /// Returns the names of the file at this path; `target` is set if it is a link.
    pub fn new(path: &Path, target: Option<&Path>) -> Self {
        let first = |target: &Path| {
            let names = target.is_relative().then(|| target.components().next());
            names.flatten().map(|name| name.as_os_str().to_owned())
        };
        Self { own: path.file_name().unwrap_or_default().to_owned(), target: target.and_then(first) }
    }

    fn contain(&self, name: &OsStr) -> bool {
        *name == *self.own || *name == *DATA_LINK || self.target.as_deref() == Some(name)
    }
}

impl DirectoryWatch {
    /// Registers a watch with the runtime.
    ///
    /// # Errors
    ///
    /// Returned if the runtime cannot register the descriptor.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn new(events: WatchEvents) -> io::Result<Self> {
        // SAFETY: `WatchEvents` owns the descriptor, never gives it away, and always returns the same one; the
        // `AsyncFd` owns the `WatchEvents` until both end.
        #[allow(unsafe_code)]
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?;
        Ok(Self { events })
    }

    /// Waits for a change of the file with these names, and reads all waiting events.
    ///
    /// # Errors
    ///
    /// Errors of a read. The watch is then useless.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn changed(&self, names: &WatchedNames) -> io::Result<DirectoryChange> {
        loop {
            let mut ready = self.events.readable().await?;
            if let Ok(taken) = ready.try_io(|events| match events.get_ref().take(names) {
                // Only events of other files were read, and more may wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                taken => Ok(taken),
            }) {
                return taken?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_reached_by_few_names() {
        let check = |path: &str, target: Option<&str>, name: &str, expected: bool| {
            let names = WatchedNames::new(Path::new(path), target.map(Path::new));
            assert_eq!(names.contain(OsStr::new(name)), expected, "{path} {target:?} {name}");
        };
        check("/etc/pm/drop.txt", None, "drop.txt", true);
        check("/etc/pm/drop.txt", None, "drop.txt.new", false);
        check("drop.txt", None, "drop.txt", true);
        check("/etc/pm/drop.txt", None, "..data", true);
        check("/etc/pm/drop.txt", Some("..data/drop.txt"), "..data", true);
        check("/etc/pm/drop.txt", Some("current/drop.txt"), "current", true);
        check("/etc/pm/drop.txt", Some("real.txt"), "real.txt", true);
        check("/etc/pm/drop.txt", Some("real.txt"), "drop.txt", true);
        check("/etc/pm/drop.txt", Some("/srv/real.txt"), "real.txt", false);
        check("/etc/pm/drop.txt", Some("/srv/real.txt"), "srv", false);
    }

    #[test]
    fn the_last_change_of_a_file_counts() {
        use DirectoryChange::{Begun, Gone, Unknown, Whole};
        let check = |changes: &[DirectoryChange], expected| {
            let together = changes.iter().copied().reduce(DirectoryChange::then);
            assert_eq!(together, Some(expected), "{changes:?}");
        };
        check(&[Begun, Whole], Whole);
        check(&[Whole, Begun], Begun);
        check(&[Begun, Begun, Whole, Begun, Whole], Whole);
        check(&[Unknown, Whole], Unknown);
        check(&[Whole, Unknown, Begun], Unknown);
        check(&[Gone, Whole], Gone);
        check(&[Unknown, Gone], Gone);
    }
}
