//! The choice of the CPUs for the proxy and for the load.
//!
//! If all proxies have one worker, the proxy has the last CPU, and the load and the backend have the first.
//! If a proxy has more workers, no process is pinned, so that all proxies have the same conditions.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The CPU that a process is pinned to; `None` pins it to none.
pub(crate) type CpuPin = Option<usize>;

/// The CPUs of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    pub(crate) load: CpuPin,
    pub(crate) proxy: CpuPin,
}

impl Cpus {
    /// No process is pinned.
    pub(crate) const ANY: Self = Self { load: None, proxy: None };

    /// Pins the proxy to the last CPU that this process may use, and the rest to the first. With a single CPU
    /// no process is pinned.
    pub(crate) fn apart() -> io::Result<Self> {
        let allowed = sched_getaffinity(own())?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        match (usable.next(), usable.next_back()) {
            (load, Some(proxy)) => Ok(Self { load, proxy: Some(proxy) }),
            (_, None) => Ok(Self::ANY),
        }
    }
}

/// Runs `start`, and pins the child processes that it starts to this CPU.
///
/// A child inherits the affinity of the thread that makes it, so foreign programs need no setting.
pub(crate) fn at<T>(pin: CpuPin, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(cpu) = pin else { return start() };
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
