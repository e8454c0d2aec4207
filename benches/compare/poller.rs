//! Epoll and non-blocking socket calls: the few that a load generator needs.
//!
//! All events are level-triggered. One event costs one call; no second call is needed to learn that the
//! socket is empty.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv, send};

/// The most bytes that one call moves. It is large, so that the load costs little beside the proxy.
pub(crate) const CHUNK: usize = 256 * 1024;

/// The number of events that one wait takes from the kernel.
const BATCH: usize = 256;

/// The events that a socket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

impl Interest {
    fn event(self, token: u64) -> EpollEvent {
        let flags = match self {
            Self::Read => EpollFlags::EPOLLIN,
            Self::Write => EpollFlags::EPOLLOUT,
        };
        EpollEvent::new(flags, token)
    }
}

/// The result of a call on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Bytes(usize),
    /// The peer has finished its sending half.
    End,
    Blocked,
}

/// An epoll instance: sockets and their tokens.
pub(crate) struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); BATCH] })
    }

    pub(crate) fn add(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.add(socket, interest.event(token))?)
    }

    pub(crate) fn change(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.modify(socket, &mut interest.event(token))?)
    }

    /// Waits for at most `patience`, and sets `tokens` to the ready tokens; there are none at the time-out.
    pub(crate) fn wait(&mut self, patience: Duration, tokens: &mut Vec<u64>) -> io::Result<()> {
        tokens.clear();
        // One more millisecond is added, so that a wait for less than one does not spin.
        let millis = u16::try_from(patience.as_millis() + 1).unwrap_or(u16::MAX);
        match self.epoll.wait(&mut self.events, millis) {
            Ok(count) => tokens.extend(self.events[..count].iter().map(EpollEvent::data)),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Reads the bytes that have come.
pub(crate) fn read_available(socket: &impl AsRawFd, into: &mut [u8]) -> io::Result<Moved> {
    receive(socket, into, MsgFlags::MSG_DONTWAIT)
}

/// Removes bytes from a TCP socket without a copy. `room` only bounds their number.
pub(crate) fn discard(socket: &impl AsRawFd, room: &mut [u8]) -> io::Result<Moved> {
    receive(socket, room, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)
}

fn receive(socket: &impl AsRawFd, into: &mut [u8], flags: MsgFlags) -> io::Result<Moved> {
    loop {
        return match recv(socket.as_raw_fd(), into, flags) {
            Ok(0) => Ok(Moved::End),
            Ok(count) => Ok(Moved::Bytes(count)),
            Err(Errno::EAGAIN) => Ok(Moved::Blocked),
            Err(Errno::EINTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Writes the bytes that fit, and returns their number, or 0 if none fits.
pub(crate) fn write_available(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        return match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => Ok(count),
            Err(Errno::EAGAIN) => Ok(0),
            Err(Errno::EINTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}
