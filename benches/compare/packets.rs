//! A private network, in which no packet is larger than Ethernet's.
//!
//! Loopback passes 64 KiB at once, like a network card with offload. Without offload the receive queue is
//! full of small fragments, and a relay has another cost. The offloads are switched off with ethtool. The
//! limits of `ip link` (`gso_max_segs`, `gso_max_size`) would make packets small too, but would make streams
//! ten times slower than a network card does. The size of the packets is measured before the run.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// The largest frame: 1500 bytes of packet and loopback's 14 of header.
const FRAME: f64 = 1514.0;

/// The bytes that are sent to measure the size of packets.
const PROOF: usize = 16 << 20;

/// Moves this process and all its later children into a private network. The process must have only one
/// thread. Returns the mean size of a frame there, acknowledgements included.
///
/// # Errors
/// Returns an error if the kernel does not allow it, `ip` or `ethtool` is missing, or packets are larger all
/// the same.
pub(crate) fn enter() -> io::Result<f64> {
    leave_network().map_err(|error| {
        io::Error::other(format!(
            "--packets-1500 needs root or user namespaces, for a private network: {error}"
        ))
    })?;
    set_loopback()?;
    let size = mean_frame()?;
    if size > FRAME {
        return Err(io::Error::other(format!("packets still have {size:.0} bytes in the private network")));
    }
    Ok(size)
}

fn leave_network() -> io::Result<()> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => return Ok(()),
        Err(Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    // A process that may not leave the network can often become root in a user namespace of its own.
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn set_loopback() -> io::Result<()> {
    for (program, arguments) in
        [("ip", "link set dev lo mtu 1500 up"), ("ethtool", "-K lo tso off gso off gro off")]
    {
        let missing = |why: &str| io::Error::other(format!("--packets-1500: {program} {arguments}: {why}"));
        let output = Command::new(program).args(arguments.split(' ')).output();
        let output = output.map_err(|error| missing(&error.to_string()))?;
        if !output.status.success() {
            return Err(missing(String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}

fn mean_frame() -> io::Result<f64> {
    let before = received()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    let mut left = PROOF;
    thread::scope(|scope| -> io::Result<()> {
        // The thread ends with the stream.
        scope.spawn(move || io::copy(&mut far, &mut io::sink()));
        let bytes = vec![1; 1 << 20];
        while left > 0 {
            near.write_all(&bytes)?;
            left = left.saturating_sub(bytes.len());
        }
        drop(near);
        Ok(())
    })?;
    let after = received()?;
    Ok((after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64)
}

/// Returns the bytes and packets that loopback has received.
fn received() -> io::Result<(u64, u64)> {
    let mut text = String::new();
    fs::File::open("/proc/self/net/dev")?.read_to_string(&mut text)?;
    let fields = text.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    let mut numbers = fields.unwrap_or_default().split_whitespace().map_while(|field| field.parse().ok());
    numbers.next().zip(numbers.next()).ok_or_else(|| io::Error::other("no loopback in /proc/self/net/dev"))
}
