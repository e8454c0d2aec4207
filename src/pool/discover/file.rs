//! Follows a file that another program writes: one task for each source.
//!
//! A change is seen at once, or within a few seconds where the kernel does not tell: see [`FileWatch`].

use std::io::{self, Read as _};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use super::document::{self, DocumentFault};
use super::{DiscoverFault, DiscoveredSet, LookOutcome, ReportSender};
use crate::sys::watch::{FileWatch, LookResult};
use crate::sys::{file, landlock};

/// The largest file that is read: far more than the most backends need.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// Why a file names no backends.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be opened or read, or is a directory, a pipe or the like.
    #[error("it cannot be read: {0}{hint}", hint = landlock::hint(.0))]
    Unreadable(#[source] io::Error),
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
pub(super) async fn follow(path: Arc<Path>, mut reports: ReportSender) {
    let mut watch = FileWatch::new(path);
    let mut is_good = false;
    loop {
        let looked = {
            let mut look = pin!(watch.look(read));
            loop {
                tokio::select! {
                    looked = &mut look => break looked,
                    () = reports.expired() => {
                        if !reports.expire().await {
                            return;
                        }
                    }
                }
            }
        };
        let goes_on = match looked {
            LookResult::Changed(read) => {
                is_good = read.is_ok();
                match read {
                    Ok(found) => reports.tell(Some(found), LookOutcome::Good).await,
                    Err(fault) => reports.tell(None, LookOutcome::Failed(DiscoverFault::File(fault))).await,
                }
            }
            LookResult::Same => !is_good || reports.tell(None, LookOutcome::Good).await,
        };
        if !goes_on {
            return;
        }
    }
}

/// Reads a file once. It blocks.
///
/// # Errors
///
/// Why the file gives no backends.
pub fn read(path: &Path) -> Result<DiscoveredSet, FileFault> {
    let file = file::open(path).map_err(FileFault::Unreadable)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(FileFault::Unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(FileFault::TooLarge);
    }
    Ok(document::parse(&bytes)?)
}
