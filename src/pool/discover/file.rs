//! Follows a file that another program writes. Each source has one task.
//!
//! A change is read at once, or within a few seconds where the kernel does not report changes: see [`FileWatch`].

use std::io::Read as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use super::document;
use super::fault::{DiscoverFault, FileFault};
use super::report::{LookOutcome, ReportSender};
use super::set::DiscoveredSet;
use crate::sys::file;
use crate::sys::watch::{FileWatch, LookResult};

/// The largest file that is read. A file with the most backends is far smaller.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// Reads the file when it changes, until the receiver of the reports is gone, and reports the backends.
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

/// Reads a file once. Blocks the thread.
///
/// # Errors
///
/// Fails if the file cannot be read, is too large, or has a wrong content.
pub fn read(path: &Path) -> Result<DiscoveredSet, FileFault> {
    let file = file::open(path).map_err(FileFault::Unreadable)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(FileFault::Unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(FileFault::TooLarge);
    }
    Ok(document::parse(&bytes)?)
}
