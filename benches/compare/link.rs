//! Two machines, as far as the kernel is concerned: network namespaces with a link between them, one end of
//! which can fall silent.
//!
//! Neither has a name: they go with the last process in them. The ends know each other's hardware address for
//! good, so that silence stays silence: without an answer to ARP the near kernel would soon say that the host
//! is unreachable.

use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// The end of whoever asks.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 1);

/// The end that can fall silent.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);

const NEAR_CARD: &str = "02:00:00:00:09:01";
const FAR_CARD: &str = "02:00:00:00:09:02";

/// Moves the calling thread, and every thread and process that it starts later, into a network of its own.
///
/// # Errors
/// Without root, or without `ip`.
pub(crate) fn leave() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    ip("link set lo up")
}

/// Lays a link to the network of a process, and sets its near end up; the far one is up to that process.
pub(crate) fn lay(far: u32) -> io::Result<()> {
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

/// At the far end: from now on nothing is answered, and nobody told so.
pub(crate) fn fall_silent() -> io::Result<()> {
    ip(&format!("route add blackhole {NEAR}/32"))
}

/// At the far end: the end of the silence.
pub(crate) fn speak_again() -> io::Result<()> {
    ip(&format!("route del blackhole {NEAR}/32"))
}

/// Why there can be no such link here; tried in a thread that ends with it.
pub(crate) fn why_not() -> Option<io::Error> {
    // Both ends in one network will do for a try.
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
