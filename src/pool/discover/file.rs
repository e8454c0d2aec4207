//! Follows a file that another program writes: one task for each source.
//!
//! The file's directory is watched, so a replacement by rename is seen at once, and so is the symbolic link
//! beside it by which a mounted volume turns all its files at a time. What no watch tells, on a network file
//! system or after a change behind another symbolic link, is seen by a look every few seconds.

use std::fs::File;
use std::future::pending;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::document::{self, DocumentFault};
use super::{DiscoverFault, DiscoveredSet, Teller};
use crate::sys::watch::{DirectoryChange, DirectoryWatch};

/// The largest file that is read: far more than the most backends need.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// The time between two looks without a reason.
const LOOK: Duration = Duration::from_secs(5);

/// How long nothing more must happen before a change is looked at, so that of a burst only the end is.
const QUIET: Duration = Duration::from_millis(20);

/// How often that is waited for: in a directory that is never quiet the file is looked at all the same.
const MOST_QUIETS: usize = 10;

/// Why a file names no backends.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be opened or read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is a directory, a pipe or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// It is larger than 4 MiB.
    #[error("it is larger than 4 MiB")]
    TooLarge,
    /// What is in it.
    #[error(transparent)]
    Document(#[from] DocumentFault),
}

/// Looks at the file whenever it changes, for ever, and tells what it finds.
///
/// # Cancel safety
///
/// May be dropped at any moment.
pub(super) async fn follow(path: Arc<Path>, teller: Teller) {
    let mut watch = None;
    let mut seen = None;
    let mut is_good = false;
    loop {
        // Before the look, so that no change falls between the two.
        if watch.is_none() {
            watch = DirectoryWatch::new(directory(&path)).ok();
        }
        let stamp = Stamp::of(&path);
        if seen.as_ref() != Some(&stamp) {
            seen = Some(stamp);
            let read = read(&path);
            is_good = read.is_ok();
            let goes_on = match read {
                Ok(found) => teller.tell(Some(found), None).await,
                Err(fault) => teller.tell(None, Some(DiscoverFault::File(fault))).await,
            };
            if !goes_on {
                return;
            }
        } else if is_good && !teller.tell(None, None).await {
            return;
        }
        tokio::select! {
            change = changed(watch.as_ref()) => {
                if change != Some(DirectoryChange::Inside) {
                    watch = None;
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

fn read(path: &Path) -> Result<DiscoveredSet, FileFault> {
    // Before it is opened: that of a pipe would wait for its writer.
    if !path.metadata().map_err(FileFault::Unreadable)?.is_file() {
        return Err(FileFault::NotAFile);
    }
    let file = File::open(path).map_err(FileFault::Unreadable)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(FileFault::Unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(FileFault::TooLarge);
    }
    Ok(document::parse(&bytes)?)
}
