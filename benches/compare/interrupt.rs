//! The clean-up after a signal stops the run: guards are not dropped then.

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

/// The exit code as shells have it: 128 and the number of the signal.
const INTERRUPTED: i32 = 130;

/// On SIGINT or SIGTERM, ends every process that this process started, removes `scratch` and exits.
///
/// # Errors
/// Returns an error if the signals cannot be waited for.
pub(crate) fn clean_up_on_signal(scratch: PathBuf) -> io::Result<()> {
    // The signals have a handler and are not blocked: children would inherit a blocked mask and would not get
    // SIGTERM.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    thread::spawn(move || {
        // If the wait for signals fails, the guards alone clean up.
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
        // An error means that the process has ended already, which is the aim.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    let _ = fs::remove_dir_all(scratch);
    process::exit(INTERRUPTED);
}
