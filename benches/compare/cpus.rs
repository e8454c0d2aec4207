//! Which CPU serves the proxy and which the load.
//!
//! With one worker they are kept apart: the proxy on the last CPU, load and backend on the first. With
//! more workers nothing is pinned.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A process's place; `None` is anywhere.
pub(crate) type Place = Option<usize>;

/// The places of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    pub(crate) load: Place,
    pub(crate) proxy: Place,
}

impl Cpus {
    /// Chooses from what this process may use; with a single CPU nothing is kept apart.
    pub(crate) fn choose(workers: usize) -> io::Result<Self> {
        let allowed = sched_getaffinity(own())?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let (first, last) = (usable.next(), usable.next_back());
        if workers != 1 || last.is_none() {
            return Ok(Self { load: None, proxy: None });
        }
        Ok(Self { load: first, proxy: last })
    }
}

/// Runs `start`, whose child processes are born on `place` and stay there.
///
/// A child inherits the affinity of the thread that makes it, so no foreign program needs to know.
pub(crate) fn at<T>(place: Place, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(cpu) = place else { return start() };
    let before = sched_getaffinity(own())?;
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(own(), &only)?;
    let started = start();
    sched_setaffinity(own(), &before)?;
    started
}

/// The calling thread.
fn own() -> Pid {
    Pid::from_raw(0)
}
