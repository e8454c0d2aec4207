//! Epoll and non-blocking socket calls, as few as a load generator can do with.
//!
//! Everything is level-triggered: one call for one event, no second call to hear that nothing is left.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv, send};

/// How much one call may move: large, so that the load costs little beside the proxy.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Events taken from the kernel at once.
const BATCH: usize = 256;

/// What a socket waits for.
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

/// What a call on a socket did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Bytes(usize),
    /// The peer has finished its sending half.
    End,
    Blocked,
}

/// Sockets and the tokens they are known by.
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

    /// The tokens that are ready after at most `patience`; none when the time is over.
    pub(crate) fn wait(&mut self, patience: Duration, tokens: &mut Vec<u64>) -> io::Result<()> {
        tokens.clear();
        // One more millisecond, so that a wait for less than one does not spin.
        let millis = u16::try_from(patience.as_millis() + 1).unwrap_or(u16::MAX);
        match self.epoll.wait(&mut self.events, millis) {
            Ok(count) => tokens.extend(self.events[..count].iter().map(EpollEvent::data)),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Reads what is there.
pub(crate) fn take(socket: &impl AsRawFd, into: &mut [u8]) -> io::Result<Moved> {
    receive(socket, into, MsgFlags::MSG_DONTWAIT)
}

/// Takes bytes off a TCP socket without copying them; `room` only says how many at most.
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

/// Writes what fits, and tells how much: 0 when nothing did.
pub(crate) fn give(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        return match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => Ok(count),
            Err(Errno::EAGAIN) => Ok(0),
            Err(Errno::EINTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}
