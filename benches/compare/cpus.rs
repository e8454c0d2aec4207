//! Which CPU serves the proxy and which the load.
//!
//! Proxies with one worker are kept apart: the proxy on the last CPU, load and backend on the first. Where
//! one has more workers nothing is pinned, for all alike.

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
    /// Nothing is pinned.
    pub(crate) const ANY: Self = Self { load: None, proxy: None };

    /// The proxy on the last CPU that this process may use, the rest on the first; with a single CPU nothing
    /// is kept apart.
    pub(crate) fn apart() -> io::Result<Self> {
        let allowed = sched_getaffinity(own())?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        match (usable.next(), usable.next_back()) {
            (load, Some(proxy)) => Ok(Self { load, proxy: Some(proxy) }),
            (_, None) => Ok(Self::ANY),
        }
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
