//! Keeps the last descriptors from connections, for everything else.
//!
//! The kernel gives each new descriptor the lowest free number. So a number at or above a bound shows that all numbers
//! below are in use. Connections stop at the bound and leave the other descriptors to admin, checks and files.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use socket2::{Domain, Socket, Type};

use super::fault::out_of_descriptors;

/// Once a connection has a number within this distance of the bound, the lowest free number is looked up before
/// each connection. Until then the check costs no system call.
const NEAR: i32 = 64;

/// The first number that connections of this process leave free.
static BOUND: AtomicI32 = AtomicI32::new(i32::MAX);

/// True if a connection has got a number near the bound.
static IS_NEAR: AtomicBool = AtomicBool::new(false);

/// Keeps the last `kept` of `limit` descriptors from connections.
pub fn keep_from_connections(limit: u64, kept: u64) {
    BOUND.store(i32::try_from(limit.saturating_sub(kept)).unwrap_or(i32::MAX), Ordering::Relaxed);
}

/// Fails if connections have used up their share, or would use it up with `number` more. The error is the error of a
/// process without descriptors.
pub(super) fn check_room(number: i32) -> io::Result<()> {
    if !IS_NEAR.load(Ordering::Relaxed) {
        return Ok(());
    }
    let lowest_free = Socket::new_raw(Domain::UNIX, Type::DGRAM.cloexec(), None)?.as_raw_fd();
    let bound = BOUND.load(Ordering::Relaxed);
    if lowest_free < bound.saturating_sub(NEAR) {
        IS_NEAR.store(false, Ordering::Relaxed);
    }
    if has_room(lowest_free, number, bound) { Ok(()) } else { Err(out_of_descriptors()) }
}

/// Returns true if `number` descriptors from `lowest_free` on are below the bound.
fn has_room(lowest_free: i32, number: i32, bound: i32) -> bool {
    lowest_free.saturating_add(number) <= bound
}

/// Notes a descriptor that was opened for a connection.
pub(super) fn note(opened: impl AsFd) {
    let bound = BOUND.load(Ordering::Relaxed);
    if opened.as_fd().as_raw_fd() >= bound.saturating_sub(NEAR) {
        IS_NEAR.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_stop_at_the_bound() {
        assert!(has_room(10, 2, 12));
        assert!(!has_room(11, 2, 12));
        assert!(has_room(11, 1, 12));
        assert!(!has_room(12, 1, 12));
        assert!(has_room(i32::MAX - 1, 2, i32::MAX));
    }
}
