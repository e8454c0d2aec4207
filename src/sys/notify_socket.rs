//! The socket of a service manager: messages that wait for it, and a barrier that shows that it has handled them.
//!
//! The calls block, up to a time limit. So only threads that may wait use them.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::retry;

/// Returns the address in NOTIFY_SOCKET: a path, or a name without a file after `@`.
///
/// # Errors
///
/// `InvalidInput` for any other text.
pub fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(ErrorKind::InvalidInput.into()),
    }
}

/// Sends a message, and waits for room in the manager's queue for at most `limit`.
///
/// # Errors
///
/// If the manager is gone or its queue has no room for the time.
pub fn send(manager: &SocketAddr, text: &str, limit: Duration) -> io::Result<()> {
    connected(manager, limit)?.send(text.as_bytes()).map(drop)
}

/// Waits until the manager has handled all earlier messages of this process, for at most `limit`. Returns false if it
/// has not. Managers other than systemd may not support this; they answer at once or never.
///
/// # Errors
///
/// If the manager is gone or its queue has no room for the time.
pub fn barrier(manager: &SocketAddr, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let socket = connected(manager, limit)?;
    // The manager closes its copy of the writing end when it comes to the message.
    let (end, start) = io::pipe()?;
    let numbers = [start.as_raw_fd()];
    retry(|| {
        let parts = [IoSlice::new(b"BARRIER=1")];
        let rights = [ControlMessage::ScmRights(&numbers)];
        Ok(sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)?)
    })?;
    drop(start);
    let ready = retry(|| {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        Ok(poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], left)?)
    })?;
    Ok(ready > 0)
}

/// Returns a new socket that is connected to the manager. Each message uses a new one, because the manager may have
/// replaced its own socket.
fn connected(manager: &SocketAddr, limit: Duration) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(limit))?;
    socket.connect_addr(manager)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_barrier_ends_when_the_manager_has_handled_it() {
        let path = std::env::temp_dir().join(format!("pointsman-barrier-{}", std::process::id()));
        let manager = UnixDatagram::bind(&path).unwrap();
        let address = address(path.as_os_str()).unwrap();
        assert!(!barrier(&address, Duration::from_millis(10)).unwrap(), "it has not read the message");
        send(&address, "X=1", Duration::from_secs(5)).unwrap();
        let reading = thread::spawn(move || {
            // The kernel closes descriptors for which the receiver has no room.
            [0; 3].map(|_| manager.recv(&mut [0; 20]).unwrap())
        });
        assert!(barrier(&address, Duration::from_secs(60)).unwrap());
        assert_eq!(reading.join().unwrap(), [9, 3, 9]);
        assert!(send(&address, "X=1", Duration::from_secs(5)).is_err(), "the manager is gone");
        std::fs::remove_file(path).unwrap();
    }
}
