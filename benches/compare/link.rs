//! Two network namespaces with a link between them, in place of two hosts. The far end of the link can drop
//! all packets.
//!
//! The namespaces have no names, so they are removed with the last process in them. Each end has a permanent
//! entry for the hardware address of the other end. Without this entry no ARP answer would come while packets
//! are dropped, and the near kernel would soon report an unreachable host.

use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// The address of the near end, where connections begin.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 1);

/// The address of the far end, which can drop all packets.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);

const NEAR_CARD: &str = "02:00:00:00:09:01";
const FAR_CARD: &str = "02:00:00:00:09:02";

/// Moves the calling thread, and the threads and processes that it starts later, into a new network
/// namespace.
///
/// # Errors
/// Returns an error without root, or without `ip`.
pub(crate) fn leave() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    ip("link set lo up")
}

/// Makes a link to the network of a process and sets the near end up. That process sets up the far end.
pub(crate) fn connect_to(far: u32) -> io::Result<()> {
    ip(&format!("link add near address {NEAR_CARD} type veth peer name far address {FAR_CARD} netns {far}"))?;
    set_up("near", NEAR, (FAR, FAR_CARD))
}

/// Sets the far end up.
pub(crate) fn set_up_far() -> io::Result<()> {
    set_up("far", FAR, (NEAR, NEAR_CARD))
}

fn set_up(device: &str, own: Ipv4Addr, (other, card): (Ipv4Addr, &str)) -> io::Result<()> {
    ip(&format!("addr add {own}/24 dev {device}"))?;
    ip(&format!("link set {device} up"))?;
    ip(&format!("neigh replace {other} lladdr {card} dev {device} nud permanent"))
}

/// Drops all answers from now on, without an error to the near end. Called at the far end.
pub(crate) fn drop_packets() -> io::Result<()> {
    ip(&format!("route add blackhole {NEAR}/32"))
}

/// Sends answers again. Called at the far end.
pub(crate) fn answer_packets() -> io::Result<()> {
    ip(&format!("route del blackhole {NEAR}/32"))
}

/// Returns the reason why no such link can be made here. It is tried in a thread that then ends.
pub(crate) fn unavailable_reason() -> Option<io::Error> {
    // For a trial both ends can be in one network.
    let trial = || leave().and_then(|()| ip("link add near type veth peer name far"));
    let tried = std::thread::spawn(trial).join();
    tried.unwrap_or_else(|_| Err(io::Error::other("the trial panicked"))).err()
}

fn ip(arguments: &str) -> io::Result<()> {
    let failed = |why: &str| io::Error::other(format!("ip {arguments}: {why}"));
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| failed(&error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&output.stderr).trim())) }
}
