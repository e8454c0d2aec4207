//! Waiting for changes in a directory: inotify.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Reads of events in one go, each of up to 4 KiB: a directory in which never-ending changes happen is told
/// of all the same.
const MOST_READS: usize = 64;

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
