//! Waiting for changes in a directory, or of a file in it: inotify.

use std::future::pending;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// Reads of events in one go, each of up to 4 KiB: a directory in which never-ending changes happen is told
/// of all the same.
const MOST_READS: usize = 64;

/// The time between two looks without a reason.
const LOOK: Duration = Duration::from_secs(5);

/// How long nothing more must happen before a change is looked at, so that of a burst only the end is.
const QUIET: Duration = Duration::from_millis(20);

/// How often that is waited for: in a directory that is never quiet the file is looked at all the same.
const MOST_QUIETS: usize = 10;

/// Watches a file that another program writes.
///
/// Its directory is watched, so a replacement by rename is seen at once, and so is the symbolic link beside it by
/// which a mounted volume turns all its files at a time. What no watch tells, on a network file system or after a
/// change behind another symbolic link, is seen by a look every few seconds.
#[derive(Debug)]
pub struct FileWatch {
    path: Arc<Path>,
    watch: Option<DirectoryWatch>,
    seen: Option<Stamp>,
}

/// What a look at a file told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It may be another one than at the last look.
    Changed,
    /// It is the same.
    Same,
}

impl FileWatch {
    /// Of this file, which need not be there.
    pub fn new(path: Arc<Path>) -> Self {
        Self { path, watch: None, seen: None }
    }

    /// Looks at the file: the first time at once, which is a change, then whenever there may be one, and every
    /// few seconds.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn look(&mut self) -> Look {
        if self.seen.is_some() {
            self.wait().await;
        }
        // Before the look, so that no change falls between the two.
        if self.watch.is_none() {
            self.watch = DirectoryWatch::new(directory(&self.path)).ok();
        }
        let stamp = Stamp::of(&self.path);
        if self.seen.as_ref() == Some(&stamp) {
            return Look::Same;
        }
        self.seen = Some(stamp);
        Look::Changed
    }

    async fn wait(&mut self) {
        tokio::select! {
            change = changed(self.watch.as_ref()) => {
                if change != Some(DirectoryChange::Inside) {
                    self.watch = None;
                    sleep(QUIET).await;
                }
            }
            () = sleep(LOOK) => {}
        }
    }
}

/// Waits for a change, and for the end of a burst of them. `None` if the watch has failed; without one it
/// waits for ever.
async fn changed(watch: Option<&DirectoryWatch>) -> Option<DirectoryChange> {
    let Some(watch) = watch else { return pending().await };
    let mut change = watch.changed().await.ok()?;
    for _ in 0..MOST_QUIETS {
        match timeout(QUIET, watch.changed()).await {
            Ok(next) => change = next.ok()?,
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

/// By what a changed file is told from an unchanged one, without reading it.
#[derive(Debug, PartialEq, Eq)]
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

/// Watches the names in one directory: what is created, written and closed, renamed or removed there.
///
/// A file is watched by its directory, because whoever replaces a file by a rename puts another one in its
/// place, and a watch on the file itself would stay with the old one.
#[derive(Debug)]
pub struct DirectoryWatch {
    events: AsyncFd<Events>,
}

/// What became of a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryChange {
    /// Something in it changed.
    Inside,
    /// It is no longer there, or no longer at its path: nothing more will be heard.
    Gone,
}

impl DirectoryWatch {
    /// Starts to watch. From now on no change is missed.
    ///
    /// # Errors
    ///
    /// If there is no such directory, or the user has as many watches as the system allows.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
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
        let events = Events(events);
        // SAFETY: `Events` owns the descriptor, never gives it away, and always names the same one; the
        // `AsyncFd` owns the `Events` until both end.
        #[allow(unsafe_code)]
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?;
        Ok(Self { events })
    }

    /// Waits for a change, and takes all there are.
    ///
    /// # Errors
    ///
    /// Those of reading; then the watch is of no more use.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub async fn changed(&self) -> io::Result<DirectoryChange> {
        loop {
            let mut ready = self.events.readable().await?;
            if let Ok(taken) = ready.try_io(|events| events.get_ref().take()) {
                return taken;
            }
        }
    }
}

#[derive(Debug)]
struct Events(Inotify);

impl Events {
    /// Takes the events that are there.
    fn take(&self) -> io::Result<DirectoryChange> {
        let gone = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_IGNORED;
        let mut found = None;
        for _ in 0..MOST_READS {
            match self.0.read_events() {
                Ok(events) if events.iter().any(|event| event.mask.intersects(gone)) => {
                    return Ok(DirectoryChange::Gone);
                }
                Ok(_) => found = Some(DirectoryChange::Inside),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        found.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
