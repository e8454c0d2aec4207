//! What the kernel says about a process and its descendants.
//!
//! A process that ends while it is read counts as nothing.

use std::collections::BTreeMap;
use std::fs;

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

/// CPU time of all threads of these processes, in seconds, to the nanosecond where the kernel counts it so.
pub(crate) fn cpu_seconds(processes: &[u32]) -> f64 {
    let threads = processes.iter().flat_map(|pid| {
        let tasks = format!("/proc/{pid}/task");
        numbers(&tasks).into_iter().map(move |task| format!("{tasks}/{task}/schedstat"))
    });
    let nanoseconds = threads
        .filter_map(|path| fs::read_to_string(path).ok()?.split_whitespace().next()?.parse::<u64>().ok());
    nanoseconds.sum::<u64>() as f64 / 1e9
}

/// Proportional set size, in KiB: shared pages count by their share.
pub(crate) fn pss_kib(root: u32) -> u64 {
    let of = |pid: u32| -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
    };
    tree(root).into_iter().filter_map(of).sum()
}

/// Open descriptors.
pub(crate) fn descriptors(root: u32) -> usize {
    tree(root).into_iter().map(|pid| numbers(&format!("/proc/{pid}/fd")).len()).sum()
}

/// The entries of a directory that are numbers.
fn numbers(directory: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
