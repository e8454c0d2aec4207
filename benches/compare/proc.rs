//! Numbers from the kernel about a process and its descendants.
//!
//! A process that ends during the reading counts as nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the process and all its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in numbers("/proc") {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found
}

/// Returns the parent, which stands behind the name. The name may contain spaces and parentheses.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The CPU time of each thread of some processes, in seconds; exact to the nanosecond if the kernel counts
/// so.
pub(crate) struct CpuTimes(BTreeMap<PathBuf, f64>);

impl CpuTimes {
    /// Reads the CPU time until now.
    pub(crate) fn by(processes: &[u32]) -> Self {
        let threads = processes.iter().flat_map(|pid| {
            let tasks = format!("/proc/{pid}/task");
            numbers(&tasks).into_iter().map(move |task| PathBuf::from(format!("{tasks}/{task}")))
        });
        let spent = |thread: &Path| -> Option<f64> {
            let text = fs::read_to_string(thread.join("schedstat")).ok()?;
            Some(text.split_whitespace().next()?.parse::<u64>().ok()? as f64 / 1e9)
        };
        Self(threads.filter_map(|thread| spent(&thread).map(|time| (thread, time))).collect())
    }

    /// Returns the sum over all threads.
    pub(crate) fn seconds(&self) -> f64 {
        self.0.values().sum()
    }

    /// Returns the time since `earlier` by the name of the thread. Threads with the same name count together.
    pub(crate) fn by_name_since(&self, earlier: &Self) -> BTreeMap<String, f64> {
        let mut names = BTreeMap::new();
        for (thread, time) in &self.0 {
            let Ok(name) = fs::read_to_string(thread.join("comm")) else { continue };
            let before = earlier.0.get(thread).copied().unwrap_or(0.0);
            *names.entry(name.trim().to_owned()).or_insert(0.0) += time - before;
        }
        names
    }
}

/// Returns the thread of the kernel for the delayed interrupts of a CPU, or `None` if it is not visible.
pub(crate) fn softirq_thread(cpu: usize) -> Option<u32> {
    let name = format!("ksoftirqd/{cpu}");
    numbers("/proc")
        .into_iter()
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
}

/// Returns the processes of a session that have not ended.
pub(crate) fn session(leader: u32) -> Vec<u32> {
    numbers("/proc")
        .into_iter()
        .filter(|pid| field(*pid, 3) == Some(leader.into()) && is_alive(*pid))
        .collect()
}

/// Returns the time at which the process was started, in clock ticks since the start of the system.
pub(crate) fn started(pid: u32) -> u64 {
    field(pid, 19).unwrap_or(0)
}

/// Returns true if the process has not ended. A process that its parent has not awaited has ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Returns a number of the process, by its place behind the name and from 0; the state has place 0.
fn field(pid: u32, place: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(place)?.parse().ok()
}

/// Returns the proportional set size of the process and its descendants in KiB. A shared page counts by its share.
pub(crate) fn pss_kib(root: u32) -> u64 {
    pss_kib_of(&tree(root))
}

/// Returns the proportional set size of some processes in KiB.
pub(crate) fn pss_kib_of(processes: &[u32]) -> u64 {
    let of = |pid: u32| -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
    };
    processes.iter().copied().filter_map(of).sum()
}

/// Returns the memory of the kernel's own objects in KiB. Sockets and the heads of their buffers are among
/// these.
pub(crate) fn slab_kib() -> u64 {
    let of = || -> Option<u64> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Slab:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    of().unwrap_or(0)
}

/// Returns the number of open descriptors of the process and its descendants.
pub(crate) fn descriptors(root: u32) -> usize {
    tree(root).into_iter().map(|pid| numbers(&format!("/proc/{pid}/fd")).len()).sum()
}

/// Returns the number of open descriptors of the process alone.
///
/// Linux 6.2 and later report this number as the size of the directory. Before 6.2 the directory must be
/// listed. A list of ten thousand takes the kernel some milliseconds, in which no other process has the CPU.
pub(crate) fn own_descriptors(pid: u32) -> usize {
    let directory = format!("/proc/{pid}/fd");
    match fs::metadata(&directory) {
        Ok(about) if about.len() > 0 => usize::try_from(about.len()).unwrap_or(usize::MAX),
        _ => numbers(&directory).len(),
    }
}

/// Returns the entries of a directory that are numbers.
fn numbers(directory: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
