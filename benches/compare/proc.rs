//! What the kernel says about a process and its descendants.
//!
//! A process that ends while it is read counts as nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The process and all its descendants.
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

/// The parent stands behind the name, which may hold spaces and parentheses.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// CPU time of each thread of these processes, in seconds, to the nanosecond where the kernel counts it so.
pub(crate) struct Spent(BTreeMap<PathBuf, f64>);

impl Spent {
    /// Until now.
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

    /// All of it.
    pub(crate) fn seconds(&self) -> f64 {
        self.0.values().sum()
    }

    /// What was spent since `earlier` by the name of the thread; threads of one name count together.
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

/// The kernel's thread for the interrupts of a CPU that found no time; none where it cannot be seen.
pub(crate) fn softirq_thread(cpu: usize) -> Option<u32> {
    let name = format!("ksoftirqd/{cpu}");
    numbers("/proc")
        .into_iter()
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
}

/// Proportional set size, in KiB: shared pages count by their share.
pub(crate) fn pss_kib(root: u32) -> u64 {
    let of = |pid: u32| -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
    };
    tree(root).into_iter().filter_map(of).sum()
}

/// What the kernel's own objects take, sockets and their buffers' heads among them, in KiB.
pub(crate) fn slab_kib() -> u64 {
    let of = || -> Option<u64> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Slab:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    of().unwrap_or(0)
}

/// Open descriptors.
pub(crate) fn descriptors(root: u32) -> usize {
    tree(root).into_iter().map(|pid| numbers(&format!("/proc/{pid}/fd")).len()).sum()
}

/// The same of the process alone.
///
/// Linux tells it since 6.2 as the size of the directory. To list ten thousand takes it some milliseconds, in which
/// nobody else has the CPU; before 6.2 there is no other way.
pub(crate) fn own_descriptors(pid: u32) -> usize {
    let directory = format!("/proc/{pid}/fd");
    match fs::metadata(&directory) {
        Ok(about) if about.len() > 0 => usize::try_from(about.len()).unwrap_or(usize::MAX),
        _ => numbers(&directory).len(),
    }
}

/// The entries of a directory that are numbers.
fn numbers(directory: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
