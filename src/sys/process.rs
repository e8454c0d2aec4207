//! The kernel's figures and limits of this process.

#![allow(clippy::disallowed_methods, reason = "files of /proc, which the kernel answers at once")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of descriptors to the hard one and returns it.
///
/// # Errors
///
/// Errors of `getrlimit`.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard);
    }
    Ok(soft)
}

/// Returns the effective user id of this process.
pub fn user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Returns the namespace in which the ids of processes have their meaning for this process.
pub fn pid_namespace() -> Option<String> {
    Some(std::fs::read_link("/proc/self/ns/pid").ok()?.display().to_string())
}

/// Returns true if this is the first process of its container or machine.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Returns false if no process has this number here, or if that process has ended and only its parent has not fetched its
/// result. Returns true if that cannot be read.
pub fn is_running(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name may hold spaces and brackets. The state follows its last bracket.
        Ok(stat) => !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with(['Z', 'X']),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Returns the control groups of this process as /proc has them.
pub fn control_group() -> Option<String> {
    std::fs::read_to_string("/proc/self/cgroup").ok()
}

/// Returns the path of the program that this process runs, to start it again. If its file was replaced or removed since
/// the start, this is the kernel's link to the file of the start.
pub fn own_program() -> PathBuf {
    const LINK: &str = "/proc/self/exe";
    let file = std::fs::read_link(LINK).ok();
    // The kernel marks the path of a removed file, and no file of this name exists.
    file.filter(|file| file.exists()).unwrap_or_else(|| LINK.into())
}

/// Makes this process the leader of a session of its own, without a terminal. Does nothing if it leads a group of
/// processes already.
pub fn start_session() {
    let _ = nix::unistd::setsid();
}

/// Returns the standard input of this process, which becomes empty.
///
/// # Errors
///
/// Errors of the kernel.
pub fn take_standard_input() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok(taken)
}

/// Returns the number of open descriptors.
///
/// # Errors
///
/// Returned when /proc is not mounted.
pub fn open_descriptors() -> io::Result<u64> {
    // One of them is the directory that is being read.
    let entries = std::fs::read_dir("/proc/self/fd")?.count();
    Ok(u64::try_from(entries).unwrap_or(u64::MAX).saturating_sub(1))
}

/// Returns the most connections that the kernel queues on a listening socket, whatever its backlog is.
pub fn longest_backlog() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

/// Returns the kernel's text of its range of local ports: the first and the last port.
pub(super) fn local_port_range() -> Option<String> {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()
}

/// Returns the kernel's table of this host's IPv6 addresses, or `None` without IPv6.
pub(super) fn ipv6_addresses() -> Option<String> {
    std::fs::read_to_string("/proc/self/net/if_inet6").ok()
}

/// Returns the name of this host for messages to other hosts: `localhost` if it has no name, or if the name is not
/// a host name.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let is_name = (1..=253).contains(&name.len()) && name.chars().all(fits);
    if is_name { name.to_owned() } else { "localhost".to_owned() }
}

/// Processor time, memory and other figures that /proc has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// User and system time since the start, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub open_descriptors: u64,
    /// The limit of descriptors.
    pub descriptor_limit: u64,
    /// The time of the start, in seconds since the Unix epoch.
    pub started_at: f64,
    /// The number of threads.
    pub threads: u64,
}

/// Reads the figures of this process.
///
/// # Errors
///
/// Returned when /proc is not mounted or a file in it cannot be read.
pub fn figures() -> io::Result<Figures> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name may hold spaces and brackets. The fields after its last bracket begin with the state.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let field = |n: usize| -> u64 { fields.get(n).and_then(|text| text.parse().ok()).unwrap_or(0) };
    let ticks = clock_ticks();
    Ok(Figures {
        cpu_seconds: (field(11) + field(12)) as f64 / ticks,
        threads: field(17),
        started_at: booted_at()? + field(19) as f64 / ticks,
        resident_bytes: field(21) * page_size(),
        open_descriptors: open_descriptors()?,
        descriptor_limit: getrlimit(Resource::RLIMIT_NOFILE)?.0,
    })
}

fn booted_at() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    Ok(line.and_then(|text| text.trim().parse().ok()).unwrap_or(0.0))
}

fn clock_ticks() -> f64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    u64::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_runs_until_it_has_ended() {
        assert!(is_running(std::process::id()));
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        assert!(is_running(pid));
        drop(child.stdin.take());
        while is_running(pid) {
            std::thread::yield_now();
        }
        // It has ended before this fetches its result.
        assert!(child.wait().unwrap().success());
        assert!(!is_running(pid));
    }

    #[test]
    fn figures_are_plausible() {
        let figures = figures().unwrap();
        assert!(figures.resident_bytes > 100_000, "{figures:?}");
        assert!(figures.threads >= 1, "{figures:?}");
        assert!(figures.open_descriptors >= 3 && figures.open_descriptors <= figures.descriptor_limit);
        assert!(figures.started_at > 1.7e9, "{figures:?}");
    }
}
