//! What to do when the run itself is stopped: guards do not run then, so somebody else must clean up.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::child::no_more;
use crate::proc;

/// As shells have it: 128 and the signal's number.
const INTERRUPTED: i32 = 130;

/// On SIGINT or SIGTERM ends every process that this one started, removes `scratch` and exits.
///
/// # Errors
/// When the signals cannot be waited for.
pub(crate) fn clean_up_on_signal(scratch: PathBuf) -> io::Result<()> {
    // A handler, not a blocked mask: children would inherit that and not hear us either.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    thread::spawn(move || {
        // Without signals to wait for, guards are all there is.
        if runtime.block_on(wait()).is_ok() {
            clean_up(&scratch);
        }
    });
    Ok(())
}

async fn wait() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn clean_up(scratch: &std::path::Path) {
    let _last = no_more();
    for pid in proc::tree(process::id()).into_iter().skip(1) {
        // One that has ended meanwhile is what is wanted.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    let _ = fs::remove_dir_all(scratch);
    process::exit(INTERRUPTED);
}
